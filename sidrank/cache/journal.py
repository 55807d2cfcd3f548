r"""What the rows of a slow tier were at the last commit, so that a killed process can go back.

A rollback journal: before a row is overwritten for the first time since the commit, its old content
is appended to a file, and only then the row is written. The cost is that of the rows that changed,
not that of the table. The file::

    0     "sidrank-journal-1", the epoch and the tables' SHA-256 as JSON and its CRC-32; then zeros
    2048  how many bytes are valid, 8 bytes; its complement, 8 bytes
    4096  records: table, number of rows, CRC-32; row numbers, int64; old rows, float32

The number of valid bytes is written after the record and before the rows: what lies behind it was
cut off by a kill, and none of its rows has been touched. What lies before it must be there and fit
its checksum. So a journal that somebody truncated or damaged is refused, never read in part.

Safe against a kill of the process, whenever it comes. Against a loss of power between two commits
only with ``power_safe=True``, which waits for the disk before each overwrite; nobody has pulled a
plug to test that.

Source: the rollback journal of SQLite (https://www.sqlite.org/atomiccommit.html); the file is ours
[derived].

Shapes: ``n`` rows of a table of ``rows`` rows by ``width`` numbers.
"""

import hashlib
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sidrank._disk import publish, write_all
from sidrank.cache._row_checks import check_rows
from sidrank.cache.errors import CacheError
from sidrank.cache.slow_tier import SlowTier

__all__ = ["HEADER_BYTES", "Journal", "JournaledTier", "roll_back"]

_MAGIC = b"sidrank-journal-1\n"
HEADER_BYTES = 4096
_VALID = 2048
_MAX = 2**64 - 1
_RECORD = struct.Struct("<IIQ")  # table, checksum, number of rows


class Journal:
    """The old rows of the tables of one process since one commit, appended to a file.

    Args:
        path: The file; one that is there is replaced, so it must have been rolled back.
        epoch: The number of the commit.
        tables: Rows and width by name; the order is part of the file.
        power_safe: Wait for the disk after each append.

    Raises:
        OSError: If the disk refuses.

    Example:
        >>> import tempfile
        >>> from sidrank.cache.slow_tier import MemoryTier
        >>> path = Path(tempfile.mkdtemp()) / "journal"
        >>> tier = MemoryTier(rows=2, width=1)
        >>> journal = Journal(path, epoch=0, tables={"items": (2, 1)})
        >>> journaled = JournaledTier("items", tier, journal)
        >>> journaled.write(torch.tensor([1]), torch.tensor([[7.0]]))
        >>> roll_back(path, 0, {"items": tier})
        1
        >>> out = torch.empty(1, 1)
        >>> journaled.read(torch.tensor([1]), out)
        >>> out.item()
        0.0
    """

    def __init__(
        self,
        path: Path,
        *,
        epoch: int,
        tables: Mapping[str, tuple[int, int]],
        power_safe: bool = False,
    ) -> None:
        self.path = path
        self._power_safe = power_safe
        self._places = {name: place for place, name in enumerate(tables)}
        self._end = HEADER_BYTES
        publish(path, [_header(epoch, tables)])
        self._file = os.open(path, os.O_RDWR)

    @property
    def size(self) -> int:
        """How many bytes of the file count."""
        return self._end

    def append(self, table: str, rows: Tensor, old: Tensor) -> None:
        """Note what rows are, before they are overwritten.

        Args:
            table: Whose rows.
            rows: Which; int64 ``[n]``.
            old: What they are; float32 ``[n, width]``.

        Raises:
            OSError: If the disk refuses; then the rows must not be overwritten.
        """
        numbers, content = _bytes(rows), _bytes(old)
        place = self._places[table]
        checksum = _checksum(place, numbers, content)
        record = b"".join((_RECORD.pack(place, checksum, len(rows)), numbers, content))
        write_all(self._file, record, self._end)
        if self._power_safe:  # the count must not get there before what it counts
            os.fsync(self._file)
        write_all(self._file, _counted(self._end + len(record) - HEADER_BYTES), _VALID)
        if self._power_safe:
            os.fsync(self._file)
        self._end += len(record)

    def flush(self) -> None:
        """Wait until the journal is on the disk.

        Raises:
            OSError: If the disk refuses.
        """
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


