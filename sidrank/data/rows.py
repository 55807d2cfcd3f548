"""One reader for rows in files: parquet (a file or a folder of parts), CSV and NPZ.

Only the columns that are named are read, in batches, so a file may be larger than the memory.
A file is what its first bytes say; where its name says otherwise it is refused. Nothing is
unpickled. Every fault is a ``ValueError`` that names the file and, where there is one, the column
and the row; a file that cannot be opened is the operating system's own ``OSError``.

A missing value is a fault: what it should count as is not the reader's to decide.

What the formats do differently: a CSV has text only, so a column is a number (float64) or a key
(text) because the caller asks for it as one, and its length is not known before it is read; a
folder's rows are counted within each of its files, which errors name. A vector is a list of
numbers in parquet, a row of a matrix in NPZ, and in a CSV a cell of numbers with spaces, commas
or semicolons between them and brackets around them or not. NPZ needs numpy alone, the other two
need pyarrow.

Shapes: ``[n]`` rows of one batch, ``D`` width of a vector.
"""

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sidrank.data.columns import Batch

__all__ = ["RowFile", "check_columns", "open_rows", "parquet_parts"]

_MAGIC = {b"PAR1": "parquet", b"PK\x03\x04": "NPZ", b"PK\x05\x06": "NPZ"}
_SUFFIXES = {".parquet": "parquet", ".npz": "NPZ", ".csv": "CSV"}
_GZIP = b"\x1f\x8b"
_LISTED = 12  # columns named in a message


class RowFile(Protocol):
    """A file of rows, opened: its columns are known, none of its rows is read."""

    @property
    def path(self) -> Path:
        """The file, or the folder of files."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, in the file's order."""
        ...

    @property
    def num_rows(self) -> int | None:
        """Number of rows; None where only reading tells."""
        ...

    def batches(
        self,
        *,
        numbers: Sequence[str] = (),
        keys: Sequence[str] = (),
        vectors: Sequence[str] = (),
        batch_rows: int = 1 << 18,
    ) -> Iterator[Batch]:
        """Read the named columns from the first row to the last.

        Args:
            numbers: Columns to read as numbers.
            keys: Columns to read as keys, integers or text.
            vectors: Columns to read as vectors, of one width within a batch.
            batch_rows: Most rows in a batch. A CSV is cut by bytes instead.

        Returns:
            Batches of at least one row each.

        Raises:
            ValueError: If a column is missing, there twice, of another type than asked for or
                holds a missing value, or the file is broken.
        """
        ...


def open_rows(path: Path | str) -> RowFile:
    """Open a file of rows.

    Args:
        path: A parquet file, a folder with ``*.parquet`` files (read in the order of their names,
            without its sub-folders), a CSV file with a header line (UTF-8, comma; may be
            gzipped), or an NPZ file of arrays with one row an element.

    Returns:
        The file.

    Raises:
        OSError: If the file does not exist or cannot be read.
        ValueError: If the file is empty, broken, not one of the three, or not what its name says.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/rows.npz", clicked=[0, 1, 1], user=[7, 7, 8])
        ...     rows = open_rows(f"{folder}/rows.npz")
        ...     batches = list(rows.batches(numbers=["clicked"], keys=["user"]))
        >>> rows.columns, rows.num_rows
        (('clicked', 'user'), 3)
        >>> batches[0].numbers["clicked"], batches[0].keys["user"]
        (array([0, 1, 1]), array([7, 7, 8]))
    """
    path = Path(path)
    if path.is_dir():
        from sidrank.data.parquet_rows import ParquetRows

        parts = parquet_parts(path)
        for part in parts:
            _kind(part)
        return ParquetRows(path=path, parts=parts)
    kind = _kind(path)
    if kind == "parquet":
        from sidrank.data.parquet_rows import ParquetRows

        return ParquetRows(path=path, parts=[path])
    if kind == "NPZ":
        from sidrank.data.npz_rows import NPZRows

        return NPZRows(path=path)
    from sidrank.data.csv_rows import CSVRows

    return CSVRows(path=path, gzipped=kind == "gzip")


def parquet_parts(path: Path) -> list[Path]:
    """The parquet files of a folder, without its sub-folders and hidden files.

    Args:
        path: The folder.

    Returns:
        Its files in the order of their names, one at least.

    Raises:
        ValueError: If there is none.
    """
    parts = [part for part in sorted(path.glob("*.parquet")) if part.name[0] not in "._"]
    if not parts:
        raise ValueError(f"{path} must hold .parquet files if it is a folder, got none")
    return parts


def check_columns(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a column that is missing or ambiguous.

    Args:
        path: The file.
        names: Names of all its columns.
        wanted: Names that the caller asks for.

    Raises:
        ValueError: If a wanted name is not there, or there more than once.
    """
    for name in wanted:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            there = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{path}: column {name!r} must exist, got columns {there}{hint}")
        if names.count(name) > 1:
            raise ValueError(
                f"{path}: column {name!r} must exist once, got {names.count(name)} of that name"
            )


def _kind(path: Path) -> str:
    """What the file's first bytes say it is: parquet, NPZ, CSV or gzip (of a CSV)."""
    with path.open("rb") as file:
        start = file.read(4096)
        size = file.seek(0, os.SEEK_END) if file.seekable() else -1
    if size < 0:
        raise ValueError(f"{path} must be a file on disk, got one that cannot be read twice")
    if not start:
        raise ValueError(f"{path} must not be empty, got 0 bytes")
    kind = _MAGIC.get(start[:4], "gzip" if start.startswith(_GZIP) else "CSV")
    suffixes = path.suffixes[-2:] if kind == "gzip" else path.suffixes[-1:]
    named = next(
        (_SUFFIXES[suffix.lower()] for suffix in suffixes if suffix.lower() in _SUFFIXES), None
    )
    if named not in (None, "CSV" if kind == "gzip" else kind):
        raise ValueError(f"{path} must be {named} as its name says, got {_found(kind, start)}")
    if kind == "CSV" and b"\0" in start:
        raise ValueError(f"{path} must be parquet, CSV (UTF-8) or NPZ, got bytes that are none")
    return kind


def _found(kind: str, start: bytes) -> str:
    if kind == "CSV":
        return f"a file that begins with {start[:4]!r}"
    return "a gzipped file" if kind == "gzip" else f"a file of {kind}"
