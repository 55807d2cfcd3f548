"""Place items at the last level of their SIDs, so many per SID, the published ones unmoved.

Shapes: ``F`` published items, ``n`` items to place, ``N`` levels, ``K`` codes of the last.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidrank.semantic_ids.prefixes import number_prefixes

__all__ = ["Distances", "DistancesOf", "place_at_last_level"]

Distances: TypeAlias = NDArray[Any] | Callable[[NDArray[np.int64]], NDArray[Any]]

_BLOCK = 1 << 21  # distances at a time


class DistancesOf:
    """Distances of rows to every last code, from an array or a function, checked as read.

    Args:
        given: The array ``[n, K]``, a function of rows, or None.
        rows: ``n``.
        size: ``K``.

    Raises:
        ValueError: If the array has another shape.
    """

    def __init__(self, given: Distances | None, rows: int, size: int) -> None:
        if given is not None and not callable(given) and given.shape != (rows, size):
            raise ValueError(f"distances must have shape [{rows}, {size}], got {list(given.shape)}")
        self.size = size
        self._given = given

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read some rows.

        Args:
            rows: Rows, shape ``[m]``.

        Returns:
            Their distances, shape ``[m, K]``.

        Raises:
            ValueError: If there are none, their shape differs, or one is nan.
        """
        given = self._given
        if given is None:
            raise ValueError("distances must be given if too many items want one SID, got None")
        found = np.asarray(given(rows) if callable(given) else given[rows])
        if found.shape != (len(rows), self.size):
            raise ValueError(
                f"distances must have shape [{len(rows)}, {self.size}], got {list(found.shape)}"
            )
        bad = np.flatnonzero(np.isnan(found).any(axis=1))
        if len(bad):
            raise ValueError(f"distances must be numbers, got nan in row {rows[bad[0]]}")
        return found


def place_at_last_level(
    published: NDArray[np.int64],
    codes: NDArray[np.int64],
    rows: NDArray[np.int64],
    ids: NDArray[np.int64],
    *,
    capacity: int,
    distances: DistancesOf,
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Choose the last code of each item.

    Args:
        published: Published codes, shape ``[F, N]``.
        codes: Proposed codes, shape ``[n, N]``.
        rows: What ``distances`` calls the items, shape ``[n]``.
        ids: Item ids, shape ``[n]``; they settle ties.
        capacity: Most items per SID.
        distances: Distances of ``rows`` to the codes of the last level.

    Returns:
        Last codes, shape ``[n]``, and the items for which there was no room, in the order of
        their ids.
    """
    last = codes[:, -1].copy()
    numbered = number_prefixes(np.concatenate([published, codes]))
    sid = numbered[-1]
    prefix = numbered[-2] if len(numbered) > 1 else np.zeros(len(sid), dtype=np.int64)
    taken = np.bincount(sid[: len(published)], minlength=len(sid) + 1)
    mine, under = sid[len(published) :], prefix[len(published) :]
    wanted = np.bincount(mine, minlength=len(sid) + 1)
    crowded = np.flatnonzero((taken + wanted > capacity)[mine])
    if len(crowded) == 0:
        return last, crowded
    own = np.empty(len(crowded))
    for part in _blocks(len(crowded), distances.size):
        own[part] = np.take_along_axis(
            distances(rows[crowded[part]]), last[crowded[part]][:, np.newaxis], axis=1
        )[:, 0]
    order = np.lexsort([ids[crowded], own, mine[crowded]])
    crowded, own = crowded[order], own[order]
    rank = np.arange(len(crowded)) - np.searchsorted(mine[crowded], mine[crowded])
    over = rank >= capacity - taken[mine[crowded]]
    moving = crowded[over][np.lexsort([ids[crowded[over]], own[over], under[crowded[over]]])]
    staying = np.ones(len(codes), dtype=np.bool_)
    staying[moving] = False
    full = _Rooms(
        np.concatenate([prefix[: len(published)], under[staying]]),
        np.concatenate([published[:, -1], last[staying]]),
        capacity,
        distances.size,
    )
    unplaced: list[int] = []
    for part in _blocks(len(moving), distances.size):
        found = distances(rows[moving[part]])
        for item, far in zip(moving[part].tolist(), found, strict=True):
            room = full.under(int(under[item]))
            open_to = np.where(room > 0, far, np.inf)
            nearest = int(open_to.argmin())
            if open_to[nearest] == np.inf:
                unplaced.append(item)
            else:
                last[item] = nearest
                room[nearest] -= 1
    unfit = np.array(unplaced, dtype=np.intp)
    return last, unfit[np.argsort(ids[unfit])]


class _Rooms:
    """How many items each last code may still take, for one prefix at a time, ascending."""

    def __init__(
        self,
        prefixes: NDArray[np.int64],
        codes: NDArray[np.int64],
        capacity: int,
        size: int,
    ) -> None:
        order = np.argsort(prefixes, kind="stable")
        self._prefixes, self._codes = prefixes[order], codes[order]
        self._capacity, self._size = capacity, size
        self._now = -1
        self._room = np.empty(0, dtype=np.int64)

    def under(self, prefix: int) -> NDArray[np.int64]:
        """Return the room of each last code under a prefix, to be changed in place."""
        if prefix != self._now:
            begin, end = np.searchsorted(self._prefixes, [prefix, prefix + 1])
            counts = np.bincount(self._codes[begin:end], minlength=self._size)
            self._now, self._room = prefix, self._capacity - counts
        return self._room


def _blocks(length: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // width)
    return (slice(start, start + step) for start in range(0, length, step))
