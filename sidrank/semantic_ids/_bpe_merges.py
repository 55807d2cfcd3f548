"""The byte-pair trainer behind ``SIDBPE``: which units to merge, in which order.

Symbols are tagged with their level, so a unit stands at most once in a word, always at the same
level, and a pair of units never overlaps itself. Two things follow that text does not offer. The
weight of a pair is complete when its younger unit is made and can only fall afterwards: pairs wait
in sorted batches, one a unit, and their weights are counted again only when they reach the top.
And a unit's words are a subset of the words of its parts, so each unit keeps the list of its own.

Weights are integers and so are all sums: no order of the rows changes a bit of the outcome.

Source: Sennrich et al., arXiv 1508.07909, algorithm 1, on words of at most a few symbols.
Differs from the source: lazy recounting and batches of pairs [derived].

Shapes: ``W`` distinct words, ``N`` levels, ``M`` merges.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_integers

__all__ = ["exposure_weights", "learn_merges"]

_Batch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def learn_merges(
    words: NDArray[np.int64],
    weights: NDArray[np.int64],
    *,
    sizes: Sequence[int],
    max_merges: int,
    min_weight: int,
) -> NDArray[np.int64]:
    """Merge the heaviest adjacent pair again and again.

    Among pairs of one weight the one with the smaller left unit goes first, then the one with the
    smaller right unit.

    Args:
        words: Base units of each distinct word, shape ``[W, N]``.
        weights: Weight of each word, shape ``[W]``, positive.
        sizes: Codebook size of each level; their sum is the first id of a merged unit.
        max_merges: Merges to stop at.
        min_weight: Least weight of a pair that is merged, at least 1.

    Returns:
        Left and right unit of each merge, shape ``[M, 2]``.
    """
    if len(words) == 0 or max_merges == 0:
        return np.empty((0, 2), dtype=np.int64)
    state = _Words(words, weights, sizes)
    merges: list[tuple[int, int]] = []
    batches = [state.all_pairs(min_weight)]
    # an entry bounds its pair's weight from above; (-weight, left, right, batch, place in it)
    heap = [_entry(batches[0], 0, 0)] if len(batches[0][0]) else []
    while heap and len(merges) < max_merges:
        bound, left, right, batch, place = heapq.heappop(heap)
        if batch >= 0 and place + 1 < len(batches[batch][0]):
            heapq.heappush(heap, _entry(batches[batch], batch, place + 1))
        rows = state.rows_of_pair(left, right)
        weight = int(weights[rows].sum())
        if weight < min_weight:
            continue
        if weight < -bound:
            heapq.heappush(heap, (-weight, left, right, -1, 0))
            continue
        fresh = state.merge(left, right, rows, min_weight)
        merges.append((left, right))
        if len(fresh[0]):
            batches.append(fresh)
            heapq.heappush(heap, _entry(fresh, len(batches) - 1, 0))
    return np.array(merges, dtype=np.int64).reshape(-1, 2)


def exposure_weights(
    exposures: NDArray[Any] | Tensor | Sequence[int] | None, items: int
) -> NDArray[np.int64]:
    """Read how often each item was shown.

    Args:
        exposures: Shape ``[V]``, integers; one each if None.
        items: Number of items ``V``.

    Returns:
        The exposures.

    Raises:
        TypeError: If they are not integers.
        ValueError: If the shape differs, one is negative or the sum is beyond int64.
    """
    if exposures is None:
        return np.ones(items, dtype=np.int64)
    weights = as_integers(exposures, "exposures")
    if weights.shape != (items,):
        raise ValueError(f"exposures must have shape [{items}], got {list(weights.shape)}")
    if items and weights.min() < 0:
        row = int(np.argmin(weights))
        raise ValueError(f"exposures must not be negative, got {weights[row]} (row {row})")
    # the float sum errs by far less than the factor two that is left to 2**63
    if items and weights.sum(dtype=np.float64) > 2.0**62:
        raise ValueError(f"exposures must sum to at most 2**62, got {weights.sum(dtype=float):.3g}")
    return weights


def _entry(batch: _Batch, index: int, place: int) -> tuple[int, int, int, int, int]:
    weights, lefts, rights = batch
    return -int(weights[place]), int(lefts[place]), int(rights[place]), index, place


class _Words:
    """Words under merging: which unit starts and which one ends at each level."""

    def __init__(
        self, words: NDArray[np.int64], weights: NDArray[np.int64], sizes: Sequence[int]
    ) -> None:
        levels = len(sizes)
        self.weights = weights
        self.start_of = np.repeat(np.arange(levels), sizes).tolist()
        self.end_of = [level + 1 for level in self.start_of]
        # starting: -1 where none does; ending: read only where one does, stale elsewhere
        self.starting = [np.ascontiguousarray(words[:, level]) for level in range(levels)]
        self.ending = [np.empty(0, np.int64), *(column.copy() for column in self.starting)]
        self.rows: dict[int, NDArray[np.int64]] = {}
        for column in self.starting:
            order = np.argsort(column, kind="stable")
            units, first = np.unique(column[order], return_index=True)
            for unit, rows in zip(units.tolist(), np.split(order, first[1:]), strict=True):
                self.rows[unit] = rows

    def all_pairs(self, min_weight: int) -> _Batch:
        """Every adjacent pair before the first merge."""
        columns = zip(self.starting[:-1], self.starting[1:], strict=True)
        parts = [_weigh(left, right, self.weights) for left, right in columns]
        return _sorted(parts, min_weight)

    def rows_of_pair(self, left: int, right: int) -> NDArray[np.int64]:
        """Words in which the two units are neighbours."""
        mine, theirs = self.rows[left], self.rows[right]
        first, middle = self.starting[self.start_of[left]], self.starting[self.start_of[right]]
        # Words that a unit has left for good leave its list on the way.
        if len(mine) <= len(theirs):
            self.rows[left] = mine = mine[first[mine] == left]
            return mine[middle[mine] == right]
        self.rows[right] = theirs = theirs[middle[theirs] == right]
        return theirs[first[theirs] == left]

    def merge(self, left: int, right: int, rows: NDArray[np.int64], min_weight: int) -> _Batch:
        """Make one unit of two, and return the pairs that it forms with its neighbours."""
        unit = len(self.start_of)
        start, middle, end = self.start_of[left], self.start_of[right], self.end_of[right]
        self.start_of.append(start)
        self.end_of.append(end)
        self.rows[unit] = rows
        self.starting[start][rows] = unit
        self.starting[middle][rows] = -1
        self.ending[end][rows] = unit
        weights, same = self.weights[rows], np.full(len(rows), unit)
        parts: list[_Batch] = []
        if start > 0:
            parts.append(_weigh(self.ending[start][rows], same, weights))
        if end < len(self.starting):
            parts.append(_weigh(same, self.starting[end][rows], weights))
        return _sorted(parts, min_weight)


def _weigh(left: NDArray[np.int64], right: NDArray[np.int64], weights: NDArray[np.int64]) -> _Batch:
    """Total weight of each distinct pair."""
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    first = np.flatnonzero(np.r_[True, (left[1:] != left[:-1]) | (right[1:] != right[:-1])])
    return np.add.reduceat(weights[order], first), left[first], right[first]


def _sorted(parts: list[_Batch], min_weight: int) -> _Batch:
    if not parts:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    weights, left, right = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    kept = weights >= min_weight
    weights, left, right = weights[kept], left[kept], right[kept]
    order = np.lexsort((right, left, -weights))
    return weights[order], left[order], right[order]
