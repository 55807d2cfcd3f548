import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.data.exposure_statistics import ExposureStatistics
from sidrank.layers import ResidualGate
from tests.data.reference_counts import counts_as_of
from tests.strategies import ANY_IDS

NAMES = ["shown", "clicked"]
COUNTS = st.tuples(st.integers(0, 3), st.integers(0, 2))
EVENTS = st.lists(st.tuples(st.integers(-1, 2), st.integers(100, 112), COUNTS), max_size=25)
ROWS = st.lists(st.tuples(st.integers(-1, 3), st.integers(95, 112)), min_size=1, max_size=12)
SETTINGS = st.fixed_dictionaries(
    {"window": st.integers(1, 9), "delay": st.integers(0, 4), "resolution": st.integers(1, 4)}
)


def add(target, events):
    items, times, counts = zip(*events, strict=True) if events else ([], [], [])
    columns = {name: [each[place] for each in counts] for place, name in enumerate(NAMES)}
    target.update(items, times, columns)


def built(events, **settings):
    target = ExposureStatistics(statistics=NAMES, **{"window": 10, **settings})
    add(target, events)
    target.advance(112)
    return target


def asked(target, rows):
    items, times = zip(*rows, strict=True)
    return target.as_of(items, times).tolist()


def expected(events, rows, **settings):
    found = counts_as_of(events, rows, **settings)
    return found if events else [[0, 0]] * len(rows)


class TestAgainstReference:
    @given(EVENTS, ROWS, SETTINGS)
    def test_counts(self, events, rows, settings):
        found = asked(built(events, **settings), rows)
        assert found == expected(events, rows, **settings)

    @given(
        st.lists(st.tuples(ANY_IDS, st.integers(-(2**61), 2**61), COUNTS), min_size=1, max_size=9),
        st.integers(0, 2**59),
        st.integers(1, 2**59),
    )
    def test_any_64_bit_ids_and_far_times(self, events, delay, window):
        target = built(events, delay=delay, window=window)
        target.advance(2**61)
        edges = (0, 1, delay, delay + window, delay + window + 1, delay + 1)
        rows = [(item, min(time + edge, 2**61)) for item, time, _ in events for edge in edges]
        assert asked(target, rows) == counts_as_of(events, rows, window=window, delay=delay)

    def test_a_day_of_many_events(self):
        draws = np.random.default_rng(1)
        events = [
            (int(item), int(time), (1, int(click)))
            for item, time, click in zip(
                draws.zipf(1.5, 3000) % 50,
                draws.integers(0, 800, 3000),
                draws.integers(0, 2, 3000),
                strict=True,
            )
        ]
        rows = [(item, time) for item, time, _ in events[:300]]
        target = ExposureStatistics(statistics=NAMES, window=70, delay=5)
        for start in range(0, 3000, 7):
            add(target, events[start : start + 7])
        assert asked(target, rows) == counts_as_of(events, rows, window=70, delay=5)


class TestWindow:
    @pytest.mark.parametrize(
        ("time", "counted"), [(109, 0), (110, 0), (111, 1), (115, 1), (120, 1), (121, 0)]
    )
    def test_edges(self, time, counted):
        target = ExposureStatistics(statistics=NAMES, window=10, delay=10)
        target.update([5], [100], {"shown": [1], "clicked": [True]})
        target.advance(200)
        assert target.as_of([5], [time]).tolist() == [[counted, counted]]

    @given(EVENTS, ROWS, SETTINGS, st.integers(0, 2**31))
    def test_what_happens_later_changes_nothing(self, events, rows, settings, seed):
        draws = np.random.default_rng(seed)
        before = built(events, **settings)
        for row in rows:
            limit = row[1] - settings["delay"]
            changed = [
                event
                if event[1] < limit
                else (int(draws.integers(-1, 3)), limit + int(draws.integers(9)), (7, 7))
                for event in events
            ]
            changed += [(row[0], limit, (9, 9)), (row[0], row[1], (9, 9))]
            assert asked(built(changed, **settings), [row]) == asked(before, [row])


class TestOrder:
    @given(EVENTS, st.permutations(range(5)), st.integers(0, 2**31), SETTINGS)
    def test_any_shards_in_any_tree_give_the_same_file(
        self, tmp_path_factory, events, order, seed, settings
    ):
        draws = np.random.default_rng(seed)
        shards = [built([], **settings) for _ in range(5)]
        for place in draws.permutation(len(events)):
            add(shards[draws.integers(5)], [events[place]])
        waiting = [shards[place] for place in order]
        while len(waiting) > 1:
            left = waiting.pop(int(draws.integers(len(waiting))))
            left.merge(waiting.pop(int(draws.integers(len(waiting)))))
            waiting.append(left)
        folder = tmp_path_factory.mktemp("merged")
        waiting[0].save(folder / "merged")
        built(events, **settings).save(folder / "whole")
        assert (folder / "merged").read_bytes() == (folder / "whole").read_bytes()

    def test_merging_leaves_the_other_alone(self):
        one, two = built([(1, 100, (1, 0))]), built([(1, 100, (1, 1)), (2, 101, (1, 0))])
        one.merge(two)
        add(one, [(2, 101, (5, 5))])
        assert asked(one, [(1, 102), (2, 102)]) == [[2, 1], [6, 5]]
        assert asked(two, [(1, 102), (2, 102)]) == [[1, 1], [1, 0]]

    def test_the_merged_watermark_is_the_later_one(self):
        early, late = (ExposureStatistics(statistics=NAMES, window=10) for _ in range(2))
        add(early, [(1, 100, (1, 0))])
        add(late, [(1, 105, (1, 0))])
        early.merge(late)
        late.merge(early)
        assert (early.watermark, late.watermark) == (105, 105)

    def test_events_after_a_question_count(self):
        target = built([(1, 100, (1, 0))])
        assert asked(target, [(1, 110)]) == [[1, 0]]
        add(target, [(1, 101, (1, 1))])
        assert asked(target, [(1, 110)]) == [[2, 1]]
        assert len(target) == 2

    def test_the_callers_arrays_may_be_used_again(self):
        items, times, ones = np.array([1]), np.array([100]), np.array([1])
        target = ExposureStatistics(statistics=["shown"], window=10)
        target.update(items, times, {"shown": ones})
        items[:], times[:], ones[:] = 2, 3, 4
        target.advance(105)
        assert target.as_of([1, 2], [105, 105]).tolist() == [[1], [0]]

    def test_other_settings(self):
        with pytest.raises(ValueError, match=r"other must have .*'window': 10.*got .*'window': 9"):
            built([]).merge(built([], window=9))


