"""Exact area under the ROC curve.

The probability that a random positive row outranks a random negative one, a tie counting one
half. The score's 32 bits and the label are packed into one word, and one radix sort of the words
answers the question. Without weights every count is an integer, so the result is the correctly
rounded quotient of two integers. With weights rows are added in an order of their own. Either
way the order of the caller's rows changes no bit of the result.

Source: the Mann-Whitney form of the AUC (Hanley and McNeil 1982, equation 1).
Differs from the source: optional row weights (a pair counts the product of its two weights).

Shapes: ``[n]`` rows.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import (
    Column,
    label_column,
    score_column,
    weight_column,
)
from sidrank.metrics._keys import Keys, score_keys
from sidrank.metrics._words import Positives, row_blocks, sort, stable_order, whole_runs

__all__ = ["auc"]

_PIECE = 1 << 25  # rows sorted at a time: bounds the memory that a radix sort takes


def auc(labels: Column, scores: Column, weights: Column | None = None) -> float:
    r"""Area under the ROC curve, exact on ties.

    .. math:: \frac{\sum_{i \in P} \sum_{j \in N} w_i w_j
        \left([s_i > s_j] + \tfrac12 [s_i = s_j]\right)}{\sum_{i \in P} w_i \sum_{j \in N} w_j}

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Any integer or float dtype (float16 and bfloat16 tensors too), larger means more
            likely positive, shape ``[n]``. Infinities rank; NaN does not.
        weights: Row weights, finite and not negative, shape ``[n]``. None counts every row once;
            a row of weight zero is as good as absent.

    Returns:
        A float in [0, 1]; 0.5 where every score is the same.

    Raises:
        ValueError: If a score is NaN, a label is neither 0 nor 1, a weight is negative or not
            finite, the columns differ in length, there is no row, or only one class has weight.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
        0.875
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8], weights=[1, 3, 1, 0])
        0.625
    """
    positive = label_column(labels)
    score = score_column(scores, len(positive))
    weight = weight_column(weights, len(positive))
    if weight is not None and not weight.all():
        counts = weight > 0
        positive, score, weight = positive[counts], score[counts], weight[counts]
    positives = int(np.count_nonzero(positive))
    if not 0 < positives < len(positive):
        raise ValueError(
            f"labels must contain both classes, got {positives} positives in {len(positive)} rows"
        )
    keys = score_keys(score)
    if weight is None:
        return _count_pairs(positive, keys)
    return _weigh_pairs(positive, keys, weight)


def _count_pairs(positive: npt.NDArray[np.bool_], keys: Keys) -> float:
    """AUC of rows that count once each."""
    # Twice the number of pairs, so that the half of a tie stays an integer.
    twice = positives = negatives = 0
    for label, key in _ascending_pieces(positive, keys):
        won, here = _twice_wins(label, key)
        twice += won + 2 * here * negatives
        positives += here
        negatives += len(label) - here
    return twice / (2 * positives * negatives)


def _twice_wins(positive: npt.NDArray[np.bool_], keys: Keys) -> tuple[int, int]:
    """Twice the pairs that positives win, and the positives, of keys within a quarter's range."""
    origin, top = keys.min(), keys.max()
    total = int(np.count_nonzero(positive))
    if origin == top or total in (0, len(positive)):
        return total * (len(positive) - total), total
    words = np.empty(len(keys), f"i{keys.dtype.itemsize}")
    for block in row_blocks(len(keys)):
        offset = (keys[block] - origin) << keys.dtype.type(1)
        words[block] = (offset | positive[block]).view(words.dtype)
    words = sort(words)
    twice = positives = negatives = 0
    for run in whole_runs(words):
        found = Positives.of(words[run])
        here = len(found.places)
        not_above = int(found.places.sum()) - here * (here - 1) // 2
        twice += 2 * (not_above + here * negatives) - int(found.tied_pairs.sum())
        positives += here
        negatives += run.stop - run.start - here
    return twice, positives


def _ascending_pieces(
    positive: npt.NDArray[np.bool_], keys: Keys
) -> Iterator[tuple[npt.NDArray[np.bool_], Keys]]:
    """Cut rows by key, lowest first, so that a piece's key and label fit the bits of a key."""
    ends = _piece_ends(keys)
    if len(ends) == 1:
        yield positive, keys
        return
    low = 0
    for high in ends:
        inside = (keys >= low) & (keys <= high)
        if inside.any():
            yield positive[inside], keys[inside]
        low = high + 1


def _piece_ends(keys: Keys) -> list[int]:
    """Highest key of each piece, ascending."""
    lowest, highest = int(keys.min()), int(keys.max())
    ends = {highest}
    quarter = 1 << (8 * keys.dtype.itemsize - 2)
    if highest - lowest >= quarter:
        ends |= {place * quarter - 1 for place in (1, 2, 3)}
    if len(keys) > _PIECE:
        sample = np.sort(keys[:: max(1, len(keys) // 16384)])
        step = max(1, 3 * len(sample) * _PIECE // len(keys) // 4)
        ends |= set(sample[::step].tolist())
        # A value with very many rows gets a piece of its own, which needs no sort.
        value, count = np.unique(sample, return_counts=True)
        heavy = value[count >= step]
        ends |= set(heavy.tolist()) | {key - 1 for key in heavy.tolist()}
    return sorted(end for end in ends if lowest <= end <= highest)


def _weigh_pairs(
    positive: npt.NDArray[np.bool_], keys: Keys, weight: npt.NDArray[np.float64]
) -> float:
    """AUC of weighted rows."""
    # Rows of one score and label are added in the order of their weights: no other is theirs.
    order = stable_order(weight.view(np.int64))
    order = order[stable_order(positive[order].view(np.int8))]
    order = order[stable_order(keys[order])]
    key, positive, weight = keys[order], positive[order], weight[order]
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    above = np.add.reduceat(np.where(positive, weight, 0.0), starts)
    below = np.add.reduceat(np.where(positive, 0.0, weight), starts)
    pairs = float(np.dot(above, _running_sum(below) - 0.5 * below))
    return min(pairs / (float(above.sum()) * float(below.sum())), 1.0)


def _running_sum(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cumulative sum whose rounding error grows with the root of the length."""
    # np.cumsum adds one by one: over 10 million equal weights it is off by 5e-11.
    side = math.isqrt(len(values) - 1) + 1
    square = np.zeros(side * side)
    square[: len(values)] = values
    rows = np.cumsum(square.reshape(side, side), axis=1)
    rows[1:] += np.cumsum(rows[:-1, -1])[:, None]
    return rows.ravel()[: len(values)]
