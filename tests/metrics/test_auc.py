import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sidrank.metrics import auc, grouped_auc
from tests import reference

# Heavy ties, both zeros, both infinities, numbers below the smallest normal one.
SCORES = st.sampled_from(
    [-math.inf, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1e-310, 0.5, 1e308, math.inf]
)
WEIGHTS = st.sampled_from([0.0, 0.25, 1.0, 3.0, 0.1])


@st.composite
def rows(draw, scores=SCORES, weights=WEIGHTS):
    """Labels with both classes, scores, and weights that leave both classes some mass."""
    row = st.tuples(st.integers(0, 1), scores, weights)
    body = draw(st.lists(row, max_size=30))
    ends = [(0, draw(scores), 1.0), (1, draw(scores), 0.5)]
    labels, values, weight = zip(*draw(st.permutations(body + ends)), strict=True)
    return list(labels), list(values), list(weight)


@given(rows())
def test_equals_the_pairwise_definition(data):
    labels, scores, _ = data
    assert auc(labels, scores) == pytest.approx(reference.pairwise_auc(labels, scores), abs=1e-15)


@given(rows())
def test_equals_the_pairwise_definition_with_weights(data):
    labels, scores, weights = data
    expected = reference.pairwise_auc(labels, scores, weights)
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("rounded", [1, 3, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(rounded, weighted):
    generator = np.random.default_rng(rounded)
    labels = generator.random(20_000) < 0.07
    scores = np.round(labels * 0.4 + generator.standard_normal(20_000), rounded)
    weights = generator.exponential(size=20_000) if weighted else None
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64],
)
def test_any_score_dtype_keeps_its_ties(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(200, generator=generator) * 4).to(dtype)
    labels = torch.rand(200, generator=generator) < 0.3
    expected = reference.pairwise_auc(labels.tolist(), scores.tolist())
    assert len(scores.unique()) < 200 or dtype.itemsize >= 4
    assert auc(labels, scores) == pytest.approx(expected, abs=1e-15)
    if dtype is not torch.bfloat16:
        assert auc(labels.numpy(), scores.numpy()) == auc(labels, scores)


def test_integers_beyond_float_precision_are_not_tied():
    assert auc([0, 1], np.array([2**60, 2**60 + 1])) == 1.0


@pytest.mark.parametrize("kind", [bool, int, float, np.uint8, np.float32])
def test_label_dtypes(kind):
    labels = np.array([1, 0, 0, 1]).astype(kind)
    result = auc(labels, [0.9, 0.1, 0.8, 0.7])
    assert result == 0.75
    assert type(result) is float


def test_constant_scores_give_one_half_in_any_row_order():
    assert auc([1, 1, 0, 0, 0], [0.5] * 5) == 0.5
    assert auc([0, 0, 0, 1, 1], [0.5] * 5) == 0.5
    assert auc([0, 1], [-0.0, 0.0]) == 0.5


@given(rows(), st.randoms(use_true_random=False))
def test_row_order_changes_no_bit(data, random):
    order = list(range(len(data[0])))
    random.shuffle(order)
    labels, scores, weights = ([column[row] for row in order] for column in data)
    assert auc(labels, scores) == auc(*data[:2])
    assert auc(labels, scores, weights) == auc(*data)


# The score type decides how keys are packed; pieces and blocks cut what is sorted.
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("most", [5, 40, 10**6])
def test_pieces_and_blocks_leave_no_seam(monkeypatch, kind, most):
    monkeypatch.setattr(sys.modules["sidrank.metrics.auc"], "_PIECE", 50)
    for room in ("_words", "_keys"):
        name = {"_words": "BLOCK", "_keys": "_BLOCK"}[room]
        monkeypatch.setattr(sys.modules[f"sidrank.metrics.{room}"], name, 7)
    generator = np.random.default_rng(most)
    values = (generator.standard_normal(most) * 100).astype(kind)
    places = np.minimum(generator.geometric(0.1, 400) - 1, most - 1)  # a few scores hold most rows
    scores, labels = values[places], generator.random(400) < 0.3
    expected = reference.pairwise_auc(labels.tolist(), scores.tolist())
    assert auc(labels, scores) == pytest.approx(expected, abs=1e-15)
    groups = generator.integers(0, 3, 400)
    expected = reference.pairwise_gauc(labels, scores, groups, "impressions", "skip")
    assert grouped_auc(labels, scores, groups) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_scores_of_every_size_and_sign(kind):
    generator = np.random.default_rng(0)
    exponents = generator.integers(-30, 30, 300).astype(kind)
    scores = generator.choice([-1, 1], 300) * kind(10) ** exponents
    scores[:4] = [np.inf, -np.inf, 0.0, -0.0]
    labels = generator.random(300) < 0.5
    expected = reference.pairwise_auc(labels.tolist(), scores.tolist())
    assert auc(labels, scores) == pytest.approx(expected, abs=1e-15)


