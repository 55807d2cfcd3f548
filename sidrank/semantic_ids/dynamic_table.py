"""Semantic IDs that change with time, read as of any moment.

A live stream is another item every minute, so its codes are a time series: an event says that
from ``timestamp`` on an item has these codes, until its next event or until they are older
than a time to live. A request is ranked, and a training row is built, with the codes that were
valid at the time of the request and with no later ones: the newest event with
``timestamp <= time``. (An event at the very time of the request counts: the codes were out. If
the timestamps are of the content and not of the publication, add the delay of the publication
first, or training sees codes that serving did not have.)

History is append only, item by item: the next event of an item is later than all it has, so
that codes once valid at a time stay valid at that time. What may still change is what no codes
were valid for, an item that was unknown, as in :class:`~sidrank.semantic_ids.SIDTable`. Each
growth is a new version that remembers the hashes of the tables it grew from.

Source: OneLive (arXiv 2602.08612), whose tokenizer is refreshed every 30 seconds; the rule of
reading and the time to live are ours [derived].

Memory: ``24 + 4 N`` bytes for each event. A look-up is three binary searches, in the items, in
the distinct timestamps and in the events; nothing is kept per item but its rank.

Shapes: ``E`` events, ``Q`` queries, ``N`` levels, ``V`` items.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_code_rows, as_integers
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable, SIDVersionError

__all__ = ["DynamicSIDTable"]

_HASH = re.compile("[0-9a-f]{64}")

Ints = NDArray[np.int64]


class DynamicSIDTable:
    """Codes of every item at every time.

    The content hash covers the spec, the time to live and all events, and neither the version
    nor the order in which the events were given. The arrays cannot be written to.

    Args:
        item_ids: Item of each event, shape ``[E]``, any integer dtype, int64 range.
        timestamps: Time from which its codes are valid, shape ``[E]``, any integer dtype and
            unit, int64 range. An item has at most one event at a time.
        codes: One code per level, shape ``[E, N]``, any integer dtype.
        spec: Codebook sizes, one per level.
        time_to_live: How long codes stay valid, in the unit of the timestamps: those of ``t``
            for ``t <= time < t + time_to_live``. None: until the next event.
        ancestors: Content hashes of the tables it grew from, oldest first.

    Raises:
        TypeError: If an argument is not of integers.
        ValueError: If shapes disagree, an item has two events at one time, a code is outside
            its codebook, ``time_to_live`` is not within ``[1, 2**63)``, or an ancestor is no hash.

    Example:
        >>> table = DynamicSIDTable([7, 7], [100, 130], [[0, 1], [2, 3]], spec=SIDSpec((4, 4)))
        >>> table.lookup(np.array([7, 7, 7, 8]), np.array([99, 129, 130, 130])).tolist()
        [[-1, -1], [0, 1], [2, 3], [-1, -1]]
        >>> table.append([7], [160], [[3, 3]]).snapshot(200).codes.tolist()
        [[3, 3]]
    """

    def __init__(
        self,
        item_ids: NDArray[Any] | Tensor | Sequence[int],
        timestamps: NDArray[Any] | Tensor | Sequence[int],
        codes: NDArray[Any] | Tensor | Sequence[Sequence[int]],
        *,
        spec: SIDSpec,
        time_to_live: int | None = None,
        ancestors: Sequence[str] = (),
    ) -> None:
        if time_to_live is not None and type(time_to_live) is not int:
            raise TypeError(f"time_to_live must be an integer or None, got {time_to_live!r}")
        if time_to_live is not None and not 1 <= time_to_live < 2**63:
            raise ValueError(f"time_to_live must be within [1, 2**63), got {time_to_live}")
        for ancestor in ancestors:
            if not isinstance(ancestor, str) or not _HASH.fullmatch(ancestor):
                raise ValueError(f"ancestors must be 64 hexadecimal digits each, got {ancestor!r}")
        self._spec, self._time_to_live, self._ancestors = spec, time_to_live, tuple(ancestors)
        ids, times, rows = _checked(item_ids, timestamps, codes, spec)
        # bytes own no write flag that a caller could set, unlike a read-only array
        contents = [column.tobytes() for column in (ids, times, rows)]
        self._event_ids: Ints = np.frombuffer(contents[0], dtype="<i8")
        self._timestamps: Ints = np.frombuffer(contents[1], dtype="<i8")
        self._codes: NDArray[np.int32] = np.frombuffer(contents[2], "<i4").reshape(rows.shape)
        header = {"codebook_sizes": spec.codebook_sizes, "time_to_live": time_to_live}
        digest = hashlib.sha256(json.dumps(header).encode())
        for content in contents:
            digest.update(content)
        self._content_hash = digest.hexdigest()
        self._known, item = np.unique(self._event_ids, return_inverse=True)
        self._times, moment = np.unique(self._timestamps, return_inverse=True)
        # (item, moment) as one number: ranks, because ids and times fill 64 bits each
        self._keys: Ints = item * (len(self._times) + 1) + moment

    @property
    def item_ids(self) -> Ints:
        """Item of each event, ascending, shape ``[E]``, read-only."""
        return self._event_ids

    @property
    def timestamps(self) -> Ints:
        """Time of each event, ascending for each item, shape ``[E]``, read-only."""
        return self._timestamps

    @property
    def codes(self) -> NDArray[np.int32]:
        """Codes of each event, shape ``[E, N]``, read-only."""
        return self._codes

    @property
    def spec(self) -> SIDSpec:
        """Codebook sizes."""
        return self._spec

    @property
    def time_to_live(self) -> int | None:
        """How long codes stay valid, if not until the next event."""
        return self._time_to_live

    @property
    def version(self) -> int:
        """Version number, 1 for a table that grew from no other."""
        return len(self._ancestors) + 1

    @property
    def content_hash(self) -> str:
        """SHA-256 of spec, time to live and events, as 64 hexadecimal digits."""
        return self._content_hash

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Content hashes of the tables this one grew from, oldest first."""
        return self._ancestors

    @property
    def parent(self) -> str | None:
        """Content hash of the table this one was appended to, if any."""
        return self._ancestors[-1] if self._ancestors else None

    def __reduce__(self) -> tuple[Any, ...]:
        # unpickled arrays would be writable; the constructor checks and freezes them
        make = partial(
            DynamicSIDTable,
            spec=self._spec,
            time_to_live=self._time_to_live,
            ancestors=self._ancestors,
        )
        return make, (self._event_ids, self._timestamps, self._codes)

    def __len__(self) -> int:
        return len(self._event_ids)

    def __repr__(self) -> str:
        return (
            f"DynamicSIDTable(events={len(self)}, items={len(self._known)}, "
            f"codebook_sizes={self._spec.codebook_sizes}, time_to_live={self._time_to_live}, "
            f"version={self.version}, content_hash={self._content_hash[:12]}…)"
        )

    @overload
    def lookup(self, ids: Tensor, times: Tensor) -> Tensor: ...
    @overload
    def lookup(self, ids: NDArray[Any], times: NDArray[Any]) -> NDArray[np.int32]: ...
    def lookup(
        self, ids: NDArray[Any] | Tensor, times: NDArray[Any] | Tensor
    ) -> NDArray[np.int32] | Tensor:
        """Codes of items as of given times, on the CPU.

        Args:
            ids: Item ids, shape ``[Q]``, int64 range.
            times: Time of each query, shape ``[Q]``, int64 range.

        Returns:
            Codes of the newest event at or before each time, shape ``[Q, N]``, int32; -1 in
            every level before the first event, after the time to live and for an unknown
            item. An array for arrays, a tensor on the device of ``ids`` for tensors.

        Raises:
            TypeError: If ``ids`` or ``times`` are not integers.
            ValueError: If they are not vectors of one length.
        """
        wanted, when = as_integers(ids, "ids"), as_integers(times, "times")
        if wanted.ndim != 1 or wanted.shape != when.shape:
            raise ValueError(
                "ids and times must have one shape [Q], "
                f"got {list(wanted.shape)} and {list(when.shape)}"
            )
        valid, event = self._find(wanted, when)
        out = np.full((len(wanted), self._spec.num_levels), -1, dtype=np.int32)
        out[valid] = self._codes[event[valid]]
        return torch.from_numpy(out).to(ids.device) if isinstance(ids, Tensor) else out

    def append(
        self,
        item_ids: NDArray[Any] | Tensor | Sequence[int],
        timestamps: NDArray[Any] | Tensor | Sequence[int],
        codes: NDArray[Any] | Tensor | Sequence[Sequence[int]],
    ) -> "DynamicSIDTable":
        """Return the next version of this table, with new events added.

        An event that is already there with the same codes is accepted and changes nothing, so
        that a batch can be sent twice; if no event is new, the table itself is returned.

        Args:
            item_ids: Item of each event, shape ``[n]``.
            timestamps: Time of each event, shape ``[n]``, in any order.
            codes: Codes of each event, shape ``[n, N]``.

        Returns:
            A table of the next version whose parent is this one, or this one.

        Raises:
            TypeError: If an argument is not of integers.
            ValueError: If shapes disagree, an item is given twice at one time, or a code is
                outside its codebook.
            SIDVersionError: If a new event of an item is not later than all events it has.
        """
        ids, times, rows = _checked(item_ids, timestamps, codes, self._spec)
        item, known = _positions(self._known, ids)
        moment, seen = _positions(self._times, times)
        event, present = _positions(self._keys, item * (len(self._times) + 1) + moment)
        present &= known & seen
        present[present] = (rows[present] == self._codes[event[present]]).all(axis=1)
        last = np.searchsorted(self._event_ids, ids, side="right") - 1
        late = known & ~present
        late[late] = times[late] <= self._timestamps[last[late]]
        if late.any():
            row = int(np.flatnonzero(late)[0])
            raise SIDVersionError(
                f"timestamps of item {ids[row]} must be later than {self._timestamps[last[row]]}, "
                f"published in version {self.version}, got {times[row]}"
            )
        if present.all():
            return self
        return DynamicSIDTable(
            np.concatenate([self._event_ids, ids[~present]]),
            np.concatenate([self._timestamps, times[~present]]),
            np.concatenate([self._codes, rows[~present]]),
            spec=self._spec,
            time_to_live=self._time_to_live,
            ancestors=(*self._ancestors, self._content_hash),
        )

    def snapshot(self, time: int) -> SIDTable:
        """Return the codes that are valid at one time.

        Two snapshots need not agree on an item, so a snapshot has this table's version and no
        ancestors: a checkpoint of one is not accepted with another that differs.

        Args:
            time: The time.

        Returns:
            A table of all items with valid codes.

        Raises:
            TypeError: If ``time`` is not an integer.
        """
        when = np.full(len(self._known), as_integers(np.asarray(time), "time"))
        valid, event = self._find(self._known, when)
        return SIDTable(
            self._known[valid], self._codes[event[valid]], spec=self._spec, version=self.version
        )

    def _find(self, ids: Ints, times: Ints) -> tuple[NDArray[np.bool_], Ints]:
        """Whether codes are valid, and the event that they are of."""
        item = np.searchsorted(self._known, ids)
        moments = np.searchsorted(self._times, times, side="right")
        # all events of smaller items, and those of this one at or before the time
        event = np.searchsorted(self._keys, item * (len(self._times) + 1) + moments) - 1
        valid = event >= 0
        valid[valid] = self._event_ids[event[valid]] == ids[valid]
        if self._time_to_live is not None:
            # the difference may not fit int64, but it fits uint64
            then = self._timestamps[event[valid]].astype(np.uint64)
            valid[valid] = times[valid].astype(np.uint64) - then < np.uint64(self._time_to_live)
        return valid, event


