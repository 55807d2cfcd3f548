"""Training rows with the exposure statistics of their items, counted as the rows go by.

For rows that come in the order of time, as those of an online ranker. Each global batch is counted
by all ranks together, then every row gets the counts of its item as they stood before it
(:class:`~sidrank.data.ExposureStatistics`: strictly earlier events, older than its ``delay``). So
every rank holds the same counts, on any number of ranks, and neither a row itself nor a later one
is ever in them. Rows are counted in the first epoch only.

A pipeline reads ahead of what it has trained. What the last batches brought is therefore kept
apart for a while, so that :meth:`ExposureStream.state_dict` can tell the counts at a step that is
over from those of batches which were only read: who resumes there counts none twice.

A batch costs a gathering of three integers a row, and sorting what the last batches brought; every
few batches all that is kept is sorted. ``stream.statistics.forget`` bounds it.

Source: SID-Coord, arXiv 2604.10471 (counts of 7 days feed the gate). How they are kept is ours
[derived].

Shapes: ``B`` rows of a rank's batch, ``S`` statistics.
"""

import copy
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from sidrank.data._integer_columns import Ints
from sidrank.data.exposure_statistics import ExposureStatistics
from sidrank.data.row_stream import RowStream, TrainingRows

__all__ = ["ExposureStream"]

_APART = 16  # batches; more than any pipeline reads ahead


