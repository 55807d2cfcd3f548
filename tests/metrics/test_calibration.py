import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from sidrank.metrics.calibration import (
    brier_score,
    calibration,
    expected_calibration_error,
    reliability,
)
from tests.metrics import reference_review as reference

METRICS = [calibration, brier_score, expected_calibration_error]
# Ties, both zeros, both ends, neighbours in float64 that are one float32 and denormals.
PROBABILITIES = st.one_of(
    st.sampled_from([-0.0, 0.0, 5e-324, 1e-310, 0.25, 0.5, 0.1, 0.1 + 1e-12, 1 - 1e-16, 1.0]),
    st.floats(0, 1),
)
WEIGHTS = st.sampled_from([0.0, 0.25, 1.0, 3.0])


@st.composite
def rows(draw, weights=WEIGHTS):
    """Labels with a positive, probabilities, weights and a number of bins."""
    row = st.tuples(st.integers(0, 1), PROBABILITIES, weights)
    body = draw(st.lists(row, max_size=40))
    body.append((1, draw(PROBABILITIES), 1.0))
    labels, probabilities, weight = zip(*draw(st.permutations(body)), strict=True)
    return list(labels), list(probabilities), list(weight), draw(st.integers(1, 12))


def _columns(data, weighted):
    labels, probabilities, weights, bins = data
    return labels, probabilities, weights if weighted else [1.0] * len(labels), bins


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@given(data=rows())
def test_reliability_equals_the_slow_definition(weighted, dtype, data):
    labels, probabilities, weights, bins = _columns(data, weighted)
    given_probabilities = np.array(probabilities, dtype)
    table = reliability(labels, given_probabilities, weights if weighted else None, bins=bins)
    expected = reference.reliability(labels, given_probabilities.tolist(), weights, bins)
    assert table.rows.tolist() == [row[0] for row in expected]
    for column, place in [("share", 1), ("prediction", 2), ("rate", 3)]:
        result = getattr(table, column)
        assert result == pytest.approx([row[place] for row in expected], rel=1e-14, abs=1e-300)
    assert math.fsum(table.share) == pytest.approx(1.0, abs=1e-15)


@given(rows())
def test_calibration_error_equals_the_slow_definition(data):
    labels, probabilities, weights, bins = data
    for mass in (None, weights):
        result = expected_calibration_error(labels, probabilities, mass, bins=bins)
        expected = reference.calibration_error(
            labels, probabilities, mass or [1.0] * len(labels), bins
        )
        assert result == pytest.approx(expected, abs=1e-15)
        assert 0.0 <= result <= 1.0


@given(rows())
def test_ratio_and_brier_equal_the_slow_definition(data):
    labels, probabilities, weights, _ = data
    each = list(zip(labels, probabilities, weights, strict=True))
    clicks = math.fsum(w * y for y, _, w in each)
    predicted = math.fsum(w * p for _, p, w in each)
    squares = math.fsum(w * (p - y) ** 2 for y, p, w in each)
    assert calibration(labels, probabilities, weights) == pytest.approx(predicted / clicks)
    expected = squares / math.fsum(weights)
    assert brier_score(labels, probabilities, weights) == pytest.approx(expected, rel=1e-14)


def test_brier_equals_scikit_learn_over_many_blocks():
    generator = np.random.default_rng(0)
    probabilities = generator.random(700_000, dtype=np.float32)
    labels = generator.random(700_000) < 0.1
    expected = brier_score_loss(labels, probabilities.astype(np.float64))
    assert brier_score(labels, probabilities) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("bins", [1, 3, 10, 999, 5000])
def test_distinct_probabilities_make_bins_of_equally_many_rows(bins):
    probabilities = np.random.default_rng(0).permutation(np.linspace(0, 1, 5000))
    table = reliability(np.ones(5000), probabilities, bins=bins)
    assert len(table.rows) == bins
    assert table.rows.max() - table.rows.min() <= 1


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 0.3, 1.0])
@pytest.mark.parametrize("bins", [1, 2, 7, 10])
def test_constant_probabilities_have_one_bin(value, bins):
    table = reliability([0, 1, 1, 0], np.full(4, value, np.float32), bins=bins)
    assert table.rows.tolist() == [4]
    assert table.prediction.tolist() == [np.float32(value)]
    assert expected_calibration_error([0, 1, 1, 0], [value] * 4, bins=bins) == pytest.approx(
        abs(value - 0.5)
    )


