"""From counted hits to curves: of a whole trace, of some of its segments, of the shards of a table.

Source: ours; Waldspurger et al., FAST 2015, for the adjustment of samples.
"""

from collections.abc import Sequence

import numpy as np

from sidrank.cache._reuse import Sums, grid
from sidrank.cache.miss_ratio_curve import MissRatioCurve

__all__ = ["curve_of", "joined", "segment_batches"]


def segment_batches(sums: Sums) -> list[int]:
    """Batches of each segment.

    Args:
        sums: What was counted.

    Returns:
        Their numbers; only the last one may be smaller than the others.
    """
    held = len(sums.accesses)
    return [
        sums.length if place + 1 < held else sums.batches - sums.length * (held - 1)
        for place in range(held)
    ]


def curve_of(
    sums: Sums,
    *,
    rows: int,
    sampling: float,
    start: int = 0,
    stop: int | None = None,
    running: bool = False,
) -> MissRatioCurve:
    """The curve of a run of segments, for a cache that is empty at its start.

    Args:
        sums: What was counted.
        rows: Rows of the table.
        sampling: Share of the rows that was followed.
        start: The first segment.
        stop: The segment after the last one; None for all.
        running: Whether the cache has run since the first segment instead.

    Returns:
        The curve.

    Raises:
        ValueError: If the sample holds none of the rows that occurred.
    """
    window = slice(start, stop)
    accesses = float(sums.accesses[window].sum())
    followed = float(sums.followed[window].sum())
    if accesses and not followed:
        raise ValueError(
            f"sampling must leave some of the rows that occur, got {sampling}, which left none"
        )
    back = slice(None) if running else window
    slots, hits = grid(rows), sums.hits[window, back].sum(axis=(0, 1))
    # The sample may hold too many or too few of the rows that occur most. They hit in any cache,
    # so the difference is theirs: misses are scaled, all accesses are known.
    misses = np.minimum((followed - hits) / sampling, accesses)
    if sampling == 1.0:
        misses = np.maximum(misses, np.rint(misses[-1]))  # a sum of fractions that is a number
    cold = float(misses[-1])
    misses[0] = accesses
    # a cache with a slot for each row that was first accessed since it was empty is never full
    firsts = sums.followed[back].sum() - sums.hits[back, back, -1].sum()
    touched = min(rows, int(np.ceil(np.round(firsts / sampling, 6))))
    there = slots < touched
    return MissRatioCurve(
        rows=rows,
        batches=sum(segment_batches(sums)[window]),
        accesses=accesses,
        cold=cold,
        slots=np.append(slots[there], touched),
        misses=np.append(misses[there], cold if touched else accesses),
    )


def joined(curves: Sequence[MissRatioCurve]) -> MissRatioCurve:
    """The curve of a table whose shards have caches of their own, all with one load factor.

    Args:
        curves: That of each shard, over the same batches.

    Returns:
        The sum of their misses.
    """
    if len(curves) == 1:
        return curves[0]
    rows = sum(curve.rows for curve in curves)
    shares = np.concatenate([curve.slots / curve.rows for curve in curves])
    slots = np.unique(np.rint(shares * rows).astype(np.int64))
    misses = sum(curve.misses_at(slots / rows * curve.rows) for curve in curves)
    return MissRatioCurve(
        rows=rows,
        batches=curves[0].batches,
        accesses=sum(curve.accesses for curve in curves),
        cold=sum(curve.cold for curve in curves),
        slots=slots,
        misses=np.asarray(misses),
    )
