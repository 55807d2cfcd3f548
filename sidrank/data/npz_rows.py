"""NPZ files as rows: arrays with one element (or one vector) a row, read a block at a time.

``numpy.load`` reads a column as a whole; here each member of the archive is a stream, so that
reading costs no more memory than a batch. Headers are read by numpy, nothing is unpickled.

Source: the NPY format, versions 1.0 and 2.0 (numpy enhancement proposal 1).
Differs from the source: arrays of objects are refused. A matrix that was stored column by column
(Fortran order) has to be read as a whole.

Shapes: ``[n]`` rows of one batch, ``[R]`` rows of the file, ``D`` width of a vector.
"""

import math
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sidrank.data.columns import Batch, Keys, Text, column_error
from sidrank.data.rows import check_columns

__all__ = ["NPZRows"]


class _Header(NamedTuple):
    shape: tuple[int, ...]
    by_columns: bool  # Fortran order
    dtype: np.dtype[Any]


class NPZRows:
    """An NPZ file; a :class:`~sidrank.data.rows.RowFile`.

    Args:
        path: The file.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is not a whole archive of arrays.
    """

    def __init__(self, *, path: Path) -> None:
        self.path = path
        self._headers: dict[str, _Header] = {}
        with _faults(path), zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        self._headers[member.removesuffix(".npy")] = _header(stream)
        self.columns: tuple[str, ...] = tuple(self._headers)
        lengths = {header.shape[0] for header in self._headers.values() if header.shape}
        self.num_rows: int | None = lengths.pop() if len(lengths) == 1 else None

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
            vectors: Columns to read as vectors: matrices.
            batch_rows: Most rows in a batch.

        Yields:
            Batches of at least one row.

        Raises:
            ValueError: If a column or the file is not as it must be.
        """
        named = list(dict.fromkeys([*numbers, *keys, *vectors]))
        check_columns(self.path, self.columns, named)
        rows = self._check(named, numbers, keys, vectors)
        with _faults(self.path), zipfile.ZipFile(self.path) as archive, ExitStack() as stack:
            streams = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in named}
            for stream in streams.values():
                _header(stream)
            whole = {
                name: self._read(name, streams[name], rows)
                for name in vectors
                if self._headers[name].by_columns
            }
            for start in range(0, rows, batch_rows):
                count = min(batch_rows, rows - start)
                arrays = {
                    name: whole[name][start : start + count]
                    if name in whole
                    else self._read(name, streams[name], count)
                    for name in named
                }
                yield Batch(
                    self.path,
                    start,
                    {name: arrays[name] for name in numbers},
                    {name: self._keys(name, arrays[name], start) for name in keys},
                    {name: arrays[name] for name in vectors},
                )

    def _check(
        self,
        named: Sequence[str],
        numbers: Sequence[str],
        keys: Sequence[str],
        vectors: Sequence[str],
    ) -> int:
        """Refuse what cannot be read as asked; the number of rows otherwise."""
        lengths: dict[str, int] = {}
        for name in named:
            shape, _, dtype = self._headers[name]
            if dtype.hasobject:
                raise column_error(self.path, name, "must not hold pickled objects", dtype)
            if name in vectors:
                if len(shape) != 2 or shape[1] == 0:
                    raise column_error(self.path, name, "must have shape [n, D]", list(shape))
                if dtype.kind not in "iuf":
                    raise column_error(self.path, name, "must hold vectors of numbers", dtype)
            elif len(shape) != 1:
                raise column_error(self.path, name, "must have shape [n]", list(shape))
            if name in numbers and dtype.kind not in "biuf":
                raise column_error(self.path, name, "must hold numbers", dtype)
            if name in keys and dtype.kind not in "biuUS":
                raise column_error(self.path, name, "must hold integers or text", dtype)
            lengths[name] = shape[0]
        first = next(iter(lengths), None)
        for name, length in lengths.items():
            if first is not None and length != lengths[first]:
                rule = f"must have as many rows as column {first!r} ({lengths[first]})"
                raise column_error(self.path, name, rule, length)
        return lengths[first] if first is not None else 0

    def _read(self, name: str, stream: IO[bytes], count: int) -> NDArray[Any]:
        shape, by_columns, dtype = self._headers[name]
        size = count * math.prod(shape[1:])
        data = stream.read(size * dtype.itemsize)
        if len(data) != size * dtype.itemsize:
            raise _BrokenError(f"the end of column {name!r} too soon")
        array = np.frombuffer(data, dtype) if data else np.zeros(size, dtype)  # "" takes no byte
        array = array.reshape((count, *shape[1:]), order="F" if by_columns else "C")
        return array.astype(dtype.newbyteorder("="), copy=False)

    def _keys(self, name: str, array: NDArray[Any], start: int) -> Keys:
        if array.dtype.kind in "biu":
            return array
        distinct, codes = np.unique(array, return_inverse=True)
        try:
            names = distinct.tolist() if array.dtype.kind == "U" else [n.decode() for n in distinct]
        except UnicodeDecodeError as error:
            row = int(np.argmax(array == error.object))
            raise column_error(
                self.path, name, "must be UTF-8", error.object, start + row
            ) from None
        return Text(codes.astype(np.int32), names)


class _BrokenError(Exception):
    """Told as a fault of the whole file."""


def _header(stream: IO[bytes]) -> _Header:
    """What the bytes that follow are."""
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        header = _Header(*read(stream))
    except KeyError as error:
        raise _BrokenError(f"an array of NPY version {error}") from None
    except ValueError as error:
        raise _BrokenError(error) from None
    return header


@contextmanager
def _faults(path: Path) -> Generator[None]:
    """Say of a broken archive which file it is."""
    try:
        yield
    except (
        _BrokenError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,  # a compression that Python does not know
        RuntimeError,  # encryption
    ) as error:
        raise ValueError(f"{path} must be a whole NPZ file, got {error}") from None
