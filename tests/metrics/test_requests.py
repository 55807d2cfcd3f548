import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from sidrank.metrics.requests import hit_rate, mean_reciprocal_rank, ndcg
from tests.metrics import reference_review as reference

SCORES = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 5e-324, 0.5, math.inf])
BINARY = [mean_reciprocal_rank, hit_rate]
ORACLES = {
    ndcg: reference.list_ndcg,
    mean_reciprocal_rank: reference.list_reciprocal_rank,
    hit_rate: reference.list_hit,
}
CLICKS = st.integers(0, 1)


@st.composite
def rows(draw, grades=CLICKS):
    """Grades, scores and requests of at most six rows each, the first with a relevant row."""
    lists = draw(st.lists(st.lists(st.tuples(grades, SCORES), max_size=6), max_size=4))
    body = [(*row, request) for request, each in enumerate(lists) for row in each]
    body.append((1, draw(SCORES), 99))
    return [list(column) for column in zip(*draw(st.permutations(body)), strict=True)]


@pytest.mark.parametrize("no_relevant", ["skip", "zero"])
@pytest.mark.parametrize("metric", list(ORACLES))
@given(data=rows(), k=st.integers(1, 8))
def test_equals_the_mean_over_all_orders_of_tied_rows(metric, no_relevant, data, k):
    expected = reference.mean_over_requests(ORACLES[metric], *data, k, no_relevant)
    result = metric(*data, k=k, no_relevant=no_relevant)
    assert result == pytest.approx(expected, abs=1e-14)
    assert 0.0 <= result <= 1.0


@pytest.mark.parametrize("gain", ["linear", "exponential"])
@given(data=rows(st.sampled_from([0, 1, 2, 0.5, 3.75])), k=st.integers(1, 8))
def test_graded_ndcg_equals_the_mean_over_all_orders(gain, data, k):
    grades, scores, requests = data
    gains = grades if gain == "linear" else [2.0**grade - 1 for grade in grades]
    expected = reference.mean_over_requests(reference.list_ndcg, gains, scores, requests, k, "skip")
    assert ndcg(*data, k=k, gain=gain) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("k", [None, 1, 5, 12, 100])
@pytest.mark.parametrize("digits", [0, 1, 9])
def test_ndcg_equals_scikit_learn(k, digits):
    generator = np.random.default_rng(digits)
    grades = generator.integers(0, 4, (500, 12)) * (generator.random((500, 1)) < 0.9)
    scores = np.round(grades * 0.3 + generator.standard_normal((500, 12)), digits)
    requests = np.repeat(generator.permutation(500), 12)
    result = ndcg(grades.ravel(), scores.ravel(), requests, k=k, no_relevant="zero")
    assert result == pytest.approx(ndcg_score(grades, scores, k=k), abs=1e-12)


def test_long_ties_equal_their_closed_forms():
    # one relevant among m tied rows is at each rank as likely: the mean is a harmonic number
    for rows_, k in [(1000, None), (100_000, None), (3_000_000, None), (5000, 70)]:
        labels = np.arange(rows_) == 3
        depth = k or rows_
        harmonic = math.fsum(1 / np.arange(1, depth + 1)) / rows_
        result = mean_reciprocal_rank(labels, np.zeros(rows_), np.zeros(rows_, int), k=k)
        assert result == pytest.approx(harmonic, rel=1e-12)
        hit = hit_rate(labels, np.zeros(rows_), np.zeros(rows_, int), k=depth)
        assert hit == pytest.approx(depth / rows_, rel=1e-12)


@pytest.mark.parametrize(("size", "relevant", "k"), [(40, 7, 5), (2000, 900, 3), (300, 2, 250)])
def test_chance_of_a_hit_is_hypergeometric(size, relevant, k):
    labels = np.arange(size) < relevant
    missed = math.comb(size - relevant, k) / math.comb(size, k)
    result = hit_rate(labels, np.ones(size), np.zeros(size, int), k=k)
    assert result == pytest.approx(1 - missed, rel=1e-13)


@pytest.mark.parametrize("metric", list(ORACLES))
@given(data=rows(), random=st.randoms(use_true_random=False), k=st.integers(1, 8))
def test_order_names_and_monotone_maps_change_no_bit(metric, data, random, k):
    expected = metric(*data, k=k)
    order = list(range(len(data[0])))
    random.shuffle(order)
    labels, scores, requests = ([column[row] for row in order] for column in data)
    assert metric(labels, scores, requests, k=k) == expected
    ranks = np.unique(scores, return_inverse=True)[1]
    assert metric(labels, ranks * 7 - 3, requests, k=k) == expected
    distinct = sorted(set(requests))
    ids = random.sample(range(-(2**61), 2**61), len(distinct))
    names = dict(zip(distinct, ids, strict=True))
    assert metric(labels, np.exp(ranks), [names[each] for each in requests], k=k) == expected
    assert metric(labels, scores, [f"r{each}" for each in requests], k=k) == expected


def test_graded_sums_do_not_depend_on_row_order_either():
    generator = np.random.default_rng(0)
    grades = generator.random(3000)
    scores, requests = generator.integers(0, 3, 3000), generator.integers(0, 700, 3000)
    expected = ndcg(grades, scores, requests)
    for _ in range(40):
        order, names = generator.permutation(3000), generator.permutation(700)
        assert ndcg(grades[order], scores[order], names[requests[order]]) == expected


