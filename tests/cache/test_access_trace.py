import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from sidrank.cache import _reuse
from sidrank.cache._last_use import sampled
from sidrank.cache.access_trace import AccessTrace
from tests.cache.reference_curves import expected_misses, simulated_misses
from tests.cache.traffic import drifting, zipf

ROWS = 12
BATCHES = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=9), min_size=1, max_size=24)


def traced(batches, rows=ROWS, **options):
    trace = AccessTrace({"t": rows}, **options)
    for batch in batches:
        trace.observe({"t": np.array(batch, dtype=np.int64)})
    return trace


def curve_of(batches, rows=ROWS, **options):
    return traced(batches, rows, **options).curves()["t"]


class TestCurves:
    @given(BATCHES)
    def test_equal_to_the_definition(self, batches):
        curve = curve_of(batches)
        expected = [expected_misses(batches, slots) for slots in range(ROWS + 1)]
        assert np.allclose(curve.misses_at(np.arange(ROWS + 1)), expected, rtol=0, atol=1e-9)
        assert curve.batches == len(batches)
        assert curve.accesses == sum(len(set(batch)) for batch in batches)
        assert curve.cold == len(set(itertools.chain(*batches)))

    def test_equal_to_a_simulated_cache_where_nothing_ties(self):
        batches = [[row] for row in zipf(300, alpha=0.8)(400)]
        misses = curve_of(batches, rows=300).misses_at(np.arange(40))
        assert misses.tolist() == [simulated_misses(batches, slots) for slots in range(40)]

    @pytest.mark.parametrize("traffic", [zipf, drifting])
    def test_close_to_a_simulated_cache(self, traffic):
        rows, draw = 20_000, traffic(20_000)
        batches = [draw(400) for _ in range(120)]
        curve = curve_of(batches, rows=rows)
        for slots in (50, 100, 200, 500, 1000, 4000):
            simulated = simulated_misses([batch.tolist() for batch in batches], slots)
            assert abs(curve.misses_at(slots) - simulated) <= 0.01 * curve.accesses

    def test_repeats_shapes_and_types_count_alike(self):
        once = curve_of([[0, 3], [3, 5]])
        trace = AccessTrace({"t": ROWS})
        trace.observe({"t": torch.tensor([[0, 3, 3], [0, 0, 3]], dtype=torch.int32)})
        trace.observe({"t": np.array([5, 3, 3], dtype=np.uint8)})
        again = trace.curves()["t"]
        assert again.misses.tolist() == once.misses.tolist()
        assert again.accesses == once.accesses == 4

    def test_a_table_that_is_never_read(self):
        curve = curve_of([[], []])
        assert (curve.accesses, curve.cold, curve.miss_rate(0.5)) == (0, 0, 0)

    def test_long_traces_join_what_is_long_past(self, monkeypatch):
        draw = zipf(3000)
        batches = [draw(40) for _ in range(1500)]
        exact = curve_of(batches, rows=3000)
        monkeypatch.setattr(_reuse, "_EPOCHS", 1024)
        joined = curve_of(batches, rows=3000)
        assert joined.cold == exact.cold
        slots = np.arange(3001)
        apart = np.abs(joined.misses_at(slots) - exact.misses_at(slots)).max()
        assert 0 < apart <= 0.002 * exact.accesses

    def test_epochs_are_joined_however_few_there_may_be(self, monkeypatch):
        monkeypatch.setattr(_reuse, "_EPOCHS", 32)
        draw = zipf(300)
        batches = [draw(20).tolist() for _ in range(200)]
        curve = curve_of(batches, rows=300)
        assert curve.cold == len(set(itertools.chain(*batches)))
        expected = np.array([expected_misses(batches, slots) for slots in range(0, 300, 20)])
        found = curve.misses_at(np.arange(0, 300, 20))
        assert np.abs(found - expected).max() <= 0.05 * curve.accesses

    def test_four_bytes_a_row(self):
        reuse = _reuse.Reuse(1_000_000, 1.0)
        draw = zipf(1_000_000)
        for _ in range(20):
            reuse.observe(draw(1000))
        kept = [reuse._last._last, reuse._counts, *reuse._hits]
        assert sum(array.nbytes for array in kept) <= 5_000_000


