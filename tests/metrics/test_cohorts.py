import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics.cohorts import exposure_slices, sid_prefixes
from sidrank.metrics.slices import slice_metrics
from tests.metrics import reference_review as reference
from tests.strategies import ANY_IDS, sid_items

SHARES = st.sampled_from([Fraction(4, 5), Fraction(1, 2), Fraction(7, 10), Fraction(1, 100)])


def _names(slices):
    return slices.names[slices.ids].tolist()


@given(sid_items(min_items=1), st.integers(0, 5), st.randoms(use_true_random=False))
def test_prefixes_equal_a_loop_over_rows(data, unknown, random):
    sizes, items = data
    codes = [*items.values(), *[(-1,) * len(sizes)] * unknown]
    random.shuffle(codes)
    if not codes:
        return
    for depth in range(1, len(sizes) + 1):
        slices = sid_prefixes(codes, depth)
        expected = [
            "unknown" if -1 in row[:depth] else "/".join(str(code) for code in row[:depth])
            for row in codes
        ]
        assert _names(slices) == expected
        known = sorted({row[:depth] for row in codes if -1 not in row[:depth]})
        names = ["/".join(str(code) for code in prefix) for prefix in known]
        assert slices.names.tolist() == names + ["unknown"] * ("unknown" in expected)


def test_prefixes_of_huge_codes_do_not_collide():
    codes = np.array([[2**31 - 1, 2**31 - 1, 0], [2**31 - 1, 0, 2**31 - 1], [0, 2**31 - 1, 5]])
    for depth in (1, 2, 3):
        expected = ["/".join(map(str, row[:depth])) for row in codes.tolist()]
        assert _names(sid_prefixes(codes, depth)) == expected
        assert _names(sid_prefixes(torch.tensor(codes, dtype=torch.int32), depth)) == expected


def test_a_prefix_is_known_where_its_own_codes_are():
    slices = sid_prefixes([[3, -1], [-1, 2]], 1)
    assert _names(slices) == ["3", "unknown"]
    assert _names(sid_prefixes([[3, -1], [-1, 2]], 2)) == ["unknown", "unknown"]


def test_metrics_by_prefix():
    codes = [[12, 7], [12, 9], [3, 0], [3, 0], [-1, -1]]
    table = slice_metrics([1, 0, 1, 0, 1], [0.5, 0.25, 0.5, 0.5, 0.5], sid_prefixes(codes, 1))
    assert table.name.tolist() == ["3", "12", "unknown"]
    assert table.auc[:2].tolist() == [0.5, 1.0]
    assert math.isnan(table.auc[2])
    assert table.calibration.tolist() == [1.0, 0.75, 0.5]


@given(
    st.lists(st.tuples(ANY_IDS, st.integers(0, 4)), min_size=1, max_size=25),
    st.lists(ANY_IDS, max_size=10),
    SHARES,
    st.sampled_from([int, str]),
)
def test_cohorts_equal_a_loop_over_items(shown, others, share, kind):
    exposures = {}
    for item, count in shown:
        exposures[kind(item)] = exposures.get(kind(item), 0) + count
    items = [kind(item) for item, _ in shown] + [kind(item) for item in others]
    training = [kind(item) for item, _ in shown]
    slices = exposure_slices(
        items, training, counts=[count for _, count in shown], tail_share=float(share)
    )
    expected = reference.exposure_cohorts(items, exposures, share)
    assert slices.names.tolist() == ["new", "tail", "head"]
    assert _names(slices) == expected
    rows = [kind(item) for item, count in shown for _ in range(count)]
    if rows:
        again = exposure_slices(items, rows, tail_share=float(share))
        assert _names(again) == expected


def test_the_tail_is_eight_of_ten_where_no_two_are_tied():
    slices = exposure_slices(np.arange(11), np.arange(10), counts=np.arange(10, 110, 10))
    assert _names(slices) == ["tail"] * 8 + ["head"] * 2 + ["new"]


def test_the_share_is_not_exceeded_by_a_rounding_error():
    slices = exposure_slices(
        np.arange(100), np.arange(100), counts=np.arange(100) + 1, tail_share=0.55
    )
    assert np.bincount(slices.ids).tolist() == [0, 55, 45]


def test_items_of_one_exposure_stay_together():
    slices = exposure_slices([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], counts=[9, 5, 5, 5, 1])
    assert _names(slices) == ["head", "tail", "tail", "tail", "tail"]
    assert set(_names(exposure_slices([1, 2, 3], [1, 2, 3]))) == {"tail"}


@pytest.mark.parametrize("scale", [1, 1e-3, 1e12])
def test_exposures_may_be_any_measure(scale):
    counts = np.array([1, 2, 3, 4, 50]) * scale
    expected = ["tail"] * 4 + ["head"]
    assert _names(exposure_slices([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], counts=counts)) == expected


def test_nothing_shown_makes_everything_new():
    assert _names(exposure_slices([1, 2], [1, 2], counts=[0, 0])) == ["new", "new"]
    assert _names(exposure_slices(["a"], np.array([], str))) == ["new"]


def test_many_rows_and_mixed_widths():
    items = np.arange(600_000, dtype=np.int32) % 1000
    slices = exposure_slices(items, torch.arange(500), counts=np.arange(500) + 1)
    assert np.bincount(slices.ids).tolist() == [300_000, 240_000, 60_000]


@pytest.mark.parametrize(
    ("codes", "depth", "message"),
    [
        ([[1, 2]], 0, "depth must be in 1 to 2, got 0"),
        ([[1, 2]], 3, "depth must be in 1 to 2, got 3"),
        ([1, 2], 1, r"codes must have shape \[n, N\], got \[2\]"),
        ([[-2]], 1, r"codes must be in \[-1, 2\*\*31\), got -2"),
        (np.zeros((0, 2), int), 1, r"codes must hold a row and a level, got shape \[0, 2\]"),
    ],
)
def test_bad_codes_are_refused(codes, depth, message):
    with pytest.raises(ValueError, match=message):
        sid_prefixes(codes, depth)


def test_codes_are_integers():
    with pytest.raises(TypeError, match="codes must be integers, got float64"):
        sid_prefixes([[0.5]], 1)


@pytest.mark.parametrize(
    ("items", "training", "options", "message"),
    [
        ([1.5], [1], {}, "items must be integers or strings, got float64"),
        ([1], [1.5], {}, "training_items must be integers or strings, got float64"),
        ([1], ["1"], {}, r"training_items must be of the kind of items \(int64\), got <U1"),
        (["1"], [b"1"], {}, r"training_items must be of the kind of items \(<U1\), got \|S1"),
        ([1], np.array([1], np.uint64), {}, r"of the kind of items \(int64\), got uint64"),
        (
            [1],
            [1, 2],
            {"counts": [1]},
            r"counts must have one entry per training item \(2\), got 1",
        ),
        ([1], [1, 2], {"counts": [1, -1]}, "counts must be finite and not negative, got -1.0 in"),
        ([1], [1], {"counts": [math.inf]}, "counts must be finite and not negative, got inf in"),
        ([1], [1], {"counts": [math.nan]}, "counts must not be NaN"),
        ([1], [1], {"tail_share": 1.0}, r"tail_share must be in \(0, 1\), got 1.0"),
        ([[1]], [1], {}, r"items must have shape \[n\], got \[1, 1\]"),
    ],
)
def test_bad_exposures_are_refused(items, training, options, message):
    with pytest.raises(ValueError, match=message):
        exposure_slices(items, training, **options)