def test_any_finite_grades_have_an_ndcg():
    assert ndcg([1.7e308, 1.7e308, 1e-300], [3, 2, 1], [1, 1, 1]) == 1.0
    for dtype in (np.uint8, np.float16, bool, np.int64):
        grades = np.array([0, 1, 1, 0]).astype(dtype)
        assert ndcg(grades, [4, 3, 2, 1], [1] * 4, gain="exponential") == pytest.approx(
            (1 / math.log2(3) + 0.5) / (1 + 1 / math.log2(3)), abs=1e-15
        )
    grades = np.array([0, 9, 3], np.uint8)  # 2**9 is no uint8, 2**9 - 1 no exact float16
    assert ndcg(grades, [3, 2, 1], [1] * 3, gain="exponential") == pytest.approx(
        (511 / math.log2(3) + 7 / 2) / (511 + 7 / math.log2(3)), abs=1e-15
    )


def test_rounding_never_lifts_a_perfect_list_above_one():
    generator = np.random.default_rng(0)
    grades = generator.choice([0.1, 0.3, 0.7], (300, 9))  # three tenths are not 3 * 0.1
    for row in grades:
        assert 1 - 1e-15 < ndcg(row, row, np.zeros(9, int)) <= 1.0


def test_a_perfect_list_is_one_and_a_single_row_is_too():
    assert ndcg([3, 2, 0], [0.9, 0.5, 0.1], [1, 1, 1]) == 1.0
    for metric in ORACLES:
        assert metric([1], [0.3], [5], k=3) == 1.0


def test_torch_columns_keep_their_ties():
    scores = torch.tensor([0.1001, 0.1002, 0.3], dtype=torch.bfloat16)
    assert scores[0] == scores[1]
    labels, requests = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([4, 4, 4])
    assert mean_reciprocal_rank(labels, scores, requests) == pytest.approx(5 / 12)
    assert type(mean_reciprocal_rank(labels, scores, requests)) is float


def test_scores_that_only_float64_tells_apart_are_not_tied():
    assert mean_reciprocal_rank([1, 0], [0.1, 0.1 + 1e-12], [1, 1]) == 0.5
    assert mean_reciprocal_rank([1, 0], np.array([2**60, 2**60 + 1]), [1, 1]) == 0.5


@pytest.mark.parametrize("metric", list(ORACLES))
def test_requests_without_a_relevant_row(metric):
    data = [0, 1, 0], [0.5, 0.5, 0.1], [7, 8, 7]
    assert metric(*data, k=1) == 1.0
    assert metric(*data, k=1, no_relevant="zero") == 0.5
    with pytest.raises(
        ValueError, match="requests must each have a relevant row, got none in request 7"
    ):
        metric(*data, k=1, no_relevant="raise")
    with pytest.raises(
        ValueError, match="requests must include one with a relevant row, got 2 without"
    ):
        metric([0, 0], [0.5, 0.1], ["a", "b"], k=1)
    assert metric([0, 0], [0.5, 0.1], ["a", "b"], k=1, no_relevant="zero") == 0.0


@pytest.mark.parametrize("metric", list(ORACLES))
@pytest.mark.parametrize(
    ("labels", "scores", "requests", "options", "message"),
    [
        ([0, 1], [0.5, math.nan], [1, 1], {}, "scores must not be NaN, got nan in row 1"),
        ([0, 1], [0.5], [1, 1], {}, r"scores must have one row per label \(2\), got 1"),
        ([0, 1], [0.5, 0.1], [1], {}, r"requests must have one row per label \(2\), got 1"),
        ([0, 1], [0.5, 0.1], [1.0, 2.0], {}, "requests must be integers or strings, got float64"),
        ([], [], [], {}, "labels must not be empty, got 0 rows"),
        ([[0, 1]], [0.5, 0.1], [1, 1], {}, r"labels must have shape \[n\], got \[1, 2\]"),
        ([0, 1], [0.5, 0.1], [1, 1], {"k": 0}, "k must be at least 1, got 0"),
        (
            [0, 1],
            [0.5, 0.1],
            [1, 1],
            {"no_relevant": "drop"},
            "no_relevant must be 'skip', 'zero' or 'raise', got 'drop'",
        ),
    ],
)
def test_bad_input_is_refused(metric, labels, scores, requests, options, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, scores, requests, **{"k": 3} | options)


@pytest.mark.parametrize("metric", BINARY)
def test_binary_metrics_refuse_grades(metric):
    with pytest.raises(ValueError, match="labels must be 0 or 1, got 2 in row 1"):
        metric([0, 2], [0.5, 0.1], [1, 1], k=1)


@pytest.mark.parametrize(
    ("grades", "gain", "message"),
    [
        ([0.5, -1.0], "linear", "labels must not be negative .*, got -1.0 in row 1"),
        ([math.inf, 1.0], "linear", "must have a finite gain, got inf in row 0"),
        ([1, 1024], "exponential", "must have a finite gain, got 1024 in row 1"),
        ([1.0, math.nan], "linear", "labels must not be NaN, got nan in row 1"),
        ([1, 0], "log", "gain must be 'linear' or 'exponential', got 'log'"),
    ],
)
def test_ndcg_refuses_gains_that_are_none(grades, gain, message):
    with pytest.raises(ValueError, match=message):
        ndcg(grades, [0.5, 0.1], [1, 1], gain=gain)