class TestSampling:
    def test_close_to_all_rows(self):
        rows, draw = 200_000, zipf(200_000)
        batches = [draw(4000) for _ in range(60)]
        whole, part = curve_of(batches, rows=rows), curve_of(batches, rows=rows, sampling=0.05)
        assert part.accesses == whole.accesses
        shares = np.geomspace(0.002, 0.2, 6)
        assert np.abs(part.miss_rate(shares) - whole.miss_rate(shares)).max() <= 0.02

    def test_number_of_accesses_sets_the_sample_right(self):
        # A fifth of the accesses is of 500 rows: a hundredth of them may be 1 row or 10.
        rows, count = 200_000, 24
        rng = np.random.default_rng(0)
        batches = [np.append(np.arange(500), rng.integers(500, rows, 2000)) for _ in range(80)]
        whole = curve_of(batches, rows=rows)
        slots = np.geomspace(5000, 100_000, 6)
        truth = whole.misses_at(slots) / whole.accesses
        right, wrong = [], []
        for number in range(count):  # the same rows under other names
            trace = traced(
                [batch + number * rows for batch in batches], rows=count * rows, sampling=0.01
            )
            misses = trace.curves()["t"].misses_at(slots)
            followed = trace._following["t"].sums().followed.sum() / 0.01
            right.append(np.abs(misses / whole.accesses - truth).max())
            wrong.append(np.abs(misses / followed - truth).max())
            assert trace.curves()["t"].accesses == whole.accesses
        assert np.mean(right) < 0.5 * np.mean(wrong)
        assert np.mean(right) < 0.03 < np.mean(wrong)

    def test_ids_without_end(self):
        last = 2**63 - 2
        trace = AccessTrace({"t": 2**63 - 1}, sampling=0.5)
        for _ in range(3):
            trace.observe({"t": last - np.arange(1000)})
        curve = trace.curves()["t"]
        assert curve.accesses == 3000
        assert abs(curve.cold - 1000) < 150
        assert curve.misses_at(2000) == curve.cold

    def test_new_rows_are_found_again_once_there_are_many(self):
        batches = [np.arange(20_000) + 5000 * step for step in range(6)]
        assert [batch.size for batch in batches] == [20_000] * 6
        curve = curve_of(batches, rows=100_000, sampling=0.999_999)
        assert curve.cold == pytest.approx(45_000, rel=1e-3)

    def test_sample_is_even(self):
        ids = np.arange(1_000_000)
        for share in (0.5, 0.01):
            kept = sampled(ids, share)
            errors = abs(kept.sum() - 1e6 * share) / np.sqrt(1e6 * share * (1 - share))
            assert errors < 4
            assert (kept <= sampled(ids, 2 * share if share < 0.5 else 0.75)).all()

    def test_a_sample_of_nothing(self):
        trace = AccessTrace({"t": 10}, sampling=1e-9)
        trace.observe({"t": np.arange(10)})
        with pytest.raises(ValueError, match="sampling must leave some of the rows that occur"):
            trace.curves()


