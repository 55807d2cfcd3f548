"""Search by SimHash: equal to loops, and what SimHash promises."""

import pytest
import torch

from sidrank.towers import ESUTargetAttention, GSUSearch, SearchAttention
from sidrank.towers.eta import LSHSearch
from tests.towers import reference_din


def inputs(rows=4, candidates=3, length=15, dim=6):
    mask = torch.rand(rows, length) < 0.8
    mask[0] = False
    return (
        torch.randn(rows, candidates, dim),
        torch.randn(rows, length, dim),
        mask,
        torch.randint(0, 9, (rows, length)),
        torch.randint(5, 9, (rows,)),
    )


@pytest.mark.parametrize("bits", [3, 64])
def test_equals_loops(bits):
    search, given = LSHSearch(dim=6, k=4, bits=bits), inputs()
    index, real = search(*given)
    target, history, mask, times, now = given
    planes = search.projections.t().tolist()
    for row in range(4):
        known = (mask[row] & (times[row] < now[row])).tolist()
        for c in range(3):
            expected = reference_din.hamming_search(
                target[row, c].tolist(), history[row].tolist(), known, times[row].tolist(),
                planes, 4,
            )  # fmt: skip
            assert index[row, c][real[row, c]].tolist() == expected


def test_bits_differ_as_often_as_the_angle_says():
    """And the length of a vector plays no part."""
    search = LSHSearch(dim=2, k=1, bits=20_000)
    for angle in (0.2, 1.0, 2.5):
        angle = torch.tensor(angle)
        one, other = torch.tensor([1.0, 0.0]), 7.0 * torch.stack([angle.cos(), angle.sin()])
        differ = (search.signatures(one) != search.signatures(other)).double().mean()
        assert abs(differ - angle / torch.pi) < 0.02


def test_more_bits_find_more_of_what_the_angle_would_find():
    target, history = torch.randn(8, 4, 16), torch.randn(8, 200, 16)
    times, mask = torch.arange(200).expand(8, 200), torch.ones(8, 200).bool()
    now = torch.full((8,), 200)
    unit = [x / x.norm(dim=2, keepdim=True) for x in (target, history)]
    best, _ = GSUSearch(k=20)(*unit, mask, times, now)

    def recall(bits):
        index, _ = LSHSearch(dim=16, k=20, bits=bits)(target, history, mask, times, now)
        return (index.unsqueeze(3) == best.unsqueeze(2)).any(dim=3).double().mean().item()

    found = [recall(bits) for bits in (1, 16, 256, 4096)]
    assert found == sorted(found)
    assert found[0] < 0.35  # of 200, 20 would be 0.1 by chance
    assert found[-1] > 0.9


def test_the_same_seed_hashes_alike():
    first, again, other = (LSHSearch(dim=4, k=1, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.projections, again.projections)
    assert not torch.equal(first.projections, other.projections)


def test_search_attention_runs_on_it():
    attention = ESUTargetAttention(behaviour_dim=8, dim=4)
    target, history, mask, times, now = inputs()
    wide = torch.randn(4, 3, 8), torch.randn(4, 15, 8)
    search = LSHSearch(dim=6, k=4)
    answers = SearchAttention(search=search, attention=attention)(
        *wide, target, history, mask, times, now
    )
    index, real = search(target, history, mask, times, now)
    found = torch.stack([wide[1][row][index[row]] for row in range(4)])
    torch.testing.assert_close(answers, attention(wide[0], found, real))


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "k", "bits"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            LSHSearch(**({"dim": 2, "k": 2, "bits": 2} | {name: 0}))

    def test_shapes(self):
        target, history, mask, times, now = inputs()
        with pytest.raises(ValueError, match=r"target must have shape \[\*, \*, 6\]"):
            LSHSearch(dim=6, k=1)(target[..., :5], history, mask, times, now)
        with pytest.raises(ValueError, match=r"history must have shape \[4, \*, 6\]"):
            LSHSearch(dim=6, k=1)(target, history[:2], mask, times, now)
        with pytest.raises(ValueError, match=r"mask must have shape \[4, 15\], got \[4, 9\]"):
            LSHSearch(dim=6, k=1)(target, history, mask[:, :9], times[:, :9], now)
