"""Columns that arrive in batches: checked as a whole first, then handed on in bounded pieces.

A state that outlives its updates must not swallow half of a bad batch, and a batch may be as
long as a file. So every row is checked before the first one is passed on, and both passes work
on pieces, whose temporaries do not grow with the batch.

Differs from a one-shot metric: scores of two batches must compare, so integers too large for
float64 to tell apart are refused; weights stay as they are, since the largest is not yet known.

Shapes: ``[n]`` rows of the caller's, ``[m]`` rows of a piece.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sidrank.metrics._columns import (
    Column,
    group_column,
    label_column,
    score_column,
    weight_column,
)
from sidrank.metrics._keys import Keys, float_keys, narrow
from sidrank.metrics._words import row_blocks

__all__ = ["Batch", "checked_batches"]

_LARGEST = 1 << 53  # integers up to here are floats too
_Array = npt.NDArray[Any]


class Batch(NamedTuple):
    """Some rows, every one of them good."""

    positive: npt.NDArray[np.bool_]
    """Whether the label is 1, shape ``[m]``."""
    keys: Keys
    """Scores as keys of 32 or 64 bits, comparable between batches once widened, ``[m]``."""
    weights: npt.NDArray[np.float64] | None
    """Row weights as given, shape ``[m]``; None if there are none."""
    groups: _Array | None
    """Integers or strings, shape ``[m]``; None if there are none."""


def checked_batches(
    labels: Column, scores: Column, *, weights: Column | None = None, groups: Column | None = None
) -> Iterator[Batch]:
    """Check all rows, then give them piece by piece.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Floats, or integers of at most ``2**53`` in size, shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``.
        groups: Integers or strings, shape ``[n]``.

    Returns:
        Pieces in row order. The caller's arrays may change once they are all taken.

    Raises:
        ValueError: If a column is not what the one-shot metric asks for, or an integer score is
            too large. Raised by the call itself, before the first piece is taken.
    """
    columns = [
        column if column is None or isinstance(column, Tensor) else np.asarray(column)
        for column in (labels, scores, weights, groups)
    ]
    shapes = {tuple(column.shape) for column in columns if column is not None}
    rows = min((shape[0] for shape in shapes if shape), default=0)
    if len(shapes) > 1 or rows == 0:
        _batch(columns)
    for block in row_blocks(rows):
        try:
            _batch(_cut(columns, block))
        except ValueError:
            _batch(columns)  # says which row of the caller's it is
            raise
    return (_batch(_cut(columns, block)) for block in row_blocks(rows))


def _cut(columns: list[Any], block: slice) -> list[Any]:
    return [None if column is None else column[block] for column in columns]


def _batch(columns: list[Any]) -> Batch:
    """Check the columns of some rows, or of all."""
    labels, scores, weights, groups = columns
    positive = label_column(labels)
    rows = len(positive)
    score = score_column(scores, rows)
    return Batch(
        positive,
        _keys(score),
        None if weights is None else _weights(weights, rows),
        None if groups is None else group_column(groups, rows),
    )


def _keys(score: _Array) -> Keys:
    if score.dtype.kind == "f":
        return float_keys(narrow(score))
    if score.dtype.itemsize == 8:
        exact = (score <= _LARGEST) & (score >= -_LARGEST)
        if not exact.all():
            row = int(np.argmin(exact))
            raise ValueError(
                "scores must be floats or integers of at most 2**53 in size, which no batch "
                f"rounds, got {score[row].item()} in row {row}"
            )
    return float_keys(narrow(score.astype(np.float64)))


def _weights(weights: Any, rows: int) -> npt.NDArray[np.float64]:
    array = weights.detach().cpu().double().numpy() if isinstance(weights, Tensor) else weights
    # Zeros alone are no mistake here: the weight may be in another batch.
    if array.dtype.kind not in "biuf" or array.shape != (rows,) or array.any():
        weight_column(array, rows)
    return array.astype(np.float64)