class TestMemory:
    @given(EVENTS, EVENTS, ROWS, st.integers(98, 110), SETTINGS)
    def test_forgetting_changes_no_answer_that_is_still_given(
        self, events, late, rows, before, settings
    ):
        target = built(events, **settings)
        target.forget(before)
        add(target, late)
        span = settings["window"] + settings["delay"]
        kept = [row for row in rows if row[1] - span >= before] + [(0, before + span)]
        target.advance(before + span)
        assert asked(target, kept) == expected(events + late, kept, **settings)
        with pytest.raises(ValueError, match=f"must be at least {before + span} .events before"):
            asked(target, [(0, before + span - 1)])

    def test_forgetting_frees(self):
        target = built([(1, time, (1, 0)) for time in range(100, 110)])
        target.forget(106)
        target.forget(104)
        assert len(target) == 4
        other = built([(1, 103, (1, 0)), (1, 107, (1, 0))])
        other.merge(target)
        assert len(other) == 4
        for either in (target, other):
            either.advance(200)
            with pytest.raises(ValueError, match="events before 106 are gone"):
                asked(either, [(1, 106 + 10 - 1)])

    def test_buckets_hold_one_entry_an_item(self):
        target = built([(1, time, (1, 0)) for time in range(100, 110)], resolution=10)
        assert len(target) == 1

    def test_many_small_updates_are_added_up_along_the_way(self):
        target = ExposureStatistics(statistics=["shown"], window=10)
        for _ in range(40):
            target.update(np.zeros(4096, np.int64), np.zeros(4096, np.int64), {"shown": [1] * 4096})
        assert sum(len(part.items) for part in target._pending) <= 1 << 16
        target.advance(1)
        assert target.as_of([0], [1]).tolist() == [[40 * 4096]]


class TestFile:
    @given(events=EVENTS, rows=ROWS, settings=SETTINGS)
    def test_goes_on_where_it_was(self, tmp_path_factory, events, rows, settings):
        path = tmp_path_factory.mktemp("file") / "counts.safetensors"
        target = built(events, **settings)
        target.forget(80)
        target.save(path)
        again = ExposureStatistics.load(path)
        assert asked(again, rows) == asked(target, rows)
        assert again.watermark == target.watermark
        add(again, [(0, 111, (1, 1))])
        add(target, [(0, 111, (1, 1))])
        assert asked(again, [(0, 112)]) == asked(target, [(0, 112)])
        with pytest.raises(ValueError, match="events before 80 are gone"):
            asked(again, [(0, 1)])

    def test_before_the_first_event(self, tmp_path):
        ExposureStatistics(statistics=NAMES, window=3, staleness=2).save(tmp_path / "file")
        again = ExposureStatistics.load(tmp_path / "file")
        assert (again.watermark, again.staleness, again.statistics) == (None, 2, NAMES)

    def test_broken(self, tmp_path):
        path = tmp_path / "counts"
        built([(1, 100, (1, 0))]).save(path)
        for content in (b"", path.read_bytes()[:-3], b"\x80\x04K\x01.", b"{}"):
            path.write_bytes(content)
            with pytest.raises(ValueError, match="counts must hold exposure statistics, got a"):
                ExposureStatistics.load(path)
        assert [file.name for file in tmp_path.iterdir()] == ["counts"]

    def test_a_missing_file_is_the_systems_error(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            ExposureStatistics.load(tmp_path / "none")


class TestRows:
    def test_written_into_the_rows(self):
        rows = {
            "label": np.array([1, 0]),
            "item": np.array([1, 2]),
            "timestamp": np.array([105, 9]),
        }
        joined = built([(1, 100, (2, 1)), (2, 101, (1, 1))]).write_into(rows)
        assert list(joined) == ["label", "item", "timestamp", "shown", "clicked"]
        assert joined["shown"].tolist() == [2, 0]
        assert joined["clicked"].tolist() == [1, 0]
        assert list(rows) == ["label", "item", "timestamp"]

    def test_are_what_a_gate_reads(self):
        gate = ResidualGate(statistics=NAMES)
        counts = built([(1, 100, (2, 1))]).as_of([1, 2], [110, 110])
        weight = gate.weight(torch.from_numpy(counts))
        assert weight.shape == (2, 1)
        assert weight[0] != weight[1]

    def test_a_column_is_not_overwritten(self):
        rows = {"item": np.array([1]), "timestamp": np.array([100]), "clicked": np.array([9])}
        with pytest.raises(ValueError, match="columns must not hold 'clicked' yet"):
            built([]).write_into(rows)

    def test_a_missing_column(self):
        with pytest.raises(ValueError, match=r"columns must hold 'time', got \['item'\]"):
            built([]).write_into({"item": np.array([1])}, timestamps="time")

    def test_no_rows(self):
        assert ExposureStatistics(statistics=NAMES, window=1).as_of([], []).shape == (0, 2)
