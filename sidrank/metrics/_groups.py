"""Group ids of any kind as small integers, in the order of the ids.

Integers that span fewer than ``2**31`` values only move to start at zero. Others, and strings,
are numbered: integers by a radix sort, strings by their hash, which is then compared with the
strings themselves, so that two strings of one hash are never one group.

Shapes: ``[n]`` rows, ``[G]`` distinct groups.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sidrank.metrics._words import ranks, row_blocks

__all__ = ["GroupNumbers"]

_SPAN = 1 << 31
_Array = npt.NDArray[Any]
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: 2**64 / golden ratio


@dataclass(frozen=True)
class GroupNumbers:
    """A column of groups, numbered.

    Args:
        column: Integers of any width, shape ``[n]``.
        lowest: What to take off a value of ``column`` to get the group's number.
        names: The group of each number, shape ``[G]``; None if the number plus ``lowest`` is it.
    """

    column: _Array
    lowest: int
    names: _Array | None

    @classmethod
    def of(cls, groups: _Array) -> "GroupNumbers":
        """Number a column.

        Args:
            groups: Integers, or a numpy string array, shape ``[n]``, ``n >= 1``.

        Returns:
            The numbers, each below ``2**31``, in the order of the ids.
        """
        if groups.dtype.kind in "US":
            return cls._of_strings(groups)
        lowest = int(groups.min())
        if int(groups.max()) - lowest < _SPAN:
            return cls(groups, lowest, None)
        numbers, rows = ranks(groups)
        return cls(numbers, 0, groups[rows])

    @classmethod
    def _of_strings(cls, groups: _Array) -> "GroupNumbers":
        numbers, rows = ranks(_hashes(groups))
        names = groups[rows]
        for block in row_blocks(len(groups)):
            if not np.array_equal(names[numbers[block]], groups[block]):  # two of one hash
                names, numbers = np.unique(groups, return_inverse=True)
                return cls(numbers, 0, names)
        order = np.argsort(names)
        place = np.empty(len(order), np.uint32)
        place[order] = np.arange(len(order), dtype=np.uint32)
        return cls(place[numbers], 0, names[order])

    def numbers(self, block: slice) -> npt.NDArray[np.uint64]:
        """Numbers of some rows.

        Args:
            block: Which rows.

        Returns:
            Numbers below ``2**31``, shape ``[rows of the block]``.
        """
        # Unsigned subtraction wraps around and comes out right for negative ids too.
        return self.column[block].astype(np.uint64) - np.uint64(self.lowest % (1 << 64))

    def ids(self, numbers: npt.NDArray[np.uint64]) -> _Array:
        """Turn numbers back into groups.

        Args:
            numbers: Numbers of groups, shape ``[G]``.

        Returns:
            The caller's ids, shape ``[G]``.
        """
        if self.names is not None:
            return self.names[numbers]
        wide = numbers + np.uint64(self.lowest % (1 << 64))
        return wide.view(np.int64).astype(self.column.dtype)


def _hashes(strings: _Array) -> npt.NDArray[np.uint64]:
    """Hash of each string, equal for equal strings, shape ``[n]``."""
    unit = np.dtype(np.uint32 if strings.dtype.kind == "U" else np.uint8)
    width = strings.dtype.itemsize // unit.itemsize
    units = np.ascontiguousarray(strings).view(unit).reshape(len(strings), width)
    hashes = np.zeros(len(strings), np.uint64)
    for block in row_blocks(len(strings)):
        total = hashes[block]
        for column in range(width):
            total ^= units[block, column]
            total *= _FACTOR
            total ^= total >> np.uint64(29)
    return hashes
