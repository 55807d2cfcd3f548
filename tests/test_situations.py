"""A quick version of ``benchmarks/situations.py``, and what its committed results must say."""

import json

import pytest
import torch

from benchmarks.paired_seeds import interval
from benchmarks.situation_pages import AIM
from benchmarks.situations import (
    ARMS,
    CONTROLS,
    PART_SEEDS,
    RESULT,
    SEEDS,
    ItemsAndSituations,
    Ranker,
    Rows,
    Situations,
    run,
    step_size,
)
from sidrank.data.planted_situations import SituationSettings, plant_situations

TOWER, DEALT = "SituationTower", "SituationTower, situations dealt anew"


def test_the_gain_vanishes_where_situations_are_dealt_anew():
    loud = SituationSettings(
        seed=1, users=2_000, visits=1, requests=5, accidents=0.02, situation=0.8, spread=6.0
    )
    found = {arm: run(arm, loud, 0.01, passes=3) for arm in (TOWER, DEALT)}
    known = found[TOWER]["taste_auc"]  # of who knows all but situations
    assert found[TOWER]["expected_auc"] > known + 0.05
    assert found[DEALT]["expected_auc"] < known + 0.01


class TestArms:
    log = plant_situations(SituationSettings(users=20, visits=1, requests=3))

    def test_users_are_in_one_part_only(self):
        rows = Rows(self.log)
        users = [set(rows.row["user"][part].tolist()) for part in rows.parts.values()]
        assert [len(each) for each in users] == [16, 2, 2]
        assert not users[0] & users[1] | users[0] & users[2] | users[1] & users[2]

    @pytest.mark.parametrize("arm", ARMS)
    def test_an_arm_reads_what_it_should(self, arm):
        torch.manual_seed(0)
        rows, model = Rows(self.log), Ranker(ARMS[arm].reader()).eval()
        batch = rows.batch(rows.parts["train"])
        before = model(batch)[0]
        assert before.isfinite().all()
        again = model(batch | {"seen_place": 3 - batch["seen_place"]})[0]
        reads = isinstance(model.reader, (Situations, ItemsAndSituations))
        assert torch.equal(before, again) != reads

    def test_the_baselines_have_as_many_parameters(self):
        def size(arm):
            return sum(each.numel() for each in Ranker(ARMS[arm].reader()).parameters())

        assert all(
            size(TOWER) <= size(arm) < 1.1 * size(TOWER) for arm in ("DIN", "DIN, situations")
        )

    def test_a_step_size_is_chosen_by_validation(self):
        choice = {
            TOWER: {"0.01": {"0": 0.9, "1": 0.7}, "0.02": {"0": 0.8, "1": 0.9}},
            "DIN": {"0.01": {"0": 0.7}, "0.02": {"0": 0.6}},
        }
        assert step_size({"choice": choice}, DEALT) == 0.02
        assert step_size({"choice": choice}, "DIN") == 0.01

    def test_validation_alone_is_seen_while_choosing(self):
        few = SituationSettings(users=20, visits=1, requests=9)
        found = run("DIN", few, 0.01, passes=1, test=False)
        assert "validation_auc" in found
        assert "expected_auc" not in found


class TestCommitted:
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": [], "closed": {}}

    def test_every_arm_has_its_seeds(self):
        found = {(each["arm"], each["seed"]) for each in self.report["runs"]}
        parts = [arm for arm in ARMS if arm not in CONTROLS]
        wanted = {(arm, seed) for arm in CONTROLS for seed in SEEDS}
        assert found == wanted | {(arm, seed) for arm in parts for seed in SEEDS[:PART_SEEDS]}

    def test_the_tower_closes_most_of_the_gap_and_nothing_when_dealt_anew(self):
        shares = self.report["closed"]
        assert interval(shares[TOWER])[1] > AIM
        assert interval(shares[DEALT])[1] < 0.05
