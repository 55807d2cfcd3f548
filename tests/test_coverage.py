"""Quick versions of ``benchmarks/coverage.py``, and what its committed results must say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.coverage import RESULTS, cases, cover_users, reject_users, repeat
from benchmarks.doubt_worlds import FEW, ROWS, USERS, RowWorld, UserWorld
from sidrank.metrics import grouped_auc
from sidrank.metrics.delong import delong, paired_delong

TIED = RowWorld(rows=400, rate=0.3, auc=0.75, step=0.5)
CROWD = UserWorld(users=200, rows=5, rate=0.2, effect=1.5)


@pytest.mark.parametrize("world", ROWS, ids=str)
def test_row_worlds_know_their_auc(world):
    labels, scores = replace(world, rows=400_000).draw(np.random.default_rng(0))
    found = delong(labels, scores)
    assert abs(found.auc - world.truth) < 4 * found.standard_error
    assert found.standard_error < 0.004


@pytest.mark.parametrize("world", USERS, ids=str)
def test_user_worlds_know_their_auc_and_gauc(world):
    many = replace(world, users=40_000)
    labels, treatment, control, users = many.draw(np.random.default_rng(0))
    for scores in (treatment, control):
        found = delong(labels, scores, groups=users)
        assert abs(found.auc - world.truth) < 4 * found.standard_error
        assert grouped_auc(labels, scores, users) == pytest.approx(world.grouped_truth, abs=0.004)


def variance_ratios(estimates):
    """Mean estimated variance as a share of the variance that the estimates really have."""
    values, errors = np.array([estimate[:2] for estimate in estimates]).T
    return (errors**2).mean() / values.var(ddof=1)


# The ratio of 600 simulations is known to 6%; 1.4 or its inverse is far outside.


def test_variance_is_the_variance():
    generator = np.random.default_rng(0)
    single, paired = [], []
    for _ in range(600):
        labels, treatment, control = TIED.draw_pair(generator, 0.0)
        single.append(delong(labels, treatment))
        paired.append(paired_delong(labels, treatment, control))
    assert 0.85 < variance_ratios(single) < 1.18
    assert 0.85 < variance_ratios(paired) < 1.18
    covered = np.mean([estimate.low <= TIED.truth <= estimate.high for estimate in single])
    assert 0.925 < covered < 0.975
    assert 0.025 < np.mean([test.p_value < 0.05 for test in paired]) < 0.075


def test_variance_by_user_is_the_variance_and_by_row_is_not():
    generator = np.random.default_rng(0)
    found = {"user": [], "row": [], "paired user": [], "paired row": []}
    for _ in range(600):
        labels, treatment, control, users = CROWD.draw(generator)
        found["user"].append(delong(labels, treatment, groups=users))
        found["row"].append(delong(labels, treatment))
        found["paired user"].append(paired_delong(labels, treatment, control, groups=users))
        found["paired row"].append(paired_delong(labels, treatment, control))
    ratios = {name: variance_ratios(estimates) for name, estimates in found.items()}
    assert 0.85 < ratios["user"] < 1.18
    assert 0.85 < ratios["paired user"] < 1.18
    assert ratios["row"] < 0.7
    assert ratios["paired row"] < 0.7


def test_resampling_users_covers():
    covered = {method: np.mean(hits) for method, hits in repeat(150, 1, cover_users, CROWD).items()}
    assert covered["DeLong"] < 0.88
    for method in ("DeLong by user", "bootstrap by user, auc", "bootstrap by user, gauc"):
        assert 0.9 < covered[method] < 0.99
    rejected = {
        method: np.mean(hits) for method, hits in repeat(150, 2, reject_users, CROWD).items()
    }
    assert rejected["paired DeLong"] > 0.1
    for method in ("paired DeLong by user", "bootstrap by user, gauc"):
        assert rejected[method] < 0.09


def test_the_committed_results_are_of_these_cases_and_hold():
    if not RESULTS.exists():
        pytest.skip("no results yet: python -m benchmarks.coverage")
    report = json.loads(RESULTS.read_text())
    assert report["simulations"] >= 2000
    rows = {(row["part"], row["case"], row["method"]): row["share"] for row in report["rows"]}
    assert set(rows) == {
        (part, case, method) for part, case, shares in cases(1) for method in shares
    }
    for (part, case, method), share in rows.items():
        by_user = "by user" in method
        if case in map(str, FEW) or method in ("DeLong, plain scale", "two separate DeLong"):
            continue
        if case in map(str, USERS) and not by_user:
            assert share < 0.85 if part == "coverage" else share > 0.15
        elif part == "coverage":
            assert 0.93 <= share <= 0.97
        elif part == "size":
            assert 0.038 <= share <= (0.07 if by_user else 0.062)
