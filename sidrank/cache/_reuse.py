"""Stack distances of a table's accesses, added up as they come.

The distance of an access is the number of rows that were used since its row was used last; a
cache with more slots than that still holds the row. With the number of rows whose last use was in
each batch, the distances of a whole batch are one cumulative sum.

Traffic is cut into segments of equal length, at most eight; when there are more, neighbours are
joined. Which segment an access reaches back to is kept, so that any run of segments can be read as
if the cache had been empty at its start: that is how halves of a trace are compared.

Source: ours; Mattson et al. 1970 for the distance, Waldspurger et al., "Efficient MRC construction
with SHARDS", FAST 2015, section 3 for sampling and section 4.1's adjustment.
Differs from the source: a whole batch at once, without a tree; rows last used in one batch are in
random order. Batches long past are told apart only as far as a hundredth of a distance.

Shapes: ``[P]`` numbers of slots, ``[E]`` epochs (batches, old ones joined), ``[S]`` segments.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidrank.cache._last_use import EveryRow, LastUse, SampledRows, distinct, sampled

__all__ = ["SEGMENTS", "Reuse", "Sums", "grid"]

SEGMENTS = 8
_GROWTH = 0.02  # of a point of the curve over the point before
_EPOCHS = 1 << 13
_TIE = 0.01  # of a distance: epochs closer than that are joined


class Sums(NamedTuple):
    """What was counted; all that a file keeps."""

    batches: int
    """Batches observed."""
    length: int
    """Batches of a segment; the last one may have fewer."""
    accesses: NDArray[np.float64]
    """Distinct rows of each batch, summed, shape ``[S]``."""
    followed: NDArray[np.float64]
    """Those of them that are in the sample, shape ``[S]``."""
    hits: NDArray[np.float64]
    """Accesses in the sample that hit, by segment of the access, segment of the last use and
    slots, shape ``[S, S, P]``; zero where the last use would come later."""


def grid(rows: int) -> NDArray[np.int64]:
    """Numbers of slots for which hits are counted.

    Args:
        rows: Rows of the table.

    Returns:
        0, 1, 2, ... at first, then each 2% above the one before, up to ``rows``; ``[P]``.
    """
    points = [0]
    while points[-1] < rows:
        points.append(min(rows, points[-1] + 1 + int(points[-1] * _GROWTH)))
    return np.array(points, dtype=np.int64)


class Reuse:
    """Follows one table's rows through the batches.

    Args:
        rows: Rows of the table.
        sampling: Share of rows to follow.
    """

    def __init__(self, rows: int, sampling: float) -> None:
        self.rows = rows
        self.sampling = sampling
        self._last: LastUse = EveryRow(rows) if sampling == 1.0 else SampledRows()
        self._slots = grid(rows) * sampling  # as the sample sees them
        self._epoch = 0
        self._most = _EPOCHS
        self._counts = np.zeros(_EPOCHS + 1, dtype=np.int64)  # rows by epoch of their last use
        self._starts: list[int] = []  # first epoch of each segment
        self._batches, self._length = 0, 1
        self._accesses = np.zeros(SEGMENTS)
        self._followed = np.zeros(SEGMENTS)
        self._hits: list[NDArray[np.float64]] = []  # [segment + 1, P] of each segment

    def observe(self, ids: NDArray[np.int64]) -> None:
        """Count a batch.

        Args:
            ids: Its rows, each as often as it occurs; checked, ``[n]``.
        """
        segment = self._begin()
        if self.sampling < 1.0:
            ids = distinct(ids)
            self._accesses[segment] += len(ids)
            ids = ids[sampled(ids, self.sampling)]
        previous = self._last.touch(ids, self._epoch)
        if self.sampling == 1.0:
            self._accesses[segment] += len(previous)
        self._followed[segment] += len(previous)

        now = self._epoch
        used = np.bincount(previous, minlength=now)
        # newest epoch first: rows used since, and hits of a cache with so many slots
        since = np.zeros(now)
        np.cumsum(self._counts[now - 1 : 0 : -1], out=since[1:])
        hit = np.zeros(now)
        np.cumsum(used[:0:-1], out=hit[1:])
        at = np.interp(self._slots, since, hit)
        # hit[k] counts epochs now - 1 ... now - k
        bounds = hit[now - np.array([*self._starts, now])]
        low, high = bounds[1:, None], bounds[:-1, None]
        self._hits[segment] += np.clip(at, low, high) - low
        self._counts[:now] -= used
        self._counts[0] = 0
        self._counts[now] = len(previous)

    def sums(self) -> Sums:
        """What was counted so far.

        Returns:
            Copies of the sums.
        """
        held = len(self._starts)
        hits = np.zeros((held, held, len(self._slots)))
        for segment, found in enumerate(self._hits):
            hits[segment, : segment + 1] = found
        return Sums(
            self._batches,
            self._length,
            self._accesses[:held].copy(),
            self._followed[:held].copy(),
            hits,
        )

    def _begin(self) -> int:
        """Open an epoch, and a segment where one is full; return the segment."""
        if self._epoch == self._most:
            self._join_epochs()
        if self._batches == SEGMENTS * self._length:
            self._join_segments()
        self._epoch += 1
        segment = self._batches // self._length
        if segment == len(self._starts):
            self._starts.append(self._epoch)
            self._hits.append(np.zeros((segment + 1, len(self._slots))))
        self._batches += 1
        return segment

    def _join_segments(self) -> None:
        half = SEGMENTS // 2
        joined: list[NDArray[np.float64]] = []
        for early, late in zip(self._hits[::2], self._hits[1::2], strict=True):
            late[:-1] += early
            joined.append(late.reshape(len(late) // 2, 2, -1).sum(axis=1))
        self._hits = joined
        for name in ("_accesses", "_followed"):
            sums = np.zeros(SEGMENTS)
            sums[:half] = getattr(self, name).reshape(half, 2).sum(axis=1)
            setattr(self, name, sums)
        self._starts = self._starts[::2]
        self._length *= 2

    def _join_epochs(self) -> None:
        """Give old epochs one number where a distance hardly tells them apart."""
        tie, group = _TIE, self._groups(_TIE)
        while group[1] > self._most // 2:
            tie *= 2
            group = self._groups(tie)
        groups = int(group[1])  # of the oldest epoch: they are counted from the newest
        epochs = np.where(group > 0, groups + 1 - group, 0).astype(np.int32)
        self._last.renumber(epochs)
        joined = np.bincount(epochs, weights=self._counts, minlength=self._most + 1)
        self._counts = joined.astype(np.int64)
        self._starts = [int(epochs[start]) for start in self._starts]
        self._epoch = groups

    def _groups(self, tie: float) -> NDArray[np.int32]:
        """Number of each epoch's group: of neighbours whose rows are few beside the rows since."""
        starts, counts = set(self._starts), self._counts.tolist()
        group = np.zeros(self._most + 1, dtype=np.int32)
        groups, since, inside = 0, 0, 0
        for epoch in range(self._most, 0, -1):
            if groups == 0 or epoch + 1 in starts or inside + counts[epoch] > tie * since:
                groups, since, inside = groups + 1, since + inside, 0
            inside += counts[epoch]
            group[epoch] = groups
        return group
