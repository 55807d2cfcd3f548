import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics import auc, log_loss, normalized_entropy
from sidrank.metrics.calibration import calibration
from sidrank.metrics.slices import Slices, slice_metrics
from tests.metrics import reference_review as reference

NAMES = {-(2**62): "a", -1: "b", 0: "bb", 7: "c", 2**62: "é"}  # both orders agree


@st.composite
def rows(draw):
    """Labels, probabilities, slices and weights, one of them positive."""
    row = st.tuples(
        st.integers(0, 1),
        st.sampled_from([0.1, 0.25, 0.5, 0.9, 1e-9]),
        st.sampled_from(sorted(NAMES)),
        st.sampled_from([0.0, 0.1, 1.0, 3.0]),
    )
    body = draw(st.lists(row, max_size=30))
    body.append((draw(st.integers(0, 1)), 0.5, 7, 1.0))
    return [list(column) for column in zip(*draw(st.permutations(body)), strict=True)]


def _lines(table):
    return list(zip(*(column.tolist() for column in table), strict=True))


def _same(table, expected):
    lines = _lines(table)
    assert [line[:3] for line in lines] == [line[:3] for line in expected]
    for line, wanted in zip(lines, expected, strict=True):
        assert line[3:] == pytest.approx(wanted[3:], rel=1e-12, abs=1e-13, nan_ok=True)


@pytest.mark.parametrize("weighted", [False, True])
@given(data=rows())
def test_equals_the_slow_definition(weighted, data):
    labels, scores, slices, weights = data
    weights = weights if weighted else [1.0] * len(labels)
    given_weights = weights if weighted else None
    expected = reference.slice_table(labels, scores, slices, weights)
    _same(slice_metrics(labels, scores, slices, weights=given_weights), expected)
    named = [NAMES[each] for each in slices]
    expected = reference.slice_table(labels, scores, named, weights)
    _same(slice_metrics(labels, scores, named, weights=given_weights), expected)


@given(rows())
def test_slices_keep_the_order_of_their_numbers(data):
    labels, scores, slices, weights = data
    names = ["z", "y", "x", "unused", "w"]
    place = {-(2**62): 0, -1: 1, 0: 2, 7: 4, 2**62: 1}
    given_slices = Slices(np.array([place[each] for each in slices], np.uint8), np.array(names))
    table = slice_metrics(labels, scores, given_slices, weights=weights)
    expected = reference.slice_table(labels, scores, [place[each] for each in slices], weights)
    assert table.name.tolist() == [names[line[0]] for line in expected]
    _same(table._replace(name=np.array([line[0] for line in expected])), expected)


