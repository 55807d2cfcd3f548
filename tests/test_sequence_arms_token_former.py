"""Arms of the unified stream: equal parameters, no leak, and a diagnosis that counts behaviours."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import benchmarks.sequence_collapse as collapse
import benchmarks.sequence_study as study
from benchmarks.sequence_arms_token_former import ARMS, UnifiedStream, static_of_another
from benchmarks.sequence_choices import choice_log
from benchmarks.sequence_groups import Groups, loss_of_groups
from benchmarks.sequence_logs import planted_rows
from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_training import count, difference
from benchmarks.token_former_pages import token_former
from sidrank.data.planted_sequences import SequenceSettings, plant_sequences
from sidrank.sequences import bfts

EQUAL = [name for name in ARMS if name != "unified_crossed"]


@pytest.fixture(scope="module")
def rows() -> SequenceRows:
    return planted_rows(plant_sequences(SequenceSettings(users=40, requests=30)))


def earliest(rows: SequenceRows) -> torch.Tensor:
    """The first training rows of all: most events are later than they."""
    learn = rows.parts["train"]
    return learn[rows.time[learn].argsort()[:30]]


def built(rows: SequenceRows, name: str, seed: int = 1) -> UnifiedStream:
    torch.manual_seed(seed)
    return ARMS[name].build(rows, seed).eval()


def test_all_arms_have_as_many_parameters(rows: SequenceRows) -> None:
    assert len({tuple(count(built(rows, name)).values()) for name in EQUAL}) == 1


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_answers_finite_logits_and_learns(rows: SequenceRows, name: str) -> None:
    model = built(rows, name)
    batch = rows.batch(rows.parts["train"][:20], model.cut)
    assert model(batch).shape == (20,)
    model.loss(batch).backward()
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)
    assert model.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["unified_vanilla", "unified_both"])
def test_what_is_behind_the_mask_or_later_changes_nothing(rows: SequenceRows, name: str) -> None:
    model, which = built(rows, name), earliest(rows)
    batch = rows.batch(which, model.cut)
    before = model(batch)
    hidden = torch.zeros_like(batch.behaviours.mask)
    hidden[:, :4] = True
    mask = batch.behaviours.mask & ~hidden
    fields = batch.behaviours.fields
    other = {name: torch.where(hidden, 1, values) for name, values in fields.items()}
    answers = [
        model(replace(batch, behaviours=replace(batch.behaviours, fields=some, mask=mask)))
        for some in (fields, other)
    ]
    assert torch.allclose(*answers, atol=1e-6)
    assert not torch.allclose(answers[0], before, atol=1e-4)
    later = rows.event_time >= rows.time[which].max()
    assert later.any()
    events = {key: torch.where(later, 1, values) for key, values in rows.events.items()}
    assert torch.equal(model(replace(rows, events=events).batch(which, model.cut)), before)


def test_the_control_differs_in_the_static_fields_alone(rows: SequenceRows) -> None:
    given = static_of_another(rows, 1)
    assert sorted(given.tolist()) == sorted(rows.static.tolist())
    one, null = built(rows, "unified_both"), built(rows, "unified_both_null")
    state = one.state_dict()
    assert all(torch.equal(state[key], value) for key, value in null.state_dict().items())
    batch = rows.batch(rows.parts["test"][:50], one.cut)
    same = (given == rows.static).all(dim=1)[batch.user]
    assert not same.all()
    assert torch.equal(one(batch)[same], null(batch)[same])
    assert (one(batch)[~same] != null(batch)[~same]).any()


def test_a_target_is_born_to_look_beyond_itself(rows: SequenceRows, monkeypatch) -> None:
    """It is most like itself: too sharp a look at birth and it never reads anything else."""
    on_itself: list[float] = []

    def read(query, key, value, *, visible):
        scores = (query @ key.transpose(2, 3)) / query.shape[3] ** 0.5
        weight = scores.masked_fill(~visible, float("-inf")).softmax(dim=3)
        on_itself.append(float(weight[:, :, :, -1].mean()))
        return weight @ value

    monkeypatch.setattr(bfts, "attend", read)
    model = built(rows, "unified_vanilla")
    with torch.no_grad():
        model(rows.batch(rows.parts["test"][:100], model.cut))
    assert len(on_itself) == 4
    assert all(share < 0.8 for share in on_itself)


def test_a_choice_is_of_the_match_that_the_taste_asks_for() -> None:
    log = choice_log(3, users=60)
    matches = np.zeros((2, len(log.user)))
    for row in range(len(log.user)):
        own = (log.event_user == log.user[row]) & (log.event_time < log.time[row])
        newest = log.event_item[np.flatnonzero(own)[-16:]]
        for at, of in enumerate((log.item_topic, log.item_brand)):
            matches[at, row] = of[log.item[row]] in of[newest]
    matches = (matches - matches.mean(axis=1, keepdims=True)) / matches.std(axis=1, keepdims=True)
    taste = log.user_fields["taste"][log.user]
    asked = np.where(taste == 1, matches[0], matches[1])
    together = log.parts["match"] + log.parts["choice"]
    assert np.allclose(together, asked * together.std() / asked.std())
    users = [log.parts["profile"][log.user == user] for user in range(60)]
    assert all(np.ptp(values) == 0 for values in users)
    assert len({float(values[0]) for values in users}) <= 8
    logit = np.log(log.probability / (1 - log.probability))
    assert np.allclose(logit, sum(log.parts.values()))


def test_a_choice_needs_the_taste_and_changes_likes_alone() -> None:
    log = choice_log(0, users=400)
    parts = log.parts
    for name in ("match", "profile", "context"):
        assert abs(np.corrcoef(parts["choice"], parts[name])[0, 1]) < 0.06
    matches = [parts["match"] + sign * parts["choice"] for sign in (1, -1)]
    assert abs(np.corrcoef(*matches)[0, 1]) < 0.1
    plain = plant_sequences(SequenceSettings(seed=0, users=400))
    for name in ("event_time", "event_item", "time", "item", "slot", "style"):
        assert np.array_equal(getattr(log, name), getattr(plain, name))
    assert np.array_equal(log.label, choice_log(0, users=400).label)


def test_a_group_holds_the_training_rows_that_follow(rows: SequenceRows) -> None:
    groups = Groups(rows, 5)
    batch = rows.batch(rows.parts["train"][::7])
    requests, real = groups.requests(batch)
    learn = set(rows.parts["train"].tolist())
    for row, user, some in zip(batch.row.tolist(), batch.user.tolist(), real, strict=True):
        follows = [
            at in learn and int(rows.user[at]) == user if at < len(rows) else False
            for at in range(row, row + 5)
        ]
        assert some.tolist() == follows
    assert real[:, 0].all()
    assert torch.equal(requests.row.view_as(real)[:, 0], batch.row)


def test_what_is_not_real_takes_no_part_in_the_loss() -> None:
    real = torch.tensor([[True, False], [True, True]])
    label = torch.tensor([1.0, 0.0, 0.0, 1.0])
    some, other = torch.tensor([[[0.0, 9.0], [1.0, 2.0]], [[0.0, -9.0], [1.0, 2.0]]])
    assert torch.equal(loss_of_groups(some, label, real), loss_of_groups(other, label, real))


@pytest.mark.parametrize("name", ["unified_vanilla", "unified_both"])
def test_the_diagnosis_counts_every_behaviour_once_a_layer(rows: SequenceRows, name: str) -> None:
    model = built(rows, name)
    found = collapse.diagnose(model, rows, requests=100, min_rows=100)
    test = rows.parts["test"]
    some = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:100]]
    real = int(rows.batch(some, model.cut).behaviours.mask.sum())
    assert (found.rows == real).all()
    assert (found.masked_rows == real).all()
    assert ((found.present > 1) & (found.present <= 32)).all()


def test_the_share_of_the_fields_is_that_of_a_regression(rows: SequenceRows) -> None:
    model = built(rows, "unified_both_null")
    shares = collapse.share_of_fields(model, rows, requests=100)
    test = rows.parts["test"]
    some = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:100]]
    batch = rows.batch(some, model.cut)
    static, behaviours, mask = model.past(batch)
    targets = model.targets(batch).unsqueeze(1)
    model.encoder.norm = torch.nn.Identity()
    states = model.encoder.every_token(static, behaviours, mask, targets)[0].detach()
    pairs = [
        (states[row, at], model.given[batch.user[row]])
        for row in range(100)
        for at in range(int(mask[row].sum()))
    ]
    y = torch.stack([state for state, _ in pairs]).double()
    told = torch.stack([fields for _, fields in pairs])
    x = torch.cat([torch.nn.functional.one_hot(column) for column in told.T], dim=1).double()
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    rest = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    expected = 1 - rest.square().sum() / (y - y.mean(dim=0)).square().sum()
    assert shares[-1] == pytest.approx(float(expected), abs=1e-5)
    assert all(0 < share < 1 for share in shares)


def test_the_diagnosis_and_the_page_read_a_study(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "SCORES", tmp_path / "scores")
    monkeypatch.setattr(study, "difference", partial(difference, draws=10))
    monkeypatch.setattr(collapse.diagnose, "__kwdefaults__", {"requests": 60, "min_rows": 50})
    monkeypatch.setattr(collapse.share_of_fields, "__kwdefaults__", {"requests": 60})
    out, ranks = tmp_path / "study.json", tmp_path / "ranks.json"
    words = ["--settings", "choice", "--users", "40", "--seeds", "2", "--out", str(out)]
    study.main([*words, "--arms", *ARMS])
    collapse.main(["--study", str(out), "--out", str(ranks)])
    page = token_former(study.json.loads(out.read_text()), study.json.loads(ranks.read_text()))
    assert all(f"`{name}`" in page for name in EQUAL)
    assert "confirmed" in page
