"""Rows in a bounded number of score intervals, and what those still say for certain of the AUC.

A cell is an interval of scores with the number of negative and of positive rows known to lie in
it. One-value cells are exact. When there are too many cells, neighbours are merged; a merged cell
knows less, never something wrong: two cells that do not overlap order their rows, two that do
leave every pair of theirs open, and the pairs left open are the width of the interval.

What is merged: cells are weighed by their share of the positives plus their share of the
negatives, and light neighbours are joined up to a quantum, cells inside a cell joining that one
first. A single score heavier than the quantum stays as it is (a default score that a third of
the rows have; each positive, where a thousand are all there are), and its neighbours are not
joined across it. A cell that rows keep falling into would become a blunt one; it is set aside
instead, so that the later rows form finer cells within it. The cells set aside are a layer of
their own, merged by the same rules, except that light ones may reach over more.

Source: the idea of a summary that can be merged, Agarwal et al., Mergeable Summaries, PODS 2012.
Differs from the source: the ends are certified for the data at hand, not for a rank error.

Shapes: ``[c]`` cells.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sidrank.metrics._tallies import exact_dot

__all__ = ["NO_CELLS", "Cells", "outwards"]

_Keys = npt.NDArray[np.uint64]
_Counts = npt.NDArray[np.int64]
_Places = npt.NDArray[np.intp]
_Masses = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]
_WIDE = 4  # quanta


class Cells(NamedTuple):
    """Intervals of keys, ascending by lower then upper end, no two the same."""

    low: _Keys
    """Smallest key that a row of the cell may have, shape ``[c]``."""
    high: _Keys
    """Largest, shape ``[c]``."""
    negatives: _Counts
    """Negative rows in the cell, shape ``[c]``."""
    positives: _Counts
    """Positive rows in the cell, shape ``[c]``."""

    @classmethod
    def of_rows(cls, keys: _Keys, positive: npt.NDArray[np.bool_]) -> "Cells":
        """One cell a distinct key.

        Args:
            keys: Keys of the rows, any order.
            positive: Whether each is positive.

        Returns:
            Cells of one value each.
        """
        order = np.argsort(keys)
        keys, positive = keys[order], positive[order]
        del order
        starts = _starts(keys[1:] != keys[:-1], len(keys))
        rows = np.diff(starts, append=len(keys))
        positives = np.add.reduceat(positive, starts, dtype=np.int64) if len(keys) else rows
        return cls(keys[starts], keys[starts], rows - positives, positives)

    def union(self, other: "Cells") -> "Cells":
        """Cells of the rows of both.

        Args:
            other: More cells.

        Returns:
            The same whichever comes first.
        """
        low = np.concatenate([self.low, other.low])
        high = np.concatenate([self.high, other.high])
        order = np.lexsort((high, low))
        low, high = low[order], high[order]
        negatives = np.concatenate([self.negatives, other.negatives])[order]
        positives = np.concatenate([self.positives, other.positives])[order]
        del order
        starts = _starts((low[1:] != low[:-1]) | (high[1:] != high[:-1]), len(low))
        if len(starts) == len(low):
            return Cells(low, high, negatives, positives)
        return Cells(
            low[starts],
            high[starts],
            np.add.reduceat(negatives, starts),
            np.add.reduceat(positives, starts),
        )

    def compressed(self, limit: int) -> "Cells":
        """At most ``limit`` cells that hold the same rows.

        Args:
            limit: Cells to end with, at least 8.

        Returns:
            These cells, or fewer and coarser ones.
        """
        if len(self.low) <= limit:
            return self
        mass = self.positives / max(1, int(self.positives.sum()))
        mass += self.negatives / max(1, int(self.negatives.sum()))
        quantum = 1.0 / limit
        while True:
            order, starts = self._groups(mass, quantum)
            if len(starts) <= limit:
                break
            quantum *= max(1.25, len(starts) / limit)
        del mass
        merged = Cells(
            np.minimum.reduceat(self.low[order], starts),
            np.maximum.reduceat(self.high[order], starts),
            np.add.reduceat(self.negatives[order], starts),
            np.add.reduceat(self.positives[order], starts),
        )
        return NO_CELLS.union(merged)

    def _groups(self, mass: _Masses, quantum: float) -> tuple[_Places, _Places]:
        """Cells in an order in which each group is one stretch, and where the groups start."""
        place = np.cumsum(mass)
        reach = place[np.searchsorted(self.low, self.high, "right") - 1]
        place -= mass
        orders: list[_Places] = []
        firsts: list[_Places] = []
        layer, done = np.arange(len(mass)), 0
        while len(layer):
            # A light layer may reach far: what it leaves open is its mass times its reach.
            share = math.sqrt(mass[layer].sum() / 2.0)
            heavy, wide = self._kinds(layer, mass[layer], quantum * share)
            rest, kept = layer[~(heavy | wide)], layer[heavy]
            if len(rest):
                # A cell inside an earlier one goes with it: no other pair is opened by that.
                high = self.high[rest]
                unit = _starts(high[1:] > np.maximum.accumulate(high)[:-1], len(rest))
                own = np.cumsum(np.add.reduceat(mass[rest], unit))
                joins = _same_slot(np.append(0.0, own[:-1]), own, quantum * share)
                end = np.maximum.reduceat(reach[rest], unit)
                joins &= _same_slot(place[rest[unit]], end, quantum / share)
                firsts.append(unit[_starts(~joins, len(unit))] + done)
            firsts.append(np.arange(len(kept)) + (done + len(rest)))
            orders += [rest, kept]
            done += len(rest) + len(kept)
            layer = layer[wide]
        return np.concatenate(orders), np.concatenate(firsts)

    def _kinds(self, layer: _Places, mass: _Masses, quantum: float) -> tuple[_Flags, _Flags]:
        """Which cells of a layer stay as they are, and which go to the next layer."""
        low, high = self.low[layer], self.high[layer]
        last = np.searchsorted(low, high, "right") - 1
        running = np.cumsum(mass)
        covered = running[last] - running + mass
        wide = (last > np.arange(len(layer))) & (covered > _WIDE * quantum)
        return (low == high) & (mass > quantum), (low < high) & wide

    def twice_wins(self) -> tuple[int, int]:
        """Twice the pairs that positives win: the fewest and the most it can be.

        Returns:
            Exact integers, ties counted once; equal if nothing was merged.
        """
        # A pair is won for certain if the negative's cell ends below, at least tied if it ends
        # where the positive's starts; in a cell of one value that makes every tie one half.
        order = np.argsort(self.high)
        below = _running(self.negatives[order])
        high = self.high[order]
        del order
        fewest = exact_dot(self.positives, below[np.searchsorted(high, self.low, "left")])
        fewest += exact_dot(self.positives, below[np.searchsorted(high, self.low, "right")])
        del high
        below = _running(self.negatives)
        most = exact_dot(self.positives, below[np.searchsorted(self.low, self.high, "left")])
        most += exact_dot(self.positives, below[np.searchsorted(self.low, self.high, "right")])
        return fewest, most


def outwards(fewest: int, most: int, twice_pairs: int) -> tuple[float, float]:
    """Quotients as floats that hold the exact ones between them.

    Args:
        fewest: Numerator of the lower end.
        most: Numerator of the upper end.
        twice_pairs: Denominator.

    Returns:
        Lower and upper end; the same correctly rounded float if the numerators are equal.
    """
    lower, upper = fewest / twice_pairs, most / twice_pairs
    if fewest == most:
        return lower, upper
    if Fraction(lower) > Fraction(fewest, twice_pairs):
        lower = float(np.nextafter(lower, 0.0))
    if Fraction(upper) < Fraction(most, twice_pairs):
        upper = float(np.nextafter(upper, 1.0))
    return lower, upper


def _starts(new: npt.NDArray[np.bool_], length: int) -> _Places:
    """Places where a run starts, given whether each but the first does."""
    return np.flatnonzero(np.append(True, new)) if length else np.empty(0, np.intp)


def _same_slot(start: _Masses, end: _Masses, size: float) -> _Flags:
    """Whether each but the first lies in one slot with the one before."""
    slot = np.floor(start / size)
    return (slot[1:] == slot[:-1]) & (end[1:] <= (slot[1:] + 1) * size)


def _running(counts: _Counts) -> _Counts:
    return np.append(0, np.cumsum(counts))


NO_CELLS = Cells.of_rows(np.empty(0, np.uint64), np.empty(0, np.bool_))