@pytest.mark.parametrize("slices", [5, 40_000])
def test_many_blocks_equal_the_metrics_of_each_slice(slices):
    generator = np.random.default_rng(0)
    scores = generator.beta(1, 9, 900_000).astype(np.float32)
    labels = generator.random(900_000) < scores
    column = generator.integers(0, slices, 900_000, dtype=np.int32) * 10
    table = slice_metrics(labels, scores, column)
    assert table.rows.sum() == 900_000
    assert table.positives.sum() == labels.sum()
    for place in (0, 1, slices // 2, slices - 1):
        inside = column == table.name[place]
        cut = labels[inside], scores[inside]
        assert table.auc[place] == pytest.approx(auc(*cut), abs=1e-15)
        assert table.calibration[place] == pytest.approx(calibration(*cut), rel=1e-13)
        assert table.log_loss[place] == pytest.approx(log_loss(*cut), rel=1e-13)
        assert table.normalized_entropy[place] == pytest.approx(normalized_entropy(*cut), rel=1e-12)


def test_one_slice_is_the_whole():
    generator = np.random.default_rng(0)
    labels, scores = generator.random(1000) < 0.3, generator.random(1000)
    weights = generator.exponential(size=1000)
    table = slice_metrics(labels, scores, ["all"] * 1000, weights=weights)
    assert table.auc[0] == pytest.approx(auc(labels, scores, weights), abs=1e-14)
    assert table.calibration[0] == pytest.approx(calibration(labels, scores, weights), rel=1e-13)
    assert table.log_loss[0] == pytest.approx(log_loss(labels, scores, weights), rel=1e-13)


@given(rows(), st.randoms(use_true_random=False))
def test_row_order_is_irrelevant(data, random):
    order = list(range(len(data[0])))
    random.shuffle(order)
    labels, scores, slices, weights = ([column[row] for row in order] for column in data)
    _same(
        slice_metrics(labels, scores, slices, weights=weights),
        _lines(slice_metrics(*data[:3], weights=data[3])),
    )


def test_what_a_slice_cannot_have_is_nan():
    table = slice_metrics([0, 0, 1, 1, 0, 1], [0.25] * 6, [1, 1, 2, 2, 3, 3])
    assert np.isnan(table.auc).tolist() == [True, True, False]
    assert np.isnan(table.calibration).tolist() == [True, False, False]
    assert np.isnan(table.normalized_entropy).tolist() == [True, True, False]
    assert np.isfinite(table.log_loss).all()


def test_logits_rank_as_they_are_and_are_judged_as_probabilities():
    generator = np.random.default_rng(0)
    logits = np.concatenate([generator.normal(0, 3, 998), [40.0, 50.0]])  # both round to 1
    labels = np.append(generator.random(998) < 1 / (1 + np.exp(-logits[:998])), [False, True])
    slices = np.append(np.arange(998) % 3, [0, 0])
    table = slice_metrics(labels, logits, slices, scale="logit")
    judged = slice_metrics(labels, 1 / (1 + np.exp(-logits)), slices)
    assert table.auc[0] > judged.auc[0]
    for before, after in list(zip(judged, table, strict=True))[4:]:
        assert after == pytest.approx(before, rel=1e-12)
    extreme = slice_metrics([0, 1], [-1e6, math.inf], [1, 1], scale="logit")
    assert extreme.calibration.tolist() == [1.0]


def test_scores_that_only_rank_have_an_auc_alone():
    table = slice_metrics([0, 1, 1], [-3, 700, 5], [1, 1, 2], scale="rank")
    assert table.auc[0] == 1.0
    for column in (table.calibration, table.log_loss, table.normalized_entropy):
        assert np.isnan(column).all()


def test_tensors_and_booleans():
    scores = torch.tensor([0.25, 0.75, 0.5], dtype=torch.bfloat16)
    table = slice_metrics(torch.tensor([0, 1, 1]), scores, torch.tensor([True, True, False]))
    assert table.name.tolist() == [0, 1]
    assert table.rows.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("scores", "slices", "options", "message"),
    [
        ([0.5, 2.0], [1, 1], {}, r"scores must be in \[0, 1\], got 2.0 in row 1"),
        ([0.5, math.nan], [1, 1], {"scale": "rank"}, "scores must not be NaN, got nan in row 1"),
        ([0.5, 0.1], [1, 1], {"scale": "odds"}, "scale must be 'probability', 'logit' or 'rank'"),
        ([0.5, 0.1], [0.5, 1], {}, "slices must be integers or strings, got float64"),
        ([0.5, 0.1], [1], {}, r"slices must have one row per label \(2\), got 1"),
        (
            [0.5, 0.1],
            Slices(np.array([0, 1]), np.array(["a"])),
            {},
            r"slices.ids must be in \[0, 1\), got 1",
        ),
        (
            [0.5, 0.1],
            Slices(np.array([0, -1]), np.array(["a"])),
            {},
            r"slices.ids must be in \[0, 1\), got -1",
        ),
        (
            [0.5, 0.1],
            Slices(np.array(["a", "a"]), np.array(["a"])),
            {},
            "slices.ids must be integers, got <U1",
        ),
        ([0.5, 0.1], [1, 1], {"weights": [1, -1]}, "weights must be finite and not negative"),
    ],
)
def test_bad_input_is_refused(scores, slices, options, message):
    with pytest.raises(ValueError, match=message):
        slice_metrics([0, 1], scores, slices, **options)
