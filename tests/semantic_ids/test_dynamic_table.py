import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import SIDSpec, SIDTable, SIDVersionError
from sidrank.semantic_ids.dynamic_table import DynamicSIDTable
from tests import reference
from tests.strategies import ANY_IDS, sid_items

SPEC = SIDSpec((4, 3))
SIZES = (4, 3)
IDS = st.one_of(st.integers(0, 3), ANY_IDS)
TIMES = st.one_of(st.integers(0, 12), st.integers(-(2**63), 2**63 - 1))
CODES = st.tuples(*(st.integers(0, size - 1) for size in SIZES))
EVENTS = st.dictionaries(st.tuples(IDS, TIMES), CODES, max_size=15)
LIVES = st.one_of(st.none(), st.integers(1, 8), st.integers(1, 2**63 - 1))


def table_of(events, **options):
    ids, times = zip(*events, strict=True) if events else ((), ())
    return DynamicSIDTable(list(ids), list(times), list(events.values()), spec=SPEC, **options)


def random_table(events, items=50, seed=0, **options):
    rng = np.random.default_rng(seed)
    places = rng.choice(items * 1000, events, replace=False)
    codes = rng.integers(0, SIZES, (events, 2))
    return DynamicSIDTable(places // 1000, places % 1000, codes, spec=SPEC, **options)


def ask(table, queries):
    ids, times = np.array(queries, dtype=np.int64).reshape(-1, 2).T
    return [tuple(row) for row in table.lookup(ids, times).tolist()]


class TestAgainstAScan:
    @given(EVENTS, LIVES, st.lists(st.tuples(IDS, TIMES), max_size=10))
    def test_lookup(self, events, life, strangers):
        near = [
            (item, time + step)
            for item, time in events
            for step in (-1, 0, 1, *([life - 1, life] if life else []))
            if -(2**63) <= time + step < 2**63
        ]
        queries = near + strangers
        listed = [(item, time, codes) for (item, time), codes in events.items()]
        expected = [
            reference.codes_as_of(listed, item, time, life) or (-1, -1) for item, time in queries
        ]
        assert ask(table_of(events, time_to_live=life), queries) == expected

    @given(EVENTS, LIVES, TIMES)
    def test_snapshot(self, events, life, time):
        listed = [(item, when, codes) for (item, when), codes in events.items()]
        items = {item: reference.codes_as_of(listed, item, time, life) for item, _ in events}
        found = table_of(events, time_to_live=life).snapshot(time)
        assert isinstance(found, SIDTable)
        expected = {item: codes for item, codes in items.items() if codes is not None}
        assert found.item_ids.tolist() == sorted(expected)
        assert [tuple(row) for row in found.codes.tolist()] == [
            expected[item] for item in sorted(expected)
        ]

    @given(EVENTS, EVENTS)
    def test_append(self, events, more):
        newest = {}
        for item, time in events:
            newest[item] = max(time, newest.get(item, time))
        later = {at: row for at, row in more.items() if at[1] > newest.get(at[0], -(2**64))}
        table = table_of(events)
        grown = table.append(*zip(*later, strict=True), list(later.values())) if later else table
        whole = table_of(events | later)
        assert grown.content_hash == whole.content_hash
        assert (grown.version, grown.parent) == ((2, table.content_hash) if later else (1, None))

    def test_a_large_table_at_random_times(self):
        table = random_table(20_000, items=100, time_to_live=40)
        listed = {}
        for item, time, row in zip(
            table.item_ids.tolist(), table.timestamps.tolist(), table.codes.tolist(), strict=True
        ):
            listed.setdefault(item, []).append((item, time, tuple(row)))
        rng = np.random.default_rng(1)
        queries = list(zip(rng.integers(-1, 102, 500), rng.integers(-20, 1060, 500), strict=True))
        expected = [
            reference.codes_as_of(listed.get(item, []), item, time, 40) or (-1, -1)
            for item, time in queries
        ]
        assert ask(table, queries) == expected
        assert 0.5 < np.mean([row != (-1, -1) for row in expected]) < 1


class TestNoFuture:
    """A request sees the codes of its time, whatever comes later."""

    def queries(self):
        return [(item, time) for item in range(50) for time in range(0, 1001, 25)]

    @pytest.mark.parametrize("life", [None, 30])
    def test_later_events_change_no_earlier_answer(self, life):
        table = random_table(3000, time_to_live=life)
        for now in (0, 137, 500, 900):
            rng = np.random.default_rng(now)
            past = table.timestamps <= now
            kept = past | (rng.random(3000) < 0.5)
            codes = np.where(past[:, None], table.codes, rng.integers(0, SIZES, (3000, 2)))
            other = DynamicSIDTable(
                table.item_ids[kept],
                np.where(past, table.timestamps, table.timestamps + 7)[kept],
                codes[kept],
                spec=SPEC,
                time_to_live=life,
            )
            earlier = [at for at in self.queries() if at[1] <= now]
            assert ask(other, earlier) == ask(table, earlier)
            later = [at for at in self.queries() if at[1] > now]
            assert ask(other, later) != ask(table, later)

    def test_an_event_counts_from_its_own_time_on(self):
        table = table_of({(7, 100): (1, 2)})
        assert ask(table, [(7, 99), (7, 100), (7, 101)]) == [(-1, -1), (1, 2), (1, 2)]

    def test_appending_changes_no_answer_before_the_new_events(self):
        table = random_table(3000)
        asked = self.queries()
        before = ask(table, asked)
        batch = (np.arange(50), np.full(50, 1000), np.zeros((50, 2), dtype=int))
        grown = table.append(*batch)
        assert ask(grown, [at for at in asked if at[1] < 1000]) == [
            row for row, at in zip(before, asked, strict=True) if at[1] < 1000
        ]
        assert set(ask(grown, [(item, 1000) for item in range(50)])) == {(0, 0)}


class TestWithoutDrift:
    @given(
        sid_items(min_items=1), st.lists(st.integers(-5, 5), min_size=1, max_size=4, unique=True)
    )
    def test_equals_the_static_table(self, case, times):
        sizes, items = case
        spec = SIDSpec(sizes)
        static = SIDTable(list(items), list(items.values()), spec=spec)
        ids = np.tile(static.item_ids, len(times))
        when = np.repeat(times, len(items))
        dynamic = DynamicSIDTable(ids, when, np.tile(static.codes, (len(times), 1)), spec=spec)
        assert dynamic.snapshot(max(times)).content_hash == static.content_hash
        asked = np.append(static.item_ids, 99)
        now = np.full(len(asked), min(times))
        assert np.array_equal(dynamic.lookup(asked, now), static.lookup(asked))
        assert (dynamic.lookup(asked, now - 1) == -1).all()


class TestHistory:
    TABLE = table_of({(7, 100): (1, 2), (7, 130): (2, 2), (9, 50): (0, 0)})

    @pytest.mark.parametrize("codes", [[3, 1], [1, 2], [2, 2]])
    @pytest.mark.parametrize("time", [99, 101, 129])
    def test_is_never_rewritten(self, time, codes):
        with pytest.raises(
            SIDVersionError,
            match=f"timestamps of item 7 must be later than 130, published in .*, got {time}",
        ):
            self.TABLE.append([9, 7], [60, time], [[1, 1], codes])

    @pytest.mark.parametrize("time", [100, 130])
    def test_no_event_gets_other_codes(self, time):
        with pytest.raises(SIDVersionError, match=f"later than 130, .*, got {time}"):
            self.TABLE.append([7], [time], [[0, 0]])

    def test_the_same_events_again_are_no_new_version(self):
        assert self.TABLE.append([7, 9], [100, 50], [[1, 2], [0, 0]]) is self.TABLE
        assert self.TABLE.append([], [], []) is self.TABLE
        grown = self.TABLE.append([7, 7], [100, 160], [[1, 2], [3, 0]])
        assert len(grown) == 4

    def test_a_new_item_may_come_with_any_times(self):
        grown = self.TABLE.append([8, 8], [10, 5], [[1, 1], [2, 1]])
        assert ask(grown, [(8, 5), (8, 12), (8, 4)]) == [(2, 1), (1, 1), (-1, -1)]

    def test_an_item_may_get_several_new_events_at_once(self):
        grown = self.TABLE.append([7, 7], [150, 140], [[1, 1], [2, 1]])
        assert ask(grown, [(7, 139), (7, 140), (7, 150)]) == [(2, 2), (2, 1), (1, 1)]

    def test_versions(self):
        second = self.TABLE.append([7], [131], [[0, 0]])
        third = second.append([7], [132], [[0, 1]])
        assert (self.TABLE.version, second.version, third.version) == (1, 2, 3)
        assert third.ancestors == (self.TABLE.content_hash, second.content_hash)
        assert (third.parent, self.TABLE.parent) == (second.content_hash, None)

    def test_a_snapshot_has_the_version_and_no_ancestors(self):
        second = self.TABLE.append([7], [131], [[0, 0]])
        found = second.snapshot(131)
        assert (found.version, found.ancestors) == (2, ())
        assert found.content_hash != self.TABLE.snapshot(131).content_hash
        assert second.snapshot(130).content_hash == self.TABLE.snapshot(130).content_hash

    def test_time_to_live_goes_on_in_the_next_version(self):
        table = table_of({(7, 100): (1, 2)}, time_to_live=30).append([7], [200], [[0, 0]])
        assert table.time_to_live == 30
        assert ask(table, [(7, 129), (7, 130), (7, 229), (7, 230)]) == [
            *((1, 2), (-1, -1)),
            *((0, 0), (-1, -1)),
        ]


class TestContentHash:
    def test_changes_with_each_part_and_not_with_order_version_or_dtype(self):
        events = {(1, 10): (0, 1), (1, 20): (2, 0), (5, 10): (3, 2)}
        base = table_of(events)
        others = [
            table_of({(2, 10): (0, 1), (1, 20): (2, 0), (5, 10): (3, 2)}),
            table_of({(1, 11): (0, 1), (1, 20): (2, 0), (5, 10): (3, 2)}),
            table_of({(1, 10): (0, 2), (1, 20): (2, 0), (5, 10): (3, 2)}),
            table_of({(1, 10): (0, 1), (1, 20): (2, 0)}),
            table_of(events, time_to_live=9),
            table_of(events, time_to_live=10),
            DynamicSIDTable([1, 1, 5], [10, 20, 10], list(events.values()), spec=SIDSpec((4, 4))),
        ]
        assert len({table.content_hash for table in [base, *others]}) == len(others) + 1
        backwards = table_of(dict(reversed(events.items())), ancestors=("a" * 64,))
        assert backwards.content_hash == base.content_hash
        tensors = DynamicSIDTable(
            torch.tensor([1, 1, 5], dtype=torch.int32),
            np.array([10, 20, 10], dtype=np.uint8),
            torch.tensor([list(row) for row in events.values()]),
            spec=SPEC,
        )
        assert tensors.content_hash == base.content_hash
        assert len(base.content_hash) == 64

    @pytest.mark.parametrize(
        "copied", [None, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
    )
    def test_nothing_can_be_written_or_made_writable(self, copied):
        table = random_table(20, time_to_live=5, ancestors=("a" * 64,))
        twin = table if copied is None else copied(table)
        assert (twin.content_hash, twin.version) == (table.content_hash, 2)
        assert (twin.time_to_live, twin.spec) == (5, SPEC)
        for array in (twin.item_ids, twin.timestamps, twin.codes):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
            with pytest.raises(ValueError, match="cannot set WRITEABLE"):
                array.flags.writeable = True


class TestTensors:
    def test_tensors_give_tensors(self):
        table = random_table(200)
        ids, times = torch.arange(50), torch.full((50,), 500)
        found = table.lookup(ids, times)
        assert (found.dtype, found.device) == (torch.int32, ids.device)
        assert np.array_equal(found.numpy(), table.lookup(ids.numpy(), times.numpy()))

    def test_no_events_and_no_queries(self):
        empty = DynamicSIDTable([], [], [], spec=SPEC)
        assert ask(empty, [(1, 1)]) == [(-1, -1)]
        assert len(empty.snapshot(5)) == 0
        assert random_table(10).lookup(np.arange(0), np.arange(0)).shape == (0, 2)


class TestErrors:
    def test_shapes(self):
        with pytest.raises(ValueError, match=r"one shape \[E\], got \[2\] and \[1\]"):
            DynamicSIDTable([1, 2], [1], [[0, 0], [0, 0]], spec=SPEC)
        with pytest.raises(ValueError, match=r"one shape \[E\], got \[1, 1\] and \[1, 1\]"):
            DynamicSIDTable([[1]], [[1]], [[0, 0]], spec=SPEC)
        with pytest.raises(ValueError, match=r"codes must have shape \[1, 2\], got \[1, 3\]"):
            DynamicSIDTable([1], [1], [[0, 0, 0]], spec=SPEC)
        with pytest.raises(ValueError, match=r"one shape \[Q\], got \[1\] and \[2\]"):
            random_table(5).lookup(np.array([1]), np.array([1, 2]))

    def test_codes(self):
        with pytest.raises(
            ValueError, match=r"codes of level 1 must be within \[0, 3\), got 3 for item 5"
        ):
            DynamicSIDTable([5], [1], [[0, 3]], spec=SPEC)
        with pytest.raises(ValueError, match=r"codes of level 0 must be .*, got -1 for item 6"):
            random_table(5).append([5, 6], [5000, 5000], [[0, 0], [-1, 0]])

    def test_two_events_at_one_time(self):
        with pytest.raises(ValueError, match="distinct together, got item 5 at 8 more than once"):
            DynamicSIDTable([5, 4, 5], [8, 8, 8], [[0, 0], [0, 0], [0, 1]], spec=SPEC)

    def test_kinds(self):
        with pytest.raises(TypeError, match="item_ids must be integers, got float64"):
            DynamicSIDTable([1.0], [1], [[0, 0]], spec=SPEC)
        with pytest.raises(TypeError, match="timestamps must be integers, got float64"):
            DynamicSIDTable([1], [1.5], [[0, 0]], spec=SPEC)
        with pytest.raises(TypeError, match="times must be integers, got float32"):
            random_table(5).lookup(torch.tensor([1]), torch.tensor([1.0]))
        with pytest.raises(TypeError, match="time must be integers, got float64"):
            random_table(5).snapshot(1.5)
        with pytest.raises(ValueError, match="timestamps must be within the int64 range, got 9"):
            DynamicSIDTable([1], np.array([2**63], np.uint64), [[0, 0]], spec=SPEC)

    def test_time_to_live(self):
        with pytest.raises(ValueError, match=r"time_to_live must be within \[1, 2\*\*63\), got 0"):
            random_table(5, time_to_live=0)
        with pytest.raises(TypeError, match=r"time_to_live must be an integer or None, got 1\.5"):
            random_table(5, time_to_live=1.5)

    def test_ancestors(self):
        with pytest.raises(ValueError, match=r"ancestors must be 64 hexadecimal digits each, got"):
            random_table(5, ancestors=("../x",))
