import math

import numpy as np
import pytest

from sidrank.metrics import PairedRun, auc, grouped_auc, paired_interval
from sidrank.metrics.intervals import resample
from tests import reference


def small_runs(num_runs=4):
    """Runs with ties, rows that differ by run, and users that some runs lack."""
    generator = np.random.default_rng(0)
    runs = []
    for size in range(24, 24 + num_runs):
        labels = generator.integers(0, 2, size)
        labels[:2] = [0, 1]
        runs.append(
            {
                "users": generator.integers(0, 7, size),
                "labels": labels,
                "treatment": np.round(labels * 0.5 + generator.random(size), 1),
                "control": np.round(generator.random(size), 1),
            }
        )
    return runs


@pytest.mark.parametrize("metric", ["auc", "gauc"])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_copying_the_rows_of_every_resampled_user(metric, masked):
    columns = small_runs()
    masks = [
        run["control"] < 0.75 if masked else np.full(len(run["users"]), True) for run in columns
    ]
    kept = [
        [run[name][mask].tolist() for name in ("users", "labels", "treatment", "control")]
        for run, mask in zip(columns, masks, strict=True)
    ]
    users = sorted({user for run in kept for user in run[0]})
    generator = np.random.default_rng(5)
    slow = []
    for _ in range(60):
        picked_users = np.repeat(users, resample(generator, len(users), len(users))).tolist()
        picked_runs = np.repeat(range(4), resample(generator, 4, 3)).tolist()
        slow.append(reference.resampled_difference(kept, picked_users, picked_runs, metric))
    runs = [PairedRun(**run, mask=mask) for run, mask in zip(columns, masks, strict=True)]
    interval = paired_interval(runs, metric=metric, draws=60, confidence=0.8, seed=5)
    low, high = np.quantile([value for value in slow if value is not None], [0.1, 0.9])
    assert interval.low == pytest.approx(low, abs=1e-12)
    assert interval.high == pytest.approx(high, abs=1e-12)


def test_mean_is_the_mean_over_runs_of_the_plain_difference():
    columns = small_runs()
    runs = [PairedRun(**run) for run in columns]
    for metric, measure in [("auc", auc), ("gauc", lambda y, s, u: grouped_auc(y, s, u))]:
        differences = []
        for run in columns:
            extra = () if metric == "auc" else (run["users"],)
            treatment = measure(run["labels"], run["treatment"], *extra)
            differences.append(treatment - measure(run["labels"], run["control"], *extra))
        mean = paired_interval(runs, metric=metric, draws=2).mean
        assert mean == pytest.approx(np.mean(differences), abs=1e-15)


def test_swapping_the_models_mirrors_the_interval():
    columns = small_runs()
    forth = paired_interval([PairedRun(**run) for run in columns], draws=101)
    swapped = [run | {"treatment": run["control"], "control": run["treatment"]} for run in columns]
    back = paired_interval([PairedRun(**run) for run in swapped], draws=101)
    assert np.allclose([-back.mean, -back.high, -back.low], forth, atol=1e-14)
    same = [run | {"control": run["treatment"]} for run in columns]
    assert paired_interval([PairedRun(**run) for run in same], draws=20) == (0.0, 0.0, 0.0)


def test_user_names_are_irrelevant_and_the_seed_decides():
    columns = small_runs()
    # Names sort as their numbers do, so the users keep their places in the draw.
    named = [run | {"users": [f"user {user}" for user in run["users"]]} for run in columns]
    first = paired_interval([PairedRun(**run) for run in columns], draws=50, seed=3)
    assert paired_interval([PairedRun(**run) for run in named], draws=50, seed=3) == first
    assert paired_interval([PairedRun(**run) for run in columns], draws=50, seed=4) != first


def crossed_runs(generator, *, num_runs, rows, user_spread, run_spread):
    """Binormal scores of 40 users whose treatment shift varies by user and by run.

    As when one test set is scored by several trained models, the labels are the same in every
    run and most of a row's noise is.
    """
    users = np.repeat(np.arange(40), rows)
    labels = generator.random(len(users)) < 0.5
    by_user = generator.normal(0, user_spread, 40)[users]
    by_row = generator.normal(0, math.sqrt(0.9), (2, len(users)))
    runs = []
    for _ in range(num_runs):
        noise = by_row + generator.normal(0, math.sqrt(0.1), (2, len(users)))
        shift = GAIN + by_user + generator.normal(0, run_spread)
        scores = {"treatment": labels * shift + noise[0], "control": labels * 0.5 + noise[1]}
        runs.append({"users": users, "labels": labels} | scores)
    return runs


GAIN = 0.8
TRIALS = 100


def covered(*, metric, by_row=False, **spreads):
    """Trials whose interval holds the true difference.

    A positive's score has variance 1 + user_spread² + run_spread² and a negative's 1, so the
    expected AUC is Φ(gain / √(2 + user_spread² + run_spread²)), pooled or within users.
    """
    generator = np.random.default_rng(11)
    spread = spreads["user_spread"] ** 2 + spreads["run_spread"] ** 2
    truth = _normal_cdf(GAIN / math.sqrt(2 + spread)) - _normal_cdf(0.5 / math.sqrt(2))
    count = 0
    for _ in range(TRIALS):
        runs = crossed_runs(generator, **spreads)
        if by_row:
            runs = [run | {"users": np.arange(len(run["users"]))} for run in runs]
        interval = paired_interval([PairedRun(**run) for run in runs], metric=metric, draws=120)
        count += interval.low <= truth <= interval.high
    return count


