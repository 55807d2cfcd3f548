import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sidrank.metrics import auc, group_aucs, grouped_auc
from tests import reference

WEIGHTINGS = ["impressions", "unweighted", "positives"]
POLICIES = ["skip", "half"]


@st.composite
def rows(draw):
    """Rows of a few groups, one of which holds both classes."""
    score = st.sampled_from([-math.inf, -0.0, 0.0, 5e-324, 0.25, 0.5, 1.0, math.inf])
    row = st.tuples(
        st.integers(0, 1), score, st.integers(-3, 3), st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0])
    )
    body = draw(st.lists(row, max_size=30))
    both = [(0, draw(score), 2, 1.0), (1, draw(score), 2, 0.5)]
    return [list(column) for column in zip(*draw(st.permutations(body + both)), strict=True)]


@pytest.mark.parametrize("single_class", POLICIES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(data=rows())
def test_equals_the_slow_definition(weighting, single_class, data):
    labels, scores, groups, weights = data
    for row_weights in (None, weights):
        expected = reference.pairwise_gauc(
            labels, scores, groups, weighting, single_class, row_weights
        )
        result = grouped_auc(
            labels,
            scores,
            groups,
            weights=row_weights,
            weighting=weighting,
            single_class=single_class,
        )
        assert result == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equals_scikit_learn_group_by_group(weighting):
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 300, 5000)
    labels = generator.random(5000) < 0.2
    scores = np.round(labels * 0.4 + generator.standard_normal(5000), 1)
    weights = generator.exponential(size=5000)
    total = mass = 0.0
    for group in np.unique(groups):
        inside = groups == group
        if labels[inside].any() and not labels[inside].all():
            value = roc_auc_score(labels[inside], scores[inside], sample_weight=weights[inside])
            group_mass = {
                "impressions": weights[inside].sum(),
                "positives": weights[inside & labels].sum(),
                "unweighted": 1.0,
            }[weighting]
            total, mass = total + value * group_mass, mass + group_mass
    result = grouped_auc(labels, scores, groups, weights=weights, weighting=weighting)
    assert result == pytest.approx(total / mass, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@given(data=rows(), random=st.randoms(use_true_random=False))
def test_row_order_and_group_names_change_no_bit(weighted, data, random):
    labels, scores, groups, weights = data
    weights = weights if weighted else [1.0] * len(labels)
    expected = grouped_auc(labels, scores, groups, weights=weights if weighted else None)
    order = list(range(len(labels)))
    random.shuffle(order)
    places = random.sample(range(10**18), 7)
    names = {
        group: 9 * place - 4 * 10**18 for group, place in zip(range(-3, 4), places, strict=True)
    }
    label, score, group, weight = (
        [column[row] for row in order] for column in (labels, scores, groups, weights)
    )
    weight = weight if weighted else None
    assert grouped_auc(label, score, group, weights=weight) == expected
    assert grouped_auc(label, score, [names[g] for g in group], weights=weight) == expected
    assert grouped_auc(label, score, [f"u{names[g]}" for g in group], weights=weight) == expected


@given(rows(), st.lists(st.integers(-3, 3), min_size=7, max_size=7))
def test_a_shift_of_each_group_changes_gauc_not(data, shifts):
    labels, scores, groups, _ = data
    ranks = np.unique(scores, return_inverse=True)[1]
    moved = ranks + 100 * np.array([shifts[group + 3] for group in groups])
    assert grouped_auc(labels, moved, groups) == grouped_auc(labels, scores, groups)


@pytest.mark.parametrize(
    "groups",
    [
        np.array([7, 7, 3, 3, 3], np.int8),
        np.array([2**64 - 1, 2**64 - 1, 0, 0, 0], np.uint64),
        torch.tensor([5, 5, -5, -5, -5]),
        torch.tensor([True, True, False, False, False]),
        ["ann", "ann", "bob", "bob", "bob"],
        np.array(["ann", "ann", "bob", "bob", "bob"], object),
        np.array([b"a", b"a", b"b", b"b", b"b"]),
    ],
)
def test_group_kinds(groups):
    result = grouped_auc([1, 0, 1, 0, 0], [0.9, 0.1, 0.3, 0.3, 0.8], groups)
    assert result == pytest.approx((2 * 1.0 + 3 * 0.25) / 5, abs=1e-15)
    assert type(result) is float


@given(rows())
def test_one_group_of_all_rows_is_the_plain_auc(data):
    labels, scores, _, weights = data
    everyone = [7] * len(labels)
    assert group_aucs(labels, scores, everyone).auc.tolist() == [auc(labels, scores)]
    weighted = group_aucs(labels, scores, everyone, weights=weights)
    assert weighted.auc[0] == pytest.approx(auc(labels, scores, weights), abs=1e-14)


def test_one_group_is_the_plain_auc():
    labels, scores = [1, 0, 1, 0], torch.tensor([0.5, 0.5, 0.75, 0.875], dtype=torch.bfloat16)
    assert grouped_auc(labels, scores, [4] * 4) == auc(labels, scores)


def test_constant_scores_are_one_half_in_every_group():
    assert grouped_auc([1, 0, 0, 1, 1], [0.5] * 5, [1, 1, 2, 2, 2]) == 0.5


def test_what_the_arguments_mean():
    labels = [1, 0, 0, 1, 1, 0, 0, 0, 1]
    scores = [0.9, 0.1, 0.2, 0.1, 0.3, 0.2, 0.5, 0.5, 0.5]
    groups = [1, 1, 1, 2, 2, 2, 3, 3, 4]  # aucs 1, 1/2, no positive, no negative
    assert grouped_auc(labels, scores, groups) == 0.75
    assert grouped_auc(labels, scores, groups, weighting="positives") == pytest.approx(2 / 3)
    assert grouped_auc(labels, scores, groups, single_class="half") == pytest.approx(
        (3 * 1 + 3 * 0.5 + 3 * 0.5) / 9
    )
    half = grouped_auc(labels, scores, groups, single_class="half", weighting="unweighted")
    assert half == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 4)


