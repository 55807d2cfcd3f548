"""AUC and GAUC as functions of how often each user was taken: one sort, then many draws.

A resampled AUC is an AUC with integer row weights, so every model's rows are sorted once and each
draw costs a gather and a cumulative sum. A resampled GAUC is a ratio of two sums over users.

Source: the bootstrap over clusters, Davison and Hinkley, Bootstrap Methods and their
Application, 1997, section 3.8.
Differs from the source: nothing.

Shapes: ``[n]`` rows, ``[U]`` users.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sidrank.metrics.grouped_auc import group_aucs

__all__ = [
    "ResampledAUC",
    "ResampledGAUC",
    "Weighting",
    "check_options",
    "percentile_ends",
    "resample",
]

Counts: TypeAlias = npt.NDArray[np.int64]
Weighting: TypeAlias = Literal["impressions", "unweighted", "positives"]


def resample(generator: np.random.Generator, kinds: int, picks: int) -> Counts:
    """Pick with replacement.

    Args:
        generator: Source of randomness.
        kinds: Number of distinct users, or of runs.
        picks: How many to take.

    Returns:
        How often each was taken, shape ``[kinds]``; sums to ``picks``.
    """
    return np.bincount(generator.integers(kinds, size=picks), minlength=kinds)


def check_options(metric: str, draws: int, confidence: float) -> None:
    """Refuse what no bootstrap can do.

    Args:
        metric: ``"auc"`` or ``"gauc"``.
        draws: Bootstrap draws.
        confidence: Share of the draws inside the interval.

    Raises:
        ValueError: If ``metric`` is neither, ``draws`` is below 2, or ``confidence`` is not in
            (0, 1).
    """
    if metric not in ("auc", "gauc"):
        raise ValueError(f"metric must be 'auc' or 'gauc', got {metric!r}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")


def percentile_ends(
    values: list[float], draws: int, confidence: float, name: str
) -> tuple[float, float]:
    """Ends of the percentile interval.

    Args:
        values: Results of the draws that had one.
        draws: How many were tried.
        confidence: Share of the draws inside the interval.
        name: The argument to blame.

    Returns:
        Low and high.

    Raises:
        ValueError: If more than one draw in twenty had no result.
    """
    if len(values) < 0.95 * draws:
        raise ValueError(
            f"{name} must have enough users to resample, "
            f"got both classes in {len(values)} of {draws} draws"
        )
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class ResampledAUC:
    """An AUC, or the first minus the second, as a function of how often each user is taken.

    Args:
        user: Number of each row's user, shape ``[n]``.
        positive: Labels, shape ``[n]``.
        scores: One column of scores or two, shape ``[n]`` each.
    """

    def __init__(
        self,
        user: npt.NDArray[np.integer[Any]],
        positive: npt.NDArray[np.bool_],
        scores: Sequence[npt.NDArray[Any]],
    ) -> None:
        self.sides = [_Ranking(user, positive, score) for score in scores]

    def __call__(self, user_counts: Counts) -> float:
        """User counts ``[U]`` to the value, NaN where a class is missing."""
        first, *others = (side.twice_wins(user_counts) for side in self.sides)
        pairs = self.sides[0].pairs(user_counts)
        return (first - sum(others)) / (2 * pairs) if pairs else float("nan")


class _Ranking:
    """The rows of one model sorted by score, so that a resampled AUC needs no sort."""

    def __init__(
        self,
        user: npt.NDArray[np.integer[Any]],
        positive: npt.NDArray[np.bool_],
        score: npt.NDArray[Any],
    ) -> None:
        order = np.argsort(score)
        positives, negatives = order[positive[order]], order[~positive[order]]
        self.positive_user, self.negative_user = user[positives], user[negatives]
        # Negatives strictly below each positive, and those not above it: a tie is half of each.
        self.below = np.searchsorted(score[negatives], score[positives], "left")
        self.not_above = np.searchsorted(score[negatives], score[positives], "right")

    def pairs(self, user_counts: Counts) -> int:
        positives = int(user_counts[self.positive_user].sum())
        return positives * int(user_counts[self.negative_user].sum())

    def twice_wins(self, user_counts: Counts) -> int:
        """Twice the number of pairs in the right order, an exact integer."""
        negatives = np.zeros(len(self.negative_user) + 1, np.int64)
        np.cumsum(user_counts[self.negative_user], out=negatives[1:])
        wins = negatives[self.below] + negatives[self.not_above]
        return int(np.dot(wins, user_counts[self.positive_user]))


class ResampledGAUC:
    """A GAUC, or the first minus the second, as a function of how often each user is taken.

    Args:
        user: Number of each row's user, from 0, shape ``[n]``.
        positive: Labels, shape ``[n]``.
        scores: One column of scores or two, shape ``[n]`` each.
        weighting: As in :func:`sidrank.metrics.grouped_auc`; users with one class are left out.
    """

    def __init__(
        self,
        user: npt.NDArray[np.integer[Any]],
        positive: npt.NDArray[np.bool_],
        scores: Sequence[npt.NDArray[Any]],
        weighting: Weighting = "impressions",
    ) -> None:
        table = group_aucs(positive, scores[0], user)
        both = ~np.isnan(table.auc)
        value = table.auc
        for other in scores[1:]:
            value = value - group_aucs(positive, other, user).auc
        mass = {"impressions": table.impressions, "positives": table.positives}.get(
            weighting, np.ones(len(value))
        )
        self.user = table.group[both]
        self.mass = mass[both]
        self.gain = value[both] * self.mass

    def __call__(self, user_counts: Counts) -> float:
        """User counts ``[U]`` to the value, NaN where no user has both classes."""
        taken = user_counts[self.user].astype(np.float64)
        mass = float(np.dot(taken, self.mass))
        return float(np.dot(taken, self.gain)) / mass if mass else float("nan")