class JournaledTier:
    """A slow tier whose overwritten rows can be had back.

    Args:
        name: The table.
        tier: Its rows.
        journal: Where old rows go; None: nothing may be written until ``follow`` is called.

    Example:
        >>> from sidrank.cache.slow_tier import MemoryTier
        >>> tier = JournaledTier("items", MemoryTier(rows=2, width=1), None)
        >>> tier.write(torch.tensor([1]), torch.tensor([[7.0]]))
        Traceback (most recent call last):
        sidrank.cache.errors.CacheError: items must be written after one commit and ...
    """

    def __init__(self, name: str, tier: SlowTier, journal: Journal | None) -> None:
        self._name, self._tier, self._journal = name, tier, journal
        self._lock = threading.Lock()
        self._noted = torch.zeros(tier.rows, dtype=torch.bool)
        self._since: list[Tensor] = []
        self._bytes = 0

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self._tier.rows

    @property
    def width(self) -> int:
        """How many float32 numbers a row has."""
        return self._tier.width

    @property
    def written(self) -> int:
        """How many bytes of rows were written, since the tier was opened."""
        return self._bytes

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Copy the rows ``rows`` into ``out``.

        Args:
            rows: Which; int64 ``[n]``, in any order, a row as often as wanted.
            out: Where to; contiguous float32 ``[n, width]`` on the CPU.
        """
        self._tier.read(rows, out)

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Note what the rows are, if this was not done since the commit; then overwrite them.

        Args:
            rows: Which; int64 ``[n]``, no row twice.
            values: With what; float32 ``[n, width]`` on the CPU.

        Raises:
            CacheError: If no commit was made yet, one is being made, or an earlier write failed.
            ValueError: If a shape or dtype differs, or a row is not of the table.
            OSError: If the disk refuses; the rows are as they were, and only reading goes on.
        """
        check_rows((self.rows, self.width), rows, values, "values")
        with self._lock:
            if self._journal is None:
                raise CacheError(
                    f"{self._name} must be written after one commit and before the next, "
                    "got a write before, during or after a failure"
                )
            journal, self._journal = self._journal, None  # nothing is safe after a failure
            new = rows[~self._noted[rows]]
            if len(new):
                old = torch.empty(len(new), self.width)
                self._tier.read(new, old)
                journal.append(self._name, new, old)
                self._noted[new] = True
                self._since.append(new)
            self._tier.write(rows, values)
            self._bytes += values.numel() * 4
            self._journal = journal

    def flush(self) -> None:
        """Wait until all that was written would survive a loss of power."""
        self._tier.flush()

    def seal(self) -> None:
        """Refuse writes until ``follow``."""
        with self._lock:
            self._journal = None

    def follow(self, journal: Journal) -> None:
        """Start over with another journal.

        Args:
            journal: Of a later commit; no row is noted in it.
        """
        with self._lock:
            for rows in self._since:  # as many as were written, not as many as there are
                self._noted[rows] = False
            self._since = []
            self._journal = journal


def roll_back(path: Path, epoch: int, tiers: Mapping[str, SlowTier]) -> int:
    """Write the old rows of a journal back to the tiers; the journal stays.

    Nothing is written unless the whole journal is good. Doing it twice is as good as once.

    Args:
        path: The journal.
        epoch: Of which commit it must be.
        tiers: The tables, by name, in the order of the journal.

    Returns:
        How many rows were written.

    Raises:
        CacheError: If the journal is damaged or truncated, of another commit or of other tables.
        OSError: If the disk refuses.
    """
    tables = {name: (tier.rows, tier.width) for name, tier in tiers.items()}
    with path.open("rb") as file:
        if file.read(_VALID) != _header(epoch, tables)[:_VALID]:
            raise CacheError(
                f"{path} must be the journal of commit {epoch} and of the tables {tables}, "
                "got another or a damaged one"
            )
        numbers = struct.unpack("<2Q", file.read(16).ljust(16, b"\0"))
        if sum(numbers) != _MAX:
            raise CacheError(f"{path} must hold its number of bytes, got a damaged one")
        end = HEADER_BYTES + numbers[0]
        records = list(_records(file.fileno(), path, end, list(tiers.values())))
        rows = 0
        for offset, tier, count in reversed(records):
            ids, old = _read(file.fileno(), offset, tier, count)
            tier.write(
                torch.from_numpy(np.frombuffer(bytearray(ids), dtype=np.int64)),
                torch.from_numpy(np.frombuffer(bytearray(old), dtype=np.float32)).view(count, -1),
            )
            rows += count
    return rows


def _records(
    file: int, path: Path, end: int, tiers: list[SlowTier]
) -> Iterator[tuple[int, SlowTier, int]]:
    offset = HEADER_BYTES
    while offset < end:
        found = _record(file, offset, end, tiers)
        if found is None:
            raise CacheError(
                f"{path} must hold {end} good bytes, got a record at byte {offset} that is "
                "damaged or cut off; the tables cannot be taken back to the commit"
            )
        tier, count = found
        yield offset, tier, count
        offset += _size(tier, count)


def _record(file: int, offset: int, end: int, tiers: list[SlowTier]) -> tuple[SlowTier, int] | None:
    head = os.pread(file, _RECORD.size, offset)
    if len(head) < _RECORD.size:
        return None
    place, checksum, count = _RECORD.unpack(head)
    if place >= len(tiers) or offset + _size(tiers[place], count) > end:
        return None
    ids, old = _read(file, offset, tiers[place], count)
    if _checksum(place, ids, old) != checksum:
        return None
    return tiers[place], count


def _size(tier: SlowTier, count: int) -> int:
    return _RECORD.size + count * (8 + 4 * tier.width)


def _read(file: int, offset: int, tier: SlowTier, count: int) -> tuple[bytes, bytes]:
    start = offset + _RECORD.size
    return _pread(file, count * 8, start), _pread(file, count * 4 * tier.width, start + count * 8)


def _pread(file: int, size: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.pread(file, size, offset)
        if not part:
            break
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def _checksum(place: int, rows: bytes, old: bytes) -> int:
    return zlib.crc32(old, zlib.crc32(rows, zlib.crc32(struct.pack("<2Q", place, len(rows)))))


def _counted(valid: int) -> bytes:
    return struct.pack("<2Q", valid, _MAX - valid)


def _header(epoch: int, tables: Mapping[str, tuple[int, int]]) -> bytes:
    named = json.dumps([[name, *sizes] for name, sizes in tables.items()])
    told = {"epoch": epoch, "tables": hashlib.sha256(named.encode()).hexdigest()}
    text = json.dumps(told, sort_keys=True).encode()
    start = (_MAGIC + text + b"\n%08x\n" % zlib.crc32(text)).ljust(_VALID, b"\0")
    return (start + _counted(0)).ljust(HEADER_BYTES, b"\0")