def _positions(ordered: Ints, values: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where values are in a sorted array, and whether they are there."""
    at = np.searchsorted(ordered, values)
    found = at < len(ordered)
    found[found] = ordered[at[found]] == values[found]
    return at, found


def _checked(
    item_ids: NDArray[Any] | Tensor | Sequence[int],
    timestamps: NDArray[Any] | Tensor | Sequence[int],
    codes: NDArray[Any] | Tensor | Sequence[Sequence[int]],
    spec: SIDSpec,
) -> tuple[Ints, Ints, NDArray[np.int32]]:
    """Check events and sort them by item and time."""
    ids, times = as_integers(item_ids, "item_ids"), as_integers(timestamps, "timestamps")
    if ids.ndim != 1 or ids.shape != times.shape:
        raise ValueError(
            "item_ids and timestamps must have one shape [E], "
            f"got {list(ids.shape)} and {list(times.shape)}"
        )
    rows = as_code_rows(codes, ids, spec)
    order = np.lexsort((times, ids))
    ids, times, rows = ids[order], times[order], rows[order]
    twice = (ids[1:] == ids[:-1]) & (times[1:] == times[:-1])
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise ValueError(
            "item_ids and timestamps must be distinct together, "
            f"got item {ids[row]} at {times[row]} more than once"
        )
    return ids.astype("<i8"), times.astype("<i8"), rows.astype("<i4")
