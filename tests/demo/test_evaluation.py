import numpy as np
import pytest

from sidrank.demo.evaluation import BUCKETS, Judged, arm_figures, by_frequency, paired_figures


def judged(seed, gain=2.0, rows=600):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size=rows)
    noise = rng.normal(size=rows)
    frequency = rng.choice([0, 2, 9, 30, 90], size=rows)
    return Judged(
        users=rng.integers(0, 40, size=rows),
        labels=labels,
        frequency=frequency,
        head=frequency >= 90,
        exposure=frequency,
        logits={"host": noise + labels, "hybrid": noise + gain * labels},
    )


@pytest.fixture
def runs():
    return [judged(seed) for seed in range(3)]


def test_measures_are_those_of_the_slices(runs):
    figures = arm_figures(runs, "host", cold=True)
    wins = []
    for run in runs:
        rows = run.frequency == 0
        score, label = run.logits["host"][rows], run.labels[rows]
        wins.append((score[label == 1][:, None] > score[label == 0]).mean())
    assert figures["auc_cold"] == pytest.approx(np.mean(wins))
    assert 0.6 < figures["gauc"] < 0.95
    assert figures["auc_head"] != figures["auc_new_tail"]
    assert "auc_cold" not in arm_figures(runs, "host", cold=False)


def test_a_better_arm_has_an_interval_above_zero(runs):
    figures = paired_figures(runs, "hybrid", "host", cold=True)
    assert set(figures) == {"auc", "gauc", "auc_new_tail", "auc_cold"}
    for mean, low, high in figures.values():
        assert 0 < low < mean < high


def test_signs_turn_with_the_order(runs):
    one = paired_figures(runs, "hybrid", "host", cold=False)
    other = paired_figures(runs, "host", "hybrid", cold=False)
    assert one["auc"][0] == pytest.approx(-other["auc"][0])


def test_buckets_share_out_the_rows(runs):
    entries = by_frequency(runs, "hybrid", "host")
    assert [entry["bucket"] for entry in entries] == ["0", "1-4", "5-19", "20-49", "50+"]
    assert sum(entry["rows"] for entry in entries) == 3 * 600
    assert len(entries) == len(BUCKETS)


def test_a_slice_of_one_class_is_none(runs):
    for run in runs:
        run.labels[run.frequency == 0] = 1
    assert arm_figures(runs, "host", cold=True)["auc_cold"] is None
    assert paired_figures(runs, "hybrid", "host", cold=True)["auc_cold"] is None
    assert by_frequency(runs, "hybrid", "host")[0]["delta"] is None
