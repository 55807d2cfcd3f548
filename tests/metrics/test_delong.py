import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics import auc
from sidrank.metrics.delong import delong, paired_delong
from tests.metrics import reference_doubt


@st.composite
def rows(draw):
    """Labels, two columns of scores with ties and extremes, groups; enough of everything."""
    score = st.sampled_from([-math.inf, -0.0, 0.0, 5e-324, 0.25, 0.5, 1.0, math.inf])
    row = st.tuples(st.integers(0, 1), score, score, st.integers(-3, 3))
    body = draw(st.lists(row, max_size=25))
    both = [(y, draw(score), draw(score), group) for y in (0, 1) for group in (4, 5)]
    return [list(column) for column in zip(*draw(st.permutations(body + both)), strict=True)]


def close(value):
    """Exact sums leave only the rounding of a quotient and a root."""
    return pytest.approx(float(value), rel=1e-13, abs=1e-300)


@given(rows())
def test_equals_the_slow_definition(data):
    labels, treatment, control, _ = data
    value, variance = reference_doubt.delong(labels, treatment)
    result = delong(labels, treatment)
    assert result.auc == float(value) == auc(labels, treatment)
    assert result.standard_error**2 == close(variance)
    value, variance = reference_doubt.delong(labels, treatment, control)
    result = paired_delong(labels, treatment, control)
    assert result.difference == float(value)
    assert result.standard_error**2 == close(variance)


@given(rows())
def test_groups_equal_the_slow_definition(data):
    labels, treatment, control, groups = data
    value, variance = reference_doubt.obuchowski(labels, groups, treatment)
    result = delong(labels, treatment, groups=groups)
    assert result.auc == float(value) == auc(labels, treatment)
    assert result.standard_error**2 == close(variance)
    value, variance = reference_doubt.obuchowski(labels, groups, treatment, control)
    result = paired_delong(labels, treatment, control, groups=groups)
    assert result.difference == float(value)
    assert result.standard_error**2 == close(variance)


@given(rows(), st.randoms(use_true_random=False))
def test_order_names_and_monotone_maps_change_no_bit(data, random):
    labels, treatment, control, groups = data
    order = list(range(len(labels)))
    random.shuffle(order)
    ranks = np.unique(treatment, return_inverse=True)[1]
    moved = [np.array(labels)[order], (ranks**3 - 7)[order], np.array(control)[order]]
    names = [random.randrange(2**53) * 1000 + group for group in range(10)]
    renamed = [names[groups[row] + 3] for row in order]
    for before, after in [
        (None, None),
        (groups, renamed),
        (groups, [f"user {name}" for name in renamed]),
    ]:
        expected = delong(labels, treatment, groups=before)
        assert delong(moved[0], moved[1], groups=after) == expected
        expected = paired_delong(labels, treatment, control, groups=before)
        assert str(paired_delong(*moved, groups=after)) == str(expected)  # NaN and all


@given(rows())
def test_a_group_per_row_is_the_plain_formula(data):
    labels, treatment, control, _ = data
    own = np.random.default_rng(0).permutation(len(labels)) * 2**33
    assert delong(labels, treatment, groups=own) == delong(labels, treatment)
    grouped = paired_delong(labels, treatment, control, groups=own)
    assert str(grouped) == str(paired_delong(labels, treatment, control))


@given(rows())
def test_turning_scores_or_swapping_models_mirrors_the_result(data):
    labels, treatment, control, groups = data
    for group in (None, groups):
        one = delong(labels, treatment, groups=group)
        turned = delong(labels, -np.array(treatment), groups=group)
        assert turned.standard_error == one.standard_error
        ends = (1 - turned.auc, 1 - turned.high, 1 - turned.low)
        assert np.allclose(ends, (one.auc, one.low, one.high), rtol=0, atol=1e-15)
        forth = paired_delong(labels, treatment, control, groups=group)
        back = paired_delong(labels, control, treatment, groups=group)
        mirrored = (-back.difference, back.standard_error, -back.high, -back.low, back.p_value)
        assert np.array_equal(mirrored, forth, equal_nan=True)


