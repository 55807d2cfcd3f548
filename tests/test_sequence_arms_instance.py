"""Arms with instance tokens read what was known, and differ in their signal alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import benchmarks.sequence_arms_instance as instance
from benchmarks.instance_pages import instance_arms
from benchmarks.sequence_arms_instance import (
    ARMS,
    PLANTED,
    VERSION,
    Scale,
    stored_tokens,
    strangers,
)
from benchmarks.sequence_logs import planted_rows
from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_training import Recipe
from sidrank.data.planted_sequences import SequenceSettings, plant_sequences

PLANTED_ARMS = [name for name in ARMS if name.startswith("instance")]
STORED = [
    f"instance_{name}"
    for name in ("temporal", "user_order", "no_sides", "strangers", "stranger_tokens")
]
QUICK = Recipe(batch=256, epochs=1)
PAST = PLANTED.past


@pytest.fixture(scope="module")
def rows() -> SequenceRows:
    return planted_rows(plant_sequences(SequenceSettings(users=30, requests=30)))


@pytest.fixture(autouse=True)
def one_pass(monkeypatch) -> None:
    monkeypatch.setattr(instance, "EPOCHS", 1)
    quick = Scale(past=PAST, recipe=QUICK)
    names = tuple(name.removeprefix("instance_") for name in PLANTED_ARMS)
    arms = instance._arms("instance", "instance", quick, names)
    for name, arm in arms.items():
        monkeypatch.setitem(ARMS, name, arm)


def alive(name: str, rows: SequenceRows) -> instance.Host:
    """An arm whose token is not zero any more."""
    torch.manual_seed(3)
    model = ARMS[name].build(rows, 3).eval()
    for each in (getattr(model.past, "out", None), getattr(model.past, "reader", None)):
        if each is not None:
            torch.nn.init.normal_(getattr(each, "out", each).weight)
    return model


def logits(model: instance.Host, rows: SequenceRows, which: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(rows.batch(which, model.cut))


@pytest.mark.parametrize("name", PLANTED_ARMS)
def test_an_arm_gives_finite_logits_and_moves_all_weights(name: str, rows: SequenceRows) -> None:
    model = ARMS[name].build(rows, 3)
    which = torch.arange(0, len(rows), 9)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = [each.detach().clone() for each in model.parameters()]
    for _ in range(3):
        found = model(rows.batch(which, model.cut))
        assert found.shape == which.shape
        assert found.isfinite().all()
        optimizer.zero_grad()
        found.square().mean().backward()
        optimizer.step()
    after = model.named_parameters()
    still = [n for (n, new), old in zip(after, before, strict=True) if torch.equal(old, new)]
    assert [name for name in still if name.startswith("past")] == []


@pytest.mark.parametrize("name", PLANTED_ARMS)
def test_a_row_does_not_see_the_batch_it_is_in(name: str, rows: SequenceRows) -> None:
    model, which = alive(name, rows), torch.arange(0, len(rows), 40)
    alone = torch.cat([logits(model, rows, each) for each in which.split(1)])
    torch.testing.assert_close(alone, logits(model, rows, which), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["instance_item_ids", "instance_fields", *STORED])
def test_what_was_not_known_changes_nothing(name: str, rows: SequenceRows) -> None:
    at = 10 * 30 + 20
    which, now = torch.tensor([at]), rows.time[at]
    late, unknown = rows.time >= now, rows.label_time >= now
    assert (unknown & ~late & (rows.user == 10)).any()
    model = alive(name, rows)
    plain = logits(model, rows, which)

    def turned(labels: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Logits where some labels are turned, and some impressions are of something else."""
        columns = {
            key: torch.where(items & (torch.arange(len(rows)) != at), column.roll(7), column)
            for key, column in rows.columns.items()
        }
        other = replace(
            rows, label=torch.where(labels, 1 - rows.label, rows.label), columns=columns, _typed={}
        )
        kept = getattr(model.past, "store", None)
        if kept is None:
            return logits(model, other, which)
        tokens = stored_tokens(rows, "user_order", QUICK, 3)
        anew = [torch.where(items.unsqueeze(1), 1 - tokens, tokens), other.label]
        plain_store = instance.store_of(rows, tokens, rows.label)
        model.past.store = plain_store
        base = logits(model, rows, which)
        model.past.store = instance.store_of(rows, *anew)
        found = logits(model, rows, which)
        model.past.store = kept
        return plain + found - base

    none, seen = torch.zeros_like(late), (rows.user == 10) & ~late
    assert torch.allclose(turned(unknown, late), plain, atol=1e-6)
    assert (turned(none, seen) - plain).abs() > 1e-5
    told = bool((turned(seen & ~unknown, none) - plain).abs() > 1e-5)
    assert told == (name != "instance_no_sides")


