"""The columns that an evaluation needs, read once, checked row by row and kept small.

A score that float32 holds exactly is kept as float32, a label as one byte, a group in at most four
bytes: 100 million rows with a user each take 0.9 GB. Where the file knows its length, each column
is allocated once.

Shapes: ``[n]`` rows, ``[b]`` rows of one batch, ``[m]`` distinct values of the slice column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidrank.data import Batch, RowFile, Text, TextIndex
from sidrank.data.columns import Keys, column_error

__all__ = ["Columns", "Names", "read_columns"]

_MOST_SLICES = 10_000
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Names:
    """Which column of the file is what.

    Args:
        label: Column of labels in {0, 1}.
        score: Column of scores.
        compare: Column of the scores to compare with, or None.
        group: Column of groups, or None.
        slices: Column to slice by, or None.
        weight: Column of row weights, or None.
    """

    label: str
    score: str
    compare: str | None = None
    group: str | None = None
    slices: str | None = None
    weight: str | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """All rows of a file, checked.

    Args:
        labels: Whether each row is positive, shape ``[n]``; both classes occur.
        scores: Scores without NaN, shape ``[n]``.
        compare: Scores to compare with, shape ``[n]``, or None.
        groups: Integers that name each row's group, shape ``[n]``, or None.
        slices: Each row's slice, shape ``[n]``, names in the order in which they are shown, or
            None.
        weights: Finite weights that are not negative, shape ``[n]``, or None.
    """

    labels: NDArray[np.bool_]
    scores: NDArray[Any]
    compare: NDArray[Any] | None
    groups: NDArray[Any] | None
    slices: Text | None
    weights: NDArray[Any] | None


def read_columns(rows: RowFile, names: Names, advance: Callable[[int], object]) -> Columns:
    """Read and check the columns of an evaluation.

    Args:
        rows: The file.
        names: Its columns.
        advance: Told the number of rows of each batch once it is read.

    Returns:
        The columns.

    Raises:
        ValueError: If the file is broken or has no row; a column is missing or of a wrong type;
            a label is neither 0 nor 1, a score NaN, a weight negative or not finite, or any
            value missing; only one class has rows (of positive weight); or there are more than
            10,000 slices.
    """
    labels, scores, compare, weights = (_Growing(rows.num_rows) for _ in range(4))
    groups, slices = _Growing(rows.num_rows), _Growing(rows.num_rows)
    users, values = TextIndex(), TextIndex()
    numbers = [names.label, names.score, names.compare, names.weight]
    keys = [names.group, names.slices]
    for batch in rows.batches(numbers=_named(numbers), keys=_named(keys)):
        labels.add(_labels(batch, names.label))
        scores.add(_scores(batch, names.score))
        if names.compare is not None:
            compare.add(_scores(batch, names.compare))
        if names.weight is not None:
            weights.add(_weights(batch, names.weight))
        if names.group is not None:
            groups.add(_codes(batch, names.group, users))
        if names.slices is not None:
            slices.add(values.codes(_as_text(batch.keys[names.slices])))
            if len(values) > _MOST_SLICES:
                rule = f"must have at most {_MOST_SLICES:,} values to slice by"
                raise column_error(batch.path, names.slices, rule, f"{len(values):,}")
        advance(len(batch.numbers[names.label]))
    del users  # the names of all groups may outweigh their rows
    if not labels.rows:
        raise ValueError(f"{rows.path} must hold rows, got 0")
    columns = Columns(
        labels=labels.finish(),
        scores=scores.finish(),
        compare=None if names.compare is None else compare.finish(),
        groups=None if names.group is None else _compact(groups.finish()),
        slices=None if names.slices is None else _in_order(slices.finish(), values.names),
        weights=None if names.weight is None else weights.finish(),
    )
    _check_classes(columns, rows, names)
    return columns


class _Growing:
    """One column, appended to batch by batch."""

    def __init__(self, num_rows: int | None) -> None:
        self._num_rows = num_rows
        self._whole: NDArray[Any] | None = None  # if the length is known
        self._blocks: list[NDArray[Any]] = []  # if not
        self.rows = 0

    def add(self, block: NDArray[Any]) -> None:
        """Append rows; the column takes the wider of both types."""
        end = self.rows + len(block)
        if self._num_rows is None:
            self._blocks.append(block)
        else:
            self._whole = self._widened(block.dtype)
            self._whole[self.rows : end] = block
        self.rows = end

    def finish(self) -> NDArray[Any]:
        """The whole column, shape ``[n]``."""
        if self._whole is None:
            self._whole = np.concatenate(self._blocks)
            self._blocks.clear()
        return self._whole

    def _widened(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._whole is None:
            return np.empty(self._num_rows or 0, dtype)
        wide = np.promote_types(self._whole.dtype, dtype)
        if wide == self._whole.dtype:
            return self._whole
        array = np.empty(len(self._whole), wide)
        array[: self.rows] = self._whole[: self.rows]
        return array


def _named(names: list[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _labels(batch: Batch, name: str) -> NDArray[np.bool_]:
    values = batch.numbers[name]
    positive = values == 1
    _every(positive | (values == 0), values, batch, name, "must be 0 or 1")
    return positive


def _scores(batch: Batch, name: str) -> NDArray[Any]:
    values = batch.numbers[name]
    _every(~np.isnan(values), values, batch, name, "must not be NaN")
    return _narrow(values)


def _weights(batch: Batch, name: str) -> NDArray[Any]:
    values = batch.numbers[name]
    good = np.isfinite(values) & (values >= 0)
    _every(good, values, batch, name, "must be finite and not negative")
    return _narrow(values)


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Floats as float32 where it holds every one of them exactly."""
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values) else values


