import json
import math

import numpy as np
import pytest

from sidrank.demo import run
from sidrank.demo.arms import ARMS, DEFAULT_ARMS
from sidrank.demo.run import make_tasks
from tests.data.movielens_files import made_up, write_original


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole default run on a made-up log in the original format, processes and all."""
    folder = tmp_path_factory.mktemp("original")
    out = tmp_path_factory.mktemp("out") / "demo"
    log = made_up(users=80, items=90, rows=3500)
    report = run(out=out, seeds=2, data=write_original(folder, log))
    return report, out


class TestReport:
    def test_files(self, finished):
        report, out = finished
        stored = json.loads((out / "report.json").read_text())
        assert stored["settings"]["seeds"] == 2
        assert set(stored["splits"]) == {"per_user", "cold_items"}
        assert (out / "report.html").stat().st_size > 5000
        assert set(report) == set(stored)

    def test_arms_and_measures(self, finished):
        splits = finished[0]["splits"]
        for protocol, split in splits.items():
            assert set(split["arms"]) == set(DEFAULT_ARMS)
            for figures in split["arms"].values():
                assert 0.4 < figures["auc"] <= 1
                assert ("auc_cold" in figures) == (protocol == "cold_items")
                assert figures["parameters"] > 0
                assert figures["seconds"] > 0

    def test_pairs(self, finished):
        for split in finished[0]["splits"].values():
            assert {"hybrid_vs_host", "hybrid_shuffled_vs_host"} <= set(split["paired"])
            mean, low, high = split["paired"]["hybrid_vs_host"]["auc"]
            arms = split["arms"]
            assert mean == pytest.approx(arms["hybrid"]["auc"] - arms["host"]["auc"])
            assert low <= mean <= high

    def test_upgrade_is_exact(self, finished):
        upgrade = finished[0]["upgrade"]
        assert upgrade["max_abs_delta_logit_step0"] == 0.0
        assert upgrade["parameters_moved"] == upgrade["parameters_new"] > 0
        assert "auc_cold" in upgrade["paired"]["upgraded_vs_host_continued"]

    def test_gate_and_codes(self, finished):
        gate, sid = finished[0]["gate"], finished[0]["sid"]
        assert len(gate["true"]) == len(gate["shuffled"]) == 10
        assert not math.isnan(gate["range"][0])
        assert [sum(level) for level in sid["usage"]] == [90] * len(sid["levels"])
        assert sid["sid_bytes_per_item"] < sid["vector_bytes_per_item"]


class TestTasks:
    def test_full_is_every_arm_on_every_protocol(self):
        tasks = make_tasks(seeds=3, full=True, data=None)
        arms = [(t.protocol, t.seed, t.arm) for t in tasks if t.arm in ARMS]
        assert len(arms) == len(set(arms)) == 3 * 3 * 11

    def test_default(self):
        tasks = make_tasks(seeds=3, full=False, data=None)
        assert sum(task.arm in ARMS for task in tasks) == 2 * 3 * 5
        assert np.unique([task.protocol for task in tasks]).tolist() == ["cold_items", "per_user"]


class TestErrors:
    def test_seeds(self, tmp_path):
        with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
            run(out=tmp_path, seeds=0)

    def test_no_data(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="data must be a folder"):
            run(out=tmp_path, data=tmp_path / "nowhere")

    def test_too_little_data(self, tmp_path):
        data = write_original(tmp_path / "data", made_up(users=1, items=3, rows=3))
        with pytest.raises(ValueError, match="data must leave rows"):
            run(out=tmp_path / "out", data=data)
        assert not (tmp_path / "out").exists()
