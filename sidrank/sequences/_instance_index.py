"""Where the instances of each user lie, in the order of time, for many requests at once.

Keys are kept in a few sorted runs, each much longer than the next (a log-structured merge): new
instances make a short run, and runs of like length are merged, so that putting costs O(log n) an
instance over time and a store that is filled at once has one run. A read is a binary search in
each run for all requests together; only users with instances in more than one run pay for a
merge.

Shapes: ``n`` instances, ``Q`` queries, ``T`` newest instances.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["InstanceIndex"]

Ints = NDArray[np.int64]
Truths = NDArray[np.bool_]
_RATIO = 4  # a run is merged with the one before unless that is this much longer


class InstanceIndex:
    """From ``(user, instance)`` to a slot, and from ``(user, time)`` to the newest slots.

    An instance keeps its event time for good; its slot may move.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.slots) for run in self._runs)

    def find(self, users: Ints, instances: Ints) -> tuple[Ints, Ints]:
        """Look instances up.

        Args:
            users: Shape ``[Q]``.
            instances: Shape ``[Q]``.

        Returns:
            Slots, -1 where there is none, and event times, shape ``[Q]`` each.
        """
        slots, times = np.full(len(users), -1, np.int64), np.zeros(len(users), np.int64)
        for run in self._runs:
            place, found = run.find(users, instances)
            slots[found], times[found] = run.slots[place[found]], run.times[place[found]]
        return slots, times

    def write(self, users: Ints, instances: Ints, times: Ints, slots: Ints) -> None:
        """Say where instances lie now, those it knows and new ones.

        Args:
            users: Shape ``[n]``.
            instances: Shape ``[n]``; no pair of user and instance comes twice.
            times: Event times, shape ``[n]``; of those it knows, the same as ever.
            slots: Shape ``[n]``.
        """
        new = np.ones(len(users), dtype=np.bool_)
        for run in self._runs:
            place, found = run.find(users, instances)
            run.slots[place[found]] = slots[found]
            new &= ~found
        if not new.any():
            return
        run = _Run(users[new], instances[new], times[new], slots[new])
        while self._runs and len(self._runs[-1].slots) < _RATIO * len(run.slots):
            run = run.merged(self._runs.pop())
        self._runs.append(run)

    def newest(self, users: Ints, first: Ints, end: Ints, count: int) -> Ints:
        """The newest instances of each query within a span of time.

        Args:
            users: Shape ``[Q]``.
            first: The earliest event time that counts, shape ``[Q]``.
            end: The time before which they must lie, shape ``[Q]``.
            count: How many to give, ``T``.

        Returns:
            Slots, oldest first, then -1, shape ``[Q, T]``. Instances of one moment are in the
            order of their ids.
        """
        out = np.full((len(users), count), -1, dtype=np.int64)
        spans = [run.span(users, first, end) for run in self._runs]
        holders = sum((last > begin).astype(np.int64) for begin, last in spans)
        for run, (begin, last) in zip(self._runs, spans, strict=True):
            only = np.flatnonzero((last > begin) & (holders == 1))
            place, real = _places(begin[only], last[only], count)
            out[only] = np.where(real, run.slots[place], -1)
        several = np.flatnonzero(holders > 1)
        if len(several):
            out[several] = self._merged(spans, several, count)
        return out

    def slots(self) -> Ints:
        """All slots, ascending.

        Returns:
            Shape ``[n]``.
        """
        nothing = np.zeros(0, dtype=np.int64)
        return np.sort(np.concatenate([nothing, *(run.slots for run in self._runs)]))

    def _merged(self, spans: list[tuple[Ints, Ints]], queries: Ints, count: int) -> Ints:
        parts: list[tuple[Ints, ...]] = []
        for run, (begin, last) in zip(self._runs, spans, strict=True):
            place, real = _places(begin[queries], last[queries], count)
            slots = np.where(real, run.slots[place], -1)
            parts.append((run.instances[place], run.times[place], slots))
        instances, times, slots = (
            np.concatenate(part, axis=1) for part in zip(*parts, strict=True)
        )
        order = np.lexsort((instances, times, slots < 0), axis=1)
        slots = np.take_along_axis(slots, order, axis=1)
        held = (slots >= 0).sum(axis=1)
        place, real = _places(np.zeros_like(held), held, count)
        return np.where(real, np.take_along_axis(slots, place, axis=1), -1)


class _Run:
    """Instances sorted by user, then time, then id; none of them twice."""

    def __init__(self, users: Ints, instances: Ints, times: Ints, slots: Ints) -> None:
        order = np.lexsort((instances, times, users))
        users, self.times = users[order], times[order]
        self.instances, self.slots = instances[order], slots[order]
        self._by_instance = np.lexsort((self.instances, users))
        changes = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        self._users, self._starts = users[changes], np.r_[changes, len(users)]

    def merged(self, other: "_Run") -> "_Run":
        pairs = zip(self._columns(), other._columns(), strict=True)
        return _Run(*(np.concatenate(pair) for pair in pairs))

    def find(self, users: Ints, instances: Ints) -> tuple[Ints, Truths]:
        begin, end = self._segments(users)
        by = self._by_instance
        at = _bisect(begin, end, lambda place: self.instances[by[place]] < instances)
        place = by[np.minimum(at, len(by) - 1)]
        return place, (at < end) & (self.instances[place] == instances)

    def span(self, users: Ints, first: Ints, end: Ints) -> tuple[Ints, Ints]:
        begin, last = self._segments(users)
        until = _bisect(begin, last, lambda place: self.times[place] < end)
        return _bisect(begin, until, lambda place: self.times[place] < first), until

    def _segments(self, users: Ints) -> tuple[Ints, Ints]:
        at = np.minimum(np.searchsorted(self._users, users), len(self._users) - 1)
        known = self._users[at] == users
        return np.where(known, self._starts[at], 0), np.where(known, self._starts[at + 1], 0)

    def _columns(self) -> tuple[Ints, Ints, Ints, Ints]:
        users = np.repeat(self._users, np.diff(self._starts))
        return users, self.instances, self.times, self.slots


def _bisect(low: Ints, high: Ints, smaller: Callable[[Ints], Truths]) -> Ints:
    """First place in each half-open span that is not smaller; ``smaller`` is true, then false."""
    low, high = low.copy(), high.copy()
    while True:
        searching = low < high
        if not searching.any():
            return low
        # a span that is done looks somewhere, and what it sees there is not used
        middle = np.where(searching, (low + high) // 2, 0)
        below = smaller(middle)
        low = np.where(searching & below, middle + 1, low)
        high = np.where(searching & ~below, middle, high)


def _places(begin: Ints, end: Ints, count: int) -> tuple[Ints, Truths]:
    """The last ``count`` places of each span, and which of them there are; else place 0."""
    place = np.maximum(begin, end - count)[:, None] + np.arange(count)
    real = place < end[:, None]
    return np.where(real, place, 0), real
