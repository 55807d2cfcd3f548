"""The situation ranker: features to logits, one row and one candidate at a time."""

import copy

import pytest
import torch
from torch import nn

from sidrank.models.situation_ctr import SituationCTR
from sidrank.towers.situation_fields import SituationFields, elapsed
from tests.embeddings import hosts
from tests.models import situation_models
from tests.models.situation_models import batch, behaviours, ranker, read, tower, train, trained
from tests.models.ways import WAYS

NEVER = torch.iinfo(torch.int64).min
FEATURES = ("user", "item", "hour", "place")
SEEN = ("seen_item", "seen_hour", "seen_place", "seen_type", "seen_seconds", "seen_time")


def bags(features):
    return {key: hosts.bags_of(features, key) for key in features.keys()}  # noqa: SIM118


def test_equals_the_parts_row_by_row():
    model = trained()
    features, _ = batch(size=9)
    columns, (logits, shares) = bags(features), model(features)
    items = model.behaviours.items.ec.embeddings["item"].weight
    shared = model.behaviours.situations.ec.embeddings
    for row in range(9):
        newest = {name: torch.tensor(columns[name][row][-5:]).long() for name in SEEN}
        times, now = newest["seen_time"].unsqueeze(0), torch.tensor(columns["time"][row])
        seconds = newest["seen_seconds"].float()
        numbers = torch.stack([elapsed(times, now)[0], torch.log1p(seconds)], dim=1)
        numbers[seconds < 0, 1] = torch.nan
        own = model.behaviours.own(newest["seen_type"].unsqueeze(1), numbers)
        tables = [shared[k].weight[newest[f"seen_{k}"]].unsqueeze(1) for k in ("hour", "place")]
        request = torch.cat([shared[k].weight[columns[k][row]] for k in ("hour", "place")])
        target = items[columns["item"][row]].unsqueeze(0)
        answer, kept = model.tower(
            target,
            items[newest["seen_item"]].unsqueeze(0),
            torch.cat([*tables, own], dim=1).unsqueeze(0),
            request.unsqueeze(0),
            newest["seen_type"].unsqueeze(0),
            torch.ones_like(times).bool(),
            times,
            now,
        )
        user = model.fields.embedding_bags["user"].weight[columns["user"][row]]
        parts = [target, answer, answer * model.candidate(target)]
        state = torch.cat([*parts, request.view(1, 1, -1), user.view(1, 1, -1)], dim=2)
        expected = [head(model.shared(state))[0, 0, 0] for head in model.heads]
        torch.testing.assert_close(logits[row, 0], torch.stack(expected))
        share = kept.mean() if kept.numel() else torch.zeros(())
        torch.testing.assert_close(shares[row], share)
    assert 0.1 < shares.mean().item() < 0.9


@pytest.mark.parametrize("tasks", [1, 2])
def test_one_head_a_task(tasks):
    model = trained(tasks=tasks)
    features, _ = batch()
    logits, _ = model(features)
    assert logits.shape == (6, 1, tasks)
    with torch.no_grad():
        model.heads[-1].bias += 1.0
    moved = model(features)[0] - logits
    torch.testing.assert_close(moved[..., -1], torch.ones(6, 1))
    assert not moved[..., :-1].any()


def test_every_parameter_has_moved_after_three_steps():
    model = ranker().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=3, size=64)
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("part", [*FEATURES, *SEEN])
def test_reads_each_feature(part):
    model, (features, _) = trained(), batch(size=32)
    before = model(features)[0]
    values = features[part].values()
    values.copy_((values + 1) % 20)
    assert not torch.equal(model(features)[0], before)


def test_rows_do_not_see_each_other():
    model, (features, _) = trained(), batch(size=5)
    together, columns = model(features), bags(features)
    for row in range(5):
        alone = model(hosts.jagged({name: [column[row]] for name, column in columns.items()}))
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other[row : row + 1])


def test_candidates_do_not_see_each_other():
    model, one = trained(num_candidates=4), ranker()
    one.load_state_dict(model.state_dict())
    features, _ = batch(candidates=4)
    together, columns = model(features)[0], bags(features)
    assert together.shape == (6, 4, 2)
    for c in range(4):
        chosen = {"item": [[bag[c]] for bag in columns["item"]]}
        alone = one(hosts.jagged(columns | chosen))[0]
        torch.testing.assert_close(alone, together[:, c : c + 1])


