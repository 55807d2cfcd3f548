"""Tiered tables against TorchRec's own, whole in memory: equal to the last bit."""

import itertools

import numpy as np
import pytest
import torch

from sidrank.cache._cached_table import CachedTable
from sidrank.cache.slot_map import Placement, SlotMap
from tests.cache import tiered_runs as runs

STEPS = 200
FACTORS = {
    "optimizer": ["sgd", "rowwise"],
    "depth": [None, 0, 1, 2],
    "pooling": ["sum", "mean", "weighted"],
    "count": [1, 3],
    "tier": ["memory", "file"],
}


def newest_first(self, slots, keys, count):
    order = np.argsort(-self._last_use[slots], kind="stable")[:count]
    return slots[order], keys[order]


def every_pair(factors):
    """A few settings in which any two factors meet in all their ways."""
    settings = [
        dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())
    ]

    def pairs(setting):
        return set(itertools.combinations(setting.items(), 2))

    left, chosen = set().union(*map(pairs, settings)), []
    while left:
        chosen.append(max(settings, key=lambda setting: len(pairs(setting) & left)))
        left -= pairs(chosen[-1])
    return chosen


def assert_equal(collection, losses, uncached):
    expected, rows = uncached
    assert losses == expected
    found = runs.rows_of(collection)
    assert found.keys() == rows.keys()
    for name in rows:
        assert torch.equal(found[name], rows[name]), name


def differs(collection, losses, uncached):
    expected, rows = uncached
    found = runs.rows_of(collection)
    return losses != expected or any(not torch.equal(found[name], rows[name]) for name in rows)


@pytest.mark.parametrize(
    "setting", every_pair(FACTORS), ids=lambda s: "-".join(map(str, s.values()))
)
def test_equal_to_tables_in_memory(setting, tmp_path):
    pooling, weighted = setting["pooling"], setting["pooling"] == "weighted"
    collection = runs.tiered(
        setting["optimizer"],
        pooling=pooling,
        count=setting["count"],
        weighted=weighted,
        folder=tmp_path if setting["tier"] == "file" else None,
    )
    examples = runs.batches(STEPS, weighted=weighted)
    window = 0 if setting["depth"] is None else 7
    loader = runs.loaded(collection, examples, depth=setting["depth"], window=window)
    losses = runs.train(collection, loader)
    asked = setting["optimizer"], pooling, setting["count"], weighted
    assert_equal(collection, losses, runs.uncached(*asked, threads=1, steps=STEPS))
    busiest = max(collection.traffic.values(), key=lambda traffic: traffic.lookups)
    assert busiest.miss_rate >= 0.3
    assert busiest.evictions >= 10 * runs.SLOTS


def test_equal_with_two_threads():
    collection = runs.tiered()
    with runs.threads_of(2):
        losses = runs.train(collection, runs.loaded(collection, runs.batches(8), depth=1))
    expected = runs.uncached("rowwise", "sum", 3, False, threads=2, steps=8)
    assert_equal(collection, losses, expected)


def test_adagrad_carries_a_state_as_wide_as_the_row():
    collection = runs.tiered("adagrad")
    losses = runs.train(collection, runs.loaded(collection, runs.batches(40), depth=1))
    assert_equal(collection, losses, runs.uncached("adagrad", "sum", 3, False, threads=1, steps=40))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_worker_that_dawdles_changes_nothing(seed, depth):
    collection = runs.uneven(runs.tiered(), seed)
    losses = runs.train(collection, runs.loaded(collection, runs.batches(60), depth=depth))
    assert_equal(collection, losses, runs.uncached("rowwise", "sum", 3, False, threads=1, steps=60))


class TestEachRuleIsNeeded:
    """Without one of them the same run comes out different."""

    def run(self):
        collection = runs.tiered()
        losses = runs.train(collection, runs.loaded(collection, runs.batches(60), depth=1))
        return differs(
            collection, losses, runs.uncached("rowwise", "sum", 3, False, threads=1, steps=60)
        )

    def test_with_all_of_them_it_is_equal(self):
        assert not self.run()

    def test_any_order_of_giving_up_is_right(self, monkeypatch):
        monkeypatch.setattr(SlotMap, "_first", newest_first)
        assert not self.run()

    def test_slots_in_use_are_held(self, monkeypatch):
        place = SlotMap.place
        release = SlotMap.release

        def place_without_holding(self, rows, next_use=None):
            placed = place(self, rows, next_use)
            release(self, placed.slots)
            return placed

        monkeypatch.setattr(SlotMap, "place", place_without_holding)
        monkeypatch.setattr(SlotMap, "release", lambda self, slots: None)
        monkeypatch.setattr(SlotMap, "_first", newest_first)  # those of the batch before, that is
        assert self.run()

    def test_rows_in_slots_are_not_fetched_again(self, monkeypatch):
        place = SlotMap.place

        def fetch_all(self, rows, next_use=None):
            placed = place(self, rows, next_use)
            return Placement(
                placed.slots, rows, placed.slots, placed.evicted_rows, placed.evicted_slots
            )

        monkeypatch.setattr(SlotMap, "place", fetch_all)
        assert self.run()

    def test_what_leaves_is_written_before_anything_is_read_again(self, monkeypatch):
        write = runs.MemoryTier.write
        late = {}

        def write_later(self, rows, values):
            waiting = late.setdefault(id(self), [])
            waiting.append((rows.clone(), values.clone()))
            if len(waiting) > 3:
                write(self, *waiting.pop(0))

        collection = runs.tiered()
        monkeypatch.setattr(runs.MemoryTier, "write", write_later)
        losses = runs.train(collection, runs.loaded(collection, runs.batches(60), depth=1))
        monkeypatch.undo()
        for table in collection.tiers.values():
            for rows, values in late.get(id(table), []):
                table.write(rows, values)
        assert differs(
            collection, losses, runs.uncached("rowwise", "sum", 3, False, threads=1, steps=60)
        )

    def test_a_slot_is_emptied_before_it_is_filled(self, monkeypatch):
        def in_before_out(self, move):
            self.fetch(move.fetched_rows, move.fetched_slots)
            self.write_back(move.written_rows, move.written_slots)

        monkeypatch.setattr(CachedTable, "carry_out", in_before_out)
        assert self.run()

    def test_changed_rows_are_written_back(self, monkeypatch):
        place = CachedTable.place

        def place_clean(self, rows, *, announced):
            self.dirty[:] = False
            return place(self, rows, announced=announced)

        monkeypatch.setattr(CachedTable, "place", place_clean)
        assert self.run()
