"""Exact or certified AUC of rows that arrive in batches, on one machine or on many.

``StreamingAUC()`` remembers how often each score occurred in each class: about 5 bytes a distinct
score. Its value equals :func:`sidrank.metrics.auc` of all rows bit for bit, whatever the batches,
the shards and the order in which states were merged.

``StreamingAUC(exact=False)`` stays below 64 MiB at any number of rows. It is exact while there are
at most 163,840 distinct scores; beyond, it joins neighbouring scores and reports an interval that
is certain to hold the exact AUC. The interval is usually 1e-5 wide; it is a measurement, not a
promise, and :meth:`StreamingAUC.bounds` says what it is.

Source: the Mann-Whitney form of the AUC (Hanley and McNeil 1982, equation 1).
Differs from the source: counted from a state that can be merged; see ``_tallies`` and ``_cells``
for the two forms of the state.

Shapes: ``[n]`` rows of a batch.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from sidrank.metrics._batches import checked_batches
from sidrank.metrics._bounded_state import BoundedState
from sidrank.metrics._columns import Column
from sidrank.metrics._exact_state import ExactState
from sidrank.metrics._wire import gathered

__all__ = ["Bounds", "StreamingAUC"]


class Bounds(NamedTuple):
    """Two numbers that are certain to have the exact AUC between them."""

    lower: float
    """Never above the exact AUC."""
    upper: float
    """Never below it."""


class StreamingAUC:
    """AUC of all rows seen so far.

    Args:
        exact: Remember every distinct score; False bounds the memory at 64 MiB instead.

    Example:
        >>> monday, tuesday = StreamingAUC(), StreamingAUC()
        >>> monday.update([0, 1], [0.1, 0.4])
        >>> tuesday.update([0, 1], [0.4, 0.8])
        >>> monday.merge(tuesday)
        >>> monday.compute()
        0.875
        >>> monday.bounds()
        Bounds(lower=0.875, upper=0.875)
    """

    _CELLS = 5 << 15  # with these, two states and their merge take up to 55 MiB

    def __init__(self, *, exact: bool = True) -> None:
        self.exact = exact
        self._state = self._empty()

    @property
    def rows(self) -> int:
        """Rows seen so far, those of weight zero too."""
        return self._state.rows

    @property
    def positives(self) -> int:
        """Positive rows seen so far, those of weight zero too."""
        return self._state.positives

    def update(self, labels: Column, scores: Column, weights: Column | None = None) -> None:
        """Add rows. A batch that is refused changes nothing.

        Args:
            labels: Booleans or numbers in {0, 1}, shape ``[n]``.
            scores: Floats of any dtype, or integers of at most ``2**53`` in size, shape ``[n]``;
                larger means more likely positive. Infinities rank; NaN does not.
            weights: Row weights, finite and not negative, shape ``[n]``; None counts each row
                once, also beside weighted batches. A weighted row takes 13 to 17 bytes.

        Raises:
            ValueError: If :func:`sidrank.metrics.auc` would refuse a column, an integer score is
                too large, or there are weights without ``exact``.
        """
        if weights is not None and not self.exact:
            raise ValueError("weights must be None where exact is False, got weights")
        for batch in checked_batches(labels, scores, weights=weights):
            self._state.add(batch)

    def merge(self, other: "StreamingAUC") -> None:
        """Add the rows of another state, in place.

        The merged state is the same whichever of the two takes in the other. In exact mode, and
        in the other while no more than 163,840 distinct scores have been seen, it is also the
        same however many states are paired. After that every pairing certifies the same exact
        AUC, and the ends may differ by about the width of the interval.

        Args:
            other: A state of the same mode, with the same rows afterwards.

        Raises:
            ValueError: If the modes differ.
        """
        if other.exact != self.exact:
            raise ValueError(
                f"other must be a StreamingAUC with exact={self.exact}, got exact={other.exact}"
            )
        # of the same class, since the modes are the same
        self._state.merge(other._state)  # pyright: ignore[reportArgumentType]

    def compute(self) -> float:
        """AUC of all rows.

        Returns:
            The exact value; with ``exact=False`` the middle of :meth:`bounds`, which is exact
            too while there are at most 163,840 distinct scores.

        Raises:
            ValueError: If only one class has been seen (or only one has weight).
        """
        return self._ends()[1]

    def bounds(self) -> Bounds:
        """Interval that is certain to hold the exact AUC of all rows.

        Returns:
            Both ends; the same number wherever :meth:`compute` is exact.

        Raises:
            ValueError: If only one class has been seen (or only one has weight).
        """
        lower, _, upper = self._ends()
        return Bounds(lower, upper)

    def all_reduce(self, process_group: dist.ProcessGroup | None = None) -> None:
        """Add the rows of all other ranks, in place: every rank ends with the same state.

        Every rank of the group must call it; a rank without rows does, too. Calling it again
        would count every row once per rank, so keep the ranks' own states if they go on:
        ``total = StreamingAUC(); total.merge(own); total.all_reduce()``.

        Args:
            process_group: Ranks to add up, on a backend that moves CPU tensors (gloo); None
                for the default group.

        Raises:
            ValueError: If there is no process group or this rank is not in it, or, on all ranks
                together, if the ranks do not hold states of the same mode.
        """
        state = self._empty()
        for tensors in gathered(self.state_dict(), self._state.kind, process_group):
            state.merge(self._read(tensors))  # pyright: ignore[reportArgumentType]
        self._state = state

    def reset(self) -> None:
        """Forget all rows."""
        self._state = self._empty()

    def state_dict(self) -> dict[str, Tensor]:
        """State as tensors, to save with ``torch.save`` or safetensors.

        Returns:
            Vectors by name. They share memory with the state: copy them before changing them.
        """
        return self._state.tensors()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace all rows by saved ones.

        Args:
            state: What :meth:`state_dict` gave, of the same mode; its tensors are copied.

        Raises:
            ValueError: If it is anything else.
        """
        self._state = self._read(state)

    def _empty(self) -> ExactState | BoundedState:
        return ExactState() if self.exact else BoundedState(self._CELLS)

    def _read(self, state: Mapping[str, Tensor]) -> ExactState | BoundedState:
        return ExactState.of(state) if self.exact else BoundedState.of(state, self._CELLS)

    def _ends(self) -> tuple[float, float, float]:
        if not 0 < self.positives < self.rows:
            raise ValueError(
                f"labels must contain both classes, got {self.positives} positives "
                f"in {self.rows} rows"
            )
        return self._state.ends()
