"""Do predicted probabilities mean what they say: in total, row by row and bin by bin.

An auction multiplies a bid by a probability, so a ranker that orders perfectly can still
overcharge. :func:`calibration` is the one number of the whole, :func:`reliability` shows where
on the scale it goes wrong, :func:`expected_calibration_error` sums that up, and
:func:`brier_score` is a proper score: only the true probabilities minimise it.

Bins hold equal mass, because clicks are rare: of ten bins of equal width nine are empty at a
click rate of 1%. Equal probabilities share a bin (where the middle of their mass lies), so
nothing depends on the order of the rows and a constant prediction has one bin.

Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014,
section 3 (calibration); Brier, Monthly Weather Review 78, 1950; Naeini et al., Obtaining Well
Calibrated Probabilities Using Bayesian Binning, AAAI 2015 (expected calibration error); Wilson,
JASA 22, 1927 (interval of a rate).
Differs from the source: He et al. name the ratio and Brier sums over both classes, here over
the positive one (half of his number); equal mass instead of equal width; all take weights.

Shapes: ``[n]`` rows, ``[m]`` bins that hold a row.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import Column
from sidrank.metrics._forecasts import Forecasts, forecasts
from sidrank.metrics._mass_bins import mass_borders

__all__ = [
    "Reliability",
    "brier_score",
    "calibration",
    "expected_calibration_error",
    "reliability",
]

_Floats = npt.NDArray[np.float64]


class Reliability(NamedTuple):
    """What was predicted and what happened, by bin of ascending probability."""

    rows: npt.NDArray[np.int64]
    """Rows with a positive weight in the bin, shape ``[m]``."""
    share: _Floats
    """Share of all rows (of all weight), adds up to 1, shape ``[m]``."""
    prediction: _Floats
    """Mean predicted probability, shape ``[m]``."""
    rate: _Floats
    """Share of positives, shape ``[m]``."""
    low: _Floats
    """Lower end of the Wilson interval of ``rate``, shape ``[m]``."""
    high: _Floats
    """Upper end of the Wilson interval of ``rate``, shape ``[m]``."""


def calibration(labels: Column, probabilities: Column, weights: Column | None = None) -> float:
    r"""Predicted positives per observed positive: 1 is right, 1.1 predicts a tenth too many.

    .. math:: \frac{\sum_i w_i p_i}{\sum_i w_i y_i}

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        probabilities: Predicted probabilities (not logits), shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``; None counts every row once.

    Returns:
        A float, at least 0.

    Raises:
        ValueError: If no positive row has weight, a probability is NaN or outside [0, 1], a
            label is neither 0 nor 1, a weight is negative or not finite, the columns differ in
            length, or there is no row.

    Example:
        >>> calibration([0, 0, 0, 1], [0.25, 0.5, 0.25, 0.5])
        1.5
    """
    rows = forecasts(labels, probabilities, weights)
    sums = [
        (block.total(block.probability), block.total(block.positive)) for block in rows.blocks()
    ]
    predicted, observed = map(math.fsum, zip(*sums, strict=True))
    if not observed > 0.0:
        raise ValueError(f"labels must contain a positive, got none in {len(rows.positive)} rows")
    return predicted / observed


def brier_score(labels: Column, probabilities: Column, weights: Column | None = None) -> float:
    r"""Mean squared error of the probabilities; a proper score, smaller is better.

    .. math:: \frac{\sum_i w_i (p_i - y_i)^2}{\sum_i w_i}

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        probabilities: Predicted probabilities (not logits), shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``; None counts every row once.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: As :func:`calibration`, but one class alone is fine.

    Example:
        >>> brier_score([0, 1], [0.5, 1.0])
        0.125
    """
    sums: list[tuple[float, float]] = []
    for block in forecasts(labels, probabilities, weights).blocks():
        errors = np.square(block.probability - block.positive)
        sums.append((block.total(errors), block.total(np.ones(len(errors)))))
    squares, mass = map(math.fsum, zip(*sums, strict=True))
    return squares / mass


def expected_calibration_error(
    labels: Column, probabilities: Column, weights: Column | None = None, *, bins: int = 15
) -> float:
    r"""Mean distance between prediction and outcome over bins of equal mass.

    .. math:: \sum_b \frac{W_b}{W} \left|\bar p_b - \bar y_b\right|

    It grows with the number of bins, and is not zero for the true probabilities: a bin's rate is
    itself a sample. Compare models on the same rows and bins only.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``. One class alone is fine.
        probabilities: Predicted probabilities (not logits), shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``; None counts every row once.
        bins: At most so many bins; one bin gives the difference of the two overall means.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: As :func:`reliability`.

    Example:
        >>> expected_calibration_error([0, 1, 1, 1], [0.5, 0.5, 0.75, 0.75], bins=2)
        0.125
    """
    table = reliability(labels, probabilities, weights, bins=bins)
    return min(1.0, math.fsum(table.share * np.abs(table.prediction - table.rate)))


def reliability(
    labels: Column,
    probabilities: Column,
    weights: Column | None = None,
    *,
    bins: int = 15,
    confidence: float = 0.95,
) -> Reliability:
    """Mean prediction and positive rate by bin: the points of a reliability plot.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``. One class alone is fine.
        probabilities: Predicted probabilities (not logits), shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``; None counts every row once.
            An interval is then that of the effective number of rows, ``(sum w)^2 / sum w^2``.
        bins: At most so many bins of equal mass; ties can leave fewer and uneven ones.
        confidence: Coverage of the intervals, inside (0, 1).

    Returns:
        One entry per bin that holds a row with weight, ascending in probability.

    Raises:
        ValueError: If ``bins`` is less than one, ``confidence`` is not in (0, 1), a probability
            is NaN or outside [0, 1], a label is neither 0 nor 1, a weight is negative or not
            finite, the columns differ in length, or there is no row.

    Example:
        >>> table = reliability([0, 1, 1, 1], [0.5, 0.5, 0.75, 0.75], bins=2)
        >>> table.prediction.tolist(), table.rate.tolist()
        ([0.5, 0.75], [0.5, 1.0])
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    rows = forecasts(labels, probabilities, weights)
    count, mass, squares, predicted, observed = _bin_sums(rows, mass_borders(rows, bins))
    rate = observed / mass
    # at least one row in truth; the squares of weights of 1e-200 are zero here
    effective = np.maximum(mass * mass / np.maximum(squares, np.finfo(np.float64).tiny), 1.0)
    low, high = _wilson(rate, effective, confidence)
    share = mass / math.fsum(mass)
    return Reliability(count.astype(np.int64), share, predicted / mass, rate, low, high)


def _bin_sums(rows: Forecasts, borders: _Floats) -> tuple[_Floats, ...]:
    """Rows, weights, squared weights, predictions and positives of each bin that holds weight."""
    bins = len(borders) + 1
    sums: list[npt.NDArray[Any]] = []
    for block in rows.blocks():
        place = np.searchsorted(borders, block.probability, side="right")
        weight = np.ones(len(place)) if block.weight is None else block.weight
        values = (
            weight > 0,
            weight,
            weight * weight,
            weight * block.probability,
            weight * block.positive,
        )
        sums.append(np.concatenate([np.bincount(place, value, bins) for value in values]))
    each = zip(*(parts.tolist() for parts in sums), strict=True)
    total = np.array([math.fsum(parts) for parts in each]).reshape(-1, bins)
    return tuple(total[:, total[1] > 0])


def _wilson(rate: _Floats, rows: _Floats, confidence: float) -> tuple[_Floats, _Floats]:
    """Interval of a rate that ``rows`` rows showed."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    shrink = 1.0 + z * z / rows
    centre = (rate + z * z / (2 * rows)) / shrink
    half = z / shrink * np.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    return np.clip(centre - half, 0.0, rate), np.clip(centre + half, rate, 1.0)
