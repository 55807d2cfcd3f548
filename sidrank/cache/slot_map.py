"""Which row of a large table sits in which slot of a small one, and which slot is given up next.

The map is direct: four bytes for each row of the table say where the row is. That makes the cache
fully associative and a lookup one indexed read; a set-associative table in the manner of a GPU's
would be slower on a CPU and would miss more. A slot that a batch in flight needs is pinned, by
each such batch once, and a pinned slot is never given up. Of the others go first the rows that no
known batch wants, the longest unused before the rest, and then the row whose next use is farthest.
Ties go by row number, so that the choice depends on the batches alone.

The map moves no data and knows none: `SlotMap.place` says what to fetch and whom to evict.

Source: L. A. Belady, IBM Systems Journal 5(2), 1966 (the farthest next use); BagPipe, arXiv
2202.12429, and ScratchPipe, arXiv 2205.04702 (batches known ahead, and slots held for them).
Differs from the sources: beyond the batches that are known the order is that of LRU [derived].

Shapes: ``n`` distinct rows of a batch, ``m`` of them not in the cache, ``v`` evicted.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidrank.cache.errors import CacheError

__all__ = ["NEVER", "Placement", "SlotMap"]

Integers = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The next use of a row that no known batch wants."""

# The order in which slots are given up: smallest key first. A row without a next use has the time
# of its last one; a row with one lies above all of those, the farther the lower.
_FAR = 1 << 61
_FLOOR = 1 << 60
_HELD = 1 << 62


@dataclass(frozen=True)
class Placement:
    """What `SlotMap.place` did.

    Attributes:
        slots: The slot of each row asked for; ``[n]``.
        fetched_rows: The rows that were not in the cache; ``[m]``.
        fetched_slots: The slots that they got; ``[m]``.
        evicted_rows: The rows that had to leave for them; ``[v]``.
        evicted_slots: The slots that those were in; ``[v]``.
    """

    slots: Integers
    fetched_rows: Integers
    fetched_slots: Integers
    evicted_rows: Integers
    evicted_slots: Integers


