r"""Counts of exposures, clicks and the like of each item as they stood before each row.

What a target-aware gate reads (:class:`sidrank.layers.ResidualGate`) must be made where the rows
are made: inside the model nobody can tell yesterday's count from tomorrow's. A row of time ``t``
gets the events of its item in the half-open window

.. math:: t - \mathrm{delay} - \mathrm{window} \le \mathrm{time} < t - \mathrm{delay}

so neither the row itself, nor another row of the same second, nor an event whose label is not
known yet is ever counted. Two things that would be wrong in silence are refused instead: a row
later than the log reaches (:attr:`ExposureStatistics.watermark`), whose counts would be too small,
and, by :func:`refuse_future_statistics`, a stored statistic newer than the row it stands in.

Counts are integers and events are kept sorted, so any order of updates, any cut into shards and
any order of merging gives the same bits.

Source: SID-Coord, arXiv 2604.10471 (counts of 7 days feed the gate).
Differs from the source: the delay, the watermark and the coarser resolution [derived]; the
logarithm is the gate's.

Shapes: ``E`` events, ``Q`` rows, ``S`` statistics.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sidrank.data._event_counts import (
    EventCounts,
    added_up,
    no_events,
    read_counts,
    write_counts,
)
from sidrank.data._integer_columns import Ints, at_least, every_row, integers, time_of, times
from sidrank.data.as_of import AsOfLog

__all__ = ["ExposureStatistics", "refuse_future_statistics"]

_PENDING = 1 << 16  # events kept as they came before they are added up


class ExposureStatistics:
    """Rolling counts of each item, readable as of any time up to a watermark.

    Args:
        statistics: Names of the counts, in the order of the columns of ``[Q, S]``.
        window: How long an event counts, in the unit of the timestamps (7 days in seconds:
            ``7 * 86400``).
        delay: How long before the row the window ends: the time that a label may take to become
            known. An event counts with all its statistics or with none.
        staleness: How far a row's window may reach beyond the watermark before it is refused.
        resolution: Length of the time buckets that events are stored in; 1 is exact. A bucket
            counts once all of it lies before the window's end, so a coarser one never shows the
            future: an event enters and leaves the window later, by less than ``resolution``.

    Raises:
        TypeError: If ``statistics`` is a single string.
        ValueError: If there is no statistic or a name twice, ``window`` or ``resolution`` is
            less than 1, or ``delay`` or ``staleness`` less than 0.

    Example:
        >>> counts = ExposureStatistics(statistics=["shown", "clicked"], window=100)
        >>> counts.update([7, 7, 9], [10, 20, 20], {"shown": [1, 1, 1], "clicked": [0, 1, 0]})
        >>> counts.as_of([7, 7, 9], [20, 15, 20]).tolist()
        [[1, 0], [1, 0], [0, 0]]
        >>> counts.as_of([7], [21])
        Traceback (most recent call last):
        ValueError: timestamps must be at most 20 (watermark 20 + delay 0 + staleness 0), got 21 ...
        >>> counts.advance(120)
        >>> counts.as_of([7, 7], [110, 120]).tolist()
        [[2, 1], [1, 1]]
    """

    def __init__(
        self,
        *,
        statistics: Sequence[str],
        window: int,
        delay: int = 0,
        staleness: int = 0,
        resolution: int = 1,
    ) -> None:
        if isinstance(statistics, str):
            raise TypeError(
                f"statistics must be a sequence of names, got the string {statistics!r}"
            )
        names = [str(name) for name in statistics]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"statistics must be at least one name, each once, got {names}")
        self.statistics: list[str] = names
        self.window = at_least(1, window, "window")
        self.delay = at_least(0, delay, "delay")
        self.staleness = at_least(0, staleness, "staleness")
        self.resolution = at_least(1, resolution, "resolution")
        self._watermark: int | None = None
        self._floor: int | None = None
        self._events = no_events(len(names))
        self._pending: list[EventCounts] = []
        self._pending_rows = 0
        self._index: tuple[AsOfLog, Ints] | None = None

    @property
    def watermark(self) -> int | None:
        """Time up to which all earlier events are held to be known; None before the first one.

        The latest event's time, or what :meth:`advance` said if that is later. An event that
        arrives late still counts, for the rows that are asked about after it.
        """
        return self._watermark

    def __len__(self) -> int:
        """Number of stored pairs of an item and a time (bucket)."""
        return len(self._added_up().items)

    def update(
        self, items: npt.ArrayLike, timestamps: npt.ArrayLike, counts: Mapping[str, npt.ArrayLike]
    ) -> None:
        """Add events, in any order; none of them is added if one is refused.

        Args:
            items: Item of each event, any 64-bit integers, shape ``[E]``.
            timestamps: Time of each event, integers, shape ``[E]``.
            counts: What each event adds to each statistic, by name: booleans or integers from 0
                to 2³¹ − 1, shape ``[E]`` each.

        Raises:
            ValueError: If the names are not those of ``statistics``, a column is no integers or
                of another length, or a time or a count is out of range.
        """
        item = integers(items, "items")
        time = times(timestamps, "timestamps", len(item))
        if set(counts) != set(self.statistics):
            raise ValueError(f"counts must hold {self.statistics}, got {list(counts)}")
        columns: list[Ints] = []
        for name in self.statistics:
            column = integers(counts[name], f"counts[{name!r}]", len(item), booleans=True)
            every_row(
                (column >= 0) & (column < 2**31),
                column,
                f"counts[{name!r}] must be 0 to 2147483647",
            )
            columns.append(column)
        if not len(item):
            return
        self.advance(int(time.max()))
        # a bucket is known by its last moment: it counts when all of it is in the past
        time = time - time % self.resolution + (self.resolution - 1)
        self._pending.append(EventCounts(item.copy(), time, np.column_stack(columns)))
        self._pending_rows += len(item)
        if self._pending_rows > max(_PENDING, len(self._events.items)):
            self._add_up()

    def advance(self, timestamp: int) -> None:
        """Say that every event before a time is known: an hour without events is known too.

        Args:
            timestamp: The new watermark; an earlier one than the present changes nothing.

        Raises:
            ValueError: If the time is out of range.
        """
        time = time_of(timestamp, "timestamp")
        self._watermark = time if self._watermark is None else max(self._watermark, time)

    def forget(self, before: int) -> None:
        """Drop what only rows of long ago can ask for, so that a stream needs bounded memory.

        Args:
            before: Events before this time go, those that arrive later too; rows whose window
                begins before it are refused from now on.

        Raises:
            ValueError: If the time is out of range.
        """
        self._raise_floor(time_of(before, "before"))
        self._add_up()

    def as_of(self, items: npt.ArrayLike, timestamps: npt.ArrayLike) -> Ints:
        """Count the events that each row may know of.

        Args:
            items: Item of each row, shape ``[Q]``; one that never occurred has counts of 0.
            timestamps: Time of each row, integers, shape ``[Q]``, in any order.

        Returns:
            The counts, shape ``[Q, S]``.

        Raises:
            ValueError: If a row lies beyond what is known (the watermark plus ``delay`` plus
                ``staleness``), its window begins before what was forgotten, or a column is not
                as described.
        """
        return self._read(items, timestamps, "items", "timestamps")

    def write_into(
        self,
        columns: Mapping[str, npt.NDArray[Any]],
        *,
        items: str = "item",
        timestamps: str = "timestamp",
    ) -> dict[str, npt.NDArray[Any]]:
        """Join the counts to rows.

        Args:
            columns: The rows' columns by name, shape ``[Q]`` each.
            items: Name of the column of items.
            timestamps: Name of the column of times.

        Returns:
            The columns, and one int64 column by the name of each statistic.

        Raises:
            ValueError: As :meth:`as_of`, naming the column; or if a named column is missing or a
                statistic's is there already: nobody knows as of when.
        """
        for name in (items, timestamps):
            if name not in columns:
                raise ValueError(f"columns must hold {name!r}, got {list(columns)}")
        for name in self.statistics:
            if name in columns:
                raise ValueError(f"columns must not hold {name!r} yet, got one of that name")
        counts = self._read(columns[items], columns[timestamps], items, timestamps)
        return {**columns, **dict(zip(self.statistics, counts.T.copy(), strict=True))}

    def merge(self, other: Self) -> None:
        """Add the events of another shard; the other is left as it is.

        The watermark becomes the later of the two: shards may be cut by time, by item or by
        row, but all of them must have been read to their end.

        Args:
            other: Statistics of the same settings.

        Raises:
            ValueError: If the settings differ.
        """
        if other._settings() != self._settings():
            raise ValueError(f"other must have {self._settings()}, got {other._settings()}")
        if other._floor is not None:
            self._raise_floor(other._floor)
        if other.watermark is not None:
            self.advance(other.watermark)
        self._pending.append(other._added_up())
        self._add_up()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a safetensors file, whole or not at all.

        Args:
            path: The file, new or to be replaced.

        Raises:
            OSError: If it cannot be written.
        """
        state = {"settings": self._settings(), "watermark": self._watermark, "floor": self._floor}
        write_counts(Path(path), self._added_up(), state)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote; nothing is unpickled.

        Args:
            path: The file.

        Returns:
            Statistics that go on where the saved ones were.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it holds something else.
        """
        try:
            events, state = read_counts(Path(path))
            result = cls(**state["settings"])
            if events.counts.shape[1] != len(result.statistics):
                raise ValueError(f"counts must be of {result.statistics}, got another number")
            for name, change in (("floor", result.forget), ("watermark", result.advance)):
                if state[name] is not None:
                    change(state[name])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} must hold exposure statistics, got a fault: {error}"
            ) from error
        result._pending.append(events)
        return result

    def _settings(self) -> dict[str, Any]:
        names = ("statistics", "window", "delay", "staleness", "resolution")
        return {name: getattr(self, name) for name in names}

    def _raise_floor(self, before: int) -> None:
        self._floor = before if self._floor is None else max(self._floor, before)

    def _add_up(self) -> None:
        self._events = added_up([self._events, *self._pending], self._floor)
        self._pending, self._pending_rows, self._index = [], 0, None

    def _added_up(self) -> EventCounts:
        if self._pending:
            self._add_up()
        return self._events

    def _read(
        self, items: npt.ArrayLike, timestamps: npt.ArrayLike, items_name: str, times_name: str
    ) -> Ints:
        item = integers(items, items_name)
        time = times(timestamps, times_name, len(item))
        if not len(item):
            return np.zeros((0, len(self.statistics)), np.int64)
        if self._watermark is None:
            raise ValueError(f"{times_name} must wait for the first update or advance, got rows")
        latest = self._watermark + self.delay + self.staleness
        every_row(
            time <= latest,
            time,
            f"{times_name} must be at most {latest} (watermark {self._watermark} + delay "
            f"{self.delay} + staleness {self.staleness})",
        )
        end = time - self.delay
        since = end - self.window
        if self._floor is not None:
            first = self._floor + self.delay + self.window
            every_row(
                since >= self._floor,
                time,
                f"{times_name} must be at least {first} (events before {self._floor} are gone)",
            )
        events = self._added_up()
        if self._index is None:
            log = AsOfLog(keys=events.items, timestamps=events.timestamps)
            running = np.zeros((len(events.items) + 1, len(self.statistics)), np.int64)
            np.cumsum(events.counts, axis=0, out=running[1:])  # these are in the log's order
            self._index = log, running
        log, running = self._index
        start, stop = log.spans(keys=item, timestamps=end, since=since)
        return running[stop] - running[start]


def refuse_future_statistics(
    counted_until: npt.ArrayLike, timestamps: npt.ArrayLike, *, column: str, delay: int = 0
) -> None:
    """Refuse a column of statistics that knows more than its rows could.

    For statistics that come with the rows instead of from :class:`ExposureStatistics`.

    Args:
        counted_until: End of what each row's statistic counted (events before it), integers,
            shape ``[Q]``.
        timestamps: Time of each row, integers, shape ``[Q]``.
        column: Name of the statistic, for the message.
        delay: Time that a label may take to become known.

    Raises:
        ValueError: If a statistic counted up to a time later than its row's minus ``delay``,
            naming the column and the first such row.

    Example:
        >>> refuse_future_statistics([100, 230], [160, 220], column="clicks_7d")
        Traceback (most recent call last):
        ValueError: column 'clicks_7d' must count events before 220 only, got until 230 in row 1
    """
    row_time = times(timestamps, "timestamps")
    until = times(counted_until, "counted_until", len(row_time))
    latest = row_time - at_least(0, delay, "delay")
    good = until <= latest
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"column {column!r} must count events before {latest[row]} only, got until "
            f"{until[row]} in row {row}"
        )