def test_more_room_in_the_history_changes_nothing():
    short, long = trained(max_length=8), ranker(max_length=13)
    long.load_state_dict(short.state_dict())
    features, _ = batch(size=16)
    torch.testing.assert_close(long(features), short(features))


class TestTime:
    def test_the_future_changes_nothing(self):
        model, (features, _) = trained(), batch(size=8)
        columns = bags(features)
        columns["time"] = [[500]] * 8
        before = model(hosts.jagged(columns))[0]
        changed = copy.deepcopy(columns)
        for row, times in enumerate(columns["seen_time"]):
            for place, time in enumerate(times):
                if time >= 500:
                    for name in SEEN[:-1]:
                        changed[name][row][place] = (columns[name][row][place] + 7) % 20
        assert changed != columns
        assert torch.equal(model(hosts.jagged(changed))[0], before)

    def test_a_missing_time_hides_a_behaviour_and_a_missing_request_time_all(self):
        model, (features, _) = trained(), batch(size=8)
        columns = bags(features)
        rest = {name: [bag[1:] for bag in columns[name]] for name in SEEN}
        columns["seen_time"] = [[NEVER, *bag[1:]] if bag else [] for bag in columns["seen_time"]]
        newest = ranker(max_length=9)
        newest.load_state_dict(model.state_dict())
        torch.testing.assert_close(
            newest(hosts.jagged(columns))[0], newest(hosts.jagged(columns | rest))[0]
        )
        nothing = {name: [[]] * 8 for name in SEEN}
        empty = newest(hosts.jagged(columns | nothing))
        for absent in ([[]] * 8, [[NEVER]] * 8, [[-5]] * 8):  # the last: all gaps are negative
            found = newest(hosts.jagged(columns | {"time": absent}))
            torch.testing.assert_close(found[0], empty[0])
            assert not found[1].any()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_same_logits_at_any_batch_size(way):
    model = trained()
    other = way(model)
    for size in (4, 9):
        features, _ = batch(size=size, seed=size)
        with torch.no_grad():
            torch.testing.assert_close(other(features), model(features))


def test_bfloat16_autocast():
    model, (features, _) = trained(), batch(size=9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(features)[0]
    with torch.no_grad():
        exact = model(features)[0]
    scale = exact.abs().max().item() + 1.0
    torch.testing.assert_close(rounded.float(), exact, atol=0.05 * scale, rtol=0.0)


def test_meta_device_birth_then_load():
    with torch.device("meta"):
        model = ranker()
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    expected = trained()
    model.load_state_dict(expected.state_dict())
    features, _ = batch()
    assert torch.equal(model(features)[0], expected(features)[0])


class TestErrors:
    def test_heads(self):
        with pytest.raises(ValueError, match="heads must be one at least, got none"):
            SituationCTR(behaviours(), tower=tower(), heads=[])
        with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
            SituationCTR(behaviours(), tower=tower(), heads=[nn.Linear(1, 1)], hidden=0)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"item_dim": 9}, "tower must have item_dim 8, got 9"),
            ({"dim": 3}, "tower must have dim 4, got 3"),
            ({"num_fields": 4}, "tower must have num_fields 5, got 4"),
            ({"num_request_fields": 1}, "tower must have num_request_fields 2, got 1"),
            ({"num_types": 4}, "tower must have 3 types, got 4"),
        ],
    )
    def test_tower(self, given, message):
        with pytest.raises(ValueError, match=message):
            SituationCTR(behaviours(), tower=tower(**given), heads=[nn.Linear(64, 1)])

    def test_behaviours(self):
        with pytest.raises(ValueError, match="situations must have the max_length 5, got 6"):
            behaviours(situations=read(["hour"], 4, 6))
        with pytest.raises(ValueError, match="situations must have one request a row, got 2"):
            behaviours(situations=read(["hour"], 4, 5, 2))
        with pytest.raises(ValueError, match="situations must have fields of width 4, got 6"):
            behaviours(situations=read(["hour"], 6))
        own = SituationFields(dim=4, categories=[3], numbers=1)
        with pytest.raises(ValueError, match="own must have 1 category and 2 numbers, got 1 and 1"):
            behaviours(own=own)

    def test_features_of_unequal_length(self):
        features, _ = situation_models.batch()
        columns = bags(features)
        columns["seen_type"] = [bag[1:] for bag in columns["seen_type"]]
        with pytest.raises(ValueError, match="a behaviour must be one number in each feature, got"):
            ranker()(hosts.jagged(columns))
