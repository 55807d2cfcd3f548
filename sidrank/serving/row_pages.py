"""Versions of a large table that share all memory pages in which they are equal.

A new version of a table differs from the running one in some rows. A copy would double the
memory, and writing into the running one would show readers half of the change. Here the rows
stand in one anonymous file in memory, and a version is a private mapping of it: the kernel copies
a page when its first row is written, and every other page is shared. A version is an ordinary
tensor with an address of its own; no model knows.

What a version changed would be carried along by all later ones. It is not: a row that *no* living
version reads from the file any more (each has a page of its own for it, or ends before it) is
written into the file. So with each version, the pages of about two changes are held and not those
of all. Whether a version lives is asked of its mapping, which lives as long as a tensor that
shows it: not of whoever should have counted its readers.

Where more than half of the pages would be a version's own, it is a copy in a file of its own: two
versions, the current one and the one before it, never take more than two tables.

Rows that grow behind the end are written into the file at once: no older version reads there.

Source: ours [derived]; the mapping is ``mmap(2)`` with ``MAP_PRIVATE``. A page has 4 KiB on most
machines: a change of rows that lie far apart copies a page a row.

Shapes: ``V`` rows, ``n`` changed rows.
"""

import math
import mmap
import os
import tempfile
import threading
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LEAST_BYTES", "RowPages", "RowView"]

LEAST_BYTES = 1 << 20
"""Tables below are better copied: a mapping costs pages of its own, and a file handle."""


class RowView(NamedTuple):
    """One version of a table."""

    rows: Tensor
    """All rows, shape ``[V, ...]``; nothing may write to them."""
    private: Tensor
    """Rows that are not read from the file, ascending, int64."""
    pages: "RowPages"
    """Where the other versions are."""


class _Living(NamedTuple):
    mapping: "weakref.ref[mmap.mmap]"
    private: Tensor
    length: int


class RowPages:
    """The memory behind all versions of one table; :meth:`first` makes it with the first one.

    Args:
        shape: Of one row.
        dtype: Of the rows.

    Example:
        >>> old = RowPages.first(torch.zeros(4, 2))
        >>> new = old.pages.fork(old, torch.tensor([1, 4]), torch.ones(2, 2), 5)
        >>> old.rows[:, 0].tolist(), new.rows[:, 0].tolist()
        ([0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0])
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        self._row_bytes = math.prod(shape) * dtype.itemsize
        self._lock = threading.Lock()
        self._living: list[_Living] = []
        self._file = _memory_file()
        weakref.finalize(self, os.close, self._file)

    @classmethod
    def first(cls, rows: Tensor) -> RowView:
        """Copy a table.

        Args:
            rows: Its rows, at least one of at least one element.

        Returns:
            The first version.
        """
        none = torch.zeros(0, dtype=torch.int64)
        return cls(rows.shape[1:], rows.dtype)._copied(rows.detach(), none, rows[:0], len(rows))

    def fork(self, view: RowView, rows: Tensor, values: Tensor, length: int) -> RowView:
        """Make a version that differs from another in some rows.

        Args:
            view: The version that it grows from.
            rows: Rows that differ, ascending, each once, int64 ``[n]``; all those behind the end
                of ``view`` are among them.
            values: What they shall be, ``[n, ...]``.
            length: Rows of the new version, at least those of ``view``.

        Returns:
            The new version. No other one has changed.
        """
        with self._lock:
            end = max([length, *(each.length for each in self._alive())])
            os.ftruncate(self._file, end * self._row_bytes)
            carried = view.private[~torch.isin(view.private, rows)]
            wanted = torch.cat([rows, carried])
            content = torch.cat([values, view.rows.index_select(0, carried)])
            unread = self._unread(wanted)
            if 2 * self._num_pages(wanted[~unread]) * mmap.PAGESIZE > length * self._row_bytes:
                pages = RowPages(self._shape, self._dtype)
                return pages._copied(view.rows, rows, values, length)
            if bool(unread.any()):
                shared, _ = self._mapped(length, mmap.MAP_SHARED)
                shared.index_copy_(0, wanted[unread], content[unread])
            private = wanted[~unread]
            found = self._view(private.sort().values, length)
            found.rows.index_copy_(0, private, content[~unread])
            _touch(found.rows)
            return found

    def _copied(self, base: Tensor, rows: Tensor, values: Tensor, length: int) -> RowView:
        """The first version in this file."""
        os.ftruncate(self._file, length * self._row_bytes)
        shared, _ = self._mapped(length, mmap.MAP_SHARED)
        shared[: len(base)] = base
        shared.index_copy_(0, rows, values.detach())
        found = self._view(rows[:0], length)
        _touch(found.rows)
        return found

    def _num_pages(self, rows: Tensor) -> int:
        """Pages that hold a part of these rows, at least."""
        return len((rows * self._row_bytes // mmap.PAGESIZE).unique())

    def _unread(self, rows: Tensor) -> Tensor:
        """Which rows no living version reads from the file."""
        unread = torch.ones(len(rows), dtype=torch.bool)
        for each in self._alive():
            unread &= (rows >= each.length) | torch.isin(rows, each.private)
        return unread

    def _alive(self) -> list[_Living]:
        self._living = [each for each in self._living if each.mapping() is not None]
        return self._living

    def _view(self, private: Tensor, length: int) -> RowView:
        rows, mapping = self._mapped(length, mmap.MAP_PRIVATE)
        self._living.append(_Living(weakref.ref(mapping), private, length))
        return RowView(rows, private, self)

    def _mapped(self, length: int, kind: int) -> tuple[Tensor, mmap.mmap]:
        mapping = mmap.mmap(self._file, length * self._row_bytes, flags=kind)
        # the tensor's storage keeps the mapping, and nothing else does
        flat = torch.frombuffer(mapping, dtype=self._dtype)
        return flat.view(length, *self._shape), mapping


def _touch(rows: Tensor) -> None:
    """Map every page now: the first requests after a swap would wait for it."""
    rows.view(-1).view(torch.uint8)[:: mmap.PAGESIZE].sum()


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sidrank-rows")
    file, name = tempfile.mkstemp()  # no Linux
    os.unlink(name)
    return file
