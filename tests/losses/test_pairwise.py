"""Pairs of rows of a request against loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.losses import request_lists
from sidrank.losses.pairwise import pairwise_logistic
from sidrank.metrics import grouped_auc
from tests.losses import reference_listwise

ROWS = st.lists(
    st.tuples(st.floats(-20, 20), st.integers(-2, 2), st.integers(-2, 2)),
    max_size=15,
)


def drawn(rows=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    requests = (30 * torch.rand(rows, generator=generator) ** 3).long()  # long and short lists
    return logits, labels, requests


@given(ROWS)
def test_equals_the_loop(rows):
    columns = [[row[i] for row in rows] for i in range(3)]
    found = pairwise_logistic(
        torch.tensor(columns[0], dtype=torch.float64),
        torch.tensor(columns[1], dtype=torch.int64),
        torch.tensor(columns[2], dtype=torch.int64),
    )
    assert float(found) == pytest.approx(reference_listwise.pairwise_logistic(*columns), abs=1e-9)


@pytest.mark.parametrize("cells", [1, 50, 3000, 1 << 30])
def test_size_of_the_blocks_changes_nothing(cells, monkeypatch):
    logits, labels, requests = drawn()
    logits.requires_grad_()
    losses = [pairwise_logistic(logits, labels, requests)]
    monkeypatch.setattr(request_lists, "_CPU_CELLS", cells)
    losses.append(pairwise_logistic(logits, labels, requests))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*[torch.autograd.grad(loss, logits)[0] for loss in losses])


def test_gradient_in_steps_of_one_row(monkeypatch):
    logits, labels, requests = drawn(12)
    monkeypatch.setattr(request_lists, "_CPU_CELLS", 1)
    assert torch.autograd.gradcheck(
        lambda s: pairwise_logistic(s, labels, requests // 8), (logits.requires_grad_(),)
    )


def test_lists_without_a_pair_say_nothing():
    logits = torch.randn(6, requires_grad=True)
    labels, requests = torch.tensor([1, 0, 2, 2, 0, 5]), torch.tensor([0, 0, 1, 1, 2, 3])
    loss = pairwise_logistic(logits, labels, requests)
    loss.backward()
    wanted = math.log1p(math.exp(float((logits[1] - logits[0]).detach())))
    assert float(loss.detach()) == pytest.approx(wanted)
    assert not logits.grad[2:].any()


def test_far_apart_it_is_one_minus_gauc():
    """The loss over the scale goes to the wrong pairs' distance; its sign to the wrong pairs."""
    logits, labels, requests = drawn()
    clicks = labels > 1
    steps = logits.argsort().argsort().double()  # distances of at least one
    logits = (1e4 * steps).requires_grad_()
    loss = pairwise_logistic(logits, clicks, requests)
    # a pair in the wrong order has slope one, in the right order none
    slope = torch.autograd.grad(loss, logits)[0][clicks].sum()
    gauc = grouped_auc(clicks, logits.detach(), requests, weighting="unweighted")
    assert -float(slope) == pytest.approx(1 - gauc)


def test_full_precision_under_autocast():
    logits, labels, requests = drawn()
    exact = pairwise_logistic(logits.float(), labels, requests)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairwise_logistic(logits.float(), labels, requests), exact)
