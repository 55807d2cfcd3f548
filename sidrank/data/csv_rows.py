"""CSV files as rows: a header line, commas, UTF-8, quotes where a value needs them.

Every byte must be UTF-8, also in columns that are not read: in a file of another encoding a
column may not be what it seems. An empty cell is missing; any other text is what it says, so a
country ``NA`` stays Namibia.

Shapes: ``[n]`` rows of one batch.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv as pc

from sidrank.data.arrow_columns import as_keys, parse_numbers
from sidrank.data.arrow_vectors import parse_vectors
from sidrank.data.columns import Batch, column_error
from sidrank.data.rows import check_columns

__all__ = ["CSVRows"]

_BLOCK = 1 << 22  # bytes that are parsed at a time


class CSVRows:
    """A CSV file; a :class:`~sidrank.data.rows.RowFile` whose length only reading tells.

    Args:
        path: The file.
        gzipped: Whether it is compressed.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If its beginning is no CSV.
    """

    def __init__(self, *, path: Path, gzipped: bool) -> None:
        self.path = path
        self.num_rows: int | None = None
        self._gzipped = gzipped
        with self._reader(pc.ConvertOptions()) as reader:
            self.columns: tuple[str, ...] = tuple(reader.schema.names)

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
            keys: Columns to read as keys; always text.
            vectors: Columns to read as vectors: cells of several numbers.
            batch_rows: Not used: a batch is as many rows as 4 MiB hold.

        Yields:
            Batches of at least one row.

        Raises:
            ValueError: If a column or the file is not as it must be.
        """
        named = list(dict.fromkeys([*numbers, *keys, *vectors]))
        check_columns(self.path, self.columns, named)
        # as text: what a column holds must not depend on what its first rows look like
        options = pc.ConvertOptions(
            column_types=dict.fromkeys(named, pa.string()),
            include_columns=named,
            strings_can_be_null=True,
            null_values=[""],
            check_utf8=False,  # the stream does
        )
        start = 0
        with self._reader(options) as reader:
            for arrow in reader:
                if arrow.num_rows:
                    columns = {name: arrow.column(name) for name in named}
                    yield Batch(
                        self.path,
                        start,
                        {n: parse_numbers(columns[n], self.path, n, start) for n in numbers},
                        {n: as_keys(columns[n], self.path, n, start) for n in keys},
                        {n: parse_vectors(columns[n], self.path, n, start) for n in vectors},
                    )
                    start += arrow.num_rows

    @contextmanager
    def _reader(self, options: Any) -> Generator[Any]:
        with self._open() as file:
            try:
                yield pc.open_csv(
                    pa.PythonFile(_UTF8(file), mode="r"),
                    read_options=pc.ReadOptions(block_size=_BLOCK),
                    parse_options=pc.ParseOptions(newlines_in_values=True),
                    convert_options=options,
                )
            except (pa.ArrowException, UnicodeDecodeError) as error:
                raise self._fault() or _broken(self.path, error) from None
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise _broken(self.path, error) from None

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path)) if self._gzipped else self.path.open("rb")

    def _fault(self) -> ValueError | None:
        """Read the file again, slowly, for the place of what Arrow has refused."""
        with (
            self._open() as file,
            io.TextIOWrapper(
                file, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as text,
        ):
            try:
                records = (record for record in csv.reader(text) if record)
                header = next(records, [])
                for name in header:
                    if not _is_utf8(name):
                        return ValueError(f"{self.path}: header must be UTF-8, got {_raw(name)}")
                for row, record in enumerate(records):
                    if len(record) != len(header):
                        return ValueError(
                            f"{self.path}: rows must have one value per column ({len(header)}), "
                            f"got {len(record)} in row {row}"
                        )
                    for name, cell in zip(header, record, strict=True):
                        if not _is_utf8(cell):
                            return column_error(self.path, name, "must be UTF-8", _raw(cell), row)
            except csv.Error:
                pass  # Arrow's own words will have to do
        return None


class _UTF8(io.RawIOBase):
    """A file that fails where it is not UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._decoder.decode(data, final=not data)
        return data


def _is_utf8(cell: str) -> bool:
    return cell.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in cell)


def _raw(cell: str) -> bytes:
    return cell.encode("utf-8", "surrogateescape")


def _broken(path: Path, got: object) -> ValueError:
    return ValueError(f"{path} must be a whole CSV file, got {got}")
