import math

import numpy as np
import pytest
import torch

from sidrank.metrics import PairedRun, auc, grouped_auc, paired_interval
from sidrank.metrics.bootstrap import cluster_bootstrap
from sidrank.metrics.delong import delong
from sidrank.metrics.intervals import resample
from tests.metrics import reference_doubt

WEIGHTINGS = ["impressions", "unweighted", "positives"]


def small_rows():
    """Rows with ties, users with one class and users with one row."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 40)
    users = np.append(generator.integers(0, 9, 38), [20, 21])
    scores = np.round(labels * 0.5 + generator.random(40), 1)
    return labels, scores, users


@pytest.mark.parametrize(
    ("metric", "weighting"), [("auc", "impressions"), *(("gauc", name) for name in WEIGHTINGS)]
)
@pytest.mark.parametrize("paired", [False, True])
def test_equals_copying_the_rows_of_every_resampled_user(metric, weighting, paired):
    labels, scores, users = small_rows()
    control = np.round(np.random.default_rng(1).random(40), 1) if paired else None
    names = np.unique(users)
    generator = np.random.default_rng(5)
    slow = []
    for _ in range(60):
        picked = np.repeat(names, resample(generator, len(names), len(names))).tolist()
        value, other = (
            reference_doubt.resampled_value(
                labels.tolist(), column.tolist(), users.tolist(), picked, metric, weighting
            )
            for column in (scores, scores if control is None else control)
        )
        slow.append(value - other if paired else value)
    interval = cluster_bootstrap(
        labels,
        scores,
        users,
        control=control,
        metric=metric,
        weighting=weighting,
        draws=60,
        confidence=0.8,
        seed=5,
    )
    assert (interval.low, interval.high) == pytest.approx(np.quantile(slow, [0.1, 0.9]), abs=1e-12)


def test_the_middle_is_the_plain_value():
    labels, scores, users = small_rows()
    middle = cluster_bootstrap(labels, scores, users, metric="auc", draws=2).mean
    assert middle == auc(labels, scores)
    for weighting in WEIGHTINGS:
        middle = cluster_bootstrap(labels, scores, users, weighting=weighting, draws=2).mean
        plain = grouped_auc(labels, scores, users, weighting=weighting)
        assert middle == pytest.approx(plain, abs=1e-14)


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_one_paired_run_gives_the_same_difference(metric):
    labels, scores, users = small_rows()
    control = np.random.default_rng(1).random(40)
    run = PairedRun(users=users, labels=labels, treatment=scores, control=control)
    mean, low, high = paired_interval([run], metric=metric, draws=800)
    ours = cluster_bootstrap(labels, scores, users, control=control, metric=metric, draws=800)
    assert ours.mean == pytest.approx(mean, abs=1e-15)
    # Other draws, same distribution: the ends agree to a fraction of the width.
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_order_and_kind_of_the_columns_are_irrelevant_and_the_seed_decides():
    labels, scores, users = small_rows()
    expected = cluster_bootstrap(labels, scores, users, draws=50, seed=3)
    order = np.random.default_rng(2).permutation(40)
    named = [f"user {user:03}" for user in users[order]]  # in the order of the numbers
    tensor = torch.from_numpy(scores[order])
    again = cluster_bootstrap(labels[order], tensor, named, draws=50, seed=3)
    assert again == pytest.approx(expected, abs=1e-15)
    assert cluster_bootstrap(labels, scores, users, draws=50, seed=4) != expected
    assert all(type(value) is float for value in expected)


def test_auc_agrees_with_the_clustered_formula_on_many_users():
    generator = np.random.default_rng(0)
    users = generator.integers(0, 2000, 20_000)
    effect = generator.standard_normal(2000)[users]
    labels = effect + generator.standard_normal(20_000) > 1
    scores = effect + labels + generator.standard_normal(20_000)
    formula = delong(labels, scores, groups=users)
    drawn = cluster_bootstrap(labels, scores, users, metric="auc", draws=400)
    assert drawn.high - drawn.low == pytest.approx(formula.high - formula.low, rel=0.15)


def test_draws_of_one_class_are_left_out_while_they_are_few():
    # User 3 holds every negative: a third of the draws lack it.
    users, labels = np.repeat(np.arange(20), 2), np.tile([0, 1], 20)
    lone = np.where(users == 3, labels, 1)
    for metric in ("auc", "gauc"):
        with pytest.raises(ValueError, match="groups must have enough users to resample, got both"):
            cluster_bootstrap(lone, labels, users, metric=metric, draws=200)
    few = np.where(users < 4, labels, 1)
    interval = cluster_bootstrap(few, labels, users, metric="auc", draws=400)
    assert all(math.isfinite(end) for end in interval)


GOOD = {"labels": [0, 1, 0, 1], "scores": [0.1, 0.9, 0.3, 0.2], "groups": [1, 1, 2, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "ndcg"}, "metric must be 'auc' or 'gauc', got 'ndcg'"),
        ({"weighting": "rows"}, "weighting must be 'impressions', 'unweighted' or 'positives'"),
        ({"draws": 1}, "draws must be at least 2, got 1"),
        ({"confidence": 1.0}, r"confidence must be in \(0, 1\), got 1.0"),
        ({"labels": [0, 0, 0, 0], "metric": "auc"}, "labels must contain both classes, got 0"),
        ({"groups": [1, 2, 3, 4]}, "groups must include one that counts, got 4 with one class"),
        ({"groups": [1, 1, 1, 1]}, "groups must be at least 2, got 1"),
        ({"labels": [0, 1, 0, 2]}, "labels must be 0 or 1, got 2 in row 3"),
        ({"scores": [0.1]}, r"scores must have one row per label \(4\), got 1"),
        ({"control": [math.nan] * 4}, "control must not be NaN, got nan in row 0"),
        ({"groups": [0.5] * 4}, "groups must be integers or strings"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(**(GOOD | change))