class TestHalves:
    @given(
        st.integers(2, 40).flatmap(
            lambda n: st.lists(
                st.lists(st.integers(0, ROWS - 1), max_size=6), min_size=n, max_size=n
            )
        )
    )
    def test_each_starts_from_an_empty_cache(self, batches):
        early, late = traced(batches).halves()["t"]
        assert early.batches == late.batches >= len(batches) / 3
        for curve, part in (
            (early, batches[: early.batches]),
            (late, None),
        ):
            if part is None:
                ends = range(late.batches, len(batches) + 1)
                parts = [batches[end - late.batches : end] for end in ends]
            else:
                parts = [part]
            found = curve.misses_at(np.arange(ROWS + 1))
            expected = [[expected_misses(each, s) for s in range(ROWS + 1)] for each in parts]
            assert any(np.allclose(found, each, rtol=0, atol=1e-9) for each in expected)

    def test_joined_epochs_stay_on_their_side(self, monkeypatch):
        monkeypatch.setattr(_reuse, "_EPOCHS", 32)
        draw = zipf(300)
        batches = [draw(3).tolist() for _ in range(256)]
        for length in (64, 128, 256):  # of which nothing is left out
            early, late = traced(batches[:length], rows=300).halves()["t"]
            assert early.cold == len(set(itertools.chain(*batches[: length // 2])))
            assert late.cold == len(set(itertools.chain(*batches[length // 2 : length])))

    def test_of_one_batch(self):
        with pytest.raises(ValueError, match="trace must hold at least 2 batches, got 1"):
            traced([[1]]).halves()

    def test_the_first_predicts_the_second(self):
        draw = zipf(50_000)
        early, late = traced([draw(2000) for _ in range(64)], rows=50_000).halves()["t"]
        assert np.abs(early.miss_rate(SHARES) - late.miss_rate(SHARES)).max() <= 0.03


SHARES = np.geomspace(0.001, 1, 20)


class TestRecent:
    @given(BATCHES)
    def test_equal_to_the_definition(self, batches):
        curve = traced(batches).recent()["t"]
        assert len(batches) / 8 <= curve.batches <= max(len(batches) / 3, 1)
        before = batches[: len(batches) - curve.batches]
        expected = [
            expected_misses(batches, slots) - expected_misses(before, slots)
            for slots in range(ROWS + 1)
        ]
        found = curve.misses_at(np.arange(ROWS + 1))
        assert np.allclose(found, expected, rtol=0, atol=1e-9)

    def test_of_a_sample(self):
        draw = zipf(200_000)
        batches = [draw(4000) for _ in range(64)]
        whole = traced(batches, rows=200_000).recent()["t"]
        part = traced(batches, rows=200_000, sampling=0.1).recent()["t"]
        shares = np.geomspace(0.02, 1, 8)
        assert np.abs(part.miss_rate(shares) - whole.miss_rate(shares)).max() <= 0.02

    def test_predicts_what_comes(self):
        draw = zipf(50_000)
        batches = [draw(2000).tolist() for _ in range(128)]
        curve = traced(batches[:64], rows=50_000).recent()["t"]
        accesses = sum(len(set(batch)) for batch in batches[64:])
        for share in (0.002, 0.01, 0.05, 0.2):
            slots = int(50_000 * share)
            missed = simulated_misses(batches[64:], slots, warm=batches[:64]) / accesses
            assert abs(curve.miss_rate(share) - missed) <= 0.03

    def test_of_nothing(self):
        with pytest.raises(ValueError, match="trace must hold at least 1 batch, got none"):
            AccessTrace({"t": 3}).recent()


class TestDrift:
    def test_traffic_that_flattens(self):
        steep, flat = zipf(20_000, alpha=1.2), zipf(20_000, alpha=0.6)
        batches = [steep(1000) for _ in range(32)] + [flat(1000) for _ in range(32)]
        with pytest.warns(UserWarning, match=r"traffic drifts: .* for t \(0\.\d+\)"):
            assert traced(batches, rows=20_000).drift()["t"] > 0.05

    def test_traffic_that_stays(self):
        draw = zipf(20_000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert traced([draw(1000) for _ in range(64)], rows=20_000).drift()["t"] < 0.02

    def test_chance_is_no_drift(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert traced([[0], [1], [1], [1]]).drift()["t"] > 0.05

    def test_names_only_those_that_drift(self):
        steep, flat = zipf(20_000, alpha=1.2), zipf(20_000, alpha=0.6)
        trace = AccessTrace({"stays": 20_000, "moves": 20_000})
        for step in range(32):
            trace.observe({"stays": steep(1000), "moves": (steep if step < 16 else flat)(1000)})
        with pytest.warns(UserWarning, match=r"for moves \(") as told:
            trace.drift()
        assert "stays" not in str(told[0].message)


class TestBadInput:
    @pytest.mark.parametrize("ids", [[ROWS], [-1], [0, 1, 2**40]])
    def test_ids_beyond_the_table(self, ids):
        trace = AccessTrace({"first": 5, "t": ROWS})
        with pytest.raises(ValueError, match=rf"ids must lie in \[0, {ROWS}\) for table t, got"):
            trace.observe({"first": np.array([1]), "t": np.array(ids)})
        with pytest.raises(ValueError, match="trace must hold at least 1 batch, got none"):
            trace.curves()  # nothing was counted, not for the other table either

    @pytest.mark.parametrize("names", [["t"], ["t", "u", "v"], []])
    def test_other_tables(self, names):
        trace = AccessTrace({"t": 3, "u": 3})
        with pytest.raises(ValueError, match=r"ids must hold the tables \['t', 'u'\], got \["):
            trace.observe({name: np.array([0]) for name in names})

    def test_no_integers(self):
        with pytest.raises(ValueError, match="ids must be integers, got float32 for table t"):
            AccessTrace({"t": 3}).observe({"t": torch.zeros(2)})

    @pytest.mark.parametrize("what", ["curves", "halves", "drift"])
    def test_empty_trace(self, what):
        with pytest.raises(ValueError, match="trace must hold at least 1 batch, got none"):
            getattr(AccessTrace({"t": 3}), what)()

    def test_no_table(self):
        with pytest.raises(ValueError, match="rows must name at least one table, got none"):
            AccessTrace({})

    def test_no_row(self):
        with pytest.raises(ValueError, match="rows must be at least 1 for table t, got 0"):
            AccessTrace({"t": 0})

    @pytest.mark.parametrize("sampling", [0, 1.5, float("nan")])
    def test_sampling(self, sampling):
        with pytest.raises(ValueError, match=r"sampling must lie in \(0, 1\], got"):
            AccessTrace({"t": 3}, sampling=sampling)


def _observe_parts():
    rank, draw = dist.get_rank(), zipf(500)
    trace = AccessTrace({"t": 500, "u": 9})
    for step in range(20):
        ids = draw(60)
        part = ids[: 17 + step] if rank == 0 else ids[17 + step :]
        nothing = np.array([step % 9] if rank and step < 5 else [], dtype=np.int64)
        trace.observe({"t": part, "u": nothing}, group=dist.group.WORLD)
    return {name: curve.misses.tolist() for name, curve in trace.curves().items()}


class TestRanks:
    def test_parts_of_a_batch_are_gathered(self, ranks):
        draw = zipf(500)
        trace = AccessTrace({"t": 500, "u": 9})
        for step in range(20):
            trace.observe({"t": draw(60), "u": np.array([step % 9] if step < 5 else [], int)})
        whole = {name: curve.misses.tolist() for name, curve in trace.curves().items()}
        assert ranks.run(_observe_parts) == [whole, whole]