@given(rows())
def test_monotone_maps_and_negation(data):
    labels, scores, weights = data
    ranks = np.unique(scores, return_inverse=True)[1]
    assert auc(labels, ranks * 7 - 3, weights) == auc(labels, scores, weights)
    assert auc(labels, np.arctan(ranks)) == auc(labels, scores)
    assert auc(labels, np.negative(scores)) == pytest.approx(1 - auc(labels, scores), abs=1e-15)
    swapped = auc(1 - np.array(labels), scores, weights)
    assert swapped == pytest.approx(1 - auc(labels, scores, weights), abs=1e-14)


@given(rows(weights=st.integers(0, 4)))
def test_a_weight_is_a_number_of_copies(data):
    labels, scores, weights = data
    counts = np.ceil(weights).astype(int)
    copied = auc(np.repeat(labels, counts), np.repeat(scores, counts))
    assert auc(labels, scores, counts) == pytest.approx(copied, abs=1e-15)


@pytest.mark.parametrize(
    ("positive", "negative"), [(1e-150, 1e150), (1e300, 1e300), (1e-200, 1e-200)]
)
def test_extreme_weights_neither_overflow_nor_underflow(positive, negative):
    weights = np.where([0, 1, 0, 1], positive, negative)
    assert auc([0, 1, 0, 1], [1, 2, 3, 4], weights) == 0.75


def test_many_equal_weights_lose_no_digits():
    generator = np.random.default_rng(0)
    labels = generator.random(1_000_000) < 0.3
    scores = generator.standard_normal(1_000_000)
    assert auc(labels, scores, np.full(1_000_000, 0.1)) == pytest.approx(
        auc(labels, scores), abs=1e-14
    )


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "message"),
    [
        ([0, 1], [0.1, math.nan], None, "scores must not be NaN, got nan in row 1"),
        ([0, 2], [0.1, 0.2], None, "labels must be 0 or 1, got 2 in row 1"),
        ([0.0, math.nan], [0.1, 0.2], None, "labels must be 0 or 1, got nan in row 1"),
        ([-1, 1], [0.1, 0.2], None, "labels must be 0 or 1, got -1 in row 0"),
        ([], [], None, "labels must not be empty, got 0 rows"),
        ([1, 1], [0.1, 0.2], None, "labels must contain both classes, got 2 positives in 2 rows"),
        ([0, 1], [0.1, 0.2], [0, 1], "labels must contain both classes, got 1 positives in 1 rows"),
        ([0, 1], [0.1], None, r"scores must have one row per label \(2\), got 1"),
        ([0, 1], [[0.1, 0.2]], None, r"scores must have shape \[n\], got \[1, 2\]"),
        ([0, 1], ["a", "b"], None, "scores must be numbers, got <U1"),
        (
            [0, 1],
            [0.1, 0.2],
            [1.0, -2.0],
            "weights must be finite and not negative, got -2.0 in row 1",
        ),
        ([0, 1], [0.1, 0.2], [1.0, math.inf], "weights must be finite and not negative, got inf"),
        ([0, 1], [0.1, 0.2], [0, 0], "weights must not all be zero, got 2 zeros"),
        ([0, 1], [0.1, 0.2], [1], r"weights must have one row per label \(2\), got 1"),
    ],
)
def test_bad_input_is_refused(labels, scores, weights, message):
    with pytest.raises(ValueError, match=message):
        auc(labels, scores, weights)


def test_nan_is_refused_in_low_precision_tensors():
    with pytest.raises(ValueError, match="scores must not be NaN"):
        auc(torch.tensor([0, 1]), torch.tensor([0.1, math.nan], dtype=torch.bfloat16))
