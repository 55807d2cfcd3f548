"""A quick version of ``benchmarks/deadlines.py``, and what its committed results must say."""

import json

import pytest

from benchmarks import deadlines
from benchmarks.deadlines import ARMS, RESULT, SEEDS, closed, run
from sidrank.data.planted_deadlines import DeadlineSettings


def test_urgency_is_learned_from_few_users(monkeypatch):
    monkeypatch.setattr(deadlines, "EPOCHS", 8)
    monkeypatch.setattr(deadlines, "RATE", 0.01)
    few = DeadlineSettings(seed=11, users=4_000)
    arms = ("DIN", "UrgencyDIN", "UrgencyDIN, deadlines dealt anew")
    shares = closed([run(arm, 11, few) for arm in arms])
    assert shares["UrgencyDIN"]["mean"] > 0.5
    assert abs(shares["UrgencyDIN, deadlines dealt anew"]["mean"]) < 0.1


def test_a_share_is_of_the_gap_of_its_own_seed():
    runs = [
        {"seed": seed, "arm": arm, "expected_auc": auc, "bayes_auc": best}
        for seed, best, pair in ((1, 0.8, (0.6, 0.7)), (2, 0.9, (0.5, 0.9)))
        for arm, auc in zip(("DIN", "UrgencyDIN"), pair, strict=True)
    ]
    assert closed(runs)["UrgencyDIN"]["seeds"] == pytest.approx([0.5, 1.0])
    assert closed(runs)["UrgencyDIN"]["mean"] == pytest.approx(0.75)
    assert closed(runs[1:2]) == {}  # without a DIN of its seed


class TestCommitted:
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": [], "closed": {}}

    def test_every_arm_has_every_seed(self):
        found = {(each["arm"], each["seed"]) for each in self.report["runs"]}
        assert found == {(arm, seed) for arm in ARMS for seed in range(1, SEEDS + 1)}

    def test_deadlines_close_most_of_the_gap_and_nothing_when_dealt_anew(self):
        shares = self.report["closed"]
        assert min(shares["UrgencyDIN"]["seeds"]) > 0.7
        for arm in ("DIN, urgency in the head", "UrgencyDIN, deadlines dealt anew"):
            assert abs(shares[arm]["mean"]) < 0.1