class ExposureStream:
    """A :class:`~sidrank.data.RowStream` whose rows know how often their item was seen before.

    The counts are appended as sparse features, one integer a row, named as the statistics: what
    the gates of a ``HybridEmbeddingBagCollection`` read. In training on several ranks each batch
    gathers over the default process group, so all ranks iterate together.

    Args:
        stream: The rows; item and time are among its sparse columns, one integer a row.
        statistics: The counts, empty or not; an item's rows are counted under its raw id.
        item: Sparse column of the item.
        timestamp: Sparse column of the time, in the unit of the statistics' window.
        labels: Which label column a statistic adds up; one that is not named counts rows.

    Raises:
        ValueError: If a column or a statistic is missing, or the stream is one of several ranks
            and the process group is not of as many.

    Attributes:
        statistics: The counts of all but the last batches read.
    """

    def __init__(
        self,
        stream: RowStream,
        statistics: ExposureStatistics,
        *,
        item: str,
        timestamp: str,
        labels: Mapping[str, str],
    ) -> None:
        columns = stream.columns
        for name in (item, timestamp):
            if name not in columns.sparse:
                raise ValueError(f"stream must read {name!r} as sparse, got {columns.sparse}")
        for name, label in labels.items():
            if name not in statistics.statistics:
                raise ValueError(f"labels must be of {statistics.statistics}, got {name!r}")
            if label not in columns.labels:
                raise ValueError(f"stream must read the label {label!r}, got {columns.labels}")
        if twice := [name for name in statistics.statistics if name in columns.sparse]:
            raise ValueError(f"stream must not read {twice[0]!r} yet, got one of that name")
        ranks = stream.plan.lanes // len(stream.lanes)
        there = dist.get_world_size() if dist.is_initialized() else 1
        if ranks != there:
            raise ValueError(f"stream must be of the {there} ranks there are, got one of {ranks}")
        self.stream, self.statistics, self._ranks = stream, statistics, ranks
        self._item, self._timestamp = (columns.sparse.index(name) for name in (item, timestamp))
        self._labels = {name: columns.labels.index(label) for name, label in labels.items()}
        self._apart: deque[_Counted] = deque()
        self._reader = copy.copy(statistics)

    @property
    def step(self) -> int:
        """The position, as that of the rows."""
        return self.stream.step

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """What a checkpoint keeps; the same on every rank.

        Args:
            step: The step that was trained last; ``None`` is that of the batch handed out last.

        Returns:
            Position, fingerprint of the plan, and the counts of the batches up to the step.

        Raises:
            ValueError: If the step is not among the last 16 batches that were read.
        """
        last = self.stream.step
        step = last if step is None else step
        if not max(0, last - _APART) <= step <= last:
            raise ValueError(f"step must be {max(0, last - _APART)} to {last}, got {step}")
        counts = _empty_like(self.statistics)
        counts.merge(self.statistics)
        for batch in self._apart:
            if batch.step <= step:
                batch.add_to(counts)
        return {"rows": self.stream.state_dict(step), "statistics": _to_bytes(counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go where a checkpoint was, of any number of ranks.

        Args:
            state: From :meth:`state_dict`.

        Raises:
            ValueError: If it is of other rows, or of statistics with other settings.
        """
        counts = _empty_like(self.statistics)
        counts.merge(_from_bytes(state["statistics"]))
        self.stream.load_state_dict(state["rows"])
        self.statistics, self._reader = counts, copy.copy(counts)
        self._apart.clear()

    def __iter__(self) -> Iterator[TrainingRows]:
        """Batches from the position to the end of its epoch.

        Yields:
            The batches, with a feature more for each statistic.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If a file is broken, holds a value that is refused, or a row's item or time
                is not one integer.
        """
        for rows in self.stream:
            items, times = self._integers(rows, self._item), self._integers(rows, self._timestamp)
            if self.stream.step <= self.stream.plan.steps:
                self._count(items, times, rows.labels.numpy())
            yield _with(rows, self.statistics.statistics, self._as_of(items, times))

    def _integers(self, rows: TrainingRows, place: int) -> Ints:
        size = len(rows.labels)
        ends = np.concatenate([[0], rows.lengths.numpy().cumsum()])
        lengths = rows.lengths.numpy()[place * size : (place + 1) * size]
        if (lengths != 1).any():
            name, row = rows.keys[place], int((lengths != 1).argmax())
            raise ValueError(f"{name} must be one integer a row, got {lengths[row]} in row {row}")
        first = int(ends[place * size])
        return rows.values.numpy()[first : first + size].astype(np.int64)

    def _count(self, items: Ints, times: Ints, labels: np.ndarray[Any, Any]) -> None:
        counts = np.ones((len(items), len(self.statistics.statistics)), np.int64)
        for place, name in enumerate(self.statistics.statistics):
            if name in self._labels:
                counts[:, place] = labels[:, self._labels[name]]
        shares: list[Any] = [(items, times, counts)]
        if self._ranks > 1:
            shares *= self._ranks
            dist.all_gather_object(shares, shares[0])
        columns = [np.concatenate(column) for column in zip(*shares, strict=True)]
        self._apart.append(_Counted(self.stream.step, *columns))
        if len(self._apart) == 2 * _APART:  # not each time: it sorts all there is
            for _ in range(_APART):
                self._apart.popleft().add_to(self.statistics)
            len(self.statistics)  # adds up, so that the two share what is stored
            # its watermark will be that of batches which a checkpoint may not know yet
            self._reader = copy.copy(self.statistics)

    def _as_of(self, items: Ints, times: Ints) -> Ints:
        recent = _empty_like(self.statistics)
        for batch in self._apart:
            batch.add_to(recent)
        watermarks = [self._reader.watermark, recent.watermark]
        latest = max(time for time in watermarks if time is not None)
        self._reader.advance(latest)
        recent.advance(latest)
        return self._reader.as_of(items, times) + recent.as_of(items, times)


class _Counted(NamedTuple):
    """What a global batch brought."""

    step: int
    items: Ints
    timestamps: Ints
    counts: Ints

    def add_to(self, statistics: ExposureStatistics) -> None:
        columns = dict(zip(statistics.statistics, self.counts.T, strict=True))
        statistics.update(self.items, self.timestamps, columns)


def _with(rows: TrainingRows, names: list[str], counts: Ints) -> TrainingRows:
    added = torch.from_numpy(np.ascontiguousarray(counts.T).reshape(-1))
    return rows._replace(
        keys=(*rows.keys, *names),
        lengths=torch.cat([rows.lengths, rows.lengths.new_ones(len(added))]),
        values=torch.cat([rows.values.long(), added]),
    )


def _empty_like(statistics: ExposureStatistics) -> ExposureStatistics:
    return ExposureStatistics(
        statistics=statistics.statistics,
        window=statistics.window,
        delay=statistics.delay,
        staleness=statistics.staleness,
        resolution=statistics.resolution,
    )


def _to_bytes(statistics: ExposureStatistics) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        statistics.save(path := Path(folder) / "statistics")
        return torch.from_numpy(np.fromfile(path, np.uint8))


def _from_bytes(content: torch.Tensor) -> ExposureStatistics:
    with tempfile.TemporaryDirectory() as folder:
        content.numpy().tofile(path := Path(folder) / "statistics")
        return ExposureStatistics.load(path)
