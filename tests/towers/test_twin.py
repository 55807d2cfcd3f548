"""TWIN: search and attention agree."""

import pytest
import torch

from sidrank.layers import CrossAttention
from sidrank.sequences.selection import earlier
from sidrank.towers import ESUTargetAttention, GSUSearch
from sidrank.towers.twin import TWIN
from tests.layers import reference_layers


def tower(k, heads=2):
    return TWIN(attention=CrossAttention(dim=8, query_dim=5, key_dim=6, num_heads=heads), k=k)


def inputs(rows=4, candidates=3, length=15):
    mask = torch.rand(rows, length) < 0.8
    mask[0] = False
    return (
        torch.randn(rows, candidates, 5),
        torch.randn(rows, length, 6),
        mask,
        torch.randint(0, 9, (rows, length)),
        torch.randint(5, 9, (rows,)),
    )


@pytest.mark.parametrize("heads", [1, 2])
def test_finding_all_is_attention_over_the_whole_history(heads):
    module, given = tower(15, heads), inputs()
    target, history, mask, times, now = given
    expected = module.attention(target, history, earlier(mask, times, now))
    torch.testing.assert_close(module(*given), expected)


@pytest.mark.parametrize("heads", [1, 2])
def test_finds_what_its_own_attention_weighs_most(heads):
    """The weights of the whole attention, from its own layers; the rest weighs no more."""
    module, given = tower(4, heads), inputs()
    target, history, mask, times, now = given
    known = earlier(mask, times, now)
    index, real = module.search(*given)
    one, size = module.attention, 8 // heads
    for row in range(4):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            query, key = one.query(target[row])[:, part], one.key(history[row])[:, part]
            weights = (query @ key.t()).masked_fill(~known[row], float("-inf")).softmax(dim=1)
            for c in range(3):
                place = head * 3 + c
                found = index[row, place][real[row, place]]
                assert len(found) == min(4, int(known[row].sum()))
                rest = known[row].clone()
                rest[found] = False
                if len(found) and rest.any():
                    assert weights[c, found].min() >= weights[c, rest].max()


def test_one_head_reads_exactly_what_was_found():
    module, given = tower(4, heads=1), inputs()
    target, history = given[:2]
    index, real = module.search(*given)
    answers, layers = module(*given), reference_layers.attention_layers(module.attention)
    for row in range(4):
        for c in range(3):
            keys = history[row, index[row, c][real[row, c]]].tolist()
            expected = reference_layers.attention(target[row, c].tolist(), keys, layers, 1)
            torch.testing.assert_close(answers[row, c].tolist(), expected, rtol=1e-4, atol=1e-5)


def test_a_search_by_another_score_loses_more():
    """Distance to attention over everything: consistent search against inner products."""
    target, history = torch.randn(16, 4, 6), torch.randn(16, 100, 6)
    mask, times = torch.ones(16, 100).bool(), torch.arange(100).expand(16, 100)
    now = torch.full((16,), 100)
    attention = CrossAttention(dim=8, query_dim=6, key_dim=6)
    with torch.no_grad():
        attention.query.weight *= 8.0
    whole = attention(target, history, mask)
    twin = TWIN(attention=attention, k=10)(target, history, mask, times, now)
    index, real = GSUSearch(k=10)(target, history, mask, times, now)
    esu = ESUTargetAttention(behaviour_dim=6, dim=8)
    esu.attention = attention
    found = torch.stack([history[row][index[row]] for row in range(16)])
    other = esu(target, found, real)
    assert (twin - whole).norm() < 0.5 * (other - whole).norm()


def test_gradient_reaches_what_was_found_and_nothing_else():
    module, (target, history, mask, times, now) = tower(3), inputs()
    history.requires_grad_()
    module(target, history, mask, times, now).square().sum().backward()
    index, real = module.search(target, history, mask, times, now)
    found = torch.zeros(4, 15).bool()
    for row in range(4):
        found[row, index[row][real[row]]] = True
    assert torch.equal(history.grad.any(dim=2), found)


class TestErrors:
    def test_k(self):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            tower(0)

    def test_shapes(self):
        target, history, mask, times, now = inputs()
        with pytest.raises(ValueError, match=r"target must have shape \[\*, \*, 5\]"):
            tower(2)(target[..., :4], history, mask, times, now)
        with pytest.raises(ValueError, match=r"history must have shape \[4, \*, 6\]"):
            tower(2)(target, history[..., :4], mask, times, now)
        with pytest.raises(ValueError, match=r"mask must have shape \[4, 15\], got \[4, 9\]"):
            tower(2)(target, history, mask[:, :9], times[:, :9], now)
