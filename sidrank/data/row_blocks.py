"""Row groups of parquet as checked arrays in a drawn order: what a reader thread does.

Shapes: ``n`` rows of a block, ``D`` dense columns, ``Y`` labels, ``T`` ids of one feature.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sidrank.data.arrow_columns import as_numbers, is_number, refuse_nulls
from sidrank.data.columns import Numbers, column_error
from sidrank.data.parquet_rows import broken, open_parquet
from sidrank.data.row_plan import Block, Segment
from sidrank.data.rows import check_columns

__all__ = ["DecodedBlock", "Ids", "check_types", "decode"]


class Ids(NamedTuple):
    """The ids of a feature."""

    values: Numbers
    """Row after row, shape ``[T]``."""
    lengths: NDArray[np.int32] | None
    """Ids of each row, shape ``[n]``; None where every row has one."""
    ends: NDArray[np.int64] | None
    """Where each row's ids end in ``values``, shape ``[n]``; None where every row has one."""

    def rows(self, start: int, stop: int) -> "Ids":
        """Consecutive rows, without a copy.

        Args:
            start: Rows before the first.
            stop: Rows before the end.

        Returns:
            Their ids; only ``values`` and ``lengths`` are meant for use.
        """
        if self.ends is None or self.lengths is None:
            return Ids(self.values[start:stop], None, None)
        begin, end = (int(self.ends[row - 1]) if row else 0 for row in (start, stop))
        return Ids(self.values[begin:end], self.lengths[start:stop], None)


class DecodedBlock(NamedTuple):
    """Rows, in the order in which they are handed out."""

    labels: NDArray[np.float32]
    """Shape ``[n, Y]``."""
    dense: NDArray[np.float32]
    """Shape ``[n, D]``."""
    ids: tuple[Ids, ...]
    """A feature each."""

    def rows(self, start: int, stop: int) -> "DecodedBlock":
        """Consecutive rows, without a copy.

        Args:
            start: Rows before the first.
            stop: Rows before the end.

        Returns:
            The rows.
        """
        ids = tuple(each.rows(start, stop) for each in self.ids)
        return DecodedBlock(self.labels[start:stop], self.dense[start:stop], ids)


def check_types(
    schemas: Mapping[Path, Any],
    labels: Sequence[str],
    dense: Sequence[str],
    sparse: Sequence[str],
) -> None:
    """Refuse columns that cannot be read as asked for, before any row is.

    Args:
        schemas: The Arrow schema of each file.
        labels: Columns of numbers.
        dense: Columns of numbers.
        sparse: Columns of ids; of one type in all files.

    Raises:
        ValueError: If a column is missing, there twice or of another type.
    """
    first = next(iter(schemas.values()))
    for path, schema in schemas.items():
        check_columns(path, schema.names, [*labels, *dense, *sparse])
        for name in [*labels, *dense]:
            kind = schema.field(name).type
            if not is_number(kind):
                raise column_error(path, name, "must hold numbers", kind)
        for name in sparse:
            kind = schema.field(name).type
            if not pa.types.is_integer(kind.value_type if _is_jagged(kind) else kind):
                raise column_error(path, name, "must hold integers or lists of them", kind)
            if kind != first.field(name).type:
                rule = f"must have the same type in every file ({first.field(name).type})"
                raise column_error(path, name, rule, kind)


def decode(
    block: Block, labels: Sequence[str], dense: Sequence[str], sparse: Sequence[str]
) -> DecodedBlock:
    """Read a block.

    Args:
        block: What to read.
        labels: Columns of numbers.
        dense: Columns of numbers.
        sparse: Columns of ids, an integer a row or a list of them.

    Returns:
        Its rows in their order.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is broken, or holds a value that is missing, not finite, negative
            or beyond 63 bits.
    """
    names = [*labels, *dense, *sparse]
    tables = [(segment, _read(segment, names)) for segment in block.segments]
    order = None if block.seed is None else block.order()
    ids = _Columns(block.rows, len(sparse), order)
    return DecodedBlock(
        _matrix(tables, labels, _Columns(block.rows, len(labels), order)),
        _matrix(tables, dense, _Columns(block.rows, len(dense), order)),
        tuple(
            _shuffled([_ids(table, at, name) for at, table in tables], place, ids)
            for place, name in enumerate(sparse)
        ),
    )


