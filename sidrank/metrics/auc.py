"""Exact area under the ROC curve.

The probability that a random positive row outranks a random negative one, a tie counting one
half. One sort and one cumulative sum: ``O(n log n)``. Without weights every count is an
integer, so the result is the correctly rounded quotient of two integers and does not depend
on the order of the rows.

Source: the Mann-Whitney form of the AUC (Hanley and McNeil 1982, equation 1).
Differs from the source: optional row weights (a pair counts the product of its two weights).

Shapes: ``[n]`` rows.
"""

import math

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import (
    Column,
    label_column,
    score_column,
    weight_column,
)

__all__ = ["auc"]


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
    positives = int(positive.sum()) if weight is None else int((positive & (weight > 0)).sum())
    counted = len(positive) if weight is None else int((weight > 0).sum())
    if not 0 < positives < counted:
        raise ValueError(
            f"labels must contain both classes, got {positives} positives in {counted} rows"
        )
    order = np.argsort(score)
    score = score[order]
    ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    if weight is None:
        return _count_pairs(positive[order], ends)
    return _weigh_pairs(positive[order], weight[order], ends)


def _count_pairs(positive: npt.NDArray[np.bool_], ends: npt.NDArray[np.intp]) -> float:
    """AUC of rows sorted by score; ``ends`` holds the last row of each run of equal scores."""
    # Twice the number of pairs, so that the half of a tie stays an integer.
    above = np.cumsum(positive, dtype=np.int64)[ends]
    below = ends + 1 - above
    twice = int(np.dot(np.diff(above, prepend=0), below + np.append(0, below[:-1])))
    return twice / (2 * int(above[-1]) * int(below[-1]))


def _weigh_pairs(
    positive: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64], ends: npt.NDArray[np.intp]
) -> float:
    """AUC of weighted rows sorted by score; ``ends`` as above."""
    starts = np.append(0, ends[:-1] + 1)
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
