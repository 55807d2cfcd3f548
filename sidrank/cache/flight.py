"""A batch between its planning and the end of its backward pass."""

import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sidrank.cache.errors import CacheError

__all__ = ["Ended", "Flight", "Pins"]

Integers = npt.NDArray[np.int64]


@dataclass(eq=False)
class Pins:
    """The slots that a batch holds, by table, and how far its backward pass has come."""

    slots: list[Integers]
    valid: bool = True
    stepped: set[int] = field(default_factory=set)


Ended = deque[tuple[Pins, int | None]]
"""Passes that have ended: a group's backward pass, or, with None, the whole flight.

A queue, since the end of a flight may be found by the garbage collector in the middle of anything.
"""


@dataclass(eq=False)
class Flight:
    """A batch whose rows have slots.

    Attributes:
        ids: What each table is asked for, with repetitions.
        slots: Where that is.
        pins: What must stay there.
        moved: Ends when the rows have come; None: they are there.
        taken: Whether the batch was looked up.
    """

    ids: list[Tensor]
    slots: list[Tensor]
    pins: Pins
    moved: "Future[None] | None" = None
    taken: bool = False

    def watch(self, outputs: Sequence[Tensor], ended: Ended) -> None:
        """Note in ``ended`` when the optimiser has stepped, or the graph has gone without."""
        nodes = [output.grad_fn for output in outputs]
        weakref.finalize(self, ended.append, (self.pins, None)).atexit = False
        for number, node in enumerate(nodes):
            if node is not None:
                node.register_prehook(_Before(self, number))
                node.register_hook(_After(self, number, ended))


class _Before:
    """Runs before a group's backward pass, and keeps the flight as long as the graph lives."""

    def __init__(self, flight: Flight, group: int) -> None:
        self.flight = flight
        self.group = group

    def __call__(self, gradients: Any) -> None:
        pins = self.flight.pins
        if not pins.valid or self.group in pins.stepped:
            why = "the cache was dropped" if not pins.valid else "it has run"
            raise CacheError(f"backward must run once, on rows that are there, got one after {why}")


class _After:
    """Runs after it: FBGEMM has stepped."""

    def __init__(self, flight: Flight, group: int, ended: Ended) -> None:
        self.flight = flight
        self.group = group
        self.ended = ended

    def __call__(self, inputs: Any, outputs: Any) -> None:
        pins = self.flight.pins
        pins.stepped.add(self.group)
        self.ended.append((pins, self.group))
