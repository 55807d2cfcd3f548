"""Arms of the unified stream: equal parameters, no leak, and a diagnosis that counts behaviours."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import benchmarks.sequence_collapse as collapse
import benchmarks.sequence_study as study
from benchmarks.sequence_arms_token_former import ARMS, UnifiedStream, static_of_another
from benchmarks.sequence_groups import Groups, loss_of_groups
from benchmarks.sequence_logs import planted_rows
from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_training import count, difference
from benchmarks.token_former_pages import token_former
from sidrank.data.planted_sequences import SequenceSettings, plant_sequences


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
    assert len({tuple(count(built(rows, name)).values()) for name in ARMS}) == 1


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


def test_the_diagnosis_and_the_page_read_a_study(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "SCORES", tmp_path / "scores")
    monkeypatch.setattr(study, "difference", partial(difference, draws=10))
    monkeypatch.setattr(collapse.diagnose, "__kwdefaults__", {"requests": 60, "min_rows": 50})
    out, ranks = tmp_path / "study.json", tmp_path / "ranks.json"
    words = ["--settings", "static", "--users", "40", "--seeds", "2", "--out", str(out)]
    study.main([*words, "--arms", *ARMS])
    collapse.main(["--study", str(out), "--out", str(ranks)])
    page = token_former(study.json.loads(out.read_text()), study.json.loads(ranks.read_text()))
    assert all(f"`{name}`" in page for name in ARMS)
    assert "confirmed" in page
