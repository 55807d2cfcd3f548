"""GateNU: one at birth, alive, between zero and two."""

import math

import pytest
import torch

from sidrank.layers.gate_nu import GateNU


def grown(**sizes):
    gate = GateNU(**sizes)
    with torch.no_grad():
        gate.gate.weight.normal_()
        gate.gate.bias.normal_()
    return gate


def test_equals_its_formula():
    gate = grown(context_dim=3, dim=4, hidden=5)
    x, context = torch.randn(2, 4), torch.randn(2, 3)
    answers = gate(x, context)
    w1, b1, w2, b2 = (p.tolist() for p in gate.parameters())
    for row in range(2):
        c = context[row].tolist()
        hidden = [
            max(0.0, sum(w * v for w, v in zip(ws, c, strict=True)) + b)
            for ws, b in zip(w1, b1, strict=True)
        ]
        for lane in range(4):
            a = sum(w * h for w, h in zip(w2[lane], hidden, strict=True)) + b2[lane]
            expected = x[row, lane].item() * 2 / (1 + math.exp(-a))
            assert answers[row, lane].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_born_exactly_one(dtype):
    gate, x = GateNU(context_dim=3, dim=4), torch.randn(64, 4)
    context = 1e3 * torch.randn(64, 3)
    assert torch.equal(gate(x, context), x)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        assert torch.equal(gate(x, context), x)


def test_opens_and_shuts_lanes_by_context():
    """Two contexts want opposite lanes; one step from birth is enough to begin."""
    gate = GateNU(context_dim=2, dim=2)
    x, context = torch.ones(2, 2), torch.eye(2)
    wanted = torch.tensor([[1.8, 0.2], [0.2, 1.8]])
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.05)
    losses = []
    for _ in range(200):
        loss = (gate(x, context) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert losses[-1] < 1e-3


def test_between_zero_and_two():
    weight = grown(context_dim=3, dim=4).weight(100 * torch.randn(500, 3))
    assert weight.min() >= 0
    assert weight.max() <= 2
    assert weight.max() > 1.9
    assert weight.min() < 0.1


class TestErrors:
    @pytest.mark.parametrize("name", ["context_dim", "dim", "hidden"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            GateNU(**({"context_dim": 2, "dim": 2, "hidden": 2} | {name: 0}))

    def test_shapes(self):
        gate = GateNU(context_dim=3, dim=4)
        with pytest.raises(ValueError, match=r"x must have shape \[\*, 4\], got \[2, 3\]"):
            gate(torch.zeros(2, 3), torch.zeros(2, 3))
        with pytest.raises(ValueError, match=r"context must have shape \[2, 3\], got \[1, 3\]"):
            gate(torch.zeros(2, 4), torch.zeros(1, 3))