def test_a_heavy_tie_does_not_swallow_its_neighbours():
    table = reliability([0, 0, 1, 1, 1], [0.1, 0.1, 0.9, 0.9, 0.9], bins=2)
    assert table.rows.tolist() == [2, 3]


@given(rows(), st.randoms(use_true_random=False))
def test_row_order_is_irrelevant(data, random):
    order = list(range(len(data[0])))
    random.shuffle(order)
    labels, probabilities, weights = ([column[row] for row in order] for column in data[:3])
    for mass, shuffled in [(None, None), (data[2], weights)]:
        table = reliability(data[0], data[1], mass, bins=data[3])
        again = reliability(labels, probabilities, shuffled, bins=data[3])
        assert again.rows.tolist() == table.rows.tolist()
        for before, after in zip(table, again, strict=True):
            assert after == pytest.approx(before, rel=1e-14, abs=1e-300)


def test_borders_do_not_depend_on_the_order_of_weights_that_no_float_holds():
    # 0.1 + 0.7 + 0.2 has another last digit than 0.2 + 0.7 + 0.1, and the tie ends on a border
    weights = np.array([0.1, 0.7, 0.2, 1.0, 0.1, 0.7, 0.2, 1.0])
    probabilities = np.array([0.1, 0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.4])
    labels = np.arange(8) % 2
    for _ in range(20):
        order = np.random.permutation(8)
        table = reliability(labels[order], probabilities[order], weights[order], bins=4)
        assert table.rows.tolist() == [3, 1, 3, 1]


@given(rows(weights=st.integers(0, 4)))
def test_a_weight_is_a_number_of_copies(data):
    labels, probabilities, weights, bins = data
    copies = [np.repeat(column, np.array(weights, int)) for column in (labels, probabilities)]
    for metric in METRICS:
        options = {"bins": bins} if metric is expected_calibration_error else {}
        expected = metric(*copies, **options)
        assert metric(labels, probabilities, weights, **options) == pytest.approx(
            expected, rel=1e-13, abs=1e-15
        )


@given(rows(), st.sampled_from([0.1, 3.0, 1e-200, 1e300]))
def test_equal_weights_are_no_weights(data, weight):
    labels, probabilities, _, bins = data
    plain = reliability(labels, probabilities, bins=bins)
    weighted = reliability(labels, probabilities, [weight] * len(labels), bins=bins)
    for before, after in zip(plain, weighted, strict=True):
        assert after == pytest.approx(before, rel=1e-12, abs=1e-300)


@given(rows())
def test_a_monotone_map_of_the_probabilities_keeps_the_bins(data):
    labels, probabilities, weights, bins = data
    ranks = np.unique(probabilities, return_inverse=True)[1]
    mapped = (ranks + 1) / 64  # another probability for each, in the same order
    before = reliability(labels, probabilities, weights, bins=bins)
    after = reliability(labels, mapped, weights, bins=bins)
    assert after.rows.tolist() == before.rows.tolist()
    assert after.rate == pytest.approx(before.rate)


@given(rows())
def test_the_rate_of_each_bin_is_perfectly_calibrated(data):
    labels, probabilities, weights, bins = data
    numbers = reference.equal_mass_bins(probabilities, weights, bins)
    rate = {}
    for number in set(numbers):
        inside = [row for row, each in enumerate(numbers) if each == number]
        mass = math.fsum(weights[row] for row in inside)
        clicks = math.fsum(weights[row] * labels[row] for row in inside)
        rate[number] = clicks / mass if mass else 0.0
    recalibrated = [rate[number] for number in numbers]
    assert calibration(labels, recalibrated, weights) == pytest.approx(1.0, abs=1e-12)
    result = expected_calibration_error(labels, recalibrated, weights, bins=bins)
    assert result == pytest.approx(0.0, abs=1e-12)


def test_true_probabilities_beat_their_distortions():
    generator = np.random.default_rng(0)
    truth = generator.beta(1, 9, 400_000)
    labels = generator.random(400_000) < truth
    assert calibration(labels, truth) == pytest.approx(1.0, abs=0.02)
    for distorted in (truth**1.3, np.sqrt(truth), 0.5 * truth, np.full(400_000, labels.mean())):
        assert brier_score(labels, truth) < brier_score(labels, distorted)
    for distorted in (truth**1.3, np.sqrt(truth), 0.5 * truth):
        error = expected_calibration_error(labels, truth)
        assert error < 0.2 * expected_calibration_error(labels, distorted)


