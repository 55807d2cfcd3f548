r"""The AUC that a ranking has on average when the true probabilities are known.

On planted data each label is drawn from a probability that the generator knows. Judged by it
instead of by the drawn labels, a model carries no label noise, and the best any model can reach,
the Bayes AUC, is a number: that of ranking by the probability itself.

With labels :math:`y_i \sim \mathrm{Bernoulli}(p_i)`, independent of each other,

.. math:: \frac{\sum_{i \ne j} w_i w_j\, p_i (1 - p_j)
    \left([s_i > s_j] + \tfrac12 [s_i = s_j]\right)}{\sum_{i \ne j} w_i w_j\, p_i (1 - p_j)}

is exactly the mean number of (positive, negative) pairs that the scores order correctly, over the
mean number of such pairs. It is the ratio of two means, while the mean AUC over redrawn labels is
the mean of a ratio: they differ by O(1/n), far below the standard deviation of the AUC itself,
O(1/√n). No other scores have a higher value than the probabilities: for each two rows
the one with the larger :math:`p` is the positive one of a mixed pair more often.

Source: the Mann-Whitney form of the AUC (Hanley and McNeil 1982, equation 1), in expectation.
Differs from the source: nothing.

Shapes: ``[n]`` rows.
"""

import numpy as np

from sidrank.metrics._columns import Column, probability_column, score_column, weight_column
from sidrank.metrics.auc import auc

__all__ = ["bayes_auc", "expected_auc"]


def bayes_auc(probabilities: Column, weights: Column | None = None) -> float:
    """AUC of the best possible ranking: by the true probabilities.

    Args:
        probabilities: True probability of a positive label, in [0, 1], shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``. None counts every row once;
            a weight of 0 leaves a row out, so a slice is a mask.

    Returns:
        A float in [0.5, 1].

    Raises:
        ValueError: As :func:`expected_auc`.

    Example:
        >>> round(bayes_auc([0.9, 0.5]), 12)  # mixed pairs: 0.9 × 0.5 right, 0.5 × 0.1 wrong
        0.9
        >>> round(bayes_auc([0.9, 0.5, 0.2], weights=[1, 1, 0]), 12)
        0.9
    """
    return expected_auc(probabilities, probabilities, weights)


def expected_auc(probabilities: Column, scores: Column, weights: Column | None = None) -> float:
    """AUC of a model's scores, in expectation over labels drawn from known probabilities.

    Args:
        probabilities: True probability of a positive label, in [0, 1], shape ``[n]``.
        scores: Any integer or float dtype, larger means more likely positive, shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``. None counts every row once.

    Returns:
        A float in [0, 1]: the ratio of the two means above, ties counting one half.

    Raises:
        ValueError: If a probability is outside [0, 1], a score is NaN, a weight is negative or
            not finite, the columns differ in length, or no two different rows can have one label
            each.

    Example:
        >>> round(expected_auc([0.9, 0.5], [1, 2]), 12)
        0.1
        >>> round(expected_auc([0.9, 0.5, 0.7], [0, 0, 0]), 12)
        0.5
    """
    rows = len(probabilities)  # pyright: ignore[reportArgumentType]
    if not rows:
        raise ValueError("probabilities must not be empty, got 0 rows")
    chance = probability_column(probabilities, rows)
    score = score_column(scores, len(chance))
    weight = weight_column(weights, len(chance))
    positive = chance if weight is None else weight * chance
    negative = 1.0 - chance if weight is None else weight * (1.0 - chance)
    either = np.flatnonzero((positive > 0) | (negative > 0))
    can, cannot = np.flatnonzero(positive > 0), np.flatnonzero(negative > 0)
    if not len(can) or not len(cannot) or (len(can) == len(cannot) == 1 and can[0] == cannot[0]):
        raise ValueError(
            f"probabilities must allow two rows of different labels, got {len(either)} rows that "
            f"count, {len(can)} of them possibly positive and {len(cannot)} possibly negative"
        )
    labels = np.repeat([True, False], len(chance))
    both = auc(labels, np.concatenate([score, score]), np.concatenate([positive, negative]))
    # Each row meets itself in that sum, as a tie: it is taken out again.
    pairs = float(positive.sum()) * float(negative.sum())
    itself = float((positive * negative).sum())
    return (both * pairs - 0.5 * itself) / (pairs - itself)
