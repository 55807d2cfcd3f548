r"""Where the rows of a table live that is larger than the memory: in RAM, or in a file.

A row is ``width`` float32 numbers, the weight and behind it the optimiser's state, so that one
read or write moves both. `FileTier` maps its file with ``MADV_RANDOM``: with the read-ahead that a
kernel does by default, a row of 260 bytes costs half a megabyte of disk. A thread that touches a
page which is not in memory waits for the disk, and a written row needs the rest of its page, so the
rows of a batch are touched by many threads: a disk that is asked for 16 pages at a time gives
several times as many as one that is asked for one after the other. The file is 4096 bytes of header
and the rows::

    0     "sidrank-rows-1", rows, width and a random name as JSON and its CRC-32; then zeros
    4096  row 0, row 1, ...: float32, little-endian

A file is made under another name, filled, handed to the disk and then renamed: one that is there is
whole. Its blocks are reserved when it is made and when it is opened, so that a full disk is an
`OSError` there and not a signal in the middle of a step. Files are locked against a second opening;
POSIX only.

Overwriting rows in place is not safe against a kill: `sidrank.cache.journal` makes it so.

Source: CachedEmbedding, arXiv 2208.05321, and HierPS, arXiv 2003.05622, for a table behind a cache;
the file is ours [derived].

Shapes: ``n`` rows of a table of ``rows`` rows by ``width`` numbers.
"""

import itertools
import json
import mmap
import os
import secrets
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidrank._disk import lock, remove_leftovers, scratch_path, sync, write_all
from sidrank.cache._row_checks import check_rows, check_sizes

__all__ = ["FileTier", "Fill", "MemoryTier", "SlowTier"]

Fill = Callable[[int, int], Tensor]
"""``fill(start, stop)`` is the first content of the rows ``start`` to ``stop - 1``."""

_MAGIC = b"sidrank-rows-1\n"
_HEADER = 4096
_BLOCK_BYTES = 1 << 24
_AT_ONCE = 16  # pages asked of the disk; more gained nothing
_PER_THREAD = 64  # rows; handing over fewer costs more than touching them


@runtime_checkable
class SlowTier(Protocol):
    """A table's rows, read and written by number."""

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        ...

    @property
    def width(self) -> int:
        """How many float32 numbers a row has."""
        ...

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Copy the rows ``rows`` into ``out``.

        Args:
            rows: Which; int64 ``[n]``, in any order, a row as often as wanted.
            out: Where to; contiguous float32 ``[n, width]`` on the CPU.
        """
        ...

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Overwrite the rows ``rows`` with ``values``.

        Args:
            rows: Which; int64 ``[n]``, no row twice.
            values: With what; float32 ``[n, width]`` on the CPU.
        """
        ...

    def flush(self) -> None:
        """Wait until all that was written would survive a loss of power."""
        ...


class MemoryTier:
    """Rows in the process's own memory.

    Args:
        rows: How many rows.
        width: How many float32 numbers a row has.
        fill: Their first content, asked for in blocks; None: zeros.

    Raises:
        ValueError: If ``rows`` or ``width`` is below 1, or ``fill`` gives another shape.

    Example:
        >>> tier = MemoryTier(rows=3, width=2)
        >>> tier.write(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> out = torch.empty(3, 2)
        >>> tier.read(torch.tensor([0, 1, 2]), out)
        >>> out.tolist()
        [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
    """

    def __init__(self, *, rows: int, width: int, fill: Fill | None = None) -> None:
        check_sizes(rows, width)
        self._table = torch.zeros(rows, width)
        if fill is not None:
            for start, block in _blocks(rows, width, fill):
                self._table[start : start + len(block)] = block

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self._table.shape[0]

    @property
    def width(self) -> int:
        """How many float32 numbers a row has."""
        return self._table.shape[1]

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Copy the rows ``rows`` into ``out``.

        Args:
            rows: Which; int64 ``[n]``, in any order, a row as often as wanted.
            out: Where to; contiguous float32 ``[n, width]`` on the CPU.

        Raises:
            ValueError: If a shape or dtype differs, or a row is not of the table.
        """
        _check_read((self.rows, self.width), rows, out)
        torch.index_select(self._table, 0, rows, out=out)

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Overwrite the rows ``rows`` with ``values``.

        Args:
            rows: Which; int64 ``[n]``, no row twice.
            values: With what; float32 ``[n, width]`` on the CPU.

        Raises:
            ValueError: If a shape or dtype differs, or a row is not of the table.
        """
        check_rows((self.rows, self.width), rows, values, "values")
        self._table[rows] = values.detach()

    def flush(self) -> None:
        """Do nothing: there is no disk to wait for."""


