"""The newest rows of a stream, for a metric of the recent past.

Shapes: ``[n]`` rows.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sidrank.metrics._batches import Batch
from sidrank.metrics._row_store import RowStore
from sidrank.metrics._wire import read_columns, signed, unsigned

__all__ = ["RowWindow"]

_BITS = (torch.int32, torch.int64)
_DTYPES = {
    "keys": _BITS,
    "labels": (torch.bool,),
    "weights": (torch.float64,),
    "groups": (torch.int64,),
}


class RowWindow:
    """The last rows that were added, oldest first.

    Args:
        size: How many to keep, at least 1.

    Attributes:
        total: Number of rows kept.
    """

    def __init__(self, size: int) -> None:
        self.total = 0
        self._size = size
        self._batches: deque[Batch] = deque()

    def add(self, batch: Batch) -> None:
        """Take rows in and let the oldest go.

        Args:
            batch: Checked rows; groups, if any, below ``2**63``.
        """
        self._append(batch)
        while self.total > self._size:
            oldest = self._batches.popleft()
            rows = len(oldest.positive)
            spare = min(rows, self.total - self._size)
            self.total -= spare
            if spare < rows:
                self._batches.appendleft(_tail(oldest, spare))

    def rows(self) -> Batch:
        """Give the rows as one batch, oldest first.

        Returns:
            Columns that are not the window's.
        """
        store = RowStore()
        for batch in self._batches:
            store.add(batch)
        nothing = np.empty(0, np.uint32)
        return store.rows() if self.total else Batch(nothing == 0, nothing, None, None)

    def tensors(self) -> dict[str, Tensor]:
        """Write the rows, in their order.

        Returns:
            Vectors by name.
        """
        rows = self.rows()
        columns = {
            "keys": signed(rows.keys),
            "labels": rows.positive,
            "weights": np.empty(0) if rows.weights is None else rows.weights,
            "groups": np.empty(0, np.int64) if rows.groups is None else rows.groups,
        }
        columns["groups"] = columns["groups"].astype(np.int64)
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], size: int) -> "RowWindow":
        """Read rows, of one window or of several joined.

        Args:
            tensors: What :meth:`tensors` wrote.
            size: How many rows to keep once more are added.

        Returns:
            A window with memory of its own.

        Raises:
            ValueError: If they are no such rows.
        """
        columns = read_columns(tensors, _DTYPES)
        rows = len(columns["labels"])
        lengths = {len(column) for column in columns.values()}
        if rows != len(columns["keys"]) or not lengths <= {0, rows}:
            raise ValueError(
                f"state must have one key, weight and group a label or none, got {rows} labels"
            )
        window = cls(size)
        if rows:
            weights, groups = columns["weights"], columns["groups"]
            window._append(
                Batch(
                    columns["labels"],
                    unsigned(columns["keys"]),
                    weights if len(weights) else None,
                    groups if len(groups) else None,
                )
            )
        return window

    def join(self, other: "RowWindow") -> None:
        """Add another window's rows and let none go.

        Args:
            other: Stays as it is.
        """
        self.total += other.total
        self._batches += other._batches

    def _append(self, batch: Batch) -> None:
        self.total += len(batch.positive)
        # The caller may change what is not ours yet.
        groups = None if batch.groups is None else batch.groups.astype(np.int64)
        self._batches.append(batch._replace(positive=batch.positive.copy(), groups=groups))


def _tail(batch: Batch, start: int) -> Batch:
    weights, groups = batch.weights, batch.groups
    return Batch(
        batch.positive[start:],
        batch.keys[start:],
        None if weights is None else weights[start:],
        None if groups is None else groups[start:],
    )