def _codes(batch: Batch, name: str, users: TextIndex) -> NDArray[Any]:
    keys = batch.keys[name]
    if isinstance(keys, Text):
        return users.codes(keys)
    if keys.dtype.itemsize < 8:
        return keys
    half = np.uint32 if keys.dtype.kind == "u" else np.int32  # the kind that 8 bytes widen
    ends = np.iinfo(half)
    return keys.astype(half) if ends.min <= keys.min() and keys.max() <= ends.max else keys


def _compact(groups: NDArray[Any]) -> NDArray[Any]:
    """Ids of 64 bits by codes of 32: hashing them once is quicker than to sort by them."""
    if groups.dtype.itemsize < 8:
        return groups
    import pyarrow as pa

    starts = range(0, len(groups), _BLOCK)
    chunks = [pa.array(groups[start : start + _BLOCK]) for start in starts]
    encoded = pa.chunked_array(chunks).dictionary_encode().chunks  # one dictionary for all
    codes = np.empty(len(groups), np.int32)
    for start, chunk in zip(starts, encoded, strict=True):
        codes[start : start + _BLOCK] = chunk.indices.to_numpy()
    del chunks, encoded
    pa.default_memory_pool().release_unused()
    return codes


def _as_text(keys: Keys) -> Text:
    """Integers by their decimal digits."""
    if isinstance(keys, Text):
        return keys
    distinct, codes = np.unique(keys, return_inverse=True)
    return Text(codes.astype(np.int32), [str(value) for value in distinct.tolist()])


def _in_order(codes: NDArray[np.int32], names: list[str]) -> Text:
    """Name the slices in the order of numbers if all are integers, else of code points."""
    try:
        order = sorted(range(len(names)), key=lambda code: (int(names[code]), names[code]))
    except ValueError:
        order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    return Text(place[codes], [names[code] for code in order])


def _check_classes(columns: Columns, rows: RowFile, names: Names) -> None:
    labels, weights = columns.labels, columns.weights
    if weights is None:
        counted, positives, what = len(labels), int(np.count_nonzero(labels)), "rows"
    else:
        heavy = weights > 0
        counted, positives = int(np.count_nonzero(heavy)), int(np.count_nonzero(heavy & labels))
        what = "rows of positive weight"
    if not 0 < positives < counted:
        got = f"{positives:,} positives in {counted:,} {what}"
        raise column_error(rows.path, names.label, "must contain both classes", got)


def _every(good: Any, values: NDArray[Any], batch: Batch, name: str, rule: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise column_error(batch.path, name, rule, values[row].item(), batch.start + row)
