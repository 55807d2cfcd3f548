"""Statistics of a log as they stood before each row: strictly earlier timestamps only.

A count that includes the row itself, or another row of the same second, carries the label
it is meant to predict. These functions sort the log once by ``(key, timestamp)`` and answer
every query by binary search, so that a row never sees an event at or after its own time.
Later rows may change in any way without changing an answer.

Shapes: ``E`` events, ``Q`` queries, ``L`` newest events kept.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AsOfLog"]

Ints = NDArray[np.int64]


class AsOfLog:
    """A log of keyed events that can be read as of any time.

    Args:
        keys: What each event is counted under (user, item, user × genre), any 64-bit integers,
            shape ``[E]``.
        timestamps: Time of each event, shape ``[E]``, in any order.

    Attributes:
        order: Positions of the events, sorted by key, then time, then position, shape ``[E]``.

    Raises:
        ValueError: If shapes differ.

    Example:
        >>> log = AsOfLog(keys=np.array([7, 7, 7]), timestamps=np.array([10, 20, 20]))
        >>> log.totals(np.ones(3), keys=np.array([7, 7, 8]), timestamps=np.array([20, 21, 99]))
        array([1., 3., 0.])
    """

    def __init__(self, *, keys: Ints, timestamps: Ints) -> None:
        if keys.ndim != 1 or keys.shape != timestamps.shape:
            raise ValueError(
                f"keys and timestamps must have one shape [E], got {list(keys.shape)} and "
                f"{list(timestamps.shape)}"
            )
        # Places among the distinct keys and times: less than E each, so a pair of them fits
        # into 63 bits whatever the keys and times are.
        self._keys, key = np.unique(keys, return_inverse=True)
        self._times, time = np.unique(timestamps, return_inverse=True)
        composite = self._composite(key.astype(np.int64), time.astype(np.int64))
        self.order: Ints = np.argsort(composite, kind="stable")
        self._sorted = composite[self.order]

    def spans(
        self, *, keys: Ints, timestamps: Ints, since: Ints | None = None
    ) -> tuple[Ints, Ints]:
        """Where the events that each query may see lie in ``order``.

        Args:
            keys: Key of each query, shape ``[Q]``.
            timestamps: Time of each query, shape ``[Q]``.
            since: Earliest time that still counts, shape ``[Q]``; None counts from the start.

        Returns:
            First place and end, shape ``[Q]`` each; the same where there is no such event.
        """
        if not len(self._keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        key = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        time = np.searchsorted(self._times, timestamps)
        end = np.searchsorted(self._sorted, self._composite(key, time))
        if since is None:
            starts = self._composite(np.arange(len(self._keys)), np.int64(0))
            first = np.searchsorted(self._sorted, starts)[key]
        else:
            earliest = np.searchsorted(self._times, since)
            first = np.searchsorted(self._sorted, self._composite(key, earliest))
        never_seen = self._keys[key] != keys
        return np.where(never_seen, 0, first), np.where(never_seen, 0, np.maximum(first, end))

    def totals(
        self, values: NDArray[Any], *, keys: Ints, timestamps: Ints, since: Ints | None = None
    ) -> NDArray[Any]:
        """Sum of the values of strictly earlier events with the same key.

        Args:
            values: One number, or a row of them, for each event, shape ``[E]`` or ``[E, K]``.
            keys: Key of each query, shape ``[Q]``.
            timestamps: Time of each query, shape ``[Q]``.
            since: Earliest time that still counts, shape ``[Q]``; None counts from the start.

        Returns:
            The sums, shape ``[Q]`` or ``[Q, K]``; 0 where no event is earlier. Sums of integers
            are int64 and exact, others float64.

        Raises:
            ValueError: If ``values`` does not have one entry an event.
        """
        if values.shape[:1] != self.order.shape:
            raise ValueError(
                f"values must have shape [{len(self.order)}], got {list(values.shape)}"
            )
        exact = values.dtype.kind in "biu"
        running = np.zeros((len(values) + 1, *values.shape[1:]), np.int64 if exact else np.float64)
        np.cumsum(values[self.order], axis=0, out=running[1:])
        first, end = self.spans(keys=keys, timestamps=timestamps, since=since)
        return running[end] - running[first]

    def newest(self, count: int, *, keys: Ints, timestamps: Ints) -> Ints:
        """The newest strictly earlier events with the same key.

        Args:
            count: How many events to keep, ``L``.
            keys: Key of each query, shape ``[Q]``.
            timestamps: Time of each query, shape ``[Q]``.

        Returns:
            Positions of events, newest first, shape ``[Q, L]``; −1 where there are fewer.

        Raises:
            ValueError: If ``count`` is less than one.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        first, end = self.spans(keys=keys, timestamps=timestamps)
        slots = end[:, None] - 1 - np.arange(count)
        found = slots >= first[:, None]
        if not len(self.order):
            return np.full((len(keys), count), -1, dtype=np.int64)
        return np.where(found, self.order[np.where(found, slots, 0)], -1)

    def _composite(self, key: Ints, time: Ints | np.int64) -> Ints:
        return key * (len(self._times) + 1) + time
