"""The gated residual connection."""

import pytest
import torch

from sidrank.layers.nlir import NLIR


def alive(dim):
    module = NLIR(dim=dim)
    torch.nn.init.normal_(module.gate.weight)
    torch.nn.init.normal_(module.gate.bias)
    return module


def test_is_a_plain_residual_at_birth():
    x, branch = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(NLIR(dim=4)(x, branch), x + branch)


def test_learns_from_the_first_step():
    module = NLIR(dim=4)
    module(torch.randn(2, 3, 4), torch.randn(2, 3, 4)).sum().backward()
    assert module.gate.weight.grad.abs().min() > 0.0
    assert module.gate.bias.grad.abs().min() > 0.0


def test_gate_is_read_from_the_stream_channel_by_channel():
    module, x = alive(3), torch.randn(1, 3)
    gates = module(x, torch.ones(1, 3)) - x
    for channel in range(3):
        score = module.gate.weight[channel] @ x[0] + module.gate.bias[channel]
        expected = 2.0 / (1.0 + (-score).exp())
        torch.testing.assert_close(gates[0, channel], expected)


def test_gate_can_close_and_double_and_no_more():
    module, x, branch = NLIR(dim=2), torch.zeros(1, 2), torch.ones(1, 2)
    torch.nn.init.constant_(module.gate.bias, -100.0)
    assert not module(x, branch).any()
    torch.nn.init.constant_(module.gate.bias, 100.0)
    assert torch.equal(module(x, branch), 2.0 * branch)


def test_dim():
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        NLIR(dim=0)