def test_copies_of_rows_tell_nothing_new_inside_their_groups():
    generator = np.random.default_rng(0)
    labels = generator.random(4000) < 0.2
    scores = np.round(labels + generator.standard_normal(4000), 1)
    other = scores + generator.standard_normal(4000)
    twice = [np.repeat(column, 2) for column in (labels, scores, other, np.arange(4000))]
    single, pair = delong(labels, scores), paired_delong(labels, scores, other)
    assert delong(*twice[:2], groups=twice[3]) == pytest.approx(single, rel=1e-12)
    assert paired_delong(*twice[:3], groups=twice[3]) == pytest.approx(pair, rel=1e-12)
    shrunk = delong(*twice[:2]).standard_error / single.standard_error
    assert shrunk == pytest.approx(math.sqrt(0.5), rel=1e-3)


def test_ends_lie_where_the_normal_quantile_puts_them():
    labels = np.arange(200) % 3 == 0
    scores = labels + np.random.default_rng(0).standard_normal(200)
    result = delong(labels, scores, confidence=0.9)
    logit = math.log(result.auc / (1 - result.auc))
    width = 1.6448536269514722 * result.standard_error / (result.auc * (1 - result.auc))
    assert math.log(result.low / (1 - result.low)) == pytest.approx(logit - width, rel=1e-12)
    assert math.log(result.high / (1 - result.high)) == pytest.approx(logit + width, rel=1e-12)
    pair = paired_delong(labels, scores, scores[::-1], confidence=0.9)
    assert pair.high - pair.difference == pytest.approx(1.6448536269514722 * pair.standard_error)
    assert pair.difference - pair.low == pytest.approx(1.6448536269514722 * pair.standard_error)
    # The interval of confidence 1 - p touches zero.
    touching = paired_delong(labels, scores, scores[::-1], confidence=1 - pair.p_value)
    assert min(abs(touching.low), abs(touching.high)) == pytest.approx(0, abs=1e-9)


def test_a_perfect_order_is_bounded_by_what_separate_pairs_can_tell():
    labels, scores = [0] * 9 + [1] * 5, range(14)
    bound = pytest.approx(0.025 ** (1 / 5), rel=1e-14)
    assert delong(labels, scores) == (1.0, 0.0, bound, 1.0)
    upper = pytest.approx(1 - 0.025 ** (1 / 5), rel=1e-14)
    assert delong(labels, np.negative(scores)) == (0.0, 0.0, 0.0, upper)
    # Four users, each with both classes: two pairs use each of them once.
    labels, groups = [0, 1] * 4, [1, 1, 2, 2, 3, 3, 4, 4]
    bound = pytest.approx(0.025 ** (1 / 2), rel=1e-14)
    assert delong(labels, labels, groups=groups) == (1.0, 0.0, bound, 1.0)


def test_constant_scores_leave_no_doubt():
    assert delong([0, 1, 0, 1], [3] * 4) == (0.5, 0.0, 0.5, 0.5)


