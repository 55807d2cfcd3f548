"""Parquet files as rows: the named columns only, one batch in memory at a time.

A row group is read through a small buffer instead of as a whole, so a file of one huge row group
costs no more memory than one of many. Checksums of pages are verified where the writer made them.

Shapes: ``[n]`` rows of one batch.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sidrank.data.arrow_columns import as_keys, as_numbers, is_key, is_number
from sidrank.data.arrow_vectors import as_vectors, is_vector
from sidrank.data.columns import Batch, column_error
from sidrank.data.rows import check_columns

__all__ = ["ParquetRows"]

_BUFFER = 1 << 20  # bytes read ahead in each column


class ParquetRows:
    """One parquet file, or several read as one; a :class:`~sidrank.data.rows.RowFile`.

    Args:
        path: What the user named.
        parts: The files in order, at least one.

    Raises:
        OSError: If a part cannot be opened.
        ValueError: If a part is not a whole parquet file.
    """

    def __init__(self, *, path: Path, parts: Sequence[Path]) -> None:
        self.path = path
        self.num_rows: int = 0
        self._schemas: dict[Path, Any] = {}
        for part in parts:
            with open_parquet(part) as file:
                self.num_rows += file.metadata.num_rows
                self._schemas[part] = file.schema_arrow
        self.columns: tuple[str, ...] = tuple(self._schemas[parts[0]].names)

    def batches(
        self,
        *,
        numbers: Sequence[str] = (),
        keys: Sequence[str] = (),
        vectors: Sequence[str] = (),
        batch_rows: int = 1 << 18,
    ) -> Iterator[Batch]:
        """See :meth:`sidrank.data.rows.RowFile.batches`.

        Args:
            numbers: Columns to read as numbers.
            keys: Columns to read as keys.
            vectors: Columns to read as vectors: lists of numbers.
            batch_rows: Most rows in a batch.

        Yields:
            Batches of at least one row.

        Raises:
            ValueError: If a column or a part is not as it must be.
        """
        first = next(iter(self._schemas.values()))
        for part, schema in self._schemas.items():
            check_columns(part, schema.names, [*numbers, *keys, *vectors])
            for name in numbers:
                kind = schema.field(name).type
                if not is_number(kind):
                    raise column_error(part, name, "must hold numbers", kind)
            for name in keys:
                kind = schema.field(name).type
                if not is_key(kind):
                    raise column_error(part, name, "must hold integers or text", kind)
                if kind != first.field(name).type:  # 7 and "7" may or may not be one user
                    rule = f"must have the same type in every file ({first.field(name).type})"
                    raise column_error(part, name, rule, kind)
            for name in vectors:
                kind = schema.field(name).type
                if not is_vector(kind):
                    raise column_error(part, name, "must hold lists of numbers", kind)
        for part in self._schemas:
            yield from _batches(part, numbers, keys, vectors, batch_rows)
        pa.default_memory_pool().release_unused()  # what comes next needs the memory more


def _batches(
    path: Path,
    numbers: Sequence[str],
    keys: Sequence[str],
    vectors: Sequence[str],
    batch_rows: int,
) -> Iterator[Batch]:
    start = 0
    named = list(dict.fromkeys([*numbers, *keys, *vectors]))
    with open_parquet(path) as file:
        for arrow in _decoded(file, path, named, batch_rows):
            yield Batch(
                path,
                start,
                {name: as_numbers(arrow.column(name), path, name, start) for name in numbers},
                {name: as_keys(arrow.column(name), path, name, start) for name in keys},
                {name: as_vectors(arrow.column(name), path, name, start) for name in vectors},
            )
            start += arrow.num_rows
        if start != file.metadata.num_rows:
            raise broken(path, f"{start} of {file.metadata.num_rows} rows")


def _decoded(file: Any, path: Path, named: list[str], batch_rows: int) -> Iterator[Any]:
    arrows = file.iter_batches(batch_size=batch_rows, columns=named)
    while True:
        try:
            arrow = next(arrows, None)
        except (pa.ArrowException, OSError) as error:
            raise broken(path, error) from None
        if arrow is None:
            return
        if arrow.num_rows:
            yield arrow


def open_parquet(path: Path) -> Any:
    with path.open("rb"):  # what the system says of a file is clearer than what Arrow says
        pass
    try:
        return pq.ParquetFile(
            path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise broken(path, error) from None


def broken(path: Path, got: object) -> ValueError:
    return ValueError(f"{path} must be a whole parquet file, got {got}")
