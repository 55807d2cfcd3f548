"""Batches that are known ahead: when each row is wanted next, and what that is worth.

A training job knows its next batches: they wait in the loader. `Window` keeps the rows of those
batches and answers, for the batch whose turn it is, when each of its rows is wanted again; a
`SlotMap` that is told so gives up the row whose next use is farthest. `simulate` runs the same map
without any data: hits of LRU (no batch ahead), of a window, and of the best possible policy (all
batches ahead). `simulate_set_associative` is the cache of FBGEMM on a GPU: sets of 32 slots, LRU in
each. Both count distinct rows per batch, which is what has to be fetched.

Source: L. A. Belady, IBM Systems Journal 5(2), 1966; BagPipe, arXiv 2202.12429.
Differs from the sources: all rows of a batch must be in the cache at once, so a row cannot bypass
it and Belady's choice is made among the rows that the batch does not need.

Shapes: ``n`` distinct rows of a batch, ``T`` batches.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sidrank.cache.slot_map import NEVER, SlotMap

__all__ = ["Window", "simulate", "simulate_set_associative"]

Integers = npt.NDArray[np.int64]


class Window:
    """The batches ahead, of one table.

    Four bytes for each row of the table say where in a ring of announcements its newest one is; a
    new announcement of the row writes its time there.

    Args:
        rows: How many rows the table has.

    Example:
        >>> window = Window(rows=10)
        >>> [window.announce(np.array(rows)) for rows in ([1, 2], [2, 3], [1, 2])]
        [0, 1, 2]
        >>> window.take().tolist()  # 1 is wanted again by batch 2, and 2 by batch 1
        [2, 1]
    """

    def __init__(self, *, rows: int) -> None:
        self._place_of = np.full(rows, -1, dtype=np.int32)
        self._ring_rows = np.zeros(1, dtype=np.int64)
        self._ring_next = np.zeros(1, dtype=np.int64)
        self._sizes: deque[int] = deque()
        self._begin = 0
        self._end = 0
        self._announced = 0

    def __len__(self) -> int:
        """How many batches are ahead."""
        return len(self._sizes)

    def announce(self, rows: Integers) -> int:
        """Add a batch behind the others.

        Args:
            rows: Its distinct rows; ``[n]``.

        Returns:
            Its number, counted from 0.
        """
        self._reserve(len(rows))
        when, size = self._announced, len(self._ring_rows)
        before = self._place_of[rows]
        known = before >= 0
        before = before[known]
        # A place may have been given to another row since, or have left the window.
        ahead = (before - self._begin) % size < self._end - self._begin
        ahead &= self._ring_rows[before] == rows[known]
        self._ring_next[before[ahead]] = when
        places = np.arange(self._end, self._end + len(rows)) % size
        self._ring_rows[places] = rows
        self._ring_next[places] = NEVER
        self._place_of[rows] = places
        self._end += len(rows)
        self._sizes.append(len(rows))
        self._announced += 1
        return when

    def take(self) -> Integers:
        """Remove the oldest batch.

        Returns:
            For each of its rows, as they were announced, the number of the next batch that wants
            it, or `NEVER`.

        Raises:
            IndexError: If no batch is ahead.
        """
        count = self._sizes.popleft()
        places = np.arange(self._begin, self._begin + count) % len(self._ring_rows)
        self._begin += count
        return self._ring_next[places]

    def clear(self) -> None:
        """Forget all batches."""
        self._sizes.clear()
        self._begin = self._end

    def _reserve(self, more: int) -> None:
        used = self._end - self._begin
        if used + more <= len(self._ring_rows):
            return
        old = np.arange(self._begin, self._end) % len(self._ring_rows)
        rows, wanted = self._ring_rows[old], self._ring_next[old]
        size = 1 << (used + more - 1).bit_length() + 1
        self._ring_rows = np.full(size, -1, dtype=np.int64)
        self._ring_next = np.full(size, NEVER, dtype=np.int64)
        self._ring_rows[:used], self._ring_next[:used] = rows, wanted
        self._place_of[rows] = np.arange(used)  # the newest of a row comes last and wins
        self._begin, self._end = 0, used


def simulate(
    batches: Sequence[Integers], *, rows: int, slots: int, window: int = 0
) -> npt.NDArray[np.int64]:
    """Count the rows of each batch that a cache would already hold.

    Args:
        batches: The distinct rows of each, ascending; ``T`` of them.
        rows: How many rows the table has.
        slots: How many fit into the cache.
        window: How many batches ahead are known: 0 is LRU, ``len(batches)`` the best policy.

    Returns:
        Hits of each batch; ``[T]``.

    Raises:
        ValueError: If ``window`` is below 0.
        CacheError: If a batch does not fit into the cache.

    Example:
        >>> batches = [np.array(rows) for rows in ([0, 1], [2, 3], [0, 4], [1, 2])]
        >>> simulate(batches, rows=5, slots=4).tolist()
        [0, 0, 1, 1]
        >>> simulate(batches, rows=5, slots=4, window=2).tolist()
        [0, 0, 1, 2]
    """
    if window < 0:
        raise ValueError(f"window must be at least 0, got {window}")
    cache = SlotMap(rows=rows, slots=slots)
    ahead = Window(rows=rows)
    hits = np.zeros(len(batches), dtype=np.int64)
    coming = 0
    for t, batch in enumerate(batches):
        while window and coming < min(t + 1 + window, len(batches)):
            cache.announce(batches[coming], ahead.announce(batches[coming]))
            coming += 1
        placed = cache.place(batch, ahead.take() if window else None)
        cache.release(placed.slots)
        hits[t] = len(batch) - len(placed.fetched_rows)
    return hits


def simulate_set_associative(
    batches: Sequence[Integers], *, rows: int, slots: int, ways: int = 32
) -> npt.NDArray[np.int64]:
    """Count the rows of each batch that a cache of sets would already hold, LRU in each set.

    A row whose set is full of rows of the same batch is not kept: FBGEMM reads it from the host.

    Args:
        batches: The distinct rows of each; ``T`` of them.
        rows: How many rows the table has.
        slots: How many fit into the cache, rounded down to whole sets.
        ways: How many slots a set has.

    Returns:
        Hits of each batch; ``[T]``.

    Raises:
        ValueError: If ``slots`` holds no whole set.

    Example:
        >>> batches = [np.array([0, 1]), np.array([1, 2])]
        >>> simulate_set_associative(batches, rows=3, slots=32).tolist()
        [0, 1]
    """
    if not 1 <= ways <= slots:
        raise ValueError(f"slots must hold a set of {ways}, got {slots}")
    sets = slots // ways
    held = np.full(rows, -1, dtype=np.int64)  # slot of each row
    row_in = np.full(sets * ways, -1, dtype=np.int64)
    used = np.full((sets, ways), -1, dtype=np.int64)
    hits = np.zeros(len(batches), dtype=np.int64)
    for now, batch in enumerate(batches):
        at = held[batch]
        here = at >= 0
        used.reshape(-1)[at[here]] = now
        hits[now] = np.count_nonzero(here)
        missing = batch[~here]
        place = _mixed(missing) % np.uint64(sets)
        by_set = np.argsort(place, kind="stable")
        missing, place = missing[by_set], place[by_set].astype(np.int64)
        touched, start, count = np.unique(place, return_index=True, return_counts=True)
        nth = np.arange(len(missing)) - np.repeat(start, count)  # of the missing rows of its set
        fits = nth < ways
        missing, place, nth = missing[fits], place[fits], nth[fits]
        oldest = np.argsort(used[touched], axis=1, kind="stable")
        way = oldest[np.searchsorted(touched, place), nth]
        older = used[place, way] < now
        slot = (place * ways + way)[older]
        gone = row_in[slot]
        held[gone[gone >= 0]] = -1
        row_in[slot] = missing[older]
        held[missing[older]] = slot
        used.reshape(-1)[slot] = now
    return hits


def _mixed(rows: Integers) -> npt.NDArray[np.uint64]:
    """The finaliser of MurmurHash3, which spreads neighbouring rows over the sets."""
    x = rows.astype(np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x ^= x >> np.uint64(33)
        x *= np.uint64(factor)
    return x ^ (x >> np.uint64(33))
