import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidrank.cache.errors import CacheError
from sidrank.cache.look_ahead import Window, simulate, simulate_set_associative
from sidrank.cache.slot_map import NEVER
from tests.cache import reference_look_ahead as slow

ROWS = 12

batch_lists = st.lists(
    st.lists(st.integers(0, ROWS - 1), min_size=0, max_size=5, unique=True), max_size=14
)


def arrays(batches):
    return [np.array(sorted(batch), dtype=np.int64) for batch in batches]


def traffic(seed, batches=60, rows=2_000, size=150):
    random = np.random.default_rng(seed)
    return [np.unique(random.zipf(1.1, size) % rows) for _ in range(batches)]


class TestSimulate:
    @given(batch_lists, st.integers(5, 8))
    def test_without_a_window_it_is_lru(self, batches, slots):
        hits = simulate(arrays(batches), rows=ROWS, slots=slots)
        assert hits.tolist() == slow.hits_of_lru([sorted(batch) for batch in batches], slots)

    @given(batch_lists, st.integers(5, 8), st.integers(0, 6))
    def test_gives_up_what_is_wanted_last(self, batches, slots, window):
        hits = simulate(arrays(batches), rows=ROWS, slots=slots, window=window)
        assert hits.tolist() == slow.hits_of_window(batches, slots, window)

    @settings(max_examples=40)
    @given(batch_lists.map(lambda batches: batches[:7]), st.integers(5, 7))
    def test_all_batches_known_is_the_best_there_is(self, batches, slots):
        hits = simulate(arrays(batches), rows=ROWS, slots=slots, window=len(batches))
        assert hits.sum() == slow.most_hits(batches, slots)

    @pytest.mark.parametrize("slots", [130, 200, 400])
    def test_agrees_with_the_loops_on_longer_traffic(self, slots):
        batches = traffic(3)
        plain = [batch.tolist() for batch in batches]
        hits = simulate(batches, rows=2_000, slots=slots)
        assert hits.tolist() == slow.hits_of_lru(plain, slots)
        assert hits.sum() < simulate(batches, rows=2_000, slots=slots, window=5).sum()

    def test_more_is_known_more_is_hit(self):
        batches = traffic(4)
        counts = [simulate(batches, rows=2_000, slots=150, window=w).sum() for w in (0, 2, 8, 60)]
        assert counts == sorted(counts)
        assert counts[0] < counts[1] < counts[2]

    def test_refuses_a_negative_window(self):
        with pytest.raises(ValueError, match="window must be at least 0, got -1"):
            simulate([], rows=3, slots=3, window=-1)

    def test_refuses_a_batch_that_does_not_fit(self):
        with pytest.raises(CacheError, match="slots must be at least 3, the rows in flight, got 2"):
            simulate([np.arange(3)], rows=3, slots=2)


class TestWindow:
    @given(batch_lists, st.integers(1, 5))
    def test_says_when_each_row_is_wanted_next(self, batches, ahead):
        window, announced = Window(rows=ROWS), 0
        for now, batch in enumerate(batches):
            while announced < min(now + ahead, len(batches)):
                assert window.announce(arrays(batches)[announced]) == announced
                announced += 1
            assert len(window) == announced - now
            known = [slow.next_use(batches, row, now, announced) for row in sorted(batch)]
            wanted = [NEVER if when == float("inf") else when for when in known]
            assert window.take().tolist() == wanted

    def test_forgets(self):
        window = Window(rows=5)
        window.announce(np.array([1, 2]))
        window.clear()
        assert len(window) == 0
        window.announce(np.array([2, 3]))
        assert window.take().tolist() == [NEVER, NEVER]

    def test_has_nothing_to_take_at_first(self):
        with pytest.raises(IndexError, match="empty"):
            Window(rows=5).take()


class TestSetAssociative:
    def test_agrees_with_a_dictionary_per_set(self, monkeypatch):
        # sets by the row's remainder in both, since the hash is not the question here
        monkeypatch.setattr("sidrank.cache.look_ahead._mixed", lambda rows: rows.astype(np.uint64))
        batches = traffic(5)
        hits = simulate_set_associative(batches, rows=2_000, slots=160, ways=8)
        plain = [batch.tolist() for batch in batches]
        assert hits.tolist() == slow.hits_of_sets(plain, 160, 8, lambda row: row % 20)

    def test_one_set_is_nearly_lru_and_many_are_close(self):
        batches = traffic(6, batches=150)
        lru = simulate(batches, rows=2_000, slots=320)
        sets = simulate_set_associative(batches, rows=2_000, slots=320)
        lookups = sum(len(batch) for batch in batches)
        assert 0 < abs(int(lru.sum()) - int(sets.sum())) <= 0.02 * lookups

    def test_refuses_less_than_a_set(self):
        with pytest.raises(ValueError, match="slots must hold a set of 32, got 31"):
            simulate_set_associative([], rows=3, slots=31)
