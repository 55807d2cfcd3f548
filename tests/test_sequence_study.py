"""Rows of the sequence study hold what may be known and nothing else; training chooses blindly."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import benchmarks.sequence_study as study
from benchmarks.sequence_arms_simple import MeanPooling, TargetAttention
from benchmarks.sequence_logs import movielens_rows, planted_rows
from benchmarks.sequence_rows import Cut, SequenceRows
from benchmarks.sequence_training import Recipe, count, figures, predict, train
from sidrank.data.planted_sequences import SequenceSettings, plant_sequences
from tests.data.movielens_files import made_up, write_original

CUT = Cut(length=50, per_type=20, instances=12)


@pytest.fixture(scope="module")
def rows() -> SequenceRows:
    return planted_rows(plant_sequences(SequenceSettings(users=60, requests=30)))


def test_a_batch_equals_a_walk_through_the_log(rows: SequenceRows) -> None:
    log = plant_sequences(SequenceSettings(users=60, requests=30))
    which = torch.tensor([0, 29, 30, 777, 1799])
    batch = rows.batch(which, CUT)
    for at, row in enumerate(which.tolist()):
        own = (log.event_user == log.user[row]) & (log.event_time < log.time[row])
        newest = np.flatnonzero(own)[-50:]
        real = batch.behaviours.mask[at]
        assert real.tolist() == [False] * (50 - len(newest)) + [True] * len(newest)
        kind = batch.behaviours.fields["kind"][at][real]
        assert kind.tolist() == (log.event_type[newest] + 1).tolist()
        assert batch.behaviours.times[at][real].tolist() == log.event_time[newest].tolist()
        for number, name in enumerate(rows.types):
            of_type = np.flatnonzero(own & (log.event_type == number))[-20:]
            events = batch.by_type[name]
            found = events.fields["topic"][at][events.mask[at]]
            assert found.tolist() == (log.item_topic[log.event_item[of_type]] + 1).tolist()
        earlier = np.flatnonzero((log.user == log.user[row]) & (log.time < log.time[row]))[-12:]
        assert batch.instances is not None
        seen = batch.instances.mask[at]
        assert batch.instances.rows[at][seen].tolist() == earlier.tolist()
        known = log.label_time[earlier] < log.time[row]
        expected = np.where(known, log.label[earlier] + 1, 0)
        assert batch.instances.labels[at][seen].tolist() == expected.tolist()
        assert (
            batch.instances.fields["style"][at][seen].tolist() == (log.style[earlier] + 1).tolist()
        )


def test_padding_is_zero_and_the_newest_event_comes_last(rows: SequenceRows) -> None:
    batch = rows.batch(torch.arange(40), Cut(length=900, instances=40))
    for events in (batch.behaviours, batch.instances):
        assert events is not None
        assert not events.mask[:, 0].any()
        assert (events.times[~events.mask] == 0).all()
        assert all((values[~events.mask] == 0).all() for values in events.fields.values())
    assert batch.behaviours.mask[:, -1].all()
    assert (batch.behaviours.fields["topic"][batch.behaviours.mask] > 0).all()


def test_skip_leaves_the_newest_out(rows: SequenceRows) -> None:
    which = torch.arange(100)
    late, all_of_it = (rows.batch(which, cut).behaviours for cut in (Cut(20, skip=7), Cut(27)))
    assert torch.equal(late.times, all_of_it.times[:, :20])


def test_parts_follow_each_other_in_time(rows: SequenceRows) -> None:
    ends = [rows.time[rows.parts[name]] for name in ("train", "validation", "test")]
    assert ends[0].max() < ends[1].min() <= ends[1].max() < ends[2].min()
    assert sum(map(len, ends)) == pytest.approx(0.8 * len(rows), abs=2)


def test_movielens_has_no_event_of_the_same_second_or_later(tmp_path) -> None:
    write_original(tmp_path, made_up())
    rows = movielens_rows(tmp_path, protocol="per_user")
    batch = rows.batch(torch.arange(len(rows)), CUT)
    assert (batch.behaviours.times < batch.time.unsqueeze(1)).all()
    assert batch.probability is None
    assert all(len(part) for part in rows.parts.values())


class OneNumber(nn.Module):
    """Learns the share of likes: its ranking never gets better."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return self.share + 0 * batch.label


def test_training_never_reads_test_labels(rows: SequenceRows) -> None:
    turned = rows.label.clone()
    turned[rows.parts["test"]] = 1 - turned[rows.parts["test"]]
    logits = []
    for some in (rows, replace(rows, label=turned)):
        torch.manual_seed(0)
        logits.append(train(MeanPooling(some), some, Recipe(epochs=2), seed=0).logits)
    assert np.array_equal(*logits)


