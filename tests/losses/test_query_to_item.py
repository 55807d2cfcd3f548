"""Instructions and the items they led to."""

import math

import pytest
import torch

from sidrank.losses.query_to_item import Q2ILoss


def loop(u, v, ids, temperature):
    """Mean over rows of -log softmax of the own item; rows of the same item are left out."""
    losses = []
    for i in range(len(u)):
        scores = {
            j: torch.nn.functional.cosine_similarity(u[i], v[j], dim=0).item() / temperature
            for j in range(len(v))
            if j == i or ids[j] != ids[i]
        }
        mass = math.fsum(math.exp(score) for score in scores.values())
        losses.append(math.log(mass) - scores[i])
    return math.fsum(losses) / len(losses)


def test_equals_a_loop():
    u, v, ids = torch.randn(8, 4), torch.randn(8, 4), torch.tensor([1, 2, 1, 3, 4, 4, 4, 5])
    expected = loop(u, v, ids.tolist(), 0.3)
    assert Q2ILoss(temperature=0.3)(u, v, ids).item() == pytest.approx(expected, rel=1e-5)


def test_same_item_twice_is_no_negative():
    u, v = torch.randn(2, 4), torch.randn(2, 4)
    assert Q2ILoss()(u, v, torch.tensor([7, 7])).item() == 0.0
    assert Q2ILoss()(u, v, torch.tensor([7, 8])).item() > 0.0


def test_rows_without_a_click_do_not_count():
    u, v, ids = torch.randn(4, 3), torch.randn(4, 3), torch.arange(4)
    valid = torch.tensor([True, True, False, True])
    v[2] = float("nan")
    expected = Q2ILoss()(u[valid], v[valid], ids[valid])
    torch.testing.assert_close(Q2ILoss()(u, v, ids, valid), expected)


def test_weight_zero_teaches_nothing():
    u, v = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    (0.0 * Q2ILoss()(u, v, torch.arange(5))).backward()
    assert not u.grad.any()
    assert not v.grad.any()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature(value):
    with pytest.raises(ValueError, match=f"temperature must be positive and finite, got {value}"):
        Q2ILoss(temperature=value)


def test_ids():
    with pytest.raises(ValueError, match=r"ids must be int32 or int64, got torch.float32"):
        Q2ILoss()(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2))
