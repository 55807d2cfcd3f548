"""Real numbers as soft mixtures of learned vectors."""

import pytest
import torch

from sidrank.layers import SoftDiscretization
from sidrank.layers.cosine import unit


def by_the_paper(embed, value):
    """AutoDis, one number after the other."""
    hidden = torch.nn.functional.leaky_relu(embed.hidden(value.reshape(1, 1)))[0]
    logits = (embed.head.weight @ hidden + hidden) / embed.temperature
    return torch.softmax(logits, dim=0) @ embed.vectors


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3), (2, 1, 4)])
def test_equals_the_paper(shape):
    embed = SoftDiscretization(dim=4, bins=7, temperature=0.3).double()
    values = torch.randn(shape, dtype=torch.float64)
    each = [by_the_paper(embed, value) for value in values.flatten()]
    wanted = torch.stack(each) if each else torch.empty(0, 4, dtype=torch.float64)
    torch.testing.assert_close(embed(values), wanted.view(*shape, 4))
    torch.testing.assert_close(embed.lanes(values), wanted.view(*shape, 4).movedim(-1, 0))


def test_gradient():
    embed = SoftDiscretization(dim=3, bins=4).double()
    values = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values, *_: embed(values), (values, *embed.parameters()))


def test_numbers_far_outside_of_the_scale_stay_finite():
    embed = SoftDiscretization(dim=4, bins=7, temperature=1e-3)
    values = torch.tensor([-1e6, 0.0, 1e6], requires_grad=True)
    found = embed(values)
    found.sum().backward()
    assert found.isfinite().all()
    assert values.grad.isfinite().all()


def test_answer_lies_within_the_vectors():
    embed = SoftDiscretization(dim=4, bins=7)
    values = torch.linspace(-1, 1, 50)
    shares = embed.shares(values)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(50))
    assert (shares > 0).all()
    torch.testing.assert_close(embed(values), shares @ embed.vectors)


def test_small_temperature_makes_bins_hard():
    embed = SoftDiscretization(dim=4, bins=7)
    soft = embed.shares(torch.linspace(-1, 1, 50)).amax(dim=1).mean()
    embed.temperature = 1e-3
    hard = embed.shares(torch.linspace(-1, 1, 50)).amax(dim=1).mean()
    assert hard > 0.95 > soft


def test_learns_a_curve_that_one_vector_cannot():
    """A likes-the-middle curve: a number times a vector is a line, and explains none of it."""
    embed, head = SoftDiscretization(dim=4, bins=8), torch.nn.Linear(4, 1)
    values = torch.linspace(-1, 1, 200)
    wanted = (values.abs() < 0.4).float()
    optimizer = torch.optim.Adam([*embed.parameters(), *head.parameters()], lr=0.05)
    for _ in range(200):
        loss = (head(embed(values)).flatten() - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * wanted.var(unbiased=False)  # what the best line leaves, by symmetry


def test_unit_vectors_at_any_scale():
    x = torch.randn(5, 3)
    for scale in (1e-30, 1.0, 1e30):
        torch.testing.assert_close(unit(x * scale), x / x.norm(dim=1, keepdim=True))
    zero = torch.zeros(2, 3, requires_grad=True)
    unit(zero).sum().backward()
    assert not zero.grad.any()


def test_unit_gradient():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, x)


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "bins"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SoftDiscretization(**{"dim": 2, "bins": 2, name: 0})

    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
    def test_temperature(self, value):
        with pytest.raises(
            ValueError, match=f"temperature must be positive and finite, got {value}"
        ):
            SoftDiscretization(dim=2, temperature=value)
