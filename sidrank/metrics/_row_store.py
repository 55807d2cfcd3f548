"""Rows kept one by one, as narrow as they are: what a weighted or a grouped metric needs.

A row takes 4 bytes of score (8 where 32 bits do not hold the scores), 1 of label, 4 or 8 of
group and 8 of weight, where there are groups and weights.

Shapes: ``[n]`` rows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from sidrank.metrics._batches import Batch
from sidrank.metrics._keys import Keys, key_floats, widen_keys
from sidrank.metrics._words import row_blocks

__all__ = ["RowStore", "scores_of"]

_Array = npt.NDArray[Any]


class RowStore:
    """Rows in the order of their arrival.

    Attributes:
        total: Number of rows.
        positives: Number of positive rows.
    """

    def __init__(self) -> None:
        self.total = 0
        self.positives = 0
        self._batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Keep rows.

        Args:
            batch: Groups must be integers, unsigned 64-bit ones only beside non-negative ones.
        """
        self.total += len(batch.positive)
        self.positives += int(np.count_nonzero(batch.positive))
        groups = None if batch.groups is None else _narrow(batch.groups)
        # The caller may change what is not ours yet.
        self._batches.append(batch._replace(positive=batch.positive.copy(), groups=groups))

    def merge(self, other: "RowStore") -> None:
        """Keep the rows of another store, too.

        Args:
            other: Stays as it is.
        """
        self.total += other.total
        self.positives += other.positives
        self._batches += other._batches

    def rows(self) -> Batch:
        """Give all rows, of which there must be one, and keep them as one batch.

        Returns:
            Columns that belong to the store; weights of 1 where only other rows have some.
        """
        if len(self._batches) > 1:
            self._batches = [_joined(self._batches)]
        return self._batches[0]


def scores_of(keys: Keys) -> _Array:
    """Scores of many keys.

    Args:
        keys: Keys of floats, shape ``[n]``.

    Returns:
        float32 or float64, shape ``[n]``.
    """
    scores = np.empty(len(keys), f"f{keys.dtype.itemsize}")
    for block in row_blocks(len(keys)):
        scores[block] = key_floats(keys[block])
    return scores


def _joined(batches: list[Batch]) -> Batch:
    keys: list[_Array] = [batch.keys for batch in batches]
    if len({key.dtype for key in keys}) > 1:
        keys = [widen_keys(batch.keys) for batch in batches]
    weights = groups = None
    if any(batch.weights is not None for batch in batches):
        weights = np.ones(sum(len(batch.positive) for batch in batches))
        end = 0
        for batch in batches:
            start, end = end, end + len(batch.positive)
            if batch.weights is not None:
                weights[start:end] = batch.weights
    ids = [batch.groups for batch in batches if batch.groups is not None]
    if ids:
        # numpy makes floats of signed and unsigned together
        unsigned = any(column.dtype == np.uint64 for column in ids)
        groups = np.concatenate([c.astype(np.uint64) if unsigned else c for c in ids])
    positive = np.concatenate([batch.positive for batch in batches])
    return Batch(positive, np.concatenate(keys), weights, groups)


def _narrow(groups: _Array) -> _Array:
    """Copy as int32, int64 or uint64, the first that fits."""
    lowest, highest = int(groups.min()), int(groups.max())
    if highest >= 1 << 63:
        return groups.astype(np.uint64)
    return groups.astype(np.int32 if lowest >= -(1 << 31) and highest < 1 << 31 else np.int64)
