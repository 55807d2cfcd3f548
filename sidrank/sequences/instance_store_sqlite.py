r"""Instance tokens in an SQLite database: other programs may look in, and it grows beyond memory.

One table, ``instances(user, instance, event_time, record)``, with the record of the other stores,
checksum included, as a blob. A put is one transaction; the journal is a write-ahead log, and a
commit waits for the disk.

``forget`` and ``expire`` delete with ``secure_delete``, so that SQLite overwrites the bytes with
zeros, and empty the write-ahead log: afterwards no byte of what was removed is in a file of the
store.

Reads are one query a request: slower than the stores with an index in memory, and nothing to load
when it is opened.

Source: the store of IAT, arXiv 2604.08933; the database is ours [derived].

Shapes: ``B`` requests, ``T`` newest instances.
"""

import contextlib
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidrank.semantic_ids._integers import as_integers
from sidrank.sequences._indexed_instances import check_time_to_live, last_of_each, refuse_moved
from sidrank.sequences._instance_packing import (
    assembled,
    check_model_version,
    checksums,
    earliest_visible,
    pack,
    record,
    requests_of,
)
from sidrank.sequences.instance_rows import InstanceHistory, InstanceSpec

__all__ = ["SQLiteInstanceStore"]

_FORMAT = "sidrank-instances-1"
_TABLES = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value)",
    "CREATE TABLE instances (user INTEGER, instance INTEGER, event_time INTEGER NOT NULL, "
    "record BLOB NOT NULL, PRIMARY KEY (user, instance)) WITHOUT ROWID",
    "CREATE INDEX by_time ON instances (user, event_time, instance)",
)
_NEWEST = (
    "SELECT record FROM instances WHERE user = ? AND event_time >= ? AND event_time < ? "
    "ORDER BY event_time DESC, instance DESC LIMIT ?"
)
_WRITE = (
    "INSERT INTO instances VALUES (?, ?, ?, ?) "
    "ON CONFLICT (user, instance) DO UPDATE SET record = excluded.record"
)


