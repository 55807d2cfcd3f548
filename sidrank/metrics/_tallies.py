"""How often each score occurred, for scores that keep arriving.

Keys are buffered, sorted, and kept as runs: distinct keys, ascending, with their counts. Runs of
similar length are merged eight at a time, so ``n`` rows cost ``O(n log n)`` and a distinct score
5 bytes (9 where 32 bits do not hold it). Two tallies of the same rows are equal once compact,
however the rows were split.

Source: the log-structured merge-tree, O'Neil et al., Acta Informatica 33, 1996.
Differs from the source: in memory, eight runs a merge, equal keys are added up.

Shapes: ``[d]`` distinct keys.
"""

from collections.abc import Iterator
from itertools import pairwise
from operator import mul
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sidrank.metrics._keys import Keys, widen_keys
from sidrank.metrics._words import BLOCK, row_blocks

__all__ = ["Run", "Tally", "exact_dot", "same_width", "twice_wins"]

_BUFFER = 1 << 21  # rows that are sorted at a time
_FAN_IN = 8
_Counts = npt.NDArray[Any]


class Run(NamedTuple):
    """Distinct keys, ascending, and how often each occurred."""

    keys: Keys
    """32 bits if every key has them, else 64, shape ``[d]``."""
    counts: _Counts
    """At least 1, as uint8, int32 or int64: the narrowest that fits, shape ``[d]``."""


class Tally:
    """Counts of keys that arrive in any order.

    Args:
        run: Counts to start with.

    Attributes:
        total: Number of keys, repeated ones repeatedly.
    """

    def __init__(self, run: Run | None = None) -> None:
        self.total = 0 if run is None else int(run.counts.sum(dtype=np.int64))
        self._buffer: list[Keys] = []
        self._buffered = 0
        self._runs = [run] if self.total and run is not None else []

    def add(self, keys: Keys) -> None:
        """Count keys.

        Args:
            keys: Keys of 32 or 64 bits in any order; the array is kept, not copied.
        """
        if len(keys) == 0:
            return
        self.total += len(keys)
        self._buffer.append(keys)
        self._buffered += len(keys)
        if self._buffered >= _BUFFER:
            self._sort_buffer()

    def merge(self, other: "Tally") -> None:
        """Count what another tally counted.

        Args:
            other: Stays as it is.
        """
        self.total += other.total
        self._buffer += other._buffer
        self._buffered += other._buffered
        self._runs += other._runs
        self._sort_buffer()

    def run(self) -> Run:
        """Give all counts as one run, and keep them so.

        Returns:
            A function of the counted keys alone. Its arrays belong to the tally.
        """
        self._sort_buffer()
        if not self._runs:
            return Run(np.empty(0, np.uint32), np.empty(0, np.uint8))
        if len(self._runs) > 1:
            self._runs = [_merged(self._runs)]
        return self._runs[0]

    def _sort_buffer(self) -> None:
        if self._buffered:
            wide = any(keys.dtype == np.uint64 for keys in self._buffer)
            keys = np.concatenate([widen_keys(k) if wide else k for k in self._buffer])
            self._buffer, self._buffered = [], 0
            keys.sort()
            self._runs.append(_counted(keys, np.ones(len(keys), np.uint8)))
        while True:
            limit = 4 * len(self._runs[-1].keys) if self._runs else 0
            alike = 0
            while alike < len(self._runs) and len(self._runs[-1 - alike].keys) <= limit:
                alike += 1
            if alike < _FAN_IN:
                return
            self._runs[-alike:] = [_merged(self._runs[-alike:])]


def twice_wins(positives: Run, negatives: Run) -> int:
    """Twice the number of pairs in which the positive has the larger key, ties counted once.

    Args:
        positives: Keys of the positive rows.
        negatives: Keys of the negative rows.

    Returns:
        An exact integer.
    """
    above, below = same_width([positives, negatives])
    twice = before = 0
    for p, n in _strips([above.keys, below.keys]):
        counts = above.counts[p]
        running = np.append(0, np.cumsum(below.counts[n], dtype=np.int64))
        lower = running[np.searchsorted(below.keys[n], above.keys[p], "left")]
        not_above = running[np.searchsorted(below.keys[n], above.keys[p], "right")]
        twice += exact_dot(counts, lower + not_above)
        twice += 2 * before * int(counts.sum(dtype=np.int64))
        before += int(running[-1])
    return twice


def same_width(runs: list[Run]) -> list[Run]:
    """Give runs keys of 64 bits if one has them.

    Args:
        runs: Runs of the same kind of scores.

    Returns:
        Runs whose keys compare.
    """
    if len({run.keys.dtype for run in runs}) == 1:
        return runs
    return [Run(_widened(run.keys), run.counts) for run in runs]


def exact_dot(left: _Counts, right: _Counts) -> int:
    """Sum of products that may be far beyond 64 bits.

    Args:
        left: Non-negative integers, shape ``[d]``.
        right: Non-negative integers, shape ``[d]``.

    Returns:
        The exact sum.
    """
    total = 0
    for block in row_blocks(len(left)):
        a, b = left[block].astype(np.int64), right[block].astype(np.int64)
        if int(a.max()) * int(b.max()) * len(a) < 1 << 63:
            total += int(np.dot(a, b))
        else:
            total += sum(map(mul, a.tolist(), b.tolist()))
    return total


def _merged(runs: list[Run]) -> Run:
    """One run of the same counts."""
    runs = same_width(runs)
    rows = sum(len(run.keys) for run in runs)
    most = sum(int(run.counts.max()) for run in runs)
    keys = np.empty(rows, runs[0].keys.dtype)
    counts = np.empty(rows, _counts_dtype(most))
    end = 0
    for strip in _strips([run.keys for run in runs]):
        parts = list(zip(runs, strip, strict=True))
        key = np.concatenate([run.keys[part] for run, part in parts])
        count = np.concatenate([run.counts[part] for run, part in parts])
        order = np.argsort(key, kind="stable")  # merges what is sorted already
        piece = _counted(key[order], count[order])
        start, end = end, end + len(piece.keys)
        keys[start:end], counts[start:end] = piece
    if end < rows:
        keys, counts = keys[:end].copy(), counts[:end]
    return Run(keys, counts.astype(_counts_dtype(int(counts.max()))))


def _counted(keys: Keys, counts: _Counts) -> Run:
    """Add up the counts of equal keys; ``keys`` ascend."""
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    if len(starts) == len(keys):
        return Run(keys, counts)
    total = np.add.reduceat(counts, starts, dtype=np.int64)
    return Run(keys[starts], total.astype(_counts_dtype(int(total.max()))))


def _counts_dtype(largest: int) -> type[np.integer[Any]]:
    if largest < 1 << 8:
        return np.uint8
    return np.int32 if largest < 1 << 31 else np.int64


def _widened(keys: Keys) -> Keys:
    wide = np.empty(len(keys), np.uint64)
    for block in row_blocks(len(keys)):
        wide[block] = widen_keys(keys[block])
    return wide


def _strips(columns: list[Keys]) -> Iterator[list[slice]]:
    """Cut ascending columns of distinct keys alike: at most ``BLOCK`` keys of each a strip."""
    cuts = np.unique(np.concatenate([keys[::BLOCK] for keys in columns]))
    places = [np.append(np.searchsorted(keys, cuts), len(keys)) for keys in columns]
    for start, stop in pairwise(range(len(cuts) + 1)):
        yield [slice(int(place[start]), int(place[stop])) for place in places]
