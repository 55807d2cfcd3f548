"""Slices that a recommender is judged by: semantic-ID prefixes, and new, tail and head items.

An average hides where a model gains. Semantic IDs are meant to help items that training hardly
showed, and to be calibrated along the whole tree; these two functions cut the rows accordingly
for :func:`sidrank.metrics.slice_metrics`.

Source: none; tail as the bottom 80% of items by training exposure is the common reading of the
long tail.
Differs from the source: nothing; what the common reading leaves open, ties, is settled below.

Shapes: ``[n]`` rows, ``[m]`` training rows, ``N`` levels, ``[S]`` slices.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sidrank.metrics._codes import code_array
from sidrank.metrics._columns import Column, group_column, score_column
from sidrank.metrics._words import ranks, row_blocks
from sidrank.metrics.slices import Slices

__all__ = ["exposure_slices", "sid_prefixes"]

_Ids = npt.NDArray[Any]


def sid_prefixes(codes: Column, depth: int) -> Slices:
    """Slice rows by the first codes of their item's semantic ID.

    Args:
        codes: Codes of each row's item, shape ``[n, N]``; -1 is unknown.
        depth: How many codes, 1 to ``N``.

    Returns:
        Slices named like ``"12/7"``, in the order of the codes; rows with a -1 among their first
        ``depth`` codes are in the last slice, ``"unknown"``, if there are any.

    Raises:
        TypeError: If a code is not an integer.
        ValueError: If ``codes`` does not have shape ``[n, N]``, a code is not in [-1, 2**31), or
            ``depth`` is not in 1 to ``N``.

    Example:
        >>> slices = sid_prefixes([[12, 7, 0], [-1, -1, -1], [3, 9, 9], [12, 7, 5]], 2)
        >>> slices.names.tolist(), slices.ids.tolist()
        (['3/9', '12/7', 'unknown'], [1, 2, 0, 1])
    """
    array = code_array(codes, "codes", ["n", "N"])
    if not 1 <= depth <= array.shape[1]:
        raise ValueError(f"depth must be in 1 to {array.shape[1]}, got {depth}")
    array = array[:, :depth]
    known: npt.NDArray[np.bool_] = np.all(array >= 0, axis=1)
    everything = bool(known.all())
    if not everything:
        array = array[known]
    index = np.zeros(len(array), np.uint32)
    prefixes = np.zeros((1, 0), np.int64)
    for column in array.T if len(array) else []:
        size = int(column.max()) + 1
        narrow = len(prefixes) * size < 1 << 31
        number = index.astype(np.int32 if narrow else np.int64)
        number *= size
        number += column.astype(number.dtype, copy=False)
        index, distinct = _number(number, len(prefixes) * size)
        prefixes = np.column_stack([prefixes[distinct // size], distinct % size])
    names = ["/".join(map(str, prefix)) for prefix in prefixes.tolist()] if len(array) else []
    if everything:
        return Slices(index, np.array(names))
    whole = np.full(len(known), len(names), np.uint32)
    whole[known] = index
    return Slices(whole, np.array([*names, "unknown"]))


def exposure_slices(
    items: Column,
    training_items: Column,
    *,
    counts: Column | None = None,
    tail_share: float = 0.8,
) -> Slices:
    """Slice rows by how often training showed their item: new, tail or head.

    New items have no training exposure. Of the others, sorted by exposure, the tail is the
    bottom ``tail_share`` and the head the rest. Items of one exposure stay together, in the tail:
    it reaches up to the exposure of the item at ``tail_share`` and takes all items shown as
    often, so it holds at least that share, and all items if all were shown equally.

    Args:
        items: Item of each row, integers or strings, shape ``[n]``.
        training_items: Items of the training rows, one entry per exposure, shape ``[m]``; or
            items with their ``counts``, in any order.
        counts: Exposures of each entry of ``training_items``, finite and not negative, shape
            ``[m]``; an item listed twice has their sum. None counts every entry once.
        tail_share: Share of the training items that the tail is to hold, inside (0, 1).

    Returns:
        Slices ``"new"``, ``"tail"`` and ``"head"``, in this order, whether or not a row is in them.

    Raises:
        ValueError: If an item is neither an integer nor a string, the two columns of items are
            not of one kind, a count is negative or not finite, ``counts`` and ``training_items``
            differ in length, or ``tail_share`` is not in (0, 1).

    Example:
        >>> slices = exposure_slices([5, 6, 7, 8], [5, 6, 7], counts=[1, 1, 90], tail_share=0.5)
        >>> slices.names[slices.ids].tolist()
        ['tail', 'tail', 'head', 'new']
    """
    if not 0.0 < tail_share < 1.0:
        raise ValueError(f"tail_share must be in (0, 1), got {tail_share}")
    wanted = group_column(items, _length(items), "items")
    shown = group_column(training_items, _length(training_items), "training_items")
    kinds = {"i" if each.dtype.kind == "u" else each.dtype.kind for each in (wanted, shown)}
    # no integer type holds both int64 and uint64, and a float would make neighbours equal
    if len(kinds) > 1 or np.result_type(wanted, shown).kind == "f":
        raise ValueError(
            f"training_items must be of the kind of items ({wanted.dtype}), got {shown.dtype}"
        )
    ids, exposure = _exposures(shown, counts)
    index = np.zeros(len(wanted), np.uint8)
    if len(ids):
        # of 100 items and a share of 0.55 the 55th: 0.55 * 100 is a little more than 55
        last = math.ceil(round(tail_share * len(ids), 6)) - 1
        border = np.partition(exposure, last)[last]
        cohort = np.where(exposure <= border, 1, 2).astype(np.uint8)
        for block in row_blocks(len(wanted)):
            item = wanted[block]
            place = np.minimum(np.searchsorted(ids, item), len(ids) - 1)
            index[block] = np.where(ids[place] == item, cohort[place], 0)
    return Slices(index, np.array(["new", "tail", "head"]))


def _exposures(shown: _Ids, counts: Column | None) -> tuple[_Ids, npt.NDArray[np.float64]]:
    """Distinct items with an exposure, ascending, and how many each has."""
    if counts is None:
        ids, entries = np.unique(shown, return_counts=True)
        return ids, entries.astype(np.float64)
    if _length(counts) != len(shown):
        raise ValueError(
            f"counts must have one entry per training item ({len(shown)}), got {_length(counts)}"
        )
    count = score_column(counts, len(shown), "counts").astype(np.float64)
    good = np.isfinite(count) & (count >= 0)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"counts must be finite and not negative, got {count[row].item()} in row {row}"
        )
    ids, inverse = np.unique(shown, return_inverse=True)
    exposure = np.bincount(inverse, count, len(ids)).astype(np.float64, copy=False)
    return ids[exposure > 0], exposure[exposure > 0]


def _number(values: _Ids, bound: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Number the distinct values in ascending order: each row's number, and the values."""
    if bound > max(1 << 22, len(values)):
        numbers, rows = ranks(values)
        return numbers, values[rows].astype(np.int64)
    present = np.zeros(bound, np.bool_)
    present[values] = True
    return (np.cumsum(present, dtype=np.uint32) - np.uint32(1))[values], np.flatnonzero(present)


def _length(column: Column) -> int:
    shape = np.shape(column)  # pyright: ignore[reportArgumentType]
    return shape[0] if shape else 0
