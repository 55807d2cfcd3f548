import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidrank.cache.errors import CacheError
from sidrank.cache.slot_map import NEVER, SlotMap

ROWS, SLOTS = 9, 5


def rows(*numbers):
    return np.array(numbers, dtype=np.int64)


class Against(RuleBasedStateMachine):
    """A map of lists beside it: who is where, who is held, and that nobody held ever leaves."""

    def __init__(self):
        super().__init__()
        self.map = SlotMap(rows=ROWS, slots=SLOTS)
        self.content = {}  # slot -> row
        self.flights = []
        self.announced = 0

    def pinned(self):
        return {row for flight in self.flights for row in flight}

    @rule(batch=st.sets(st.integers(0, ROWS - 1), max_size=4))
    def place(self, batch):
        wanted = rows(*sorted(batch))
        needed = len(self.pinned() | batch)
        if needed > SLOTS:
            before = self.map.slots_of(np.arange(ROWS)).tolist()
            with pytest.raises(CacheError, match=f"at least {needed}, .*, got {SLOTS}"):
                self.map.place(wanted)
            assert self.map.slots_of(np.arange(ROWS)).tolist() == before
            return
        placed = self.map.place(wanted)
        resident = set(self.content.values())
        assert placed.fetched_rows.tolist() == sorted(batch - resident)
        for slot, row in zip(placed.evicted_slots, placed.evicted_rows, strict=True):
            assert self.content.pop(int(slot)) == row
            assert row not in self.pinned() | batch
        for slot, row in zip(placed.fetched_slots, placed.fetched_rows, strict=True):
            assert int(slot) not in self.content
            self.content[int(slot)] = int(row)
        assert [self.content[int(slot)] for slot in placed.slots] == wanted.tolist()
        self.flights.append(sorted(batch))

    @rule(which=st.integers(0, 10))
    def release(self, which):
        if self.flights:
            flight = self.flights.pop(which % len(self.flights))
            self.map.release(self.map.slots_of(rows(*flight)))

    @rule(batch=st.sets(st.integers(0, ROWS - 1), max_size=4))
    def announce(self, batch):
        self.announced += 1
        self.map.announce(rows(*sorted(batch)), self.announced)

    @rule()
    def forget(self):
        self.map.forget_future()

    @rule()
    def drop(self):
        self.map.drop()
        self.content.clear()
        self.flights.clear()

    @invariant()
    def says_where_everything_is(self):
        where = {int(slot): row for row, slot in enumerate(self.map.slots_of(np.arange(ROWS)))}
        where.pop(-1, None)
        assert where == self.content
        occupied = self.map.occupied
        assert self.map.rows_of(occupied).tolist() == [self.content[slot] for slot in occupied]


TestAgainst = Against.TestCase
TestAgainst.settings = settings(max_examples=60, stateful_step_count=30)


def filled(*numbers):
    """Rows placed one after the other, none of them held."""
    slots = SlotMap(rows=100, slots=len(numbers))
    for number in numbers:
        slots.release(slots.place(rows(number)).slots)
    return slots


def next_evicted(slots, *batch):
    return slots.place(rows(*batch)).evicted_rows.tolist()


class TestWhoLeaves:
    def test_the_longest_unused(self):
        slots = filled(5, 3, 8)
        slots.release(slots.place(rows(5)).slots)
        assert next_evicted(slots, 50, 51) == [3, 8]

    def test_of_one_batch_the_lowest_row(self):
        slots = SlotMap(rows=100, slots=3)
        slots.release(slots.place(rows(4, 7, 9)).slots)
        assert next_evicted(slots, 50) == [4]

    def test_nobody_wanted_before_everybody_unwanted(self):
        slots = filled(5, 3, 8)
        slots.announce(rows(5, 3), 1)
        assert next_evicted(slots, 50) == [8]

    def test_the_farthest_of_the_wanted(self):
        slots = filled(5, 3, 8)
        for when, row in enumerate((3, 8, 5, 3)):
            slots.announce(rows(row), when)
        assert next_evicted(slots, 50, 51) == [5, 8]

    def test_the_next_use_that_came_with_the_batch(self):
        slots = SlotMap(rows=100, slots=3)
        slots.release(slots.place(rows(4, 7, 9), rows(NEVER, 30, 20)).slots)
        assert next_evicted(slots, 50, 51) == [4, 7]

    def test_who_was_announced_while_held(self):
        slots = SlotMap(rows=100, slots=2)
        held = slots.place(rows(4, 7)).slots
        slots.announce(rows(4), 1)
        slots.release(held)
        assert next_evicted(slots, 50) == [7]

    def test_announcements_can_be_unsaid(self):
        slots = filled(5, 3, 8)
        slots.announce(rows(5), 1)
        slots.forget_future()
        assert next_evicted(slots, 50) == [5]

    def test_a_use_that_is_passed_over_gives_way_to_the_next(self):
        slots = filled(5, 3)
        slots.announce(rows(5), 1)
        slots.announce(rows(3), 2)
        slots.expect(rows(5, 70), rows(NEVER, NEVER))
        assert next_evicted(slots, 50) == [5]

    def test_a_row_held_twice_stays_until_both_let_go(self):
        slots = SlotMap(rows=100, slots=2)
        first, second = slots.place(rows(4)).slots, slots.place(rows(4)).slots
        slots.release(slots.place(rows(7)).slots)
        slots.release(first)
        slots.release(slots.place(rows(8)).slots)
        assert slots.slots_of(rows(4)).tolist() != [-1]
        slots.release(second)
        assert next_evicted(slots, 20) == [4]


@pytest.mark.parametrize("sizes", [{"rows": 0, "slots": 1}, {"rows": 1, "slots": 0}])
def test_refuses_nothing(sizes):
    with pytest.raises(ValueError, match=r"must be at least 1 and below 2\*\*31, got 0"):
        SlotMap(**sizes)


def test_refuses_more_rows_than_the_map_can_count():
    with pytest.raises(ValueError, match=r"rows must be .* below 2\*\*31, got 2147483648"):
        SlotMap(rows=2**31, slots=1)
