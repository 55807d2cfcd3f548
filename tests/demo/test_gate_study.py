import dataclasses

import numpy as np
import pytest

from sidrank.demo.gate_study import gate_by_decile, gate_range, run_gate_study
from tests.demo.test_evaluation import judged


@pytest.fixture
def runs():
    return [judged(seed) for seed in range(3)]


def test_deciles_go_from_the_least_to_the_most_exposed(runs):
    gates = [run.exposure / 100 for run in runs]
    means = gate_by_decile(runs, gates)
    assert means == sorted(means)
    assert (means[0], means[-1]) == (0.0, 0.9)


def test_range_of_a_gate_that_rises(runs):
    gates = [run.exposure / 100 + 0.01 * np.sin(np.arange(len(run.users))) for run in runs]
    mean, low, high = gate_range(runs, gates)
    assert low < mean < high
    assert mean == pytest.approx(0.9, abs=0.01)


def test_range_of_a_gate_that_does_not_look(runs):
    rng = np.random.default_rng(0)
    mean, low, high = gate_range(runs, [rng.uniform(size=len(run.users)) for run in runs])
    assert low < 0 < high
    assert abs(mean) < 0.1


def test_the_null_model_has_another_gate(fold):
    statistics = fold.features.single["item_impressions"].copy()
    true, null = (run_gate_study(fold, seed=0, null=null) for null in (False, True))
    assert true.shape == null.shape == fold.judge.shape
    assert ((true > 0) & (true < 1)).all()
    assert not np.array_equal(true, null)
    assert np.array_equal(fold.features.single["item_impressions"], statistics)


def test_users_are_joined_over_runs(runs):
    # the same users in every run, and a gate that only the user decides: one run or three, the
    # interval is the users'
    alone = [dataclasses.replace(runs[0]) for _ in range(3)]
    gates = [run.users % 7 / 7 for run in alone]
    assert gate_range(alone, gates) == pytest.approx(gate_range(alone[:1], gates[:1]), abs=0.03)
