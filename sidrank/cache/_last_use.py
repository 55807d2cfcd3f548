"""Which batch used each row last: of every row of a table, or of a sample of a huge id space.

Shapes: ``[n]`` ids of a batch, ``[u]`` distinct ones, ``[E]`` epochs.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["EveryRow", "LastUse", "SampledRows", "distinct", "sampled"]

_BLOCK = 1 << 18  # rows renumbered at a time
_FEW = 1 << 12  # new rows kept aside at least


class LastUse(Protocol):
    """When each row was used last, in epochs counted from 1; 0 is never."""

    def touch(self, ids: NDArray[np.int64], epoch: int) -> NDArray[np.integer]:
        """Use rows in a new epoch.

        Args:
            ids: Rows, each as often as the batch reads it, shape ``[n]``.
            epoch: The epoch.

        Returns:
            The epoch in which each distinct row was used before, in any order, shape ``[u]``.
        """
        ...

    def renumber(self, epochs: NDArray[np.int32]) -> None:
        """Give epochs other numbers.

        Args:
            epochs: The new number of each, shape ``[E]``; 0 stays 0.
        """
        ...


class EveryRow:
    """Four bytes a row; no sorting, no hashing.

    Args:
        rows: Rows of the table.
    """

    def __init__(self, rows: int) -> None:
        self._last = np.zeros(rows, dtype=np.int32)  # pages come into being when written

    def touch(self, ids: NDArray[np.int64], epoch: int) -> NDArray[np.int32]:
        """See :meth:`LastUse.touch`.

        Args:
            ids: Rows, shape ``[n]``.
            epoch: The epoch.

        Returns:
            Epochs of the distinct rows, shape ``[u]``.
        """
        # "clip" because it skips a check: ids lie inside the table
        before = self._last.take(ids, mode="clip")
        # Each place of the batch writes its own mark; of a repeated row one mark is left, and it
        # says which of the places stands for the row.
        marks = np.arange(-1, -1 - len(ids), -1, dtype=np.int32)
        self._last[ids] = marks
        chosen = self._last.take(ids, mode="clip") == marks
        self._last[ids] = epoch
        return before[chosen]

    def renumber(self, epochs: NDArray[np.int32]) -> None:
        """See :meth:`LastUse.renumber`.

        Args:
            epochs: New numbers, shape ``[E]``.
        """
        for start in range(0, len(self._last), _BLOCK):
            block = self._last[start : start + _BLOCK]
            if block.any():
                block[:] = epochs[block]


class SampledRows:
    """Twelve bytes a row that occurred: sorted, with new ones kept aside until they are many."""

    def __init__(self) -> None:
        self._levels = [_Sorted(), _Sorted()]

    def touch(self, ids: NDArray[np.int64], epoch: int) -> NDArray[np.int32]:
        """See :meth:`LastUse.touch`.

        Args:
            ids: Rows, shape ``[n]``.
            epoch: The epoch.

        Returns:
            Epochs of the distinct rows, shape ``[u]``.
        """
        ids = distinct(ids)
        before = np.zeros(len(ids), dtype=np.int32)
        for level in self._levels:
            level.touch(ids, epoch, before)
        old, new = self._levels
        new.insert(ids[before == 0], epoch)
        if len(new.ids) > max(_FEW, len(old.ids) // 16):
            old.absorb(new)
            self._levels[1] = _Sorted()
        return before

    def renumber(self, epochs: NDArray[np.int32]) -> None:
        """See :meth:`LastUse.renumber`.

        Args:
            epochs: New numbers, shape ``[E]``.
        """
        for level in self._levels:
            level.last = epochs[level.last]


class _Sorted:
    """Rows in order, each with its epoch."""

    def __init__(self) -> None:
        self.ids = np.empty(0, dtype=np.int64)
        self.last = np.empty(0, dtype=np.int32)

    def touch(self, ids: NDArray[np.int64], epoch: int, before: NDArray[np.int32]) -> None:
        if not len(self.ids):
            return
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        there = self.ids[places] == ids
        before[there] = self.last[places[there]]
        self.last[places[there]] = epoch

    def insert(self, ids: NDArray[np.int64], epoch: int) -> None:
        places = np.searchsorted(self.ids, ids)
        self.ids = np.insert(self.ids, places, ids)
        self.last = np.insert(self.last, places, np.int32(epoch))

    def absorb(self, other: "_Sorted") -> None:
        places = np.searchsorted(self.ids, other.ids)
        self.ids = np.insert(self.ids, places, other.ids)
        self.last = np.insert(self.last, places, other.last)


def distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows in order, each once: half the time of ``np.unique``.

    Args:
        ids: Rows, shape ``[n]``.

    Returns:
        The distinct ones, shape ``[u]``.
    """
    ids = np.sort(ids)
    first = np.ones(len(ids), dtype=np.bool_)
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    return ids[first]


def sampled(ids: NDArray[np.int64], sampling: float) -> NDArray[np.bool_]:
    """Whether each row is in the sample: always the same answer for the same row.

    Args:
        ids: Rows, shape ``[n]``.
        sampling: Share of all rows to keep, above 0 and below 1.

    Returns:
        True for rows in the sample, shape ``[n]``.
    """
    bits = ids.astype(np.uint64)
    # the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)
    bits += np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(32)) < np.uint64(max(1, round(sampling * 2**32)))