def test_arms_of_the_store_are_born_the_same_and_differ_in_what_is_stored(rows) -> None:
    models = {name: ARMS[name].build(rows, 3) for name in STORED}
    first = models["instance_user_order"]
    own = first.past.store.as_of(rows.user, rows.time, PAST, model_version=VERSION)
    same = {"instance_no_sides": "vectors sides", "instance_stranger_tokens": "sides",
            "instance_temporal": "sides", "instance_strangers": ""}  # fmt: skip
    for name, shared in same.items():
        weights = zip(first.state_dict().items(), models[name].state_dict().items(), strict=True)
        for (one, mine), (two, theirs) in weights:
            assert one == two
            assert torch.equal(mine, theirs)
        store = models[name].past.store
        found = store.as_of(rows.user, rows.time, PAST, model_version=VERSION)
        for column in ("mask", "event_times", "instances"):
            assert torch.equal(getattr(found, column), getattr(own, column))
        for column in ("vectors", "sides"):
            equal = torch.equal(getattr(found, column), getattr(own, column))
            assert equal == (column in shared.split()), (name, column)
        assert torch.equal(found.sides < 0, own.sides < 0)


def test_a_stranger_is_another_user_and_always_the_same(rows: SequenceRows) -> None:
    at = strangers(rows, 1)
    whose = rows.user[at].reshape(30, 30)
    assert (whose == whose[:, :1]).all()
    assert (whose[:, 0] != torch.arange(30)).all()
    assert whose[:, 0].unique().tolist() == list(range(30))
    assert (rows.time[at].reshape(30, 30).diff() > 0).all()
    assert not torch.equal(at, strangers(rows, 2))


def test_tokens_do_not_depend_on_test_labels_or_on_what_was_made_before(rows) -> None:
    turned = rows.label.clone()
    turned[rows.parts["test"]] = 1 - turned[rows.parts["test"]]
    order, alone = (stored_tokens(rows, mode, QUICK, 1) for mode in ("user_order", "temporal"))
    assert not torch.equal(order, alone)
    other = replace(rows, label=turned, _typed={})
    assert torch.equal(stored_tokens(other, "temporal", QUICK, 1), alone)
    assert torch.equal(stored_tokens(other, "user_order", QUICK, 1), order)
    assert not torch.equal(stored_tokens(rows, "temporal", QUICK, 2), alone)


def test_long_users_are_cut_into_pieces_in_the_order_of_time(rows, monkeypatch) -> None:
    monkeypatch.setattr(instance, "PIECE", 7)
    learn = rows.parts["train"]
    found = instance._pieces(rows, learn)
    assert np.bincount(np.unique(found, return_inverse=True)[1]).max() == 7
    assert (found.diff() >= 0).all()
    assert len(torch.unique(torch.stack([found, rows.user[learn]]), dim=1)[0]) == len(
        found.unique()
    )


class TestPage:
    def test_a_page(self):
        reached = {"host": 0.6, "item_ids": 0.61, "fields": 0.8, "temporal": 0.65}
        reached["user_order"] = 0.7
        runs = [
            {"setting": "instance", "seed": seed, "arm": f"instance_{arm}", "auc": 0.5,
             "gauc": 0.5, "expected_auc": value + 0.01 * seed, "bayes_auc": 0.9, "tables": 10,
             "layers": 5, "seconds": 1.0}
            for arm, value in reached.items() for seed in (1, 2)
        ]  # fmt: skip
        key = "instance: instance_user_order - instance_item_ids"
        report = {"command": "made up", "runs": runs,
                  "differences": {key: {"seeds": 2, "auc": [0.1, 0.05, 0.15]}}}  # fmt: skip
        page = instance_arms(report)
        assert "| user order beats item ids | confirmed | +0.1000 [+0.0500, +0.1500] | 2 |" in page
        assert "user order keep 50%, temporal ones 25% (2 seeds)" in page
        assert "| host + instance tokens, user order | 0.7150 |" in page
        assert "+0.1000 ± 0.0000" in page
