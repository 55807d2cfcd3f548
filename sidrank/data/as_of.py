"""Statistics of a log as they stood before each row: strictly earlier timestamps only.

A count that includes the row itself, or another row of the same second, carries the label
it is meant to predict. These functions sort the log once by ``(key, timestamp)`` and answer
every query by binary search, so that a row never sees an event at or after its own time.
Later rows may change in any way without changing an answer.

Shapes: ``E`` events, ``Q`` queries, ``L`` newest events kept.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["AsOfLog"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class AsOfLog:
    """A log of keyed events that can be read as of any time.

    Args:
        keys: What each event is counted under (user, item, user × genre), at least 0,
            shape ``[E]``.
        timestamps: Time of each event, shape ``[E]``, in any order.

    Raises:
        ValueError: If shapes differ, a key is negative, or ``(key, timestamp)`` pairs do not fit
            into 63 bits.

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
        if len(keys) and keys.min() < 0:
            raise ValueError(f"keys must be at least 0, got {keys.min()}")
        self._start = int(timestamps.min()) if len(keys) else 0
        self._span = int(timestamps.max()) - self._start + 2 if len(keys) else 1
        if len(keys) and (int(keys.max()) + 1) * self._span >= 2**63:
            raise ValueError(f"keys must leave room for timestamps in 63 bits, got {keys.max()}")
        composite = self._composite(keys, timestamps)
        self._order = np.argsort(composite, kind="stable")
        self._sorted = composite[self._order]

    def totals(self, values: Floats, *, keys: Ints, timestamps: Ints) -> Floats:
        """Sum of the values of strictly earlier events with the same key.

        Args:
            values: One number for each event, shape ``[E]``.
            keys: Key of each query, shape ``[Q]``.
            timestamps: Time of each query, shape ``[Q]``.

        Returns:
            The sums, shape ``[Q]``; 0 where no event is earlier.

        Raises:
            ValueError: If ``values`` is not of shape ``[E]``.
        """
        if values.shape != self._order.shape:
            raise ValueError(
                f"values must have shape [{len(self._order)}], got {list(values.shape)}"
            )
        running = np.concatenate([[0.0], np.cumsum(values[self._order], dtype=np.float64)])
        first, end = self._range(keys, timestamps)
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
        first, end = self._range(keys, timestamps)
        slots = end[:, None] - 1 - np.arange(count)
        found = slots >= first[:, None]
        if not len(self._order):
            return np.full((len(keys), count), -1, dtype=np.int64)
        return np.where(found, self._order[np.where(found, slots, 0)], -1)

    def _range(self, keys: Ints, timestamps: Ints) -> tuple[Ints, Ints]:
        # A time outside the log's span would slide into the next key's range.
        clipped = np.clip(timestamps, self._start, self._start + self._span - 1)
        first = np.searchsorted(self._sorted, keys * self._span, side="left")
        end = np.searchsorted(self._sorted, self._composite(keys, clipped), side="left")
        return first, end

    def _composite(self, keys: Ints, timestamps: Ints) -> Ints:
        return keys.astype(np.int64) * self._span + (timestamps - self._start)