class SlotMap:
    """The slots of one table.

    Args:
        rows: How many rows the table has.
        slots: How many of them fit into the cache.

    Raises:
        ValueError: If ``rows`` or ``slots`` is below 1, or either is 2**31 or more.

    Example:
        >>> slots = SlotMap(rows=100, slots=3)
        >>> slots.place(np.array([7, 9])).fetched_rows.tolist()
        [7, 9]
        >>> slots.release(slots.slots_of(np.array([7, 9])))
        >>> slots.place(np.array([9, 20, 30])).evicted_rows.tolist()
        [7]
    """

    def __init__(self, *, rows: int, slots: int) -> None:
        for name, value in (("rows", rows), ("slots", slots)):
            if not 1 <= value < 2**31:
                raise ValueError(f"{name} must be at least 1 and below 2**31, got {value}")
        self.rows = rows
        self.slots = slots
        self._slot_of = np.full(rows, -1, dtype=np.int32)
        self._row_of = np.full(slots, -1, dtype=np.int64)
        self._pins = np.zeros(slots, dtype=np.int32)
        self._last_use = np.zeros(slots, dtype=np.int64)
        self._next_use = np.full(slots, NEVER, dtype=np.int64)
        self._filled = 0
        self._held = 0
        self._now = 0
        self._forget_queue()

    @property
    def occupied(self) -> Integers:
        """The slots that hold a row."""
        return np.arange(self._filled)

    def rows_of(self, slots: Integers) -> Integers:
        """The rows that are in ``slots``."""
        return self._row_of[slots]

    def slots_of(self, rows: Integers) -> Integers:
        """The slots of ``rows``; -1 for a row that is not in the cache."""
        return self._slot_of[rows].astype(np.int64)

    def pinned(self, slots: Integers) -> npt.NDArray[np.bool_]:
        """Whether a batch in flight holds each of ``slots``."""
        return self._pins[slots] > 0

    def require_room(self, rows: Integers) -> None:
        """Raise if ``rows`` do not fit beside what is pinned; changes nothing.

        Args:
            rows: Distinct rows; ``[n]``.

        Raises:
            CacheError: If they do not fit.
        """
        at = self._slot_of[rows]
        at = at[at >= 0]
        needed = self._held + len(rows) - int(np.count_nonzero(self._pins[at]))
        if needed > self.slots:
            raise CacheError(
                f"slots must be at least {needed}, the rows in flight, got {self.slots}"
            )

    def place(self, rows: Integers, next_use: Integers | None = None) -> Placement:
        """Give every row of a batch a slot and pin it there until `release`.

        Args:
            rows: Distinct rows, ascending; ``[n]``.
            next_use: When each is wanted again after this batch, `NEVER` if that is unknown;
                ``[n]``. None leaves what `announce` said.

        Returns:
            Where the rows are and what has to move.

        Raises:
            CacheError: If the rows do not fit beside what is pinned; nothing is changed then.
        """
        self.require_room(rows)
        self._now += 1
        at = self.slots_of(rows)
        absent = at < 0
        self._pin(at[~absent])
        fetched = rows[absent]
        fresh = min(len(fetched), self.slots - self._filled)
        victims = self._victims(len(fetched) - fresh)
        evicted = self._row_of[victims]
        self._slot_of[evicted] = -1
        into = np.concatenate([np.arange(self._filled, self._filled + fresh), victims])
        self._filled += fresh
        self._slot_of[fetched] = into
        self._row_of[into] = fetched
        self._next_use[into] = NEVER
        self._pin(into)
        at[absent] = into
        self._last_use[at] = self._now
        if next_use is not None:
            self._next_use[at] = next_use
        return Placement(at, fetched, into, evicted, victims)

    def release(self, slots: Integers) -> None:
        """Take back one pin of each slot.

        Args:
            slots: Distinct slots, as a `Placement` named them.
        """
        self._pins[slots] -= 1
        self._held -= len(slots) - int(np.count_nonzero(self._pins[slots]))

    def announce(self, rows: Integers, when: int) -> None:
        """Say that a batch to come wants ``rows``.

        Args:
            rows: Distinct rows; ``[n]``.
            when: The batch's number, above that of every batch announced before.
        """
        at = self.slots_of(rows)
        at = at[at >= 0]
        self._next_use[at[self._next_use[at] == NEVER]] = when

    def expect(self, rows: Integers, next_use: Integers) -> None:
        """Set when rows are wanted next, where an announced batch is not to come after all.

        Args:
            rows: Distinct rows; ``[n]``.
            next_use: When each is wanted, or `NEVER`; ``[n]``.
        """
        at = self.slots_of(rows)
        here = at >= 0
        self._next_use[at[here]] = next_use[here]

    def forget_future(self) -> None:
        """Unsay all that was announced."""
        self._next_use[:] = NEVER
        self._forget_queue()

    def drop(self) -> None:
        """Empty the cache, pinned or not."""
        self._slot_of[self._row_of[: self._filled]] = -1
        self._row_of[:] = -1
        self._pins[:] = 0
        self._next_use[:] = NEVER
        self._filled = self._held = 0
        self._forget_queue()

    def _pin(self, slots: Integers) -> None:
        self._held += len(slots) - int(np.count_nonzero(self._pins[slots]))
        self._pins[slots] += 1

    def _keys(self, slots: Integers | slice) -> Integers:
        keys = self._last_use[slots].copy()
        wanted = self._next_use[slots]
        known = wanted < NEVER
        keys[known] = _FAR - wanted[known]
        keys[self._pins[slots] > 0] = _HELD
        return keys

    def _victims(self, count: int) -> Integers:
        oldest = self._longest_unused(count)
        if len(oldest) == count:
            return oldest
        keys = self._keys(slice(self._filled))
        wanted = np.flatnonzero((keys >= _FLOOR) & (keys < _HELD))
        farthest, _ = self._first(wanted, keys[wanted], count - len(oldest))
        return np.concatenate([oldest, farthest])

    def _longest_unused(self, count: int) -> Integers:
        """Up to ``count`` rows without a next use, from a queue that is filled for many batches.

        What is queued stays right: a row that is used or announced gets another key and is passed
        over, and whatever becomes evictable later was used later than all that are queued.
        """
        found: list[Integers] = []
        left = count
        while left:
            if self._head == len(self._queue) and not self._fill_queue(left):
                break
            part = slice(self._head, self._head + left)
            slots = self._queue[part]
            self._head += len(slots)
            slots = slots[self._keys(slots) == self._queued_keys[part]]
            self._last_use[slots] = _HELD  # not twice, if the queue has to be filled again
            found.append(slots)
            left -= len(slots)
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def _fill_queue(self, count: int) -> bool:
        keys = self._keys(slice(self._filled))
        unwanted = np.flatnonzero(keys < _FLOOR)
        ahead = max(count, self.slots // 8)
        self._queue, self._queued_keys = self._first(unwanted, keys[unwanted], ahead)
        self._head = 0
        return len(self._queue) > 0

    def _first(self, slots: Integers, keys: Integers, count: int) -> tuple[Integers, Integers]:
        """The ``count`` of ``slots`` that are given up first, in that order, and their keys."""
        if count < len(slots):
            near = keys <= np.partition(keys, count - 1)[count - 1]
            slots, keys = slots[near], keys[near]
        order = np.lexsort((self._row_of[slots], keys))[:count]
        return slots[order], keys[order]

    def _forget_queue(self) -> None:
        self._queue = self._queued_keys = np.zeros(0, dtype=np.int64)
        self._head = 0
