"""What stores share that keep records in one array and find them through an index in memory.

Records are only appended: an instance that is put again lies twice until the next compaction, and
the index knows the newer place.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from sidrank.semantic_ids._integers import as_integers
from sidrank.sequences._instance_index import InstanceIndex
from sidrank.sequences._instance_packing import (
    assembled,
    check_model_version,
    earliest_visible,
    pack,
    requests_of,
)
from sidrank.sequences.instance_rows import InstanceHistory, InstanceSpec

__all__ = ["IndexedInstances", "check_time_to_live", "last_of_each", "refuse_moved"]

Ints = NDArray[np.int64]
Records = NDArray[np.void]


class IndexedInstances(ABC):
    """An instance store over an array of records."""

    def __init__(self, spec: InstanceSpec, *, time_to_live: int | None = None) -> None:
        check_time_to_live(time_to_live)
        self._spec = spec
        self._time_to_live = time_to_live
        self._index = InstanceIndex()

    @abstractmethod
    def _records(self) -> Records:
        """All records, those that lie twice too."""

    @abstractmethod
    def _append(self, rows: Records) -> None:
        """Add records, all or none."""

    @abstractmethod
    def _keep(self, slots: Ints) -> None:
        """Keep these records, in this order, and nothing of the others; all or none."""

    @property
    def spec(self) -> InstanceSpec:
        """What the rows are."""
        return self._spec

    @property
    def time_to_live(self) -> int | None:
        """How long an instance is seen, in the unit of the times."""
        return self._time_to_live

    def __len__(self) -> int:
        return len(self._index)

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
        if not len(rows):
            return
        slots, times = self._index.find(rows["user"], rows["instance"])
        refuse_moved(rows, slots >= 0, times)
        first = len(self._records())
        self._append(rows)
        self._index_rows(rows, np.arange(first, first + len(rows)))

    def as_of(
        self, users: object, request_times: object, count: int, *, model_version: str
    ) -> InstanceHistory:
        """As :meth:`InstanceStore.as_of`."""
        check_model_version(self._spec, model_version)
        who, now = requests_of(users, request_times, count)
        earliest = earliest_visible(now, self._time_to_live)
        slots = self._index.newest(who, earliest, now, count)
        return assembled(self._spec, self._records(), slots, now)

    def forget(self, users: object) -> int:
        """As :meth:`InstanceStore.forget`."""
        gone = as_integers(users, "users")
        slots = self._index.slots()
        return self._drop(slots, np.isin(self._records()["user"][slots], gone))

    def expire(self, now: int) -> int:
        """As :meth:`InstanceStore.expire`."""
        if self._time_to_live is None:
            raise ValueError("time_to_live must be given for instances to expire, got None")
        earliest = earliest_visible(as_integers([now], "now"), self._time_to_live)
        slots = self._index.slots()
        return self._drop(slots, self._records()["event_time"][slots] < earliest)

    def _drop(self, slots: Ints, unwanted: NDArray[np.bool_]) -> int:
        if unwanted.any():  # and what of them lies twice goes with them: no slot is of it
            self._keep(slots[~unwanted])
            self._reindex()
        return int(unwanted.sum())

    def _reindex(self) -> None:
        rows = self._records()
        last = np.sort(_last_places(rows))
        self._index = InstanceIndex()
        if len(last):
            self._index_rows(rows[last], last)

    def _index_rows(self, rows: Records, slots: Ints) -> None:
        columns = (rows["user"], rows["instance"], rows["event_time"], slots)
        users, instances, times, slots = (np.ascontiguousarray(column) for column in columns)
        self._index.write(users, instances, times, slots)


def check_time_to_live(time_to_live: int | None) -> None:
    """Refuse what is no time to live.

    Args:
        time_to_live: A whole number of at least one, or None.

    Raises:
        ValueError: If it is something else.
    """
    if time_to_live is not None and not (type(time_to_live) is int and 1 <= time_to_live < 2**63):
        raise ValueError(
            f"time_to_live must be an integer within [1, 2**63) or None, got {time_to_live!r}"
        )


def last_of_each(rows: Records) -> Records:
    """Keep of each user and instance the last record.

    Args:
        rows: Records, shape ``[n]``.

    Returns:
        Those that stay, in their order.

    Raises:
        ValueError: If two of an instance have different event times.
    """
    last = _last_places(rows)
    if len(last) == len(rows):
        return rows
    index = InstanceIndex()
    kept = rows[np.sort(last)]
    index.write(kept["user"], kept["instance"], kept["event_time"], np.arange(len(kept)))
    refuse_moved(rows, np.ones(len(rows), np.bool_), index.find(rows["user"], rows["instance"])[1])
    return kept


def refuse_moved(rows: Records, known: NDArray[np.bool_], times: Ints) -> None:
    """Refuse records of known instances that would change when they happened.

    Args:
        rows: Records, shape ``[n]``.
        known: Which of them are of known instances, shape ``[n]``.
        times: Their event times so far, shape ``[n]``.

    Raises:
        ValueError: If an event time differs.
    """
    moved = known & (rows["event_time"] != times)
    if moved.any():
        row = int(np.flatnonzero(moved)[0])
        raise ValueError(
            f"event_times of instance {rows['instance'][row]} of user {rows['user'][row]} must "
            f"stay {times[row]}, got {rows['event_time'][row]}"
        )


def _last_places(rows: Records) -> Ints:
    """Place of the last record of each user and instance."""
    users, instances = rows["user"], rows["instance"]
    order = np.lexsort((instances, users))  # stable: the last of equals comes last
    users, instances = users[order], instances[order]
    changes = (users[1:] != users[:-1]) | (instances[1:] != instances[:-1])
    return order[np.r_[changes, np.ones(min(1, len(rows)), np.bool_)]]
