"""Weighted cross-entropy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.losses.pointwise import binary_cross_entropy

ROW = st.tuples(st.floats(-30, 30), st.integers(0, 1), st.sampled_from([0.0, 0.25, 1.0, 7.0]))


@given(st.lists(ROW, max_size=9))
def test_equals_the_definition(rows):
    logits, labels, weights = (torch.tensor([row[i] for row in rows]).double() for i in range(3))
    losses = [math.log1p(math.exp(-s if y else s)) for s, y, _ in rows]
    total = sum(w for _, _, w in rows)
    wanted = sum(w * x for (_, _, w), x in zip(rows, losses, strict=True)) / (total or 1)
    assert float(binary_cross_entropy(logits, labels, weights=weights)) == pytest.approx(wanted)
    plain = sum(losses) / max(len(rows), 1)
    assert float(binary_cross_entropy(logits, labels)) == pytest.approx(plain)


def test_weight_two_is_the_row_twice_and_units_do_not_matter():
    logits, labels = torch.randn(4), torch.tensor([1, 0, 0, 1])
    weights = torch.tensor([2, 1, 1, 1])
    twice = binary_cross_entropy(logits[[0, 0, 1, 2, 3]], labels[[0, 0, 1, 2, 3]])
    torch.testing.assert_close(binary_cross_entropy(logits, labels, weights=weights), twice)
    torch.testing.assert_close(binary_cross_entropy(logits, labels, weights=100 * weights), twice)


def test_weight_zero_hides_a_row_whatever_is_in_it():
    logits = torch.tensor([0.3, torch.nan, torch.inf], requires_grad=True)
    labels, weights = torch.tensor([1.0, 0.0, torch.nan]), torch.tensor([1.0, 0.0, 0.0])
    loss = binary_cross_entropy(logits, labels, weights=weights)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-0.3)))
    assert float(logits.grad[0]) == pytest.approx(1 / (1 + math.exp(-0.3)) - 1)
    assert not logits.grad[1:].any()


@pytest.mark.parametrize("rows", [0, 3])
def test_no_weight_at_all_is_zero(rows):
    logits = torch.randn(rows, requires_grad=True)
    loss = binary_cross_entropy(logits, torch.ones(rows), weights=torch.zeros(rows))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_full_precision_for_halves_and_under_autocast():
    logits, labels = torch.randn(50), torch.arange(50) % 2
    weights = torch.rand(50)
    exact = binary_cross_entropy(logits, labels, weights=weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(binary_cross_entropy(logits, labels, weights=weights), exact)
    short = binary_cross_entropy(logits.bfloat16(), labels, weights=weights)
    assert torch.equal(
        short, binary_cross_entropy(logits.bfloat16().float(), labels, weights=weights)
    )


def test_gradient():
    logits, labels = torch.randn(6, dtype=torch.float64, requires_grad=True), torch.rand(6)
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0, 1.0])
    assert torch.autograd.gradcheck(
        lambda s: binary_cross_entropy(s, labels, weights=weights), (logits,)
    )


def test_compiles_whole():
    torch._dynamo.reset()
    whole = torch.compile(binary_cross_entropy, fullgraph=True, backend="aot_eager")
    for rows in (4, 7):
        given_rows = torch.randn(rows), torch.arange(rows) % 2
        weights = torch.rand(rows)
        torch.testing.assert_close(
            whole(*given_rows, weights=weights), binary_cross_entropy(*given_rows, weights=weights)
        )


class TestErrors:
    @pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
    def test_a_weight_that_is_none(self, value):
        weights = torch.tensor([1.0, value, value])
        rule = f"weights must be finite and not negative, got {value} in row 1"
        with pytest.raises(ValueError, match=rule):
            binary_cross_entropy(torch.zeros(3), torch.zeros(3), weights=weights)

    @pytest.mark.parametrize("name", ["labels", "weights"])
    def test_one_number_a_row(self, name):
        columns = {"labels": torch.zeros(3), "weights": torch.ones(3)} | {name: torch.ones(2)}
        with pytest.raises(ValueError, match=rf"{name} must have shape \[3\], got \[2\]"):
            binary_cross_entropy(torch.zeros(3), **columns)

    def test_logits(self):
        with pytest.raises(ValueError, match=r"logits must have shape \[\*\], got \[3, 1\]"):
            binary_cross_entropy(torch.zeros(3, 1), torch.zeros(3))
        with pytest.raises(ValueError, match=r"logits must be floating point, got torch\.int64"):
            binary_cross_entropy(torch.arange(3), torch.zeros(3))
