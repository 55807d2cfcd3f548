"""A miss-ratio curve as TorchRec's planner wants to hear of it.

TorchRec knows what to do with cache statistics: its performance estimate charges a cached table
for the rows it will fetch, and its off-load proposer shares HBM out by them. It has no way of
coming by them. This is that way: traffic is observed (``AccessTrace``), becomes a curve
(``MissRatioCurve``), and this class answers the planner's three questions from it.

First accesses of a row miss at any size short of the whole table, and they count. A histogram
that leaves them out makes a short trace look eight times better than it was.

Source: ours; TorchRec 1.8, ``CacheStatistics`` and ``EmbeddingOffloadStats``.
Differs from the source: TorchRec's own ``EmbeddingOffloadStats`` scales its histogram to a sum of
one. ``offload_stats`` therefore puts the cold misses into the last bin, where only a cache as
large as the table reaches them.
"""

from typing import Self

import numpy as np
import torch
from torchrec.distributed.planner.shard_estimators import EmbeddingOffloadStats
from torchrec.distributed.types import CacheStatistics

from sidrank.cache.miss_ratio_curve import MissRatioCurve

__all__ = ["TraceCacheStatistics", "offload_stats"]

_STEPS = 1024


class TraceCacheStatistics(CacheStatistics):
    """The planner's questions, answered from observed traffic.

    Args:
        curve: What a least-recently-used cache of each size would have missed.

    Example:
        >>> curve = MissRatioCurve(rows=100, batches=2, accesses=80.0, cold=20.0,
        ...     slots=np.array([10, 50]), misses=np.array([60.0, 20.0]))
        >>> statistics = TraceCacheStatistics(curve)
        >>> statistics.expected_lookups
        40.0
        >>> [statistics.expected_miss_rate(share) for share in (0.0, 0.1, 0.5, 1.0)]
        [1.0, 0.75, 0.25, 0.0]
    """

    def __init__(self, curve: MissRatioCurve) -> None:
        self.curve = curve
        self._cacheability: float | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: the planner copies every option of every table, and a curve never changes."""
        return self

    @property
    def expected_lookups(self) -> float:
        """Distinct rows of a global batch, on average."""
        return self.curve.unique_per_batch

    def expected_miss_rate(self, clf: float) -> float:
        """Share of the distinct rows of a batch that a cache has to fetch.

        Args:
            clf: Load factor, slots as a share of the table's rows, in [0, 1].

        Returns:
            1 at 0, never growing, and 0 at 1, where nothing is fetched because all is there.

        Raises:
            ValueError: If the load factor is outside [0, 1].
        """
        if clf == 0:
            return 1.0
        if clf == 1:
            return 0.0
        return self.curve.miss_rate(float(clf), cold=True)

    @property
    def cacheability(self) -> float:
        """Area under the miss rate over load factors; 0 is easy to cache, 1 hopeless."""
        if self._cacheability is None:
            rates = self.curve.miss_rate(np.linspace(0, 1, _STEPS + 1), cold=True)
            self._cacheability = float((rates[1:] + rates[:-1]).mean() / 2)
        return self._cacheability


def offload_stats(curve: MissRatioCurve, *, bins: int = 1000) -> EmbeddingOffloadStats:
    """The same as TorchRec's own histogram, for code that insists on it.

    Args:
        curve: The curve of one table.
        bins: Bins of the histogram, from 1 to the rows of the table.

    Returns:
        Statistics whose ``expected_miss_rate`` counts cold misses, to within a bin.

    Raises:
        ValueError: If ``bins`` is out of range.
    """
    if not 1 <= bins <= curve.rows:
        raise ValueError(f"bins must lie in [1, rows = {curve.rows}], got {bins}")
    edges = np.linspace(0, curve.rows, bins + 1)
    misses = curve.misses_at(edges)
    hits = misses[:-1] - misses[1:]
    hits[-1] += curve.cold
    statistics = TraceCacheStatistics(curve)
    return EmbeddingOffloadStats(
        cacheability=statistics.cacheability,
        expected_lookups=round(statistics.expected_lookups),
        mrc_hist_counts=torch.from_numpy(hits),
        height=curve.rows,
    )