@pytest.mark.parametrize("metric", ["auc", "gauc"])
@pytest.mark.parametrize(
    ("user_spread", "run_spread", "num_runs", "rows"), [(1.5, 0.0, 3, 20), (0.0, 0.5, 6, 8)]
)
def test_covers_the_truth_about_as_often_as_it_says(
    metric, user_spread, run_spread, num_runs, rows
):
    spreads = {"user_spread": user_spread, "run_spread": run_spread}
    assert covered(metric=metric, num_runs=num_runs, rows=rows, **spreads) >= 0.86 * TRIALS


def test_rows_taken_for_users_would_not_cover():
    spreads = {"user_spread": 1.5, "run_spread": 0.0, "num_runs": 3, "rows": 20}
    assert covered(metric="auc", by_row=True, **spreads) < 0.8 * TRIALS


def _normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize("spread", ["user_spread", "run_spread"])
def test_widens_with_the_spread_of_users_and_of_runs(spread):
    def width(value):
        generator = np.random.default_rng(0)
        spreads = {"user_spread": 0.0, "run_spread": 0.0} | {spread: value}
        runs = crossed_runs(generator, num_runs=5, rows=10, **spreads)
        interval = paired_interval([PairedRun(**run) for run in runs], draws=300)
        return interval.high - interval.low

    assert width(2.0) > 1.5 * width(0.0)


def test_a_run_with_one_class_in_a_draw_is_left_out_of_it():
    # User 3 holds every negative of one run: draws without it have no AUC there.
    users, labels = np.repeat(np.arange(20), 2), np.tile([0, 1], 20)
    whole = {"users": users, "labels": labels, "treatment": labels, "control": 1 - labels}
    lone = whole | {"labels": np.where(users == 3, labels, 1)}
    interval = paired_interval([PairedRun(**run) for run in [lone] + 4 * [whole]], draws=200)
    assert all(math.isfinite(end) for end in interval)
    with pytest.raises(
        ValueError, match="runs must have enough users to resample, got both classes"
    ):
        paired_interval([PairedRun(**lone)], draws=200)


RUN = {
    "users": [1, 1, 2, 2],
    "labels": [0, 1, 0, 1],
    "treatment": [0.1, 0.9, 0.2, 0.8],
    "control": [0.1, 0.2, 0.9, 0.8],
}


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([], {}, "runs must not be empty, got 0"),
        ([RUN], {"metric": "ndcg"}, "metric must be 'auc' or 'gauc', got 'ndcg'"),
        ([RUN], {"draws": 1}, "draws must be at least 2, got 1"),
        ([RUN], {"confidence": 1.0}, r"confidence must be in \(0, 1\), got 1.0"),
        ([RUN, RUN | {"labels": [1] * 4}], {}, "both classes, got one class in run 1"),
        (
            [RUN | {"users": [1, 2, 3, 4]}],
            {"metric": "gauc"},
            "both classes, got one class in run 0",
        ),
        ([RUN | {"mask": [0, 1, 0, 1]}], {}, "runs must each contain both classes"),
        ([RUN | {"mask": [0, 0, 0, 0]}], {}, "runs must each contain both classes"),
        ([RUN | {"mask": [1, 1, 1]}], {}, r"run 0: mask must have one row per label \(4\), got 3"),
        ([RUN | {"mask": [1, 1, 1, 2]}], {}, "run 0: mask must be 0 or 1, got 2 in row 3"),
        ([RUN, RUN | {"control": [math.nan] * 4}], {}, "run 1: control must not be NaN"),
        ([RUN | {"treatment": [1.0]}], {}, "run 0: treatment must have one row per label"),
        ([RUN | {"users": [0.5] * 4}], {}, "run 0: users must be integers or strings"),
        ([RUN, RUN | {"users": ["a"] * 4}], {}, "users must be integers in every run or strings"),
    ],
)
def test_bad_input_is_refused(runs, options, message):
    with pytest.raises(ValueError, match=message):
        paired_interval([PairedRun(**run) for run in runs], **options)


def test_users_of_every_integer_kind_keep_their_names_between_runs():
    users, labels = [2**60, 2**60, 2**60 + 1, 2**60 + 1], [0, 1, 0, 1]
    treatment, control = [0.1, 0.9, 0.2, 0.8], [0.9, 0.1, 0.2, 0.8]
    kinds = [np.array(users, kind) for kind in (np.uint64, np.int64)]
    mixed = [PairedRun(users=u, labels=labels, treatment=treatment, control=control) for u in kinds]
    plain = [mixed[1], mixed[1]]
    for metric in ("auc", "gauc"):
        found = paired_interval(mixed, metric=metric, draws=50)
        assert found == paired_interval(plain, metric=metric, draws=50)
