r"""Instance tokens in one memory-mapped file that a killed process cannot spoil.

The file is a header of 4096 bytes and records of one size, in the order of writing::

    0     "sidrank-instances-1", the spec and the layout as JSON and its CRC-32; then zeros
    2048  number of committed records, 8 bytes; its complement, 8 bytes
    4096  records: user, instance, event time, label times, sides, vector, checksum

A put writes its records behind the committed ones, waits for the disk, and only then writes the
number. Whatever a kill or a full disk leaves behind the committed records is not read and is
overwritten by the next put; so a put is there whole or not at all. Opening checks every committed
record against its checksum; a file that is too short or damaged is refused, never read in part.

``forget`` and ``expire`` write what is left to a new file beside the old one, wait for the disk,
and rename it over the old one: afterwards no byte of what was removed is in a file of the store.
That is what is promised; the blocks of the old file go back to the file system, which may not
overwrite them at once. Remove many users in one call: it costs one copy of the file.

The index is in memory (32 bytes an instance) and made when the file is opened. Files are locked
against a second process; POSIX only.

Source: the store of IAT, arXiv 2604.08933; the file is ours [derived].

Shapes: ``n`` records.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidrank._disk import lock, scratch_path, sync, write_all
from sidrank.sequences._indexed_instances import IndexedInstances
from sidrank.sequences._instance_packing import checksums, record
from sidrank.sequences.instance_rows import InstanceSpec

__all__ = ["MappedInstanceStore"]

_MAGIC = b"sidrank-instances-1\n"
_HEADER = 4096
_COMMIT = 2048
_BLOCK = 1 << 16
_MAX = 2**64 - 1


class MappedInstanceStore(IndexedInstances):
    """An instance store in a memory-mapped file.

    Args:
        path: The file; made if it does not exist, in a directory that does.
        spec: What the rows are; must be what the file was made with.
        time_to_live: Instances are seen at ``event_time < t < event_time + time_to_live``.

    Raises:
        ValueError: If the file is none of ours, of another spec, damaged or truncated, or open
            already; or ``time_to_live`` is not within ``[1, 2**63)``.
        OSError: If the disk refuses.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "instances"
        >>> row = {"instances": [1], "event_times": [10], "label_times": [[11]], "sides": [[1]]}
        >>> store = MappedInstanceStore(path, InstanceSpec(model_version="7", dim=2))
        >>> store.put(users=[5], **row, vectors=[[1, 2]], model_version="7")
        >>> store.close()
        >>> again = MappedInstanceStore(path, InstanceSpec(model_version="7", dim=2))
        >>> again.as_of([5], [99], 1, model_version="7").vectors.tolist()
        [[[1.0, 2.0]]]
        >>> again.close()
        >>> MappedInstanceStore(path, InstanceSpec(model_version="8", dim=2))
        Traceback (most recent call last):
        ValueError: spec must be the file's, with model_version '7', got '8' (.../instances)
    """

    def __init__(
        self, path: str | os.PathLike[str], spec: InstanceSpec, *, time_to_live: int | None = None
    ) -> None:
        super().__init__(spec, time_to_live=time_to_live)
        self._path = Path(path).absolute()
        self._dtype = record(spec)
        self._file = -1
        self._committed = 0
        self._map: NDArray[np.void] = np.zeros(0, dtype=self._dtype)
        if not os.path.lexists(self._path):
            os.close(self._written(self._map))
            sync(self._path.parent)
        self._file = os.open(self._path, os.O_RDWR)
        try:
            lock(self._file, self._path, "path")
            self._remove_leftovers()
            self._check_spec()
            self._load()
        except BaseException:
            self.close()
            raise
        self._reindex()

    def close(self) -> None:
        """Let go of the file."""
        self._map = np.zeros(0, dtype=self._dtype)
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def compact(self) -> None:
        """Drop the older records of instances that were put again; copies the file.

        Raises:
            ValueError: If the store is closed.
            OSError: If the disk refuses; the file is as it was.
        """
        self._keep(self._index.slots())
        self._reindex()

    def _check_open(self) -> None:
        if self._file < 0:
            raise ValueError(f"path must be of an open store, got {self._path}, which is closed")

    def _records(self) -> NDArray[np.void]:
        self._check_open()
        return self._map

    def _append(self, rows: NDArray[np.void]) -> None:
        self._check_open()
        end = _HEADER + self._committed * self._dtype.itemsize
        write_all(self._file, rows.tobytes(), end)
        os.fsync(self._file)
        try:
            _commit(self._file, self._committed + len(rows))
        except BaseException:
            self.close()  # whether it is written nobody can tell: the next to open it will see
            raise
        self._committed += len(rows)
        self._remap()

    def _keep(self, slots: NDArray[np.int64]) -> None:
        self._check_open()
        file = self._written(self._map, slots)
        os.close(self._file)
        self._file, self._committed = file, len(slots)
        self._remap()
        sync(self._path.parent)

    def _written(self, rows: NDArray[np.void], slots: NDArray[np.int64] | None = None) -> int:
        """Write a whole file under another name, then give it ours."""
        scratch = scratch_path(self._path)
        file = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            lock(file, scratch, "path")
            write_all(file, _header(self._spec, self._dtype), 0)
            places = np.arange(len(rows)) if slots is None else slots
            end = _HEADER
            for start in range(0, len(places), _BLOCK):
                block = rows[places[start : start + _BLOCK]].tobytes()
                write_all(file, block, end)
                end += len(block)
            os.fsync(file)
            _commit(file, len(places))
            os.rename(scratch, self._path)
        except BaseException:
            os.close(file)
            scratch.unlink(missing_ok=True)
            raise
        return file

    def _remove_leftovers(self) -> None:
        # only who holds the lock makes such files, so these are of one that was killed
        start = f".{self._path.name}."
        for other in self._path.parent.iterdir():
            name = other.name
            if name.startswith(start) and name.endswith(".tmp") and len(name) == len(start) + 20:
                other.unlink(missing_ok=True)

    def _check_spec(self) -> None:
        found = os.pread(self._file, _HEADER, 0)
        try:
            if not found.startswith(_MAGIC):
                raise ValueError
            told: dict[str, Any] = json.loads(found[len(_MAGIC) : _COMMIT].split(b"\n")[0])
            file_spec = InstanceSpec(**{name: told[name] for name in InstanceSpec.__slots__})
            expected = _header(file_spec, record(file_spec))
            if found[:_COMMIT] + bytes(16) + found[_COMMIT + 16 :] != expected:
                raise ValueError
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(
                f"path must be an instance store, got {self._path}, whose header is none"
            ) from error
        for name in InstanceSpec.__slots__:
            expected, given = getattr(file_spec, name), getattr(self._spec, name)
            if expected != given:
                raise ValueError(
                    f"spec must be the file's, with {name} {expected!r}, got {given!r} "
                    f"({self._path})"
                )

    def _load(self) -> None:
        numbers = np.frombuffer(os.pread(self._file, 16, _COMMIT), dtype="<u8").tolist()
        if len(numbers) != 2 or numbers[0] + numbers[1] != _MAX:
            raise ValueError(
                f"path must hold its number of records, got {self._path}, where it is damaged"
            )
        self._committed = numbers[0]
        held = max(0, os.fstat(self._file).st_size - _HEADER) // self._dtype.itemsize
        if held < self._committed:
            raise ValueError(
                f"path must hold {self._committed} whole records, got {self._path} with {held}"
            )
        self._remap()
        for start in range(0, self._committed, _BLOCK):
            block = np.array(self._map[start : start + _BLOCK])
            wrong = np.flatnonzero(checksums(block) != block["checksum"])
            if len(wrong):
                raise ValueError(
                    f"path must hold records that fit their checksums, got {self._path}, "
                    f"where record {start + int(wrong[0])} is damaged"
                )

    def _remap(self) -> None:
        if not self._committed:  # nothing cannot be mapped
            self._map = np.zeros(0, dtype=self._dtype)
            return
        with os.fdopen(os.dup(self._file), "rb") as file:
            shape = (self._committed,)
            self._map = np.memmap(file, self._dtype, mode="r", offset=_HEADER, shape=shape)


def _header(spec: InstanceSpec, dtype: np.dtype[np.void]) -> bytes:
    told = {name: getattr(spec, name) for name in InstanceSpec.__slots__}
    text = json.dumps({**told, "record_bytes": dtype.itemsize}, sort_keys=True).encode()
    return (_MAGIC + text + b"\n%08x\n" % zlib.crc32(text)).ljust(_HEADER, b"\0")


def _commit(file: int, count: int) -> None:
    write_all(file, np.array([count, _MAX - count], dtype="<u8").tobytes(), _COMMIT)
    os.fsync(file)
