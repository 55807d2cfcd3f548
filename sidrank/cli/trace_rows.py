"""A log as global batches: which tables its columns read, and their ids, batch by batch.

Shapes: ``[n]`` rows, ``[m]`` ids.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from sidrank.data import RowFile
from sidrank.data.columns import Text, column_error

__all__ = ["Readers", "global_batches", "largest_ids", "readers"]

Ids = NDArray[np.int64]


class Readers(NamedTuple):
    """Tables, and the columns that read them."""

    columns: dict[str, Sequence[str]]
    """Columns by name of the table."""
    rows: dict[str, int]
    """Rows of each table."""


def readers(path: Path, columns: Sequence[str]) -> Readers:
    """Read a list of tables, the one that `sidrank plan` takes.

    Args:
        path: A JSON list of objects with ``name``, ``rows`` and ``features``, which are the name
            if not told; whatever else they hold is not read.
        columns: The columns of the log that may be read, named like features.

    Returns:
        The tables.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such list, or its features are not the columns.
    """
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON, got {error}") from None
    if not isinstance(tables, list) or not tables:
        raise ValueError(f"{path} must hold a list of tables, got {str(tables)[:60]}")
    found = Readers({}, {})
    for place, given in enumerate(cast(list[Any], tables)):
        table = cast(dict[str, Any], given) if isinstance(given, dict) else {}
        name, rows = table.get("name", 0), table.get("rows", 0)
        features = table.get("features", [name])
        whole = isinstance(name, str) and type(rows) is int and isinstance(features, list)
        if not whole or name in found.rows or rows < 1:
            raise ValueError(
                f"{path}: table {place} must have a name of its own, a number of rows and a list"
                f" of features, got {str(cast(object, given))[:80]}"
            )
        found.columns[str(name)] = cast(list[str], features)
        found.rows[str(name)] = rows
    used = {str(feature) for features in found.columns.values() for feature in features}
    if used != set(columns):
        raise ValueError(
            f"columns must be the features of all tables in {path}, {', '.join(sorted(used))},"
            f" got {', '.join(columns)}"
        )
    return found


def largest_ids(
    rows: RowFile, columns: Sequence[str], told: Callable[[int], object]
) -> dict[str, int]:
    """The largest id of each column.

    Args:
        rows: The log.
        columns: Columns of ids.
        told: Called with the number of rows after each block.

    Returns:
        Ids by column; -1 if there is no row.

    Raises:
        ValueError: If the log is broken, or a column holds no ids.
    """
    largest = dict.fromkeys(columns, -1)
    for ids in _blocks(rows, columns, {}, told):
        for column in columns:
            largest[column] = max(largest[column], int(ids[column].max()))
    return largest


def global_batches(
    rows: RowFile, tables: Readers, size: int, told: Callable[[int], object]
) -> Iterator[dict[str, Ids]]:
    """The ids of each table in each batch of so many rows of the log, in its order.

    Args:
        rows: The log.
        tables: The tables.
        size: Rows of a global batch.
        told: Called with the number of rows after each block.

    Yields:
        Ids by name of the table, shape ``[m]``. Rows that do not fill a batch are left out.

    Raises:
        ValueError: If the log is broken, or a column holds no ids of its tables.
    """
    columns = list(dict.fromkeys(name for names in tables.columns.values() for name in names))
    limits = {
        column: min(
            tables.rows[table] for table, names in tables.columns.items() if column in names
        )
        for column in columns
    }
    kept: dict[str, list[Ids]] = {column: [] for column in columns}
    waiting = 0
    for ids in _blocks(rows, columns, limits, told):
        for column in columns:
            kept[column].append(ids[column])
        waiting += len(ids[columns[0]])
        if waiting < size:
            continue
        whole = {column: np.concatenate(parts) for column, parts in kept.items()}
        end = waiting - waiting % size
        for start in range(0, end, size):
            yield {
                table: np.concatenate([whole[name][start : start + size] for name in names])
                for table, names in tables.columns.items()
            }
        kept = {column: [part[end:]] for column, part in whole.items()}
        waiting -= end


def _blocks(
    rows: RowFile,
    columns: Sequence[str],
    limits: Mapping[str, int],
    told: Callable[[int], object],
) -> Iterator[dict[str, Ids]]:
    for batch in rows.batches(keys=columns):
        for column in columns:
            ids = batch.keys[column]
            if isinstance(ids, Text) or ids.dtype.kind not in "iu":
                got = "text" if isinstance(ids, Text) else ids.dtype
                raise column_error(batch.path, column, "must hold integers", got)
            limit = limits.get(column, 2**63 - 1)
            outside = np.flatnonzero((ids < 0) | (ids >= limit))
            if len(outside):
                rule = f"must hold ids in [0, {limit:,})"
                raise column_error(
                    batch.path, column, rule, ids[outside[0]], batch.start + int(outside[0])
                )
        ids = cast(dict[str, Ids], batch.keys)
        yield {column: ids[column].astype(np.int64, copy=False) for column in columns}
        told(len(ids[columns[0]]))
