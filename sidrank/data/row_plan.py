"""Which rows are read when: one order for every number of ranks and readers, from a step onwards.

The rows of an epoch, their row groups in a drawn order, are cut into *lanes* of equal length, and
a global batch takes as many rows from every lane. A rank owns some consecutive lanes. So

- a rank reads its own row groups alone (one that two lanes share is read by both),
- global batch ``t`` holds the same rows in the same order on 1, 2 or as many ranks as there are
  lanes: what trained on two ranks goes on with one,
- a position is one number, the step: nothing is replayed to come back to it.

Within a lane, some row groups at a time are drawn from together (``mixed``): more mix better and
need more memory.

All rows of an epoch are read once. Its last global batch is shorter, but no lane is without a row,
so that no rank is without a batch.

Shapes: ``G`` row groups, ``S`` lanes.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidrank.data.rows import parquet_parts

__all__ = ["Block", "RowPlan", "Segment"]


class Segment(NamedTuple):
    """Consecutive rows of a row group."""

    path: Path
    """The file."""
    group: int
    """The row group, counted within its file."""
    start: int
    """Rows of the group before the first one."""
    stop: int
    """Rows of the group before the end."""
    first: int
    """Rows of the file before the group, for messages."""


class Block(NamedTuple):
    """Segments that are read and drawn from together."""

    segments: tuple[Segment, ...]
    """In the order in which they are laid side by side."""
    start: int
    """Rows of the lane before this block."""
    rows: int
    """Rows of all segments."""
    seed: tuple[int, ...] | None
    """What the order of its rows is drawn from; None leaves them as they are."""

    def order(self) -> NDArray[np.int64]:
        """The drawn order of its rows.

        Returns:
            Places in the rows laid side by side, shape ``[rows]``.
        """
        if self.seed is None:
            return np.arange(self.rows)
        return np.random.default_rng(self.seed).permutation(self.rows)


class RowPlan:
    """The order in which the rows of parquet files are read.

    Args:
        path: A parquet file, or a folder with ``*.parquet`` files.
        batch_rows: Rows of a global batch, a multiple of ``lanes``.
        lanes: Parts of a global batch, ``S``; the number of ranks must divide it.
        seed: Of the order; ``None`` is the order of the files.
        mixed: Row groups of a lane that are drawn from together.

    Raises:
        OSError: If a file cannot be opened.
        ValueError: If a file is not whole, a number is not positive, ``batch_rows`` is not a
            multiple of ``lanes``, or there are fewer rows than lanes.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        batch_rows: int,
        lanes: int = 8,
        seed: int | None = 0,
        mixed: int = 4,
    ) -> None:
        from sidrank.data.parquet_rows import open_parquet

        for name, value in (("batch_rows", batch_rows), ("lanes", lanes), ("mixed", mixed)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if batch_rows % lanes:
            raise ValueError(f"batch_rows must be a multiple of lanes ({lanes}), got {batch_rows}")
        self.path = Path(path)
        self.batch_rows, self.lanes, self.seed, self.mixed = batch_rows, lanes, seed, mixed
        self.files = parquet_parts(self.path) if self.path.is_dir() else [self.path]
        self.schemas: dict[Path, Any] = {}
        self._sizes: list[list[int]] = []
        for part in self.files:
            with open_parquet(part) as file:
                self.schemas[part] = file.schema_arrow
                groups = range(file.num_row_groups)
                self._sizes.append([file.metadata.row_group(k).num_rows for k in groups])
        self.rows = sum(sum(sizes) for sizes in self._sizes)
        if self.rows < lanes:
            raise ValueError(f"{path} must hold a row for each of {lanes} lanes, got {self.rows}")

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return -(-(self.rows // self.lanes) // (self.batch_rows // self.lanes))

    @cached_property
    def fingerprint(self) -> str:
        """Stands for what the order depends on, files (names, bytes, row groups) and settings."""
        told = {
            "files": [
                [file.name, file.stat().st_size, sizes]
                for file, sizes in zip(self.files, self._sizes, strict=True)
            ],
            "batch_rows": self.batch_rows,
            "lanes": self.lanes,
            "seed": self.seed,
            "mixed": self.mixed,
        }
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def lane_rows(self, lane: int) -> int:
        """How many rows of an epoch a lane has.

        Args:
            lane: Which, from 0.

        Returns:
            Their number; lanes differ by one row at most.
        """
        return (self.rows * (lane + 1)) // self.lanes - (self.rows * lane) // self.lanes

    def lane_span(self, lane: int, step: int) -> tuple[int, int]:
        """Which rows of a lane are in a global batch.

        Args:
            lane: Which, from 0.
            step: Global batch of the epoch, from 0.

        Returns:
            Rows of the lane before the first and before the end; the last step takes what is
            left, which may be one row more than its share.
        """
        share = self.batch_rows // self.lanes
        last = step == self.steps - 1
        return step * share, self.lane_rows(lane) if last else (step + 1) * share

    def blocks(self, epoch: int, lane: int) -> list[Block]:
        """What a lane reads in an epoch.

        Args:
            epoch: Which, from 0: every one has an order of its own.
            lane: Which, from 0.

        Returns:
            Blocks in order; together they are the lane's rows, each once.
        """
        begin, end = (self.rows * lane) // self.lanes, (self.rows * (lane + 1)) // self.lanes
        segments = [
            segment._replace(
                start=max(begin - before, 0),
                stop=min(end - before, segment.stop),
            )
            for before, segment in self._ordered(epoch)
            if before < end and before + segment.stop > begin
        ]
        blocks: list[Block] = []
        done = 0
        for at in range(0, len(segments), self.mixed):
            some = tuple(segments[at : at + self.mixed])
            rows = sum(segment.stop - segment.start for segment in some)
            drawn = None if self.seed is None else (self.seed, epoch, lane, at)
            blocks.append(Block(some, done, rows, drawn))
            done += rows
        return blocks

    def _ordered(self, epoch: int) -> list[tuple[int, Segment]]:
        """Whole row groups in the order of an epoch, each with the rows before it."""
        whole = [
            Segment(file, group, 0, rows, sum(sizes[:group]))
            for file, sizes in zip(self.files, self._sizes, strict=True)
            for group, rows in enumerate(sizes)
            if rows
        ]
        if self.seed is not None:
            drawn = np.random.default_rng((self.seed, epoch)).permutation(len(whole))
            whole = [whole[place] for place in drawn]
        before = np.cumsum([0, *(segment.stop for segment in whole)])
        return list(zip(before[:-1].tolist(), whole, strict=True))
