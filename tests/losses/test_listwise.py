"""ListNet against loops, and what its target says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.losses.listwise import listnet
from tests.losses import reference_listwise

ROWS = st.lists(
    st.tuples(st.floats(-20, 20), st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.integers(-2, 2)),
    max_size=15,
)


@given(ROWS)
def test_equals_the_loop(rows):
    columns = [[row[i] for row in rows] for i in range(3)]
    logits, labels = (torch.tensor(column, dtype=torch.float64) for column in columns[:2])
    found = listnet(logits, labels, torch.tensor(columns[2], dtype=torch.int64))
    assert float(found) == pytest.approx(reference_listwise.listnet(*columns), abs=1e-9)


def test_one_click_is_its_likelihood():
    logits = torch.randn(7)
    labels, requests = torch.eye(7)[3], torch.zeros(7).long()
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(3))
    torch.testing.assert_close(listnet(logits, labels, requests), wanted)


def test_lists_without_a_positive_say_nothing():
    logits = torch.randn(9, requires_grad=True)
    labels, requests = torch.eye(9)[1], torch.arange(9) // 3
    loss = listnet(logits, labels, requests)
    loss.backward()
    torch.testing.assert_close(
        loss.detach(), listnet(logits[:3], labels[:3], requests[:3]).detach()
    )
    assert logits.grad[:3].all()
    assert not logits.grad[3:].any()
    nothing = listnet(logits, torch.zeros(9), requests)
    nothing.backward()
    assert float(nothing.detach()) == 0


def test_scores_that_are_shares_are_best():
    """At s = log y the gradient is zero, for a list with positive labels."""
    labels = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    logits = (labels.log() + 5).requires_grad_()
    loss = listnet(logits, labels, torch.zeros(3).long())
    loss.backward()
    assert logits.grad.abs().max() < 1e-12


def test_shift_of_a_list_changes_nothing_even_far_away():
    logits, labels, requests = torch.randn(8), torch.arange(8) % 2, torch.arange(8) // 4
    shifted = logits + torch.tensor([1000.0, -1000.0])[requests]
    plain = listnet(logits, labels, requests)
    torch.testing.assert_close(listnet(shifted, labels, requests), plain, rtol=1e-4, atol=1e-4)


def test_a_list_of_one_is_zero():
    logits = torch.tensor([4.0], requires_grad=True)
    loss = listnet(logits, torch.ones(1), torch.tensor([9]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(logits.grad) == 0


def test_full_precision_under_autocast():
    logits, labels, requests = torch.randn(64), torch.arange(64) % 2, torch.arange(64) // 8
    exact = listnet(logits, labels, requests)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(listnet(logits, labels, requests), exact)
    assert not math.isclose(float(exact), float(listnet(logits.bfloat16(), labels, requests)))
