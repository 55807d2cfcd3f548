import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.data import AsOfLog
from tests import reference
from tests.strategies import ANY_IDS

EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(100, 106), st.integers(0, 5)), min_size=0, max_size=25
)
QUERIES = st.lists(st.tuples(st.integers(0, 4), st.integers(98, 109)), min_size=1, max_size=10)


def ints(values):
    return np.array(values, dtype=np.int64)


def columns(rows, width):
    return [ints([row[place] for row in rows]) for place in range(width)]


class TestAgainstReference:
    @given(EVENTS, QUERIES)
    def test_totals(self, events, queries):
        keys, times, values = columns(events, 3)
        log = AsOfLog(keys=keys, timestamps=times)
        at_keys, at_times = columns(queries, 2)
        got = log.totals(values.astype(float), keys=at_keys, timestamps=at_times)
        assert got.tolist() == reference.totals_before(events, queries)

    @given(EVENTS, QUERIES, st.integers(1, 4))
    def test_newest(self, events, queries, count):
        keys, times, _ = columns(events, 3)
        log = AsOfLog(keys=keys, timestamps=times)
        at_keys, at_times = columns(queries, 2)
        got = log.newest(count, keys=at_keys, timestamps=at_times)
        assert got.tolist() == reference.newest_before(events, queries, count)

    @given(st.lists(st.tuples(ANY_IDS, ANY_IDS, ANY_IDS), max_size=12), st.data())
    def test_any_64_bit_keys_and_times(self, events, data):
        near = st.sampled_from([*events, (0, 0, 0)])
        queries = data.draw(st.lists(st.tuples(ANY_IDS | near.map(lambda e: e[0]), ANY_IDS)))
        keys, times, _ = columns(events, 3)
        at_keys, at_times = columns(queries, 2)
        ones = [(key, time, 1) for key, time, _ in events]
        log = AsOfLog(keys=keys, timestamps=times)
        got = log.totals(ints([1] * len(events)), keys=at_keys, timestamps=at_times)
        assert got.tolist() == reference.totals_before(ones, queries)

    @given(EVENTS, QUERIES, st.integers(-1, 9))
    def test_since(self, events, queries, window):
        keys, times, values = columns(events, 3)
        at_keys, at_times = columns(queries, 2)
        log = AsOfLog(keys=keys, timestamps=times)
        both = np.column_stack([values, np.ones_like(values)])
        got = log.totals(both, keys=at_keys, timestamps=at_times, since=at_times - window)
        assert got.dtype == np.int64
        for (key, now), row in zip(queries, got.tolist(), strict=True):
            kept = [event for event in events if event[1] >= now - window]
            expected = reference.totals_before(kept, [(key, now)])
            counted = reference.totals_before([(*event[:2], 1) for event in kept], [(key, now)])
            assert row == expected + counted


class TestNoFuture:
    @given(EVENTS, QUERIES, st.integers(0, 2**31))
    def test_later_events_never_change_an_answer(self, events, queries, seed):
        rng = np.random.default_rng(seed)
        keys, times, values = columns(events, 3)
        for key, now in queries:
            later = times >= now
            other = np.where(later, rng.permutation(values), values)
            other_keys = np.where(later, rng.integers(0, 5, size=len(keys)), keys)
            other_times = np.where(later, times + rng.integers(0, 99, size=len(keys)), times)
            query = {"keys": ints([key]), "timestamps": ints([now])}
            one = AsOfLog(keys=keys, timestamps=times)
            two = AsOfLog(keys=other_keys, timestamps=other_times)
            assert one.totals(values * 1.0, **query) == two.totals(other * 1.0, **query)

    def test_the_same_second_does_not_count(self):
        log = AsOfLog(keys=ints([1, 1]), timestamps=ints([5, 6]))
        assert log.totals(np.ones(2), keys=ints([1]), timestamps=ints([6])).tolist() == [1.0]


class TestErrors:
    def test_shapes(self):
        with pytest.raises(ValueError, match=r"one shape \[E\], got \[2\] and \[3\]"):
            AsOfLog(keys=ints([1, 2]), timestamps=ints([1, 2, 3]))

    def test_values(self):
        log = AsOfLog(keys=ints([1]), timestamps=ints([1]))
        with pytest.raises(ValueError, match=r"values must have shape \[1\], got \[2\]"):
            log.totals(np.ones(2), keys=ints([1]), timestamps=ints([1]))

    def test_count(self):
        log = AsOfLog(keys=ints([1]), timestamps=ints([1]))
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            log.newest(0, keys=ints([1]), timestamps=ints([1]))