def test_equal_rankings_do_not_differ():
    labels, scores = [0, 1, 0, 1, 1], np.array([0.1, 0.1, 0.4, 0.3, 0.9])
    for groups in (None, [1, 1, 2, 2, 3]):
        same = paired_delong(labels, scores, 5 * scores - 2, groups=groups)
        assert same == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_a_difference_without_variance_is_not_judged():
    difference, error, *rest = paired_delong([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (difference, error) == (1.0, 0.0)
    assert all(math.isnan(value) for value in rest)


def test_the_difference_stays_between_minus_one_and_one():
    result = paired_delong([0, 0, 0, 1, 1], [1, 2, 4, 3, 5], [5, 4, 2, 3, 1])
    assert result.high == 1.0
    assert result.low > -1.0


def test_any_kind_of_column():
    labels, scores, groups = [0, 1, 0, 1, 1], [0.25, 0.25, 0.5, 0.375, 0.875], [7, 7, 8, 8, 9]
    expected = delong(labels, scores, groups=groups)
    assert (
        delong(
            torch.tensor(labels, dtype=torch.bool),
            torch.tensor(scores, dtype=torch.bfloat16),
            groups=["ann", "ann", "bob", "bob", "cid"],
        )
        == expected
    )
    assert all(type(value) is float for value in expected)
    assert all(type(value) is float for value in paired_delong(labels, scores, groups))


def test_many_rows_with_columns_untouched():
    # Beyond one block, with one score of most rows: runs and sums cross the blocks' ends.
    generator = np.random.default_rng(0)
    size = 700_000
    labels = (generator.random(size) < 0.3).astype(np.float32)
    scores = np.maximum(labels + generator.standard_normal(size), 0.9)
    other = scores + generator.standard_normal(size)
    groups = generator.integers(0, 5, size) ** 9
    columns = [labels, scores, other, groups]
    kept = [column.copy() for column in columns]
    result = paired_delong(labels, scores, other, groups=groups)
    assert delong(labels, scores, groups=groups).auc == auc(labels, scores)
    assert result.difference == pytest.approx(auc(labels, scores) - auc(labels, other), abs=1e-15)
    assert all(map(np.array_equal, columns, kept))
    value, variance = mid_rank_variance(labels == 1, scores, other)
    plain = paired_delong(labels, scores, other)
    assert plain.difference == pytest.approx(value, abs=1e-12)
    assert plain.standard_error**2 == pytest.approx(variance, rel=1e-9)


def mid_rank_variance(positive, *scores):
    """Sun and Xu's form: components from mid-ranks within a class and within all rows."""
    components = []
    for score in scores:
        inside = np.empty(len(score))
        for label in (True, False):
            inside[positive == label] = mid_ranks(score[positive == label])
        others = np.where(positive, (~positive).sum(), positive.sum())
        share = (mid_ranks(score) - inside) / others
        components.append(np.where(positive, share, 1 - share))
    difference = components[0] - components[1]
    variance = sum(
        difference[positive == label].var(ddof=1) / (positive == label).sum()
        for label in (True, False)
    )
    return difference[positive].mean(), variance


def mid_ranks(score):
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


GOOD = {"labels": [0, 1, 0, 1], "scores": [0.1, 0.9, 0.3, 0.2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 0.0}, r"confidence must be in \(0, 1\), got 0.0"),
        ({"confidence": math.nan}, r"confidence must be in \(0, 1\), got nan"),
        ({"labels": [1] * 4}, "labels must contain both classes, got 4 positives in 4 rows"),
        (
            {"labels": [1, 0, 0, 0]},
            "labels must contain at least 2 positives and 2 negatives, got 1 and 3",
        ),
        ({"labels": [0, 1, 0, 2]}, "labels must be 0 or 1, got 2 in row 3"),
        ({"labels": []}, "labels must not be empty, got 0 rows"),
        ({"scores": [0.1]}, r"must have one row per label \(4\), got 1"),
        ({"scores": [0.1, math.nan, 0.3, 0.2]}, "must not be NaN, got nan in row 1"),
        ({"groups": [1, 2, 3]}, r"groups must have one row per label \(4\), got 3"),
        ({"groups": [0.5] * 4}, "groups must be integers or strings"),
        (
            {"groups": [1, 1, 2, 1]},
            "groups must include at least 2 with a positive and 2 with a negative, got 1 and 2",
        ),
    ],
)
def test_bad_input_is_refused(change, message):
    options = GOOD | change
    with pytest.raises(ValueError, match=message):
        delong(**options)
    first = {"labels": options.pop("labels"), "treatment": options.pop("scores")}
    with pytest.raises(ValueError, match=message):
        paired_delong(**first, control=GOOD["scores"], **options)


def test_the_bad_column_is_named():
    for bad in ("treatment", "control"):
        columns = {"treatment": [1, 2, 3, 4], "control": [1, 2, 3, 4]} | {bad: [math.nan] * 4}
        with pytest.raises(ValueError, match=f"{bad} must not be NaN"):
            paired_delong([0, 1, 0, 1], **columns)
