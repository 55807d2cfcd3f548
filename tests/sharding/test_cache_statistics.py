"""What the planner hears of traffic: whole, monotone, with first accesses counted."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.distributed.planner.proposers import EmbeddingOffloadScaleupProposer
from torchrec.distributed.planner.shard_estimators import EmbeddingOffloadStats

from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.sharding.cache_statistics import TraceCacheStatistics, offload_stats
from tests.sharding import traffic

CURVES = st.builds(
    traffic.curve,
    st.integers(1, 5000),
    skew=st.floats(0.1, 2.0),
    cold=st.floats(0.0, 1.0),
    lookups=st.floats(1.0, 1e4),
)


class TestMissRate:
    @given(CURVES, st.lists(st.floats(0, 1), min_size=2, max_size=9))
    def test_falls_from_all_to_nothing(self, curve, shares):
        statistics = TraceCacheStatistics(curve)
        rates = [statistics.expected_miss_rate(share) for share in [0.0, *sorted(shares), 1.0]]
        assert rates[0] == 1.0
        assert rates[-1] == 0.0
        assert all(one >= other for one, other in itertools.pairwise(rates))
        inner = statistics.expected_miss_rate(np.nextafter(1, 0))
        assert inner >= curve.cold / curve.accesses - 1e-9  # first accesses miss short of all rows

    def test_outside_is_refused(self):
        statistics = TraceCacheStatistics(traffic.curve(100))
        with pytest.raises(ValueError, match=r"load_factor must lie in \[0, 1\], got 1\.5"):
            statistics.expected_miss_rate(1.5)

    def test_counts_first_accesses_of_a_real_trace(self):
        """Eight tables, a cache of a twentieth: against a count of an LRU cache's misses."""
        rng = np.random.default_rng(0)
        for table in range(8):
            rows, skew = 2000, 1.05 + 0.1 * table
            batches = [np.unique(np.minimum(rng.zipf(skew, 300), rows) - 1) for _ in range(60)]
            trace = AccessTrace({"t": rows})
            for batch in batches:
                trace.observe({"t": batch})
            statistics = TraceCacheStatistics(trace.curves()["t"])
            missed, total = least_recently_used(batches, slots=rows // 20, seed=table)
            assert statistics.expected_miss_rate(0.05) == pytest.approx(missed / total, abs=0.02)
            assert statistics.expected_lookups == pytest.approx(total / len(batches))


def least_recently_used(batches, *, slots, seed):
    """Misses of a cache that whole batches go through: rows of a batch leave by chance."""
    rng = np.random.default_rng(seed)
    last, missed, total = {}, 0, 0
    for number, batch in enumerate(batches):
        total += len(batch)
        missed += sum(row not in last for row in batch.tolist())
        for row in batch.tolist():
            last[row] = (number, rng.random())
        for row in sorted(last, key=lambda each: last[each])[: max(0, len(last) - slots)]:
            del last[row]
    return missed, total


class TestCacheability:
    @given(CURVES)
    def test_is_the_area_under_the_curve(self, curve):
        grid = np.linspace(0, 1, 20001)
        area = np.trapezoid(curve.miss_rate(grid), grid)
        found = TraceCacheStatistics(curve).cacheability
        assert 0 <= found <= 1
        assert found == pytest.approx(area, abs=2e-3)

    def test_ranks_tables(self):
        easy, hard = traffic.curve(10_000, skew=0.1), traffic.curve(10_000, skew=1.5)
        assert TraceCacheStatistics(easy).cacheability < TraceCacheStatistics(hard).cacheability


class TestOffloadStats:
    @given(CURVES, st.floats(0.01, 0.98))
    def test_say_the_same_to_within_a_bin(self, curve, share):
        bins = min(curve.rows, 500)
        theirs = offload_stats(curve, bins=bins).expected_miss_rate(share)
        ours = TraceCacheStatistics(curve)
        near = 2 / bins + 1 / curve.rows
        low = ours.expected_miss_rate(min(1 - 1e-9, share + near))
        high = ours.expected_miss_rate(max(0, share - near))
        last = share + near >= 1 - 1 / bins  # the last bin holds first accesses
        assert (0 if last else low) - 1e-6 <= theirs <= high + 1e-6

    def test_without_first_accesses_are_far_off(self):
        """Why the last bin matters: TorchRec scales the histogram to one."""
        curve = traffic.curve(10_000, cold=0.9, lookups=1000)
        edges = np.linspace(0, curve.rows, 1001)
        hits = -np.diff(curve.misses_at(edges))
        without = EmbeddingOffloadStats(0.5, 1000, torch.from_numpy(hits), curve.rows)
        truth = curve.miss_rate(0.5)
        assert offload_stats(curve).expected_miss_rate(0.5) == pytest.approx(truth, abs=0.01)
        assert abs(without.expected_miss_rate(0.5) - truth) > 0.3

    def test_serve_the_proposers_arithmetic(self):
        found = offload_stats(traffic.curve(1000), bins=10)
        assert found.expected_lookups == 1000
        assert EmbeddingOffloadScaleupProposer is not None
        assert 0 < found.cacheability < 1

    def test_bins_out_of_range(self):
        with pytest.raises(ValueError, match=r"bins must lie in \[1, rows = 100\], got 101"):
            offload_stats(traffic.curve(100), bins=101)


def test_a_copy_is_the_same():
    """The planner copies options by the thousand."""
    statistics = TraceCacheStatistics(traffic.curve(100))
    assert copy.deepcopy({"a": statistics})["a"] is statistics


def test_a_table_that_nobody_reads():
    curve = MissRatioCurve(
        rows=10, batches=3, accesses=0.0, cold=0.0, slots=np.array([1]), misses=np.array([0.0])
    )
    statistics = TraceCacheStatistics(curve)
    assert (statistics.expected_lookups, statistics.cacheability) == (0.0, 0.0)
    assert statistics.expected_miss_rate(0.5) == 0.0