def test_wilson_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truth = 0.02
    covered = 0
    for _ in range(1000):
        labels = generator.random(500) < truth
        table = reliability(labels, np.full(500, truth), confidence=0.9)
        covered += bool(table.low[0] <= truth <= table.high[0])
    assert 0.86 <= covered / 1000 <= 0.94


@given(rows(), st.floats(0.01, 0.99))
def test_interval_holds_the_rate_and_solves_wilsons_equation(data, confidence):
    labels, probabilities, weights, bins = data
    table = reliability(labels, probabilities, weights, bins=bins, confidence=confidence)
    expected = reference.reliability(labels, probabilities, weights, bins)
    for low, high, (*_, rate, rows_in_effect) in zip(table.low, table.high, expected, strict=True):
        assert 0.0 <= low <= rate + 1e-15
        assert rate - 1e-15 <= high <= 1.0
        for end in (low, high):  # the ends lie z standard errors, of their own rate, from the rate
            z = math.sqrt(2) * _erfinv(confidence)
            deviation = z * math.sqrt(max(0.0, end * (1 - end)) / rows_in_effect)
            assert abs(end - rate) == pytest.approx(deviation, abs=1e-7)


def test_a_bin_of_vanishing_weight_has_an_interval():
    weights = [1e-200, 1e-200, 1.0, 1.0]  # their squares are zero
    table = reliability([0, 1, 1, 0], [0.1, 0.1, 0.9, 0.9], weights, bins=2)
    assert table.rate.tolist() == [0.5, 0.5]
    assert 0.0 < table.low[0] < table.low[1] < 0.5 < table.high[1] < table.high[0] < 1.0


def _erfinv(value):
    return float(torch.erfinv(torch.tensor(value, dtype=torch.float64)))


def test_arguments_are_left_as_they_were():
    columns = np.array([0, 1, 1]), np.array([-0.0, 0.5, 0.5], np.float32), np.array([1.0, 2.0, 0.0])
    before = [column.tobytes() for column in columns]
    reliability(*columns, bins=3)
    assert [column.tobytes() for column in columns] == before


@pytest.mark.parametrize("metric", METRICS)
def test_tensors_in_float_out(metric):
    probabilities = torch.tensor([0.25, 0.75, 0.5], dtype=torch.bfloat16)
    result = metric(torch.tensor([0.0, 1.0, 1.0], requires_grad=True), probabilities)
    assert type(result) is float
    assert result == metric([0, 1, 1], [0.25, 0.75, 0.5])
    assert metric([0, 1], [False, True]) == metric([0, 1], [0.0, 1.0])


@pytest.mark.parametrize("metric", [*METRICS, reliability])
@pytest.mark.parametrize(
    ("labels", "probabilities", "weights", "message"),
    [
        ([0, 1], [0.5, math.nan], None, "probabilities must not be NaN, got nan in row 1"),
        ([0, 1], [0.5, 1.5], None, r"probabilities must be in \[0, 1\], got 1.5 in row 1"),
        ([0, 1], [-1, 0], None, r"probabilities must be in \[0, 1\], got -1 in row 0"),
        ([0, 2], [0.5, 0.5], None, "labels must be 0 or 1, got 2 in row 1"),
        ([], [], None, "labels must not be empty"),
        ([0, 1], [0.5], None, r"probabilities must have one row per label \(2\), got 1"),
        ([0, 1], [0.5, 0.5], [1, math.inf], "weights must be finite and not negative"),
        ([0, 1], [0.5, 0.5], [0, 0], "weights must not all be zero"),
    ],
)
def test_bad_input_is_refused(metric, labels, probabilities, weights, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, probabilities, weights)


def test_the_bad_row_is_named_in_any_block():
    probabilities = np.full(600_000, 0.5, np.float32)
    probabilities[500_001] = -0.25
    with pytest.raises(ValueError, match=r"got -0.25 in row 500001"):
        calibration(np.ones(600_000), probabilities)


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 0.0]])
def test_calibration_needs_a_positive(weights):
    labels = [0, 0, 0 if weights is None else 1]
    with pytest.raises(ValueError, match="labels must contain a positive, got none in 3 rows"):
        calibration(labels, [0.5] * 3, weights)


def test_options_are_checked():
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        expected_calibration_error([0, 1], [0.5, 0.5], bins=0)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 1.0"):
        reliability([0, 1], [0.5, 0.5], confidence=1.0)
