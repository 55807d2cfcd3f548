"""How often a cache of a given size would have missed, as observed traffic tells it.

A cache in front of an embedding table is a bet on traffic. The curve says what the bet pays: for
each number of slots, how many of the accesses a least-recently-used cache would have had to fetch.
An access is one distinct row of one global batch, since a cache fetches a row once a batch however
often the batch reads it. The first access of a row misses at any size; these cold misses are kept
apart, because a long run pays them once.

Source: ours; stack distances as in Mattson et al., "Evaluation techniques for storage
hierarchies", IBM Systems Journal 9(2), 1970.
Differs from the source: recency is known by batch and not by access, because all rows of a batch
are looked up at once; rows last used in one batch leave a full cache in random order.

Shapes: ``slots`` and ``misses`` are ``[P]``, ascending numbers of slots and what they miss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["MissRatioCurve"]

_SLACK = 1e-9  # of all accesses: sums of fractions are not exact


@dataclass(frozen=True, eq=False)
class MissRatioCurve:
    """What a cache of each size in front of one table would have missed.

    Args:
        rows: Rows of the table.
        batches: Global batches observed.
        accesses: Distinct rows of each batch, summed over batches. Sampling makes it a fraction.
        cold: First accesses of a row.
        slots: Numbers of slots, ascending, from 0 to ``rows``; ``[P]``.
        misses: Accesses that a cache of so many slots misses, cold ones included; ``[P]``.

    Raises:
        ValueError: If a number is out of range, ``slots`` do not ascend or ``misses`` grow.

    Example:
        >>> curve = MissRatioCurve(rows=8, batches=10, accesses=40.0, cold=4.0,
        ...                        slots=np.array([1, 2, 4]), misses=np.array([30.0, 20.0, 4.0]))
        >>> curve.misses_at([0, 1, 3, 8]).tolist()
        [40.0, 30.0, 12.0, 4.0]
        >>> curve.miss_rate(0.25), round(curve.miss_rate(0.25, cold=False), 3)
        (0.5, 0.444)
        >>> curve.unique_per_batch
        4.0
    """

    rows: int
    batches: int
    accesses: float
    cold: float
    slots: NDArray[np.int64]
    misses: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the numbers, and keep both columns as arrays that nobody writes to."""
        slots = np.array(self.slots)
        misses = np.array(self.misses, dtype=np.float64)
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        if self.batches < 0:
            raise ValueError(f"batches must be at least 0, got {self.batches}")
        if not (np.isfinite(self.accesses) and self.accesses >= 0):
            raise ValueError(f"accesses must be finite and at least 0, got {self.accesses}")
        if not 0 <= self.cold <= self.accesses * (1 + _SLACK):
            raise ValueError(f"cold must lie in [0, accesses = {self.accesses}], got {self.cold}")
        if slots.ndim != 1 or (slots.size and slots.dtype.kind not in "iu"):
            raise ValueError(
                f"slots must be a column of integers, got {slots.dtype} of shape {slots.shape}"
            )
        if misses.shape != slots.shape:
            raise ValueError(f"misses must have shape {slots.shape}, got {misses.shape}")
        if slots.size and not (slots[0] >= 0 and slots[-1] <= self.rows):
            raise ValueError(
                f"slots must lie in [0, rows = {self.rows}], got {slots[0]} to {slots[-1]}"
            )
        if (np.diff(slots.astype(np.int64)) <= 0).any():
            raise ValueError(f"slots must ascend, got {slots.tolist()[:8]}")
        slack = self.accesses * _SLACK
        inside = (misses >= self.cold - slack) & (misses <= self.accesses + slack)
        if not inside.all():  # also where one is NaN
            raise ValueError(
                f"misses must lie in [cold = {self.cold}, accesses = {self.accesses}],"
                f" got {misses[~inside][0]}"
            )
        if (np.diff(misses) > slack).any():
            raise ValueError("misses must not grow with slots, got a column that does")
        misses = np.minimum.accumulate(np.clip(misses, self.cold, self.accesses))
        slots = slots.astype(np.int64)
        slots.setflags(write=False)
        misses.setflags(write=False)
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "misses", misses)

    @property
    def unique_per_batch(self) -> float:
        """Distinct rows of a global batch, on average; 0 without batches."""
        return self.accesses / self.batches if self.batches else 0.0

    def misses_at(
        self, slots: Sequence[float] | NDArray[np.generic] | float
    ) -> NDArray[np.float64]:
        """Misses of a cache, linear between the points of the curve.

        Args:
            slots: Sizes of the cache, in rows, at least 0; any shape.

        Returns:
            Misses of each: all accesses at 0 slots, the cold ones when all rows fit.

        Raises:
            ValueError: If a size is below 0 or no number.
        """
        sizes = np.asarray(slots, dtype=np.float64)
        if not (sizes >= 0).all():
            raise ValueError(f"slots must be at least 0, got {sizes[~(sizes >= 0)].flat[0]}")
        xs, ys = self._points()
        return np.asarray(np.interp(sizes, xs, ys), dtype=np.float64)

    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The curve from no slot to where only cold misses are left."""
        xs, ys = self.slots.astype(np.float64), self.misses.copy()
        if not (xs.size and xs[0] == 0):
            xs, ys = np.append(0.0, xs), np.append(self.accesses, ys)
        ys[0] = self.accesses
        if ys[-1] > self.cold and xs[-1] < self.rows:
            # a cache that holds every row that ever occurred is never full
            end = min(max(self.cold, xs[-1] + 1), self.rows)
            xs, ys = np.append(xs, end), np.append(ys, self.cold)
        if xs[-1] == self.rows:
            ys[-1] = self.cold
        return xs, ys

    @overload
    def miss_rate(self, load_factor: float, *, cold: bool = True) -> float: ...

    @overload
    def miss_rate(
        self, load_factor: Sequence[float] | NDArray[np.floating], *, cold: bool = True
    ) -> NDArray[np.float64]: ...

    def miss_rate(
        self, load_factor: float | Sequence[float] | NDArray[np.floating], *, cold: bool = True
    ) -> float | NDArray[np.float64]:
        """Share of accesses that a cache misses.

        Args:
            load_factor: Slots as a share of the table's rows, in [0, 1]; any shape.
            cold: Whether first accesses count. False is the steady state of a long run: accesses
                of rows that occurred before.

        Returns:
            The share, a float if ``load_factor`` is one; 0 if there is no access to count.

        Raises:
            ValueError: If a load factor is outside [0, 1].
        """
        shares = np.asarray(load_factor, dtype=np.float64)
        inside = (shares >= 0) & (shares <= 1)
        if not inside.all():
            raise ValueError(f"load_factor must lie in [0, 1], got {shares[~inside].flat[0]}")
        left_out = 0.0 if cold else self.cold
        counted = self.accesses - left_out
        if counted <= 0:
            found = np.zeros_like(shares)
        else:
            found = (self.misses_at(shares * self.rows) - left_out) / counted
        return float(found) if shares.ndim == 0 else found
