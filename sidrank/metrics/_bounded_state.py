"""What a bounded streaming AUC remembers: cells, and the rows that are not in one yet.

Shapes: ``[c]`` cells, ``[n]`` rows.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sidrank.metrics._batches import Batch
from sidrank.metrics._cells import NO_CELLS, Cells, outwards
from sidrank.metrics._keys import widen_keys
from sidrank.metrics._wire import read_columns

__all__ = ["BoundedState"]

_NAMES = ("low", "high", "negatives", "positives")


class BoundedState:
    """At most ``limit`` cells and half as many rows.

    Args:
        limit: Number of cells, at least 8.

    Attributes:
        rows: Number of rows.
        positives: Number of positive rows.
    """

    kind = "bounded AUC"

    def __init__(self, limit: int) -> None:
        self.rows = 0
        self.positives = 0
        self._limit = limit
        self._cells = NO_CELLS
        self._keys = np.empty(limit // 2, np.uint64)
        self._labels = np.empty(limit // 2, np.bool_)
        self._waiting = 0

    def add(self, batch: Batch) -> None:
        """Take in rows.

        Args:
            batch: Checked rows without weights.
        """
        self.rows += len(batch.positive)
        self.positives += int(np.count_nonzero(batch.positive))
        start = 0
        while start < len(batch.keys):
            stop = min(len(batch.keys), start + len(self._keys) - self._waiting)
            place = slice(self._waiting, self._waiting + stop - start)
            self._keys[place] = widen_keys(batch.keys[start:stop])
            self._labels[place] = batch.positive[start:stop]
            start, self._waiting = stop, place.stop
            if self._waiting == len(self._keys):
                self._settle()

    def merge(self, other: "BoundedState") -> None:
        """Take in what another state has.

        Args:
            other: Says the same afterwards.
        """
        self.rows += other.rows
        self.positives += other.positives
        self._settle()
        other._settle()
        self._cells = self._cells.union(other._cells).compressed(self._limit)

    def ends(self) -> tuple[float, float, float]:
        """Give the AUC as lower end, middle and upper end.

        Returns:
            Ends that hold the exact value; three times the exact value if they are one.
        """
        self._settle()
        fewest, most = self._cells.twice_wins()
        twice_pairs = 2 * self.positives * (self.rows - self.positives)
        lower, upper = outwards(fewest, most, twice_pairs)
        return lower, (fewest + most) / (2 * twice_pairs), upper

    def tensors(self) -> dict[str, Tensor]:
        """Write the state.

        Returns:
            Vectors by name; they share memory with the state.
        """
        self._settle()
        columns = (column.view(np.int64) for column in self._cells)
        return {name: torch.from_numpy(c) for name, c in zip(_NAMES, columns, strict=True)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], limit: int) -> "BoundedState":
        """Read a state.

        Args:
            tensors: What :meth:`tensors` wrote.
            limit: Number of cells to hold.

        Returns:
            A state with memory of its own.

        Raises:
            ValueError: If it is not such a state.
        """
        columns = read_columns(tensors, dict.fromkeys(_NAMES, (torch.int64,)))
        low, high = columns["low"].view(np.uint64), columns["high"].view(np.uint64)
        cells = Cells(low, high, columns["negatives"], columns["positives"])
        good = len({len(column) for column in cells}) == 1
        if good:
            rows = (cells.negatives >= 0) & (cells.positives >= 0)
            rows &= (cells.negatives > 0) | (cells.positives > 0)
            good = bool((rows & (low <= high)).all())
        if not good:
            raise ValueError(
                f"state must have cells with low <= high and at least one row, got {len(low)} cells"
            )
        state = cls(limit)
        state._cells = NO_CELLS.union(cells).compressed(limit)
        state.positives = int(cells.positives.sum())
        state.rows = state.positives + int(cells.negatives.sum())
        return state

    def _settle(self) -> None:
        """Put the waiting rows into cells."""
        if self._waiting:
            rows = slice(self._waiting)
            fresh = Cells.of_rows(self._keys[rows], self._labels[rows])
            self._waiting = 0
            self._cells = self._cells.union(fresh)
            del fresh
            self._cells = self._cells.compressed(self._limit)
