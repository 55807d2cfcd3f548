"""Log loss, and log loss as a share of what the base rate alone would give.

Log loss depends on how rare clicks are, so two data sets cannot be compared by it; divided by
the entropy of the base rate it can (below 1: better than the constant prediction).

Source: normalized entropy, He et al., Practical Lessons from Predicting Clicks on Ads at
Facebook, ADKDD 2014, equation 1.
Differs from the source: nothing; the base rate is the (weighted) one of the rows given.

Shapes: ``[n]`` rows.
"""

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import Column, label_column, probability_column, weight_column

__all__ = ["log_loss", "normalized_entropy"]

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
    if not 0.0 < clip < 0.5:
        raise ValueError(f"clip must be in (0, 0.5), got {clip}")
    positive = label_column(labels)
    probability = probability_column(probabilities, len(positive))
    weight = weight_column(weights, len(positive))
    return _mean_log_loss(positive, np.clip(probability, clip, 1.0 - clip), weight)


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
    loss = log_loss(labels, probabilities, weights, clip=clip)
    positive = label_column(labels)
    weight = weight_column(weights, len(positive))
    base_rate = float(np.average(positive, weights=weight))
    if not 0.0 < base_rate < 1.0:
        raise ValueError(f"labels must contain both classes, got a base rate of {base_rate:g}")
    return loss / _mean_log_loss(positive, np.full(len(positive), base_rate), weight)


def _mean_log_loss(
    positive: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64] | None,
) -> float:
    # log1p keeps the digits of a tiny probability that 1 - p would round away.
    likelihood = np.where(positive, np.log(probability), np.log1p(-probability))
    return max(0.0, -float(np.average(likelihood, weights=weight)))
