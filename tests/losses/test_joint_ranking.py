"""JRC against loops, and why one logit is read as it is."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sidrank.losses.joint_ranking import jrc
from tests.losses import reference_listwise

ROWS = st.lists(
    st.tuples(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), st.integers(0, 1), st.integers(-2, 2)),
    min_size=1,
    max_size=15,
)


@given(ROWS, st.sampled_from([0.0, 0.3, 1.0]))
def test_equals_the_loop(rows, alpha):
    pairs, labels, requests = ([row[i] for row in rows] for i in range(3))
    logits = torch.tensor(pairs, dtype=torch.float64)
    found = jrc(logits, torch.tensor(labels), torch.tensor(requests), alpha=alpha)
    wanted = reference_listwise.jrc(pairs, labels, requests, alpha)
    assert float(found) == pytest.approx(wanted, abs=1e-9)


def expected_slope(logits, chance, alpha, split):
    """Gradient by one logit a row, in expectation over clicks with these chances."""
    logits = logits.clone().requires_grad_()
    total = 0.0
    for clicks in itertools.product([0, 1], repeat=len(chance)):
        labels = torch.tensor(clicks)
        weight = torch.where(labels == 1, chance, 1 - chance).prod()
        requests = torch.tensor([5, 5, 5, -2])
        total = total + weight * jrc(split(logits), labels, requests, alpha=alpha)
    return torch.autograd.grad(total, logits)[0]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_truth_is_stationary_for_one_logit(alpha):
    chance = torch.tensor([0.1, 0.6, 0.3, 0.8], dtype=torch.float64)
    logits = chance.logit()
    assert expected_slope(logits, chance, alpha, lambda s: s).abs().max() < 1e-12
    # the check can fail: with (0, s) calibration and ranking want different things
    other = expected_slope(logits, chance, alpha, lambda s: torch.stack([0 * s, s], dim=1))
    assert (other.abs().max() < 1e-12) == (alpha == 1.0)


def test_one_logit_is_the_logit_of_the_click():
    logits, labels, requests = torch.randn(9), torch.arange(9) % 2, torch.arange(9) // 4
    wanted = functional.binary_cross_entropy_with_logits(logits, labels.float())
    torch.testing.assert_close(jrc(logits, labels, requests, alpha=1.0), wanted)
    pair = torch.stack([(1 - logits.sigmoid()).log(), logits.sigmoid().log()], dim=1)
    torch.testing.assert_close(jrc(logits, labels, requests), jrc(pair, labels, requests))


def test_ranking_hears_only_the_own_request():
    logits = torch.randn(6, 2, requires_grad=True)
    labels, requests = torch.tensor([1, 0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
    by_row = jrc(logits[:3], labels[:3], requests[:3], alpha=0.0)
    by_row.backward()
    assert logits.grad[:3].all()
    assert not logits.grad[3:].any()


def test_a_list_of_one_only_calibrates():
    logits = torch.randn(1, 2, requires_grad=True)
    loss = jrc(logits, torch.ones(1), torch.tensor([3]), alpha=0.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_gradient_of_two_logits():
    logits = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    labels, requests = torch.arange(7) % 2, torch.arange(7) % 3
    assert torch.autograd.gradcheck(lambda s: jrc(s, labels, requests, alpha=0.3), (logits,))


def test_far_logits_are_finite():
    logits = torch.tensor([900.0, -900.0, 0.0], requires_grad=True)
    loss = jrc(logits, torch.tensor([0, 1, 1]), torch.zeros(3).long())
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha(alpha):
    with pytest.raises(ValueError, match=rf"alpha must be in \[0, 1\], got {alpha}"):
        jrc(torch.zeros(2), torch.zeros(2), torch.zeros(2).long(), alpha=alpha)


def test_three_logits():
    with pytest.raises(ValueError, match=r"logits must have shape \[\*, 2\], got \[4, 3\]"):
        jrc(torch.zeros(4, 3), torch.zeros(4), torch.zeros(4).long())
