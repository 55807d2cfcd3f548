"""Made-up traffic for the cache benchmarks, and caches that really run on it.

The simulated cache is a queue of rows in order of last use, popped from its old end while it holds
too many: nothing of it is shared with the curves it judges.

Shapes: ``[n]`` ids of a batch.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Source = Callable[[int], Ids]


def zipf(rows: int, alpha: float, seed: int) -> Source:
    """The k-th most frequent row with probability ~ 1 / k ** alpha; which one that is, is drawn."""
    rng = np.random.default_rng(seed)
    mass = np.cumsum(np.arange(1, rows + 1) ** -alpha)
    order = rng.permutation(rows)
    return lambda count: order[np.searchsorted(mass, rng.random(count) * mass[-1])]


def drifting(rows: int, alpha: float, seed: int, *, share: float, window: int, step: int) -> Source:
    """A share of the traffic is of a window of recent rows that moves on with every batch."""
    rng, old = np.random.default_rng(seed), zipf(rows, alpha, seed + 1)
    recent = rng.permutation(rows)
    fresh = np.cumsum(np.arange(1, window + 1) ** -0.8)
    place = 0

    def draw(count: int) -> Ids:
        nonlocal place
        place += step
        age = np.searchsorted(fresh, rng.random(count) * fresh[-1])
        return np.where(rng.random(count) < share, recent[(place - age) % rows], old(count))

    return draw


def batches(source: Source, count: int, lookups: int) -> list[Ids]:
    """Distinct rows of each batch."""
    return [np.unique(source(lookups)) for _ in range(count)]


class LRU:
    """A cache of so many rows, least recently used out; rows of one batch in random order."""

    def __init__(self, rows: int, slots: int) -> None:
        self._used = np.full(rows, -1, dtype=np.int64)  # ticket of the last use
        self._out = np.full(rows, True)
        self._queue = np.empty(0, dtype=np.int64)
        self._tickets = np.empty(0, dtype=np.int64)
        self._next, self._held, self._slots = 0, 0, slots
        self._rng = np.random.default_rng(0)

    def run(self, traffic: Iterable[Ids]) -> int:
        """Misses of some batches."""
        return sum(self._batch(ids) for ids in traffic)

    def _batch(self, ids: Ids) -> int:
        ids = self._rng.permutation(ids)
        missed = int(self._out[ids].sum())
        self._out[ids] = False
        self._held += missed
        tickets = np.arange(self._next, self._next + len(ids))
        self._next += len(ids)
        self._used[ids] = tickets
        self._queue = np.append(self._queue, ids)
        self._tickets = np.append(self._tickets, tickets)
        excess = self._held - self._slots
        if excess > 0:
            last_use = np.flatnonzero(self._used[self._queue] == self._tickets)
            end = last_use[excess - 1] + 1
            self._out[self._queue[last_use[:excess]]] = True
            self._held -= excess
            self._queue, self._tickets = self._queue[end:], self._tickets[end:]
        return missed
