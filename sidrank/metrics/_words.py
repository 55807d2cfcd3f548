"""Rows packed into integers that sort them: group, then score, then label, in one word.

One plain sort of such words is all that an exact AUC needs. Among equal scores the negative
rows come first, so the place of a positive row says how many negatives it does not lose to, and
only runs of equal scores that hold both classes need a second look.

Shapes: ``[n]`` words, ``[p]`` positive rows.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "BLOCK",
    "Positives",
    "ranks",
    "row_blocks",
    "sort",
    "sort_in_place",
    "stable_order",
    "whole_runs",
]

BLOCK = 1 << 18  # rows whose temporaries stay in the processor's cache
_Words = npt.NDArray[Any]


def row_blocks(rows: int) -> Iterator[slice]:
    """Cut rows into blocks.

    Args:
        rows: Number of rows.

    Yields:
        Slices of at most ``BLOCK`` rows, in order.
    """
    for start in range(0, rows, BLOCK):
        yield slice(start, min(start + BLOCK, rows))


def whole_runs(words: _Words) -> Iterator[slice]:
    """Cut sorted words into blocks that keep rows of one group and one score together.

    Args:
        words: Sorted words with the label in the lowest bit, shape ``[n]``.

    Yields:
        Slices, in order; longer than ``BLOCK`` only where a run is.
    """
    start = 0
    while start < len(words):
        end = start + BLOCK
        if end < len(words):
            end += int(np.searchsorted(words[end:], words[end - 1] | 1, side="right"))
        yield slice(start, min(end, len(words)))
        start = end


class Positives(NamedTuple):
    """What a block of sorted words says of its positive rows."""

    places: npt.NDArray[np.intp]
    """Place of each positive row in the block, ascending, shape ``[p]``."""
    tied_places: npt.NDArray[np.intp]
    """Place of the first positive row of each run that also holds negatives."""
    tied_pairs: npt.NDArray[np.int64]
    """Positives times negatives of each such run."""

    @classmethod
    def of(cls, words: _Words) -> "Positives":
        """Find the positive rows.

        Args:
            words: One block of :func:`whole_runs`, shape ``[n]``.

        Returns:
            The places.
        """
        places = np.flatnonzero((words & 1).astype(np.bool_))
        word = words[places]
        firsts = np.flatnonzero(np.append(True, word[1:] != word[:-1])[: len(word)])
        run, start = word[firsts], places[firsts]
        # The same group and score with a negative label is the word one below.
        tied = np.flatnonzero((start > 0) & (words[start - 1] == run - 1))
        positives = np.diff(firsts, append=len(places))[tied]
        negatives = start[tied] - np.searchsorted(words, run[tied] - 1)
        return cls(places, start[tied], positives * negatives)


def sort(words: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> _Words:
    """Sort non-negative words, out of place.

    Args:
        words: Signed words, shape ``[n]``.

    Returns:
        The words, ascending, shape ``[n]``.
    """
    # A radix sort on every core; numpy's vectorised one is slower on half of today's processors.
    return torch.sort(torch.from_numpy(words)).values.numpy()


def stable_order(values: _Words) -> npt.NDArray[np.int64]:
    """Give the order that sorts integers and keeps equal ones as they are.

    Args:
        values: Integers of 32 or 64 bits, signed or not, shape ``[n]``.

    Returns:
        Row numbers, shape ``[n]``.
    """
    return torch.sort(torch.from_numpy(_signed(values)), stable=True).indices.numpy()


def ranks(values: _Words) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Number the distinct values of a column, the smallest 0.

    Args:
        values: Integers, shape ``[n]``, ``n >= 1``.

    Returns:
        The number of each row's value, shape ``[n]``; and a row that holds each value, shape
        ``[distinct values]``.
    """
    ordered, order = torch.sort(torch.from_numpy(_signed(values)))
    ordered, order = ordered.numpy(), order.numpy()
    new = np.append(True, ordered[1:] != ordered[:-1])
    numbers = np.empty(len(values), np.uint32)
    numbers[order] = np.cumsum(new, dtype=np.uint32) - np.uint32(1)
    return numbers, order[new]


def _signed(values: _Words) -> _Words:
    """Unsigned integers as signed ones in the same order: torch sorts those by radix."""
    if values.dtype.kind != "u":
        return np.ascontiguousarray(values)
    bits = values.dtype.itemsize * 8
    flipped = values ^ values.dtype.type(1 << (bits - 1))
    return flipped.view(np.dtype(f"i{bits // 8}"))


def sort_in_place(words: npt.NDArray[np.uint64]) -> None:
    """Sort words where they lie, on as many threads as torch may use.

    Args:
        words: Words, shape ``[n]``; sorted on return.
    """
    threads = min(torch.get_num_threads(), 8, 1 + len(words) // BLOCK)
    if threads == 1:
        words.sort()
        return
    cuts = [len(words) * part // threads for part in range(threads + 1)]
    words.partition(cuts[1:-1])
    with ThreadPoolExecutor(threads) as pool:
        for sorting in [pool.submit(words[a:b].sort) for a, b in pairwise(cuts)]:
            sorting.result()