def test_the_chosen_pass_is_the_one_that_is_judged(rows: SequenceRows) -> None:
    torch.manual_seed(0)
    model = TargetAttention(rows, Cut(length=16))
    found = train(model, rows, Recipe(epochs=6, patience=6, step=0.02), seed=0)
    assert 1 <= found.epoch <= 6 == len(found.losses)
    assert figures(rows, predict(model, rows, rows.parts["validation"]), "validation")[
        "auc"
    ] == pytest.approx(found.validation_auc, abs=1e-5)
    assert np.array_equal(predict(model, rows, rows.parts["test"]), found.logits)


def test_training_ends_when_nothing_gets_better(rows: SequenceRows) -> None:
    found = train(OneNumber(), rows, Recipe(epochs=9, patience=2), seed=0)
    assert (found.epoch, len(found.losses)) == (1, 3)


def test_parameters_are_counted_by_kind(rows: SequenceRows) -> None:
    model = MeanPooling(rows)
    sizes = count(model)
    assert sum(sizes.values()) == sum(each.numel() for each in model.parameters())
    model.embed.requires_grad_(requires_grad=False)
    assert count(model) == {"tables": 0, "layers": sizes["layers"]}


def test_an_arm_learns_what_the_part_holds() -> None:
    some = study.SETTINGS["periodic"].rows(0, users=400)
    torch.manual_seed(0)
    model = TargetAttention(some, Cut(length=64))
    reached = figures(some, train(model, some, Recipe(batch=128, epochs=2), seed=0).logits)
    assert 0.6 < reached["expected_auc"] < reached["bayes_auc"]


def test_a_study_goes_on_where_it_was(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(study, "SCORES", tmp_path / "scores")
    out = tmp_path / "some.json"
    words = ["--settings", "even", "--users", "60", "--out", str(out)]
    study.main([*words, "--arms", "mean_pooling", "--seeds", "1"])
    first = json.loads(out.read_text())["runs"]
    study.main([*words, "--arms", "mean_pooling", "target_attention", "--seeds", "1"])
    report = json.loads(out.read_text())
    assert "2 runs, 1 to do" in capsys.readouterr().out
    assert first[0] in report["runs"]
    assert len(report["runs"]) == 2
    mean, low, high = report["differences"]["even: target_attention - mean_pooling"]["auc"]
    drawn = {run["arm"]: run["auc"] for run in report["runs"]}
    assert mean == pytest.approx(drawn["target_attention"] - drawn["mean_pooling"], abs=1e-5)
    assert low <= mean <= high
    with pytest.raises(SystemExit, match="holds runs of 60 users: name another --out"):
        study.main(["--settings", "even", "--users", "70", "--out", str(out)])


def test_seeds_count_from_one_and_the_command_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "SCORES", tmp_path / "scores")
    out = tmp_path / "some.json"
    words = ["--arms", "mean_pooling", "--settings", "even", "--seeds", "2", "--users", "40"]
    monkeypatch.setattr("sys.argv", ["sequence_study.py", *words, "--out", str(out)])
    study.main()
    report = json.loads(out.read_text())
    assert [run["seed"] for run in report["runs"]] == [1, 2]
    assert report["command"] == " ".join(
        ["python -m benchmarks.sequence_study", *words, "--out", str(out)]
    )


def test_an_arm_is_compared_with_all_its_controls(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "SCORES", tmp_path)
    arms = {"first": study.Arm(OneNumber), "second": study.Arm(OneNumber, control="first")}
    arms["third"] = study.Arm(OneNumber, control="first", also=("second",))
    monkeypatch.setattr(study, "arms", lambda: arms)
    rows = study.SETTINGS["even"].rows(1, users=40)
    test, draws, reached = rows.parts["test"], np.random.default_rng(0), {}
    for name in arms:
        logits = draws.normal(size=len(test)).astype(np.float32)
        np.save(study.scores(name, "even", 1, 40), logits)
        reached[name] = figures(rows, logits)["auc"]
    found = study.differences(list(arms), 2, 40)
    pairs = [("second", "first"), ("third", "first"), ("third", "second")]
    assert list(found) == [f"even: {one} - {two}" for one, two in pairs]
    for (one, two), each in zip(pairs, found.values(), strict=True):
        assert each["seeds"] == 1
        assert each["auc"][0] == pytest.approx(reached[one] - reached[two], abs=1e-5)


def test_an_oracle_misses_each_part() -> None:
    found = study.oracles(["even", "movielens"], 1, 300)
    assert list(found) == ["even"]
    assert all(value > 0.005 for value in found["even"].values())
