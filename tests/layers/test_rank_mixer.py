"""Tokens that exchange heads, and a network for each."""

import pytest
import torch

from sidrank.layers.rank_mixer import PerTokenFFN, PerTokenLinear, RankMixerBlock
from sidrank.layers.sparse_moe import SparseMoE
from tests.layers import reference_layers
from tests.layers import reference_mixing as reference

T, D = 3, 12


def block(ffn=None):
    ffn = PerTokenFFN(num_tokens=T, dim=D, hidden=5) if ffn is None else ffn
    made = RankMixerBlock(num_tokens=T, dim=D, ffn=ffn)
    for norm in (made.mix_norm, made.ffn_norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return made


def norm_weights(norm):
    return norm.weight.tolist(), norm.bias.tolist()


def jacobian(module, x):
    """How much each token of the answer (rows) depends on each token given (columns)."""
    full = torch.autograd.functional.jacobian(module, x)[0, :, :, 0]  # [T, D, T, D]
    return full.abs().sum(dim=(1, 3))


def test_linear_equals_one_layer_a_token():
    module, x = PerTokenLinear(num_tokens=T, in_dim=4, out_dim=6), torch.randn(5, T, 4)
    for row in range(5):
        for token in range(T):
            layer = module.weight[token].t().tolist(), module.bias[token].tolist()
            expected = reference_layers.linear(*layer, x[row, token].tolist())
            torch.testing.assert_close(module(x)[row, token].tolist(), expected)


def test_ffn_never_mixes_tokens():
    x = torch.randn(1, T, D)
    depends = jacobian(PerTokenFFN(num_tokens=T, dim=D, hidden=5), x) > 0
    assert torch.equal(depends, torch.eye(T).bool())


def test_tokens_share_no_weight():
    ffn = PerTokenFFN(num_tokens=T, dim=D, hidden=5)
    x = torch.randn(1, 1, D).expand(1, T, D)
    answers = ffn(x)[0]
    assert not torch.allclose(answers[0], answers[1])
    ffn(torch.randn(1, T, D))[:, 1].sum().backward()
    touched = [
        bool(parameter.grad[token].any()) for parameter in ffn.parameters() for token in (0, 1)
    ]
    assert touched == [False, True] * 4


def test_block_equals_the_paper():
    module, x = block(), torch.randn(4, T, D)
    networks = reference.per_token_networks(module.ffn)
    norms = norm_weights(module.mix_norm), norm_weights(module.ffn_norm)
    for row, answer in zip(x.tolist(), module(x), strict=True):
        expected = torch.tensor(reference.rank_mixer(row, networks, *norms))
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)


def test_every_token_depends_on_every_token():
    x = torch.randn(1, T, D)
    assert (jacobian(block(), x) > 1e-3).all()


def test_sparse_experts_take_the_place_of_the_network():
    experts = SparseMoE(dim=D, hidden=5, num_experts=4, k=2, num_tokens=T)
    module, x = block(experts), torch.randn(6, T, D)
    s = module.mix_norm(torch.randn(6, T, D))  # any state
    with torch.no_grad():
        assert module(x).shape == x.shape
        own = [experts(s)[:, token] for token in range(T)]
        for token in range(T):
            changed = s.clone()
            changed[:, (token + 1) % T] += 1.0
            torch.testing.assert_close(experts(changed)[:, token], own[token])
    assert (jacobian(module.eval(), x[:1]) > 1e-4).all()


class TestErrors:
    def test_tokens_that_do_not_divide_the_width(self):
        with pytest.raises(ValueError, match="dim must be a multiple of num_tokens 5, got 12"):
            RankMixerBlock(num_tokens=5, dim=12, ffn=torch.nn.Identity())

    @pytest.mark.parametrize("name", ["num_tokens", "dim"])
    def test_sizes_of_a_block(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            RankMixerBlock(**{"num_tokens": 2, "dim": 4, "ffn": torch.nn.Identity(), name: 0})

    @pytest.mark.parametrize("name", ["num_tokens", "dim", "hidden"])
    def test_sizes_of_a_network(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            PerTokenFFN(**{"num_tokens": 2, "dim": 4, "hidden": 4, name: 0})

    @pytest.mark.parametrize("name", ["num_tokens", "in_dim", "out_dim"])
    def test_sizes_of_a_layer(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            PerTokenLinear(**{"num_tokens": 2, "in_dim": 4, "out_dim": 4, name: 0})

    @pytest.mark.parametrize("module", [block(), block().ffn], ids=["block", "ffn"])
    def test_shapes(self, module):
        with pytest.raises(ValueError, match=r"x must have shape \[\*, 3, 12\], got \[2, 4, 12\]"):
            module(torch.zeros(2, 4, 12))