class FileTier:
    """Rows in a memory-mapped file.

    Args:
        path: The file; made if it is not there, in a directory that is.
        rows: How many rows; must be what the file was made with.
        width: How many float32 numbers a row has; likewise.
        fill: The first content of a file that has to be made, asked for in blocks; None: zeros.

    Raises:
        ValueError: If ``rows`` or ``width`` is below 1, ``fill`` gives another shape, or the file
            is none of ours, of other sizes, truncated, or open already.
        OSError: If the disk is full or the file may not be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows"
        >>> ones = lambda start, stop: torch.ones(stop - start, 2)
        >>> tier = FileTier(path, rows=3, width=2, fill=ones)
        >>> tier.write(torch.tensor([1]), torch.tensor([[5.0, 6.0]]))
        >>> tier.close()
        >>> out = torch.empty(2, 2)
        >>> FileTier(path, rows=3, width=2).read(torch.tensor([1, 2]), out)
        >>> out.tolist()
        [[5.0, 6.0], [1.0, 1.0]]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rows: int,
        width: int,
        fill: Fill | None = None,
    ) -> None:
        check_sizes(rows, width)
        self._path = Path(path).absolute()
        if not os.path.lexists(self._path):
            _make(self._path, rows, width, fill)
        file = os.open(self._path, os.O_RDWR)
        try:
            lock(file, self._path, "path")
            self._identity = _checked_header(file, self._path, rows, width)
            size = _HEADER + rows * width * 4
            found = os.fstat(file).st_size
            if found != size:
                raise ValueError(f"path must hold {size} bytes, got {self._path} with {found}")
            os.posix_fallocate(file, 0, size)
            self._map: mmap.mmap | None = mmap.mmap(file, size)
        finally:
            os.close(file)  # the map keeps the file, and with it the lock
        self._map.madvise(mmap.MADV_RANDOM)
        numbers = np.frombuffer(self._map, dtype=np.float32, offset=_HEADER)
        self._table: npt.NDArray[np.float32] = numbers.reshape(rows, width)
        self._sizes = (rows, width)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "sidrank-rows")

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def identity(self) -> str:
        """What tells the file from one made anew in its place; copies share it."""
        return self._identity

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self._sizes[0]

    @property
    def width(self) -> int:
        """How many float32 numbers a row has."""
        return self._sizes[1]

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Copy the rows ``rows`` into ``out``.

        Args:
            rows: Which; int64 ``[n]``, in any order, a row as often as wanted.
            out: Where to; contiguous float32 ``[n, width]`` on the CPU.

        Raises:
            ValueError: If a shape or dtype differs, a row is not of the table, or it is closed.
        """
        self._opened()
        _check_read(self._sizes, rows, out)
        table, numbers, into = self._table, rows.numpy(), out.detach().numpy()

        def copy(part: slice) -> None:
            np.take(table, numbers[part], axis=0, out=into[part], mode="clip")

        self._by_parts(copy, len(rows))

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Overwrite the rows ``rows`` with ``values``.

        Args:
            rows: Which; int64 ``[n]``, no row twice.
            values: With what; float32 ``[n, width]`` on the CPU.

        Raises:
            ValueError: If a shape or dtype differs, a row is not of the table, or it is closed.
        """
        self._opened()
        check_rows(self._sizes, rows, values, "values")
        table, numbers, content = self._table, rows.numpy(), values.detach().numpy()

        def copy(part: slice) -> None:
            table[numbers[part]] = content[part]

        self._by_parts(copy, len(rows))

    def flush(self) -> None:
        """Wait until all that was written would survive a loss of power.

        Raises:
            ValueError: If the tier is closed.
            OSError: If the disk refuses.
        """
        self._opened().flush()

    def close(self) -> None:
        """Let go of the file; what was written stays, unflushed."""
        if self._map is not None:
            self._threads.shutdown()
            self._table = np.empty((0, 0), dtype=np.float32)
            self._map.close()
        self._map = None

    def _by_parts(self, copy: Callable[[slice], None], count: int) -> None:
        """Copy all of ``count`` rows, by threads that wait for the disk at the same time."""
        parts = min(_AT_ONCE, count // _PER_THREAD)
        if parts < 2:
            copy(slice(count))
            return
        ends = [count * part // parts for part in range(parts + 1)]
        copies = [self._threads.submit(copy, slice(*part)) for part in itertools.pairwise(ends)]
        wait(copies)  # none goes on behind the back of an error
        for done in copies:
            done.result()

    def _opened(self) -> mmap.mmap:
        if self._map is None:
            raise ValueError(f"path must be of an open tier, got {self._path}, which is closed")
        return self._map


def _check_read(sizes: tuple[int, int], rows: Tensor, out: Tensor) -> None:
    check_rows(sizes, rows, out, "out")
    if not out.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {list(out.stride())}")


def _blocks(rows: int, width: int, fill: Fill) -> Iterator[tuple[int, Tensor]]:
    step = max(1, _BLOCK_BYTES // (4 * width))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = fill(start, stop).detach().float()
        if list(block.shape) != [stop - start, width]:
            raise ValueError(f"fill must give {[stop - start, width]}, got {list(block.shape)}")
        yield start, block


def _make(path: Path, rows: int, width: int, fill: Fill | None) -> None:
    remove_leftovers(path)
    scratch = scratch_path(path)
    size = _HEADER + rows * width * 4
    file = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
        write_all(file, _header(rows, width, secrets.token_hex(16)), 0)
        if fill is not None:
            for start, block in _blocks(rows, width, fill):
                content = block.contiguous().numpy().tobytes()
                write_all(file, content, _HEADER + start * width * 4)
        os.fsync(file)
        os.rename(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    sync(path.parent)


def _header(rows: int, width: int, identity: str) -> bytes:
    told = {"rows": rows, "width": width, "identity": identity}
    text = json.dumps(told, sort_keys=True).encode()
    return (_MAGIC + text + b"\n%08x\n" % zlib.crc32(text)).ljust(_HEADER, b"\0")


def _checked_header(file: int, path: Path, rows: int, width: int) -> str:
    found = os.pread(file, _HEADER, 0)
    try:
        told: dict[str, Any] = json.loads(found[len(_MAGIC) :].split(b"\n")[0])
        if found != _header(told["rows"], told["width"], told["identity"]):
            raise ValueError
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"path must be a file of rows, got {path}, whose header is none"
        ) from error
    for name, value in (("rows", rows), ("width", width)):
        if told[name] != value:
            raise ValueError(f"{name} must be the file's, {told[name]}, got {value} ({path})")
    return told["identity"]
