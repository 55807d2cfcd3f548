"""Losses weighed by what they cannot know."""

import math

import pytest
import torch

from sidrank.losses.uncertainty_weighting import UncertaintyWeighting


def test_equals_the_formula():
    weighting = UncertaintyWeighting(num_tasks=3)
    values, losses = [0.5, -1.0, 2.0], [0.7, 0.1, 3.0]
    with torch.no_grad():
        weighting.log_variances.copy_(torch.tensor(values))
    wanted = sum(
        x / math.exp(a) + math.log(math.exp(a / 2)) for x, a in zip(losses, values, strict=True)
    )
    assert weighting(torch.tensor(losses)).item() == pytest.approx(wanted, rel=1e-6)


def test_born_as_the_plain_sum():
    losses = torch.rand(4)
    assert torch.equal(UncertaintyWeighting(num_tasks=4)(losses), losses.sum())


def test_learns_the_uncertainty_of_each_task():
    """The best variance is twice the loss, so each task ends with weight one half over it."""
    weighting, losses = UncertaintyWeighting(num_tasks=3), torch.tensor([0.1, 0.7, 5.0])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()
    torch.testing.assert_close(weighting.log_variances.detach().exp(), 2 * losses)


def test_a_task_without_rows_neither_counts_nor_moves():
    weighting = UncertaintyWeighting(num_tasks=3)
    losses = torch.tensor([0.4, torch.nan, 0.0], requires_grad=True)
    total = weighting(losses, torch.tensor([True, False, False]))
    total.backward()
    assert total.item() == pytest.approx(0.4)
    assert weighting.log_variances.grad[0] != 0
    assert not weighting.log_variances.grad[1:].any()
    assert losses.grad.tolist() == [1, 0, 0]
    # without that, the loss of 0 would raise its own weight
    weighting.log_variances.grad = None
    weighting(torch.tensor([0.4, 0.0, 0.0])).backward()
    assert (weighting.log_variances.grad[1:] > 0).all()


def test_weight_zero_teaches_nothing():
    weighting, losses = UncertaintyWeighting(num_tasks=2), torch.rand(2, requires_grad=True)
    (0.0 * weighting(losses)).backward()
    assert not losses.grad.any()
    assert not weighting.log_variances.grad.any()


def test_errors():
    with pytest.raises(ValueError, match="num_tasks must be at least 1, got 0"):
        UncertaintyWeighting(num_tasks=0)
    weighting = UncertaintyWeighting(num_tasks=2)
    with pytest.raises(ValueError, match=r"losses must have shape \[2\], got \[3\]"):
        weighting(torch.zeros(3))
    with pytest.raises(ValueError, match=r"present must have shape \[2\], got \[1\]"):
        weighting(torch.zeros(2), torch.ones(1).bool())
    with pytest.raises(ValueError, match=r"present must be bool, got torch\.float32"):
        weighting(torch.zeros(2), torch.ones(2))