class SQLiteInstanceStore:
    """An instance store in an SQLite database.

    Args:
        path: The database; made if it does not exist, in a directory that does.
        spec: What the rows are; must be what the database was made with.
        time_to_live: Instances are seen at ``event_time < t < event_time + time_to_live``.

    Raises:
        ValueError: If the file is none of ours, of another spec or damaged, or ``time_to_live``
            is not within ``[1, 2**63)``.
        OSError: If the disk refuses.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "instances.sqlite"
        >>> row = {"instances": [1], "event_times": [10], "label_times": [[11]], "sides": [[1]]}
        >>> store = SQLiteInstanceStore(path, InstanceSpec(model_version="7", dim=2))
        >>> store.put(users=[5], **row, vectors=[[1, 2]], model_version="7")
        >>> store.as_of([5, 5], [10, 11], 1, model_version="7").mask.tolist()
        [[False], [True]]
        >>> store.close()
    """

    def __init__(
        self, path: str | os.PathLike[str], spec: InstanceSpec, *, time_to_live: int | None = None
    ) -> None:
        check_time_to_live(time_to_live)
        self._path = Path(path).absolute()
        self._spec = spec
        self._time_to_live = time_to_live
        exists = os.path.lexists(self._path)
        if exists:
            self._check_size()
        with self._checked():
            self._database = sqlite3.connect(self._path, isolation_level=None)
        try:
            with self._checked():
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.execute("PRAGMA secure_delete = ON")
                if not exists:
                    self._create()
                self._check_spec()
                self._database.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            self._database.close()
            raise

    @property
    def spec(self) -> InstanceSpec:
        """What the rows are."""
        return self._spec

    @property
    def time_to_live(self) -> int | None:
        """How long an instance is seen, in the unit of the times."""
        return self._time_to_live

    def __len__(self) -> int:
        with self._checked():
            return self._database.execute("SELECT COUNT(*) FROM instances").fetchone()[0]

    def put(
        self,
        *,
        users: object,
        instances: object,
        event_times: object,
        label_times: object,
        sides: object,
        vectors: object,
        model_version: str,
    ) -> None:
        """As :meth:`InstanceStore.put`."""
        check_model_version(self._spec, model_version)
        rows = last_of_each(
            pack(
                self._spec,
                users=users,
                instances=instances,
                event_times=event_times,
                label_times=label_times,
                sides=sides,
                vectors=vectors,
            )
        )
        keys = list(zip(rows["user"].tolist(), rows["instance"].tolist(), strict=True))
        blobs = [row.tobytes() for row in rows]
        with self._checked(), self._transaction():
            query = "SELECT event_time FROM instances WHERE user = ? AND instance = ?"
            found = [self._database.execute(query, key).fetchone() for key in keys]
            known = np.array([one is not None for one in found], dtype=np.bool_)
            times = np.array([one[0] if one else 0 for one in found], dtype=np.int64)
            refuse_moved(rows, known, times)
            entries = zip(keys, rows["event_time"].tolist(), blobs, strict=True)
            self._database.executemany(_WRITE, ((*key, time, blob) for key, time, blob in entries))

    def as_of(
        self, users: object, request_times: object, count: int, *, model_version: str
    ) -> InstanceHistory:
        """As :meth:`InstanceStore.as_of`."""
        check_model_version(self._spec, model_version)
        who, now = requests_of(users, request_times, count)
        earliest = earliest_visible(now, self._time_to_live)
        questions = zip(who.tolist(), earliest.tolist(), now.tolist(), strict=True)
        blobs: list[bytes] = []
        slots = np.full((len(who), count), -1, dtype=np.int64)
        with self._checked():
            for row, (user, first, end) in enumerate(questions):
                found = self._database.execute(_NEWEST, (user, first, end, count)).fetchall()
                slots[row, : len(found)] = np.arange(len(blobs), len(blobs) + len(found))
                blobs.extend(blob for (blob,) in reversed(found))
        return assembled(self._spec, self._records(blobs), slots, now)

    def forget(self, users: object) -> int:
        """As :meth:`InstanceStore.forget`."""
        gone = [(user,) for user in as_integers(users, "users").tolist()]
        return self._drop("DELETE FROM instances WHERE user = ?", gone)

    def expire(self, now: int) -> int:
        """As :meth:`InstanceStore.expire`."""
        if self._time_to_live is None:
            raise ValueError("time_to_live must be given for instances to expire, got None")
        earliest = earliest_visible(as_integers([now], "now"), self._time_to_live)
        return self._drop("DELETE FROM instances WHERE event_time < ?", [(int(earliest[0]),)])

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _drop(self, statement: str, arguments: list[tuple[int]]) -> int:
        with self._checked():
            with self._transaction():
                removed = self._database.executemany(statement, arguments).rowcount
            # the log still holds the pages as they were
            busy, _, _ = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise OSError(f"{self._path} is read elsewhere: its log still holds what was removed")
        return max(0, removed)

    def _create(self) -> None:
        told = [(name, getattr(self._spec, name)) for name in InstanceSpec.__slots__]
        with self._transaction():
            for statement in _TABLES:
                self._database.execute(statement)
            self._database.executemany(
                "INSERT INTO settings VALUES (?, ?)", [("format", _FORMAT), *told]
            )

    def _check_size(self) -> None:
        """Find what SQLite lets pass: an empty file is a new database to it, a short one whole."""
        with open(self._path, "rb") as file:
            head = file.read(100)
        size, log = self._path.stat().st_size, Path(f"{self._path}-wal")
        page_bytes, pages = int.from_bytes(head[16:18]), int.from_bytes(head[28:32])
        page_bytes = 65536 if page_bytes == 1 else page_bytes
        # pages that a log still holds may be missing from the file
        logged = log.exists() and log.stat().st_size > 0
        if len(head) < 100 or (size < page_bytes * pages and not logged):
            raise ValueError(
                f"path must be an instance store, got {self._path}, which is empty or cut short"
            )

    def _check_spec(self) -> None:
        told: dict[str, Any] = dict(self._database.execute("SELECT name, value FROM settings"))
        if told.get("format") != _FORMAT:
            raise sqlite3.DatabaseError("settings of another format")
        damage = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)
        for name in InstanceSpec.__slots__:
            expected, given = told.get(name), getattr(self._spec, name)
            if expected != given:
                raise ValueError(
                    f"spec must be the file's, with {name} {expected!r}, got {given!r} "
                    f"({self._path})"
                )

    def _records(self, blobs: list[bytes]) -> NDArray[np.void]:
        dtype = record(self._spec)
        if any(len(blob) != dtype.itemsize for blob in blobs):
            raise ValueError(f"path must hold whole records, got {self._path}, where one is not")
        rows = np.frombuffer(b"".join(blobs), dtype=dtype)
        wrong = np.flatnonzero(checksums(rows) != rows["checksum"])
        if len(wrong):
            row = rows[int(wrong[0])]
            raise ValueError(
                f"path must hold records that fit their checksums, got {self._path}, where "
                f"instance {row['instance']} of user {row['user']} is damaged"
            )
        return rows

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk has rolled it back already
                self._database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _checked(self) -> Generator[None]:
        """Say of SQLite's errors which file they are about."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"path must be an instance store, got {self._path}: {error}"
            ) from error
