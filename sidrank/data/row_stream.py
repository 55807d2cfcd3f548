"""Training batches from parquet: sharded over ranks, shuffled, resumed at any step.

Readers decode, check and shuffle ahead, each a block of a lane (:class:`~sidrank.data.row_plan`);
making a batch is then one copy of slices. How many readers there are changes no batch.

Every batch is the same whatever ran before it: ``seek(step)`` goes there by arithmetic. Who stops
and resumes, on as many ranks or not, loses no row and reads none twice.

A value that is missing or not finite, an id that is negative or beyond 63 bits is refused with
its file, column and row.

Shapes: ``B`` rows of a rank's batch, ``F`` sparse features, ``T`` their ids, all features one
after the other (as in a ``KeyedJaggedTensor``), ``D`` dense columns, ``Y`` labels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sidrank.data.columns import Numbers
from sidrank.data.row_plan import Block, RowPlan

if TYPE_CHECKING:  # pyarrow is needed by those who read only
    from sidrank.data.row_blocks import DecodedBlock

__all__ = ["RowColumns", "RowStream", "TrainingRows"]


@dataclass(frozen=True)
class RowColumns:
    """What of a row is read.

    Attributes:
        labels: Columns of numbers.
        dense: Columns of numbers.
        sparse: Columns of ids, an integer a row or a list of them.

    Raises:
        ValueError: If a name is there twice.
    """

    labels: Sequence[str]
    dense: Sequence[str] = ()
    sparse: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in (every := [*self.labels, *self.dense, *self.sparse]):
            if every.count(name) > 1:
                raise ValueError(f"columns must be named once each, got {name!r} twice")


class TrainingRows(NamedTuple):
    """A rank's part of a global batch."""

    labels: Tensor
    """Shape ``[B, Y]``, float32."""
    dense: Tensor
    """Shape ``[B, D]``, float32."""
    keys: tuple[str, ...]
    """Names of the sparse features, ``F`` of them."""
    lengths: Tensor
    """Ids of each feature and row, feature by feature, shape ``[F * B]``, int32."""
    values: Tensor
    """Ids, feature by feature, shape ``[T]``: int32 if all columns are that narrow, or int64."""


