"""The k best behaviours, oldest first."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.sequences import best_by_time, earlier, exclusive_rate, take
from tests.sequences import reference_sequences as reference

score = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 7e30])
behaviour = st.tuples(score, st.booleans(), st.integers(-3, 3))


@given(st.lists(behaviour, max_size=9), st.integers(1, 12))
def test_equals_a_sort(behaviours, k):
    scores, real, times = map(list, zip(*behaviours, strict=True)) if behaviours else ([], [], [])
    index, mask = best_by_time(
        torch.tensor(scores).view(1, 1, -1),
        torch.tensor(real, dtype=torch.bool).view(1, 1, -1),
        torch.tensor(times, dtype=torch.int64).view(1, -1),
        k,
    )
    assert index.shape == (1, 1, min(k, len(scores)))
    assert index[mask].tolist() == reference.best_by_time(scores, real, times, k)
    assert not index[~mask].any()
    assert not mask[..., int(mask.sum()) :].any()  # what was not found comes last


@pytest.mark.parametrize("k", range(1, 10))
def test_orders_all_kinds_of_floats(k):
    scores = [-7e30, -2.5, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 7e30]
    for times in (list(range(9)), list(range(9, 0, -1))):
        index, _ = best_by_time(
            torch.tensor(scores).view(1, 1, -1),
            torch.ones(1, 1, 9).bool(),
            torch.tensor([times]),
            k,
        )
        assert index.flatten().tolist() == reference.best_by_time(scores, [True] * 9, times, k)


def test_same_item_many_times_is_a_tie_for_any_shape():
    """A product of another shape rounds otherwise; the newest must win all the same."""
    item = torch.randn(33)
    history = item.repeat(501, 1)
    for candidates in (1, 3, 8):
        target = torch.randn(1, candidates, 33)
        scores = target.double() @ history.double().t()
        mask = torch.ones(1, candidates, 501).bool()
        index, _ = best_by_time(scores, mask, torch.arange(501).view(1, -1), 4)
        assert (index == torch.tensor([497, 498, 499, 500])).all()


def test_only_strictly_earlier():
    mask, times = torch.tensor([[True, True, True, False]]), torch.tensor([[5, 6, 7, 1]])
    assert earlier(mask, times, torch.tensor([6])).tolist() == [[True, False, False, False]]


def test_take_has_a_gradient_for_what_was_taken():
    values = torch.randn(1, 4, 2, requires_grad=True)
    mask = torch.tensor([[[True, True, False]]])
    take(values, torch.tensor([[[3, 1, 0]]]), mask).sum().backward()
    assert values.grad[0, :, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_exclusive_rate_counts_pairs_of_places():
    index, other = torch.randint(0, 9, (4, 2, 5)), torch.randint(0, 9, (4, 2, 3))
    mask, other_mask = torch.rand(4, 2, 5) < 0.7, torch.rand(4, 2, 3) < 0.7
    alone = [
        place not in other[row, c][other_mask[row, c]].tolist()
        for row in range(4)
        for c in range(2)
        for place in index[row, c][mask[row, c]].tolist()
    ]
    expected = sum(alone) / len(alone)
    assert exclusive_rate(index, mask, other, other_mask).item() == pytest.approx(expected)


class TestErrors:
    def test_mask_of_numbers(self):
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.int64"):
            earlier(torch.ones(1, 2).long(), torch.zeros(1, 2).long(), torch.zeros(1).long())

    def test_times_of_float(self):
        with pytest.raises(ValueError, match=r"times must be int32 or int64, got torch.float32"):
            earlier(torch.ones(1, 2).bool(), torch.zeros(1, 2), torch.zeros(1).long())

    def test_now_of_float(self):
        with pytest.raises(ValueError, match=r"now must be int32 or int64, got torch.float32"):
            earlier(torch.ones(1, 2).bool(), torch.zeros(1, 2).long(), torch.zeros(1))

    @pytest.mark.parametrize("name", ["times", "now"])
    def test_rows(self, name):
        given = {"times": torch.zeros(3, 2).long(), "now": torch.zeros(3).long()}
        given[name] = given[name][:1]
        with pytest.raises(ValueError, match=rf"{name} must have shape \[3.*got \[1"):
            earlier(torch.ones(3, 2).bool(), **given)

    def test_take_shapes(self):
        index, mask = torch.zeros(2, 1, 3).long(), torch.ones(2, 1, 2).bool()
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 1, 3\], got \[2, 1, 2\]"):
            take(torch.zeros(2, 4, 1), index, mask)
        with pytest.raises(ValueError, match=r"index must have shape \[3, \*, \*\]"):
            take(torch.zeros(3, 4, 1), index, mask)
        with pytest.raises(ValueError, match=r"values must have shape \[\*, \*, \*\], got \[4\]"):
            take(torch.zeros(4), index, mask)

    def test_exclusive_rate_shapes(self):
        index, mask = torch.zeros(2, 1, 3).long(), torch.ones(2, 1, 3).bool()
        with pytest.raises(ValueError, match=r"other must have shape \[2, 1, \*\]"):
            exclusive_rate(index, mask, index[:1], mask[:1])
        with pytest.raises(ValueError, match=r"other_mask must have shape \[2, 1, 3\]"):
            exclusive_rate(index, mask, index, mask[:, :, :2])
        with pytest.raises(ValueError, match=r"index must have shape \[\*, \*, \*\]"):
            exclusive_rate(index[0], mask, index, mask)
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 1, 3\]"):
            exclusive_rate(index, mask[:1], index, mask)