class _Columns:
    """Columns in the drawn order, in one run of memory: fresh memory a column costs more."""

    def __init__(self, rows: int, number: int, order: NDArray[np.int64] | None) -> None:
        self.shape = number, rows
        self.order = order
        self._room: dict[np.dtype[Any], Numbers] = {}
        self._joined: dict[np.dtype[Any], Numbers] = {}

    def room(self, kind: np.dtype[Any]) -> Numbers:
        """Of all columns of a type; what is never written takes no memory."""
        if kind not in self._room:
            self._room[kind] = np.empty(self.shape, kind)
        return self._room[kind]

    def put(self, parts: Sequence[Numbers], place: int) -> Numbers:
        """Lay parts side by side and mix them."""
        kind = parts[0].dtype
        out = self.room(kind)[place]
        if self.order is None:
            return np.concatenate(parts, out=out)
        whole = parts[0]
        if len(parts) > 1:
            if kind not in self._joined:
                self._joined[kind] = np.empty(self.shape[1], kind)
            whole = np.concatenate(parts, out=self._joined[kind])
        # clipping spares a second copy; no place is out of range
        return np.take(whole, self.order, out=out, mode="clip")


def _read(segment: Segment, names: Sequence[str]) -> Any:
    with open_parquet(segment.path) as file:
        try:
            table = file.read_row_group(segment.group, columns=list(names), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise broken(segment.path, error) from None
    return table.slice(segment.start, segment.stop - segment.start)


def _matrix(
    tables: Sequence[tuple[Segment, Any]], names: Sequence[str], columns: _Columns
) -> NDArray[np.float32]:
    # a column is one run of memory: filled at its full speed, read in short pieces later
    for place, name in enumerate(names):
        columns.put([_numbers(table, segment, name) for segment, table in tables], place)
    return columns.room(np.dtype(np.float32)).T


def _numbers(table: Any, segment: Segment, name: str) -> NDArray[np.float32]:
    path, start = segment.path, segment.first + segment.start
    array = _whole(table.column(name))
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and told below
        values = as_numbers(array, path, name, start).astype(np.float32, copy=False)
    if not np.isfinite(values.sum(dtype=np.float64)):
        for row in np.flatnonzero(~np.isfinite(values))[:1].tolist():
            raise column_error(
                path, name, "must hold finite float32 numbers", values[row], start + row
            )
    return values


def _ids(table: Any, segment: Segment, name: str) -> Ids:
    path, start = segment.path, segment.first + segment.start
    array = _whole(table.column(name))
    refuse_nulls(array, path, name, start)
    if not _is_jagged(array.type):
        values = _ids_of(array, path, name, lambda at: start + at)
        return Ids(values, None, None)
    ends = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    flat = array.flatten()
    lengths = np.diff(ends)
    ends = ends[1:] - ends[0]

    def row_of(at: int) -> int:
        return start + int(np.searchsorted(ends, at, side="right"))

    if flat.null_count:
        at = pc.index(flat.is_null(), pa.scalar(True)).as_py()
        raise column_error(path, name, "must not hold missing ids", "null", row_of(at))
    return Ids(_ids_of(flat, path, name, row_of), lengths.astype(np.int32), ends)


def _ids_of(array: Any, path: Path, name: str, row_of: Callable[[int], int]) -> Numbers:
    """As int32 or int64; negative ones, and those that an int64 cannot hold, are refused."""
    values = array.to_numpy(zero_copy_only=False)
    # what is beyond 63 bits is negative as an int64
    signed = values.view(np.int64) if values.dtype == np.uint64 else values
    if signed.min(initial=0) < 0:
        at = int((signed < 0).argmax())
        rule = "must hold ids from 0 to 2**63 - 1"
        raise column_error(path, name, rule, values[at], row_of(at))
    narrow = values.dtype.itemsize < 4 or values.dtype == np.int32
    return values.astype(np.int32 if narrow else np.int64, copy=False)


def _is_jagged(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _shuffled(parts: Sequence[Ids], place: int, columns: _Columns) -> Ids:
    lengths = [part.lengths for part in parts if part.lengths is not None]
    if not lengths:
        return Ids(columns.put([part.values for part in parts], place), None, None)
    values, found = _joined([part.values for part in parts]), _joined(lengths)
    order = columns.order
    if order is None:
        return Ids(values, found, np.cumsum(found, dtype=np.int64))
    starts = np.cumsum(found) - found
    mixed = found[order]
    ends = np.cumsum(mixed, dtype=np.int64)
    shift = np.repeat(starts[order] - (ends - mixed), mixed)
    return Ids(values[np.arange(len(values)) + shift], mixed, ends)


def _joined(parts: Sequence[Numbers]) -> Numbers:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _whole(column: Any) -> Any:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