class RowStream:
    """Batches of one rank, from any step on.

    Iteration runs from the position to the end of its epoch; the next one begins there.

    Args:
        plan: Which rows are read when; the same on every rank.
        columns: What of a row is read.
        rank: This rank.
        world_size: Ranks, a divisor of the plan's lanes.
        readers: Threads that decode.

    Raises:
        ValueError: If there is no such rank, ``world_size`` does not divide the lanes,
            ``readers`` is less than one, or a column is missing or of another type than asked for.
    """

    def __init__(
        self,
        plan: RowPlan,
        columns: RowColumns,
        *,
        rank: int = 0,
        world_size: int = 1,
        readers: int = 1,
    ) -> None:
        from sidrank.data.row_blocks import check_types

        if world_size < 1 or plan.lanes % world_size:
            raise ValueError(
                f"world_size must divide the {plan.lanes} lanes of the plan, got {world_size}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
        if readers < 1:
            raise ValueError(f"readers must be at least 1, got {readers}")
        check_types(plan.schemas, columns.labels, columns.dense, columns.sparse)
        self.plan, self.columns, self.readers = plan, columns, readers
        share = plan.lanes // world_size
        self.lanes = range(rank * share, (rank + 1) * share)
        self._step = 0

    @property
    def step(self) -> int:
        """The position, in global batches handed out since the first epoch began."""
        return self._step

    def seek(self, step: int) -> None:
        """Go to a position.

        Args:
            step: Global batches since the first epoch began; ``plan.steps`` make an epoch.

        Raises:
            ValueError: If ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        self._step = step

    def state_dict(self, step: int | None = None) -> dict[str, int | str]:
        """What a checkpoint keeps; the same on every rank.

        Args:
            step: The position to keep, such as the step that was trained last while a pipeline
                holds batches beyond it; ``None`` is that of the batch handed out last.

        Returns:
            Position and fingerprint of the plan.
        """
        return {"step": self._step if step is None else step, "plan": self.plan.fingerprint}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go where a checkpoint was, of any number of ranks.

        Args:
            state: From :meth:`state_dict`.

        Raises:
            ValueError: If it is of other files or another order.
        """
        if state["plan"] != self.plan.fingerprint:
            raise ValueError(
                f"state must be of the plan {self.plan.fingerprint} (files, batch_rows, lanes, "
                f"seed, mixed), got one of {state['plan']}"
            )
        self.seek(int(state["step"]))

    def __iter__(self) -> Iterator[TrainingRows]:
        """Batches from the position to the end of its epoch.

        Yields:
            Batches of at least one row a lane.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If a file is broken or holds a value that is refused.
        """
        epoch, first = divmod(self._step, self.plan.steps)
        with ThreadPoolExecutor(self.readers, thread_name_prefix="rows") as readers:
            lanes = [
                _Lane(self.plan.blocks(epoch, lane), self.columns, readers) for lane in self.lanes
            ]
            for lane, cursor in zip(self.lanes, lanes, strict=True):
                cursor.look_ahead(self.plan.lane_span(lane, first)[0])
            for step in range(first, self.plan.steps):
                spans = [self.plan.lane_span(lane, step) for lane in self.lanes]
                parts = [
                    part
                    for cursor, span in zip(lanes, spans, strict=True)
                    for part in cursor.take(*span)
                ]
                self._step += 1
                yield _joined(parts, self.columns.sparse)


class _Lane:
    """The blocks of a lane: the present one, and the next one being read."""

    def __init__(
        self, blocks: Sequence[Block], columns: RowColumns, readers: ThreadPoolExecutor
    ) -> None:
        from sidrank.data.row_blocks import decode

        self.decode = decode
        self.blocks, self.columns, self.readers = blocks, columns, readers
        self.place = 0
        self.open: dict[int, Future[DecodedBlock]] = {}

    def look_ahead(self, start: int) -> None:
        while self.blocks[self.place].start + self.blocks[self.place].rows <= start:
            self.place += 1
        self._begin(self.place)

    def take(self, start: int, stop: int) -> Iterator["DecodedBlock"]:
        while start < stop:
            block = self.blocks[self.place]
            end = block.start + block.rows
            self._begin(self.place)
            self._begin(self.place + 1)
            decoded = self.open[self.place].result()
            yield decoded.rows(start - block.start, min(stop, end) - block.start)
            start = min(stop, end)
            if start == end:
                del self.open[self.place]
                self.place += 1

    def _begin(self, place: int) -> None:
        if place not in self.open and place < len(self.blocks):
            wanted = self.columns
            self.open[place] = self.readers.submit(
                self.decode, self.blocks[place], wanted.labels, wanted.dense, wanted.sparse
            )


def _joined(parts: Sequence["DecodedBlock"], keys: Sequence[str]) -> TrainingRows:
    ids = [part.ids[place] for place in range(len(keys)) for part in parts]
    none = np.zeros(0, np.int32)
    lengths = np.ones(len(keys) * sum(len(part.labels) for part in parts), np.int32)
    if any(each.lengths is not None for each in ids):
        ones = [
            lengths[: len(each.values)] if each.lengths is None else each.lengths for each in ids
        ]
        lengths = np.concatenate(ones)
    return TrainingRows(
        labels=_tensor(np.concatenate([part.labels for part in parts])),
        dense=_tensor(np.concatenate([part.dense for part in parts])),
        keys=tuple(keys),
        lengths=_tensor(lengths),
        values=_tensor(np.concatenate([none, *(each.values for each in ids)])),
    )


def _tensor(array: Numbers) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
