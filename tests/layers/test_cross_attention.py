"""Attention of queries over behaviours."""

import pytest
import torch

from sidrank.layers import CrossAttention
from tests.layers import reference_layers as reference


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_equals_the_paper(num_heads):
    module = CrossAttention(dim=8, query_dim=3, key_dim=5, num_heads=num_heads)
    queries, keys, mask = torch.randn(3, 2, 3), torch.randn(3, 6, 5), torch.rand(3, 6) < 0.6
    mask[0] = False
    answers = module(queries, keys, mask)
    layers = reference.attention_layers(module)
    for row in range(3):
        for q in range(2):
            real = keys[row][mask[row]].tolist()
            expected = reference.attention(queries[row, q].tolist(), real, layers, num_heads)
            torch.testing.assert_close(answers[row, q].tolist(), expected, rtol=1e-4, atol=1e-5)


def test_nothing_to_read_has_no_gradient_but_the_bias():
    module = CrossAttention(dim=8, query_dim=3, key_dim=5)
    keys = torch.full((1, 4, 5), float("nan"), requires_grad=True)
    answer = module(torch.randn(1, 2, 3), keys, torch.zeros(1, 4).bool())
    assert torch.equal(answer, module.out.bias.expand(1, 2, 8))
    answer.sum().backward()
    assert not keys.grad.any()
    assert all(p.grad.isfinite().all() for p in module.parameters())


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "query_dim", "key_dim", "num_heads"])
    def test_sizes(self, name):
        sizes = {"dim": 2, "query_dim": 2, "key_dim": 2, "num_heads": 1, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            CrossAttention(**sizes)

    def test_heads(self):
        with pytest.raises(ValueError, match="dim must be a multiple of num_heads 3, got 8"):
            CrossAttention(dim=8, query_dim=2, key_dim=2, num_heads=3)

    def test_shapes(self):
        module = CrossAttention(dim=8, query_dim=3, key_dim=5)
        queries, keys, mask = torch.zeros(2, 1, 3), torch.zeros(2, 4, 5), torch.ones(2, 4).bool()
        with pytest.raises(ValueError, match=r"queries must have shape \[\*, \*, 3\]"):
            module(keys, keys, mask)
        with pytest.raises(ValueError, match=r"keys must have shape \[2, \*, 5\], got \[1, 4, 5\]"):
            module(queries, keys[:1], mask)
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 4\], got \[2, 3\]"):
            module(queries, keys, mask[:, :3])
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.float32"):
            module(queries, keys, mask.float())