def test_small_weights_beside_large_ones_keep_their_digits():
    labels, scores = [0, 1] * 3, [0.1, 0.9, 0.9, 0.1, 0.5, 0.5]
    weights = [1e150, 3e150, 1e-150, 3e-150, 1.0, 2.0]
    result = grouped_auc(
        labels, scores, [1, 1, 2, 2, 3, 3], weights=weights, weighting="unweighted"
    )
    assert result == pytest.approx(0.5, abs=1e-15)


def test_rounding_does_not_build_up_over_many_groups():
    weights = np.random.default_rng(0).exponential(size=(100_000, 5))
    labels, scores = np.tile([0, 0, 0, 1, 0], 100_000), np.tile([1, 2, 3, 4, 5], 100_000)
    groups = np.repeat(np.arange(100_000), 5)
    table = group_aucs(labels, scores, groups, weights=weights.ravel())
    beaten = weights[:, :3].sum(axis=1)
    np.testing.assert_allclose(table.auc, beaten / (beaten + weights[:, 4]), rtol=0, atol=1e-14)


def test_group_table():
    table = group_aucs([1, 0, 0, 1], [0.9, 0.1, 0.2, 0.3], ["b", "b", "a", "b"])
    np.testing.assert_array_equal(table.auc, [np.nan, 1.0])
    np.testing.assert_array_equal(table.impressions, [1, 3])
    np.testing.assert_array_equal(table.positives, [0, 2])
    assert table.group.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [1.5, 2.5, 1.5, 2.5]}, "groups must be integers or strings, got float64"),
        ({"groups": np.array([1, "a", 1, 1], object)}, "groups must be integers or strings"),
        ({"groups": [1, 2, 1]}, r"groups must have one row per label \(4\), got 3"),
        ({"groups": [[1], [2], [1], [2]]}, r"groups must have shape \[n\], got \[4, 1\]"),
        ({"scores": [0.1, 0.2, math.nan, 0.3]}, "scores must not be NaN, got nan in row 2"),
        ({"labels": [0, 1, 5, 1]}, "labels must be 0 or 1, got 5 in row 2"),
        ({"labels": [], "scores": [], "groups": []}, "labels must not be empty"),
        ({"weights": [1, 1, -1, 1]}, "weights must be finite and not negative, got -1"),
        ({"weighting": "rows"}, "weighting must be 'impressions', .* got 'rows'"),
        ({"single_class": "drop"}, "single_class must be 'skip', .* got 'drop'"),
        ({"groups": [1, 2, 3, 4]}, "groups must include one that counts, got 4 with one class"),
        (
            {"groups": [1, 1, 2, 3], "single_class": "raise"},
            "groups must each contain both classes, got one class in group 2",
        ),
        (
            {
                "labels": [0, 0, 0, 0],
                "groups": [1, 1, 1, 2],
                "single_class": "half",
                "weighting": "positives",
            },
            "groups must include one that counts",
        ),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"labels": [0, 1, 0, 1], "scores": [0.1, 0.2, 0.3, 0.4], "groups": [1, 1, 2, 2]}
    with pytest.raises(ValueError, match=message):
        grouped_auc(**(arguments | change))
