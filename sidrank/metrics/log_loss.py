"""Log loss, and log loss as a share of what the base rate alone would give.

Log loss depends on how rare clicks are, so two data sets cannot be compared by it; divided by
the entropy of the base rate it can (below 1: better than the constant prediction).

Source: normalized entropy, He et al., Practical Lessons from Predicting Clicks on Ads at
Facebook, ADKDD 2014, equation 1.
Differs from the source: nothing; the base rate is the (weighted) one of the rows given.

Shapes: ``[n]`` rows, ``[b]`` rows of a block.
"""

import math

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import Column
from sidrank.metrics._forecasts import forecasts

__all__ = ["log_loss", "normalized_entropy", "row_losses"]

_CLIP = float(np.finfo(np.float64).eps)


def log_loss(
    labels: Column, probabilities: Column, weights: Column | None = None, *, clip: float = _CLIP
) -> float:
    r"""Mean negative log likelihood, in nats.

    .. math:: -\frac{\sum_i w_i \left(y_i \ln p_i + (1 - y_i) \ln (1 - p_i)\right)}{\sum_i w_i}

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``. One class alone is fine.
        probabilities: Predicted probabilities (not logits), shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``; None counts every row once.
        clip: Probabilities are moved into ``[clip, 1 - clip]`` first, so that a prediction of
            exactly 0 or 1 that turns out wrong costs ``-ln(clip)`` (36.04 by default), not
            infinity.

    Returns:
        A float, at least 0.

    Raises:
        ValueError: If a probability is NaN or outside [0, 1], a label is neither 0 nor 1, a
            weight is negative or not finite, the columns differ in length, there is no row, or
            ``clip`` is not in (0, 0.5).

    Example:
        >>> round(log_loss([0, 1], [0.5, 0.5]), 6)
        0.693147
    """
    loss, positives, negatives = _sums(labels, probabilities, weights, clip)
    return loss / (positives + negatives)


def normalized_entropy(
    labels: Column, probabilities: Column, weights: Column | None = None, *, clip: float = _CLIP
) -> float:
    """Log loss divided by the entropy of the base rate.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``; both classes must occur.
        probabilities: Predicted probabilities (not logits), shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``; None counts every row once.
        clip: As in :func:`log_loss`.

    Returns:
        A float, at least 0: 1 for the base rate itself, smaller is better.

    Raises:
        ValueError: As :func:`log_loss`, or if only one class has weight (its entropy is zero).

    Example:
        >>> normalized_entropy([0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25])
        1.0
    """
    loss, positives, negatives = _sums(labels, probabilities, weights, clip)
    total = positives + negatives
    if not (positives > 0.0 and negatives > 0.0):
        raise ValueError(
            f"labels must contain both classes, got a base rate of {positives / total:g}"
        )
    entropy = positives * math.log(total / positives) + negatives * math.log(total / negatives)
    return loss / entropy


def row_losses(
    positive: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64], clip: float = _CLIP
) -> npt.NDArray[np.float64]:
    """Negative log likelihood of each row, in nats.

    Args:
        positive: Labels, shape ``[b]``.
        probability: Probabilities, shape ``[b]``.
        clip: As in :func:`log_loss`.

    Returns:
        Losses, shape ``[b]``, at least 0.
    """
    clipped = np.clip(probability, clip, 1.0 - clip)
    # One logarithm a row. log1p keeps the digits of a tiny probability that 1 - p would lose.
    losses = np.empty(len(clipped))
    losses[positive] = np.log(clipped[positive])
    negative = ~positive
    losses[negative] = np.log1p(-clipped[negative])
    return np.negative(losses, out=losses)


def _sums(
    labels: Column, probabilities: Column, weights: Column | None, clip: float
) -> tuple[float, float, float]:
    """Sum of the losses, weight of the positive rows and weight of the negative ones."""
    if not 0.0 < clip < 0.5:
        raise ValueError(f"clip must be in (0, 0.5), got {clip}")
    rows = forecasts(labels, probabilities, weights)
    sums = [
        (
            block.total(row_losses(block.positive, block.probability, clip)),
            block.total(block.positive),
            block.total(~block.positive),
        )
        for block in rows.blocks()
    ]
    loss, positives, negatives = map(math.fsum, zip(*sums, strict=True))
    return loss, positives, negatives
