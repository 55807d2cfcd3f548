"""Learned queries over a history."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sidrank.sequences.query_former import QueryFormer
from sidrank.sequences.time_aware_attention import TimeEncoding

D = 8


def former(num_queries=3, **settings):
    torch.manual_seed(0)
    return QueryFormer(dim=D, num_queries=num_queries, num_heads=2, **settings)


def ones(x):
    return torch.ones(x.shape[:2]).bool()


def softmax_read(queries, keys, values, out):
    """Attention of some queries over some keys, two heads, one by one."""
    parts = []
    for head in (slice(0, D // 2), slice(D // 2, D)):
        rows = []
        for query in queries:
            scores = torch.stack([query[head] @ key[head] for key in keys]) / (D // 2) ** 0.5
            weights = scores.exp() / scores.exp().sum()
            rows.append(sum(w * value[head] for w, value in zip(weights, values, strict=True)))
        parts.append(torch.stack(rows))
    return out(torch.cat(parts, dim=1))


def test_equals_the_formula():
    module, x = former(num_layers=2, hidden=5), torch.randn(1, 6, D)
    mask = torch.tensor([[True, True, False, True, False, True]])
    q = module.queries
    with torch.no_grad():
        for layer in module.layers:
            normed, real = layer.read_norm(q), x[0, mask[0]]
            read = layer.read
            q = q + softmax_read(read.query(normed), read.key(real), read.value(real), read.out)
            n = layer.attention_norm(q)
            own = layer.attention
            q = q + softmax_read(own.query(n), own.key(n), own.value(n), own.out)
            q = q + layer.ffn(layer.ffn_norm(q))
        torch.testing.assert_close(module(x, mask)[0], q, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 50])
def test_count_does_not_depend_on_the_length(length):
    x = torch.randn(2, length, D)
    assert former()(x, ones(x)).shape == (2, 3, D)


def test_rows_without_behaviours_are_alike():
    module, x = former(), torch.full((3, 4, D), float("nan"))
    y = module(x, torch.zeros(3, 4).bool())
    assert y.isfinite().all()
    assert torch.equal(y, module(x[:, :0], torch.zeros(3, 0).bool()))


def test_padding_may_stand_anywhere():
    module, x = former(), torch.randn(2, 3, D)
    wide, mask = torch.full((2, 7, D), float("nan")), torch.zeros(2, 7).bool()
    wide[:, [0, 3, 5]], mask[:, [0, 3, 5]] = x, True
    torch.testing.assert_close(module(wide, mask), module(x, ones(x)), atol=1e-6, rtol=0.0)


class TestOrder:
    def test_without_times_the_history_is_a_set(self):
        module, x = former(num_layers=2), torch.randn(2, 9, D)
        other = x[:, torch.randperm(9)]
        torch.testing.assert_close(module(other, ones(x)), module(x, ones(x)))

    def test_with_times_it_is_not(self):
        module, x, times = former(num_layers=2), torch.randn(2, 9, D), torch.rand(2, 9, 1)
        encode = TimeEncoding(num_features=1, dim=D)
        torch.nn.init.normal_(encode.out.weight)
        order = torch.arange(9).roll(1)
        one = module(encode(x, times), ones(x))
        other = module(encode(x[:, order], times), ones(x))
        assert (one - other).abs().max() > 0.01
        # behaviours that keep their times are a set again
        both = module(encode(x[:, order], times[:, order]), ones(x))
        torch.testing.assert_close(both, one)


def flops(module, length):
    x = torch.zeros(1, length, D)
    with FlopCounterMode(display=False) as counter:
        module(x, ones(x))
    return counter.get_total_flops()


def test_cost_is_linear_in_the_length():
    """Of a slope, ``4 D`` a query and layer is attention; keys and values cost the rest once."""
    lengths = torch.tensor([16.0, 32.0, 64.0, 128.0, 256.0])
    slopes = []
    for num_queries in (2, 4, 8, 16):
        module = former(num_queries, num_layers=2)
        costs = torch.tensor([float(flops(module, int(length))) for length in lengths])
        centred = lengths - lengths.mean()
        slope = (centred * costs).sum() / centred.square().sum()
        left = costs - costs.mean() - slope * centred
        assert 1.0 - left.square().sum() / (costs - costs.mean()).square().sum() > 0.99
        slopes.append(slope.item())
    steps = zip(itertools.pairwise(slopes), (2, 4, 8), strict=True)
    each = [(b - a) / m for (a, b), m in steps]
    assert each == pytest.approx([2 * 4 * D] * 3)
    assert slopes[0] == pytest.approx(2 * (4 * D * D + 2 * 4 * D))


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "num_queries", "num_layers", "num_heads", "hidden"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            QueryFormer(**{"dim": 4, "num_queries": 2, "hidden": 4, name: 0})

    def test_heads(self):
        with pytest.raises(ValueError, match="dim must be a multiple of num_heads 3, got 4"):
            QueryFormer(dim=4, num_queries=2, num_heads=3)

    def test_shapes(self):
        with pytest.raises(ValueError, match=r"x must have shape \[\*, \*, 8\], got \[2, 3, 7\]"):
            former()(torch.zeros(2, 3, 7), torch.ones(2, 3).bool())
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 3\], got \[2, 1\]"):
            former()(torch.zeros(2, 3, 8), torch.ones(2, 1).bool())
