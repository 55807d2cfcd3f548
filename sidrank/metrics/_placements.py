"""How many rows of the other class each row beats, as exact integers.

A positive's placement is the number of negatives it outranks, a negative's the number of
positives that outrank it; a tie is one half, so twice a placement is an integer. Their mean is
the AUC and their spread its variance (DeLong), so nothing of either is rounded before the end.

Rows are sorted piece by piece, one range of keys after the other: beside the caller's columns a
hundred million rows need the column of placements and a few hundred MB.

Source: placement values, Pepe and Cai, Biometrics 60, 2004, section 2; their computation from
mid-ranks, Sun and Xu, IEEE Signal Processing Letters 21(11), 2014, section III.
Differs from the source: counted run by run of equal scores instead of from three rankings.

Shapes: ``[n]`` rows, ``[m]`` runs of rows with one key.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sidrank.metrics._keys import Keys, score_keys
from sidrank.metrics._words import stable_order, whole_runs

__all__ = ["exact_dot", "sorted_runs", "twice_placements"]

_PIECE = 1 << 24  # rows sorted at a time: bounds the memory that a radix sort takes
_LIMB = 21  # bits; a product of two and a sum of 2^18 of those stay below 63


def twice_placements(
    positive: npt.NDArray[np.bool_],
    scores: npt.NDArray[Any],
    control: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.signedinteger[Any]]:
    """Twice the rows of the other class that each row is on the right side of.

    Args:
        positive: Labels, shape ``[n]``; the classes have ``P`` and ``N`` rows.
        scores: Scores without NaN, shape ``[n]``.
        control: Other scores, shape ``[n]``, whose placements are taken off.

    Returns:
        Integers in ``[0, 2N]`` for a positive and ``[0, 2P]`` for a negative (their differences
        with ``control``), shape ``[n]``. The sum over either class is ``2PN`` times the AUC.
    """
    # Twice a count of rows, of either sign, has one bit more than the count.
    placements = np.zeros(len(positive), np.int32 if len(positive) < 1 << 30 else np.int64)
    _count(positive, score_keys(scores), placements, 1)
    if control is not None:
        _count(positive, score_keys(control), placements, -1)
    return placements


def sorted_runs(keys: Keys) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Rows in ascending order of key, in blocks that keep rows of one key together.

    Args:
        keys: Unsigned integers, shape ``[n]``.

    Yields:
        Row numbers of a block, shape ``[b]``; and where in it each run of equal keys begins,
        shape ``[m]``.
    """
    low = 0
    for high in _piece_ends(keys):
        rows = np.flatnonzero((keys >= low) & (keys <= high))
        key = keys[rows]
        order = stable_order(key)
        rows, key = rows[order], key[order]
        low = high + 1
        for block in whole_runs(key):
            new = key[block][1:] != key[block][:-1]
            yield rows[block], np.append(0, np.flatnonzero(new) + 1)


def exact_dot(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> int:
    """Sum of products of integers, which no size of them can overflow.

    Args:
        left: At most 2^18 integers, shape ``[m]``.
        right: As many integers, shape ``[m]``.

    Returns:
        The sum.
    """
    total = 0
    others = list(_limbs(right))
    for place, limb in enumerate(_limbs(left)):
        for other_place, other in enumerate(others):
            total += int(np.dot(limb, other)) << (_LIMB * (place + other_place))
    return total


def _limbs(values: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Digits to base 2^21, the lowest first; the highest keeps the sign."""
    while max(int(values.max()), -int(values.min())) >= 1 << _LIMB:
        yield values & ((1 << _LIMB) - 1)
        values = values >> _LIMB
    yield values


def _count(
    positive: npt.NDArray[np.bool_],
    keys: Keys,
    placements: npt.NDArray[np.signedinteger[Any]],
    sign: int,
) -> None:
    """Add twice the placements of one column of scores, times the sign."""
    above, below = int(np.count_nonzero(positive)), 0  # positives to come, negatives passed
    for rows, starts in sorted_runs(keys):
        label = positive[rows]
        sizes = np.diff(starts, append=len(rows))
        positives = np.add.reduceat(label, starts, dtype=np.int64)
        negatives = sizes - positives
        not_above = below + np.cumsum(negatives)
        still_above = above - np.cumsum(positives)
        beaten = np.repeat(2 * not_above - negatives, sizes)
        beaten_by = np.repeat(2 * still_above + positives, sizes)
        placements[rows] += sign * np.where(label, beaten, beaten_by)
        above, below = int(still_above[-1]), int(not_above[-1])


def _piece_ends(keys: Keys) -> list[int]:
    """Highest key of each piece, ascending: quantiles of a sample."""
    highest = int(keys.max())
    if len(keys) <= _PIECE:
        return [highest]
    sample = np.sort(keys[:: len(keys) // 16384 + 1])
    pieces = 2 * len(keys) // _PIECE + 1  # twice as many as needed: a sample's quantiles vary
    return sorted({*sample[:: len(sample) // pieces + 1].tolist(), highest})
