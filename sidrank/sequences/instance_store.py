r"""Instance tokens of every user, readable as of any time.

A store is a log of past impressions by user. Serving reads the newest ``T`` of a user before each
request; training must read the same, as of the time of each row, or it learns from a future that
serving does not have. So a reader always says *when*:

- an instance is seen if ``event_time < request_time``, strictly, and, with a time to live, if
  ``request_time < event_time + time_to_live``;
- each of its sides is seen if its own ``label_time < request_time``; until then it is -1.

Putting an instance again (same user, same id) replaces its vector and sides: the label that comes
late. Its event time cannot change. The order of putting never changes an answer: instances of one
moment are in the order of their ids.

Three stores keep to this protocol: in memory (here),
:class:`~sidrank.sequences.instance_store_sqlite.SQLiteInstanceStore` and
:class:`~sidrank.sequences.instance_store_mapped.MappedInstanceStore`. Nothing in the protocol says
that a row is an impression: any vectors made off the request path, keyed by a pair of ids, may
live there.

Source: IAT, arXiv 2604.08933 (a key-value store from user to instances). Differs from the source:
the rules of reading, the time to live and the refusals are ours [derived].

Shapes: ``n`` instances, ``B`` requests, ``T`` newest instances, ``D`` width, ``S`` sides.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sidrank.sequences._indexed_instances import IndexedInstances
from sidrank.sequences._instance_packing import record
from sidrank.sequences.instance_rows import InstanceHistory, InstanceSpec

__all__ = ["InMemoryInstanceStore", "InstanceStore"]


class InstanceStore(Protocol):
    """Where instance tokens wait for the next request of their user.

    Columns of integers may be arrays, tensors or lists of any integer dtype within int64, users
    and instances negative too. A put is whole or not at all. One process opens a store at a time,
    and one thread uses it.
    """

    @property
    def spec(self) -> InstanceSpec:
        """What the rows are."""
        ...

    @property
    def time_to_live(self) -> int | None:
        """How long an instance is seen, in the unit of the times (None is for ever)."""
        ...

    def __len__(self) -> int:
        """How many instances it holds."""
        ...

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
        """Write instances, or write them anew.

        Args:
            users: Shape ``[n]``.
            instances: Ids, shape ``[n]``, see
                :func:`~sidrank.sequences.instance_ids`. Of two with one user and
                one id, in one call or in two, the later holds.
            event_times: When each happened, in any integer unit, shape ``[n]``.
            label_times: From when each side is known, same unit, shape ``[n, S]``.
            sides: How it went, shape ``[n, S]``, within ``[-1, 2**31)``; -1 is "not known".
            vectors: Finite numbers, shape ``[n, D]``.
            model_version: Who made the vectors; must be the store's.

        Raises:
            TypeError: If a column of integers holds something else.
            ValueError: If a shape, a value or the model version is wrong, or an instance that is
                there already would change its event time. Nothing is written then.
            OSError: If the disk refuses. What was written before stays.
        """
        ...

    def as_of(
        self, users: object, request_times: object, count: int, *, model_version: str
    ) -> InstanceHistory:
        """Read what requests may know.

        Args:
            users: Shape ``[B]``; an unknown user has no instances.
            request_times: When each request came, shape ``[B]``.
            count: The most instances to give, ``T``: the newest.
            model_version: Whose vectors the reader was made for; must be the store's.

        Returns:
            The history, oldest first, padding last, on the CPU.

        Raises:
            TypeError: If a column is not of integers.
            ValueError: If shapes or the model version are wrong, or ``count`` is less than one.
        """
        ...

    def forget(self, users: object) -> int:
        """Remove all instances of users, and their bytes.

        Args:
            users: Shape ``[n]``; each one may be unknown.

        Returns:
            How many instances were removed.

        Raises:
            TypeError: If ``users`` are not integers.
        """
        ...

    def expire(self, now: int) -> int:
        """Remove the instances that no request from ``now`` on can see.

        Args:
            now: The time of the next request.

        Returns:
            How many instances were removed.

        Raises:
            ValueError: If the store has no time to live.
        """
        ...

    def close(self) -> None:
        """Let go of files; the store is of no use afterwards."""
        ...


class InMemoryInstanceStore(IndexedInstances):
    """An instance store in this process, gone with it.

    It takes the bytes of its records (``24 + 12 S + 4 D + 8``, rounded up to eight) and 32 for
    each instance. A put costs O(log n) an instance over time, a read one search for all requests
    together. ``forget`` copies what is left to new memory.

    Args:
        spec: What the rows are.
        time_to_live: Instances are seen at ``event_time < t < event_time + time_to_live``.

    Raises:
        ValueError: If ``time_to_live`` is not within ``[1, 2**63)``.

    Example:
        >>> store = InMemoryInstanceStore(InstanceSpec(model_version="7", dim=2))
        >>> store.put(users=[5, 5], instances=[1, 2], event_times=[10, 20], model_version="7",
        ...           label_times=[[11], [90]], sides=[[0], [1]], vectors=[[1, 2], [3, 4]])
        >>> history = store.as_of([5, 5], [20, 21], 3, model_version="7")
        >>> history.instances.tolist()  # the second did not lie before 20
        [[1, 0, 0], [1, 2, 0]]
        >>> history.sides[1].flatten().tolist()  # nor was its label known at 21
        [0, -1, -1]
    """

    def __init__(self, spec: InstanceSpec, *, time_to_live: int | None = None) -> None:
        super().__init__(spec, time_to_live=time_to_live)
        self._held = 0
        self._room = np.zeros(0, dtype=record(spec))

    def close(self) -> None:
        """Forget everything."""
        self._keep(np.zeros(0, dtype=np.int64))
        self._reindex()

    def _records(self) -> NDArray[np.void]:
        return self._room[: self._held]

    def _append(self, rows: NDArray[np.void]) -> None:
        needed = self._held + len(rows)
        if needed > len(self._room):
            grown = np.zeros(max(needed, 2 * self._held), dtype=self._room.dtype)
            grown[: self._held] = self._records()
            self._room = grown
        self._room[self._held : needed] = rows
        self._held = needed

    def _index_rows(self, rows: NDArray[np.void], slots: NDArray[np.int64]) -> None:
        super()._index_rows(rows, slots)
        if self._held > 2 * len(self):  # more than half has been put again
            self._keep(self._index.slots())
            self._reindex()

    def _keep(self, slots: NDArray[np.int64]) -> None:
        self._room = self._records()[slots]
        self._held = len(slots)
