"""Events of one item and one time, added up: the one form that no order of arrival changes.

Shapes: ``M`` distinct pairs of item and time, ``S`` statistics.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sidrank._disk import scratch_path
from sidrank.data._integer_columns import Ints

__all__ = ["EventCounts", "added_up", "no_events", "read_counts", "write_counts"]

_FORMAT = "sidrank exposure statistics 1"


class EventCounts(NamedTuple):
    """Counts of each item and time."""

    items: Ints
    """Items, shape ``[M]``."""
    timestamps: Ints
    """Times, shape ``[M]``."""
    counts: Ints
    """What was counted, shape ``[M, S]``."""


def no_events(statistics: int) -> EventCounts:
    """Counts of nothing.

    Args:
        statistics: Number of statistics.

    Returns:
        Counts with no entry.
    """
    none = np.zeros(0, np.int64)
    return EventCounts(none, none, np.zeros((0, statistics), np.int64))


def added_up(parts: Sequence[EventCounts], floor: int | None) -> EventCounts:
    """Put parts together: sorted by item, then time, each pair once.

    Args:
        parts: At least one, in any order and of any order.
        floor: Earliest time to keep; None keeps all.

    Returns:
        The sums.
    """
    items, timestamps, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    if floor is not None:
        kept = timestamps >= floor
        items, timestamps, counts = items[kept], timestamps[kept], counts[kept]
    if not len(items):
        return no_events(counts.shape[1])
    order = np.lexsort((timestamps, items))
    items, timestamps = items[order], timestamps[order]
    first = np.empty(len(items), np.bool_)
    first[0] = True
    first[1:] = (items[1:] != items[:-1]) | (timestamps[1:] != timestamps[:-1])
    starts = np.flatnonzero(first)
    sums: Ints = np.add.reduceat(counts[order], starts, axis=0)
    return EventCounts(items[starts], timestamps[starts], sums)


def write_counts(path: Path, events: EventCounts, state: dict[str, Any]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: The file, new or to be replaced.
        events: The counts.
        state: What else to keep, as JSON.

    Raises:
        OSError: If it cannot be written.
    """
    content = save(events._asdict(), metadata={_FORMAT: json.dumps(state)})
    scratch = scratch_path(path)
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def read_counts(path: Path) -> tuple[EventCounts, dict[str, Any]]:
    """Read what :func:`write_counts` wrote.

    Args:
        path: The file.

    Returns:
        The counts and the rest.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it holds something else.
    """
    with path.open("rb"):
        pass  # what the operating system refuses is its own error, not the format's
    try:
        with safe_open(path, framework="numpy") as file:
            state = json.loads((file.metadata() or {})[_FORMAT])
            items, timestamps, counts = (file.get_tensor(name) for name in EventCounts._fields)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the format {_FORMAT!r} must be readable, got {error!r}") from error
    shapes = [items.shape, timestamps.shape, counts.shape[:1], (len(items),)]
    if counts.ndim != 2 or len(set(shapes)) != 1 or not isinstance(state, dict):
        raise ValueError(f"arrays must be of shapes [M], [M] and [M, S], got {shapes}")
    if any(array.dtype != np.int64 for array in (items, timestamps, counts)):
        raise ValueError("arrays must be int64, got others")
    if len(items) and counts.min() < 0:
        raise ValueError(f"counts must be at least 0, got {counts.min()}")
    return EventCounts(items, timestamps, counts), state
