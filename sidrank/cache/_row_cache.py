"""The rows of several tables on their way between tiers and slots, batch by batch.

Planning is done on the thread that trains, and only there; the worker moves what was planned.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidrank.cache._cached_table import CachedTable, Move
from sidrank.cache.errors import CacheError
from sidrank.cache.flight import Ended, Flight, Pins

__all__ = ["RowCache", "same"]

Integers = npt.NDArray[np.int64]


class RowCache:
    """The tables of a collection; ``members`` says which of them step together."""

    def __init__(self, tables: Sequence[CachedTable], members: Sequence[Sequence[int]]) -> None:
        self.tables = list(tables)
        self.strays = 0
        self._members = members
        self._prefetched: deque[Flight] = deque()
        self._announced: deque[tuple[list[Tensor], list[Integers]]] = deque()
        self._ended: Ended = deque()
        self._open: set[Pins] = set()
        self._worker: ThreadPoolExecutor | None = None
        self._underway: deque[Future[None]] = deque()
        self._broken: BaseException | None = None

    def announce(self, ids: list[Tensor]) -> None:
        rows = _distinct(ids)
        for table, wanted in zip(self.tables, rows, strict=True):
            table.announce(wanted)
        self._announced.append((ids, rows))

    def prefetch(self, ids: list[Tensor], *, background: bool) -> Flight:
        flight = self._plan(ids, background=background)
        self._prefetched.append(flight)
        return flight

    def board(self, ids: list[Tensor]) -> Flight:
        """The batch that is looked up now, with its rows in their slots."""
        flight = next((each for each in self._prefetched if same(each.ids, ids)), None)
        if flight is None:
            self.strays += torch.is_grad_enabled()
            flight = self._plan(ids, background=False)
        else:
            self._prefetched.remove(flight)
        flight.taken = True
        if flight.moved is not None:
            wait([flight.moved])
        self._require_sound()
        return flight

    def watch(self, flight: Flight, outputs: Sequence[Tensor]) -> None:
        """Keep the rows until the pass that made ``outputs``, one for each group, has ended."""
        flight.watch(outputs, self._ended)

    def abandon(self, flight: Flight) -> None:
        if not flight.taken and flight.pins.valid:
            self._prefetched.remove(flight)
            flight.taken = True
            self._ended.append((flight.pins, None))

    def forget_announced(self) -> None:
        self._announced.clear()
        for table in self.tables:
            table.forget_future()

    def flush(self) -> None:
        """Write every row that is newer in its slot to its tier; the disk is not waited for.

        Raises:
            CacheError: If a tier has failed.
        """
        self._rest()
        self._settle()
        for table in self.tables:
            table.write_all_back()

    def drop(self) -> None:
        """Forget every slot, written or not: the next lookup reads the tiers.

        For tiers that were changed from outside, or set back after a failure.
        """
        wait(self._underway)
        self._underway.clear()
        for pins in self._open:
            pins.valid = False
        self._open.clear()
        self._prefetched.clear()
        self._announced.clear()
        self._ended.clear()
        self._broken = None
        for table in self.tables:
            table.drop()

    def _plan(self, ids: list[Tensor], *, background: bool) -> Flight:
        self._settle()
        self._require_sound()
        ahead = next(
            (at for at, (other, _) in enumerate(self._announced) if same(ids, other)), None
        )
        rows = _distinct(ids) if ahead is None else self._announced[ahead][1]
        for table, wanted in zip(self.tables, rows, strict=True):
            table.require_room(wanted)
        for _ in range(ahead or 0):  # announced and never looked up
            for table, wanted in zip(self.tables, self._announced.popleft()[1], strict=True):
                table.pass_over(wanted)
        if ahead is not None:
            self._announced.popleft()
        moves: list[Move] = []
        held: list[Integers] = []
        for table, wanted in zip(self.tables, rows, strict=True):
            placed, move = table.place(wanted, announced=ahead is not None)
            moves.append(move)
            held.append(placed.slots)
        slots = [
            torch.from_numpy(table.slots.slots_of(each.numpy()))
            for table, each in zip(self.tables, ids, strict=True)
        ]
        flight = Flight(ids, slots, Pins(held))
        self._open.add(flight.pins)
        if background:
            self._worker = self._worker or ThreadPoolExecutor(1, "sidrank-cache")
            flight.moved = self._worker.submit(self._carry_out, moves)
            self._underway.append(flight.moved)
        else:
            self._rest()
            self._carry_out(moves)
        return flight

    def _carry_out(self, moves: list[Move]) -> None:
        """Move the rows of one batch, on whichever thread; nothing moves after a failure."""
        self._require_sound()
        try:
            for table, move in zip(self.tables, moves, strict=True):
                table.carry_out(move)
        except BaseException as error:
            self._broken = error
            raise

    def _rest(self) -> None:
        """Wait until the worker has nothing left to do."""
        wait(self._underway)
        self._underway.clear()
        self._require_sound()

    def _require_sound(self) -> None:
        if self._broken is not None:
            raise CacheError(
                "tiers must be set back to a commit, then drop() called, after a read or write"
                f" that failed: {self._broken}"
            ) from self._broken

    def _settle(self) -> None:
        """Free what the passes that have ended held."""
        while self._underway and self._underway[0].done():
            self._underway.popleft()
        while self._ended:
            pins, group = self._ended.popleft()
            if not pins.valid:
                continue
            if group is not None:
                for number in self._members[group]:
                    self.tables[number].dirty[pins.slots[number]] = True
            if group is None or len(pins.stepped) == len(self._members):
                self._release(pins)

    def _release(self, pins: Pins) -> None:
        if pins in self._open:
            self._open.remove(pins)
            for table, slots in zip(self.tables, pins.slots, strict=True):
                table.slots.release(slots)


def _distinct(ids: Sequence[Tensor]) -> list[Integers]:
    """The rows of each table, ascending; none is 2**31 or more, and narrow ones sort faster."""
    distinct: list[Integers] = []
    for each in ids:
        ordered = np.sort(each.numpy().astype(np.int32))
        first = np.ones(len(ordered), dtype=np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
        distinct.append(ordered[first].astype(np.int64))
    return distinct


def same(ids: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(one.equal(other) for one, other in zip(ids, others, strict=True))
