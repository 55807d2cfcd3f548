"""One table of a tiered collection: its tier, its slots, and the moves between them.

A row that has come in is written back as soon as it has been trained and no batch in flight holds
it, not only when it leaves. Most rows leave without having been wanted again (four of five, at a
popularity of exponent 1.05); these have nothing left to write then. In a file that is larger than
the memory, a row that has just come finds its page still there; a row that leaves late has to read
the page again, for its neighbours, before it can be written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidrank.cache.errors import CacheError
from sidrank.cache.look_ahead import Window
from sidrank.cache.slot_map import Placement, SlotMap
from sidrank.cache.slow_tier import SlowTier
from sidrank.cache.traffic import Traffic

__all__ = ["CachedTable", "Move"]

Integers = npt.NDArray[np.int64]
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Move:
    """What has to be copied before a batch can be looked up; all ``[n]``."""

    written_rows: Tensor
    written_slots: Tensor
    fetched_rows: Tensor
    fetched_slots: Tensor


@dataclass
class CachedTable:
    """A table's tier and its slots.

    ``weight`` and ``state`` are FBGEMM's own memory, without the version that autograd counts:
    rows that no batch in flight uses may change between a forward and its backward pass.
    """

    name: str
    slots: SlotMap
    tier: SlowTier
    weight: Tensor
    state: Tensor
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        self.window: Window | None = None
        self.dirty = np.zeros(self.slots.slots, dtype=np.bool_)
        self._arrived = np.zeros(0, dtype=np.int64)  # slots of fetched rows not written since
        self._staging: dict[str, Tensor] = {}

    def require_room(self, rows: Integers) -> None:
        try:
            self.slots.require_room(rows)
        except CacheError as error:
            raise CacheError(str(error).replace("slots", f"slots of {self.name}", 1)) from None

    def announce(self, rows: Integers) -> None:
        if self.window is None:
            self.window = Window(rows=self.slots.rows)
        self.slots.announce(rows, self.window.announce(rows))

    def pass_over(self, rows: Integers) -> None:
        """Strike out the oldest batch announced, which will not be looked up."""
        if self.window is not None:
            self.slots.expect(rows, self.window.take())

    def forget_future(self) -> None:
        if self.window is not None:
            self.window.clear()
            self.slots.forget_future()

    def place(self, rows: Integers, *, announced: bool) -> tuple[Placement, Move]:
        """Plan a batch; whatever has to be copied, the caller has copied by `carry_out`."""
        next_use = self.window.take() if announced and self.window is not None else None
        held = self.slots.pinned(self._arrived)
        held, done = self._arrived[held], self._arrived[~held]
        placed = self.slots.place(rows, next_use)
        stale = self.dirty[placed.evicted_slots]
        self.dirty[placed.fetched_slots] = False
        done = done[self.dirty[done] & ~self.slots.pinned(done)]
        self.dirty[done] = False
        self._arrived = np.concatenate([held, placed.fetched_slots])
        move = Move(
            torch.from_numpy(
                np.concatenate([placed.evicted_rows[stale], self.slots.rows_of(done)])
            ),
            torch.from_numpy(np.concatenate([placed.evicted_slots[stale], done])),
            torch.from_numpy(placed.fetched_rows),
            torch.from_numpy(placed.fetched_slots),
        )
        self.traffic.lookups += len(rows)
        self.traffic.misses += len(placed.fetched_rows)
        self.traffic.evictions += len(placed.evicted_rows)
        self.traffic.written += len(move.written_rows)
        return placed, move

    def carry_out(self, move: Move) -> None:
        """Copy what `place` planned: out first, since what comes in takes the same slots."""
        self.write_back(move.written_rows, move.written_slots)
        self.fetch(move.fetched_rows, move.fetched_slots)

    def write_back(self, rows: Tensor, slots: Tensor) -> None:
        if not len(rows):
            return
        block = self._staged("out", len(rows))
        slots = slots.to(self.weight.device)
        dim = self.weight.shape[1]
        block[:, :dim] = self.weight.index_select(0, slots)
        if self.state.numel():
            block[:, dim:] = self.state.index_select(0, slots)
        self.tier.write(rows, block)

    def fetch(self, rows: Tensor, slots: Tensor) -> None:
        if not len(rows):
            return
        block = self._staged("in", len(rows))
        self.tier.read(rows, block)
        slots, arrived = slots.to(self.weight.device), block.to(self.weight.device)
        dim = self.weight.shape[1]
        self.weight.index_copy_(0, slots, arrived[:, :dim])
        if self.state.numel():
            self.state.index_copy_(0, slots, arrived[:, dim:])

    def write_all_back(self) -> None:
        """Write whatever the tier does not have yet; a failure leaves the rest to be written."""
        slots = self.slots.occupied
        slots = slots[self.dirty[slots]]
        for start, stop in _blocks(len(slots), self.tier.width):
            part = slots[start:stop]
            rows = self.slots.rows_of(part)
            self.write_back(torch.from_numpy(rows), torch.from_numpy(part))
            self.dirty[part] = False
            self.traffic.written += len(part)

    def columns(self, columns: slice) -> Tensor:
        """A copy of columns of the whole table as the tier has it."""
        out = torch.empty(self.tier.rows, len(range(self.tier.width)[columns]), device="cpu")
        for start, stop in _blocks(self.tier.rows, self.tier.width):
            block = self._staged("in", stop - start)
            self.tier.read(torch.arange(start, stop), block)
            out[start:stop] = block[:, columns]
        return out

    def set_columns(self, columns: slice, values: Tensor) -> None:
        """Overwrite columns of the whole table in the tier."""
        for start, stop in _blocks(self.tier.rows, self.tier.width):
            block = self._staged("in", stop - start)
            rows = torch.arange(start, stop)
            self.tier.read(rows, block)
            block[:, columns] = values[start:stop]
            self.tier.write(rows, block)

    def drop(self) -> None:
        self.slots.drop()
        self.dirty[:] = False
        self._arrived = np.zeros(0, dtype=np.int64)
        self.window = None

    def _staged(self, way: str, count: int) -> Tensor:
        """Memory between the tier and the slots, one for each way, kept and grown."""
        held = self._staging.get(way)
        if held is None or len(held) < count:
            on_gpu = self.weight.device.type == "cuda"
            size = (count + count // 4, self.tier.width)
            with torch.inference_mode(False):  # or it could not be written outside that mode
                held = torch.empty(size, device="cpu", pin_memory=on_gpu)
            self._staging[way] = held
        return held[:count]


def _blocks(count: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK_BYTES // (4 * width))
    for start in range(0, count, step):
        yield start, min(start + step, count)
