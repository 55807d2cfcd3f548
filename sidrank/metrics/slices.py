"""AUC, calibration and log loss of every slice of the rows.

A launch that is right on average can be wrong for new items, for one country or for one branch
of the semantic-ID tree. One table has a line for each slice: by any column of the file, by
semantic-ID prefix or by training exposure (:mod:`sidrank.metrics.cohorts` makes the last two).

The AUCs come from one sort of all rows, the sums from one pass in blocks: the number of slices
costs nothing, and the columns are not copied.

Source: the AUC of :mod:`sidrank.metrics.auc`, the ratio of :mod:`sidrank.metrics.calibration`
and the losses of :mod:`sidrank.metrics.log_loss`, of the rows of one slice.
Differs from the source: nothing; what a slice cannot have is NaN, where the functions raise.

Shapes: ``[n]`` rows, ``[b]`` rows of a block, ``[S]`` slices.
"""

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import (
    Column,
    group_column,
    label_column,
    score_column,
    weight_column,
)
from sidrank.metrics._forecasts import Forecasts, forecasts
from sidrank.metrics._groups import GroupNumbers
from sidrank.metrics._words import BLOCK
from sidrank.metrics.grouped_auc import group_aucs
from sidrank.metrics.log_loss import row_losses

__all__ = ["SliceMetrics", "Slices", "slice_metrics"]

_Floats = npt.NDArray[np.float64]
Scale: TypeAlias = Literal["probability", "logit", "rank"]


class Slices(NamedTuple):
    """The slice of every row as a number, and each number's name: no text is stored per row."""

    ids: npt.NDArray[Any]
    """Slice of each row, integers in ``[0, S)``, shape ``[n]``."""
    names: npt.NDArray[np.str_]
    """Name of each slice, shape ``[S]``; ``names[ids]`` are the rows' names."""


class SliceMetrics(NamedTuple):
    """One entry per slice that has a row of positive weight, in the order of the slices."""

    name: npt.NDArray[Any]
    """Each slice, the caller's integer or string, shape ``[S]``."""
    rows: npt.NDArray[np.int64]
    """Rows with a positive weight, shape ``[S]``."""
    positives: npt.NDArray[np.int64]
    """Positive rows among them, shape ``[S]``."""
    auc: _Floats
    """Area under the ROC curve; NaN where the slice has one class, shape ``[S]``."""
    calibration: _Floats
    """Predicted per observed positive; NaN where the slice has no positive, shape ``[S]``."""
    log_loss: _Floats
    """Mean negative log likelihood in nats, shape ``[S]``."""
    normalized_entropy: _Floats
    """Log loss over the entropy of the slice's own rate; NaN where it has one class,
    shape ``[S]``."""


def slice_metrics(
    labels: Column,
    scores: Column,
    slices: Column | Slices,
    *,
    weights: Column | None = None,
    scale: Scale = "probability",
) -> SliceMetrics:
    """Metrics of each slice.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Any integer or float dtype, shape ``[n]``; NaN is refused.
        slices: Integers or strings, shape ``[n]``; or :class:`Slices`, which is the quickest.
        weights: Row weights, finite and not negative, shape ``[n]``; None counts every row once,
            and a row of weight zero is as good as absent.
        scale: What the scores are. ``"probability"``: in [0, 1]. ``"logit"``: ranked as they are,
            judged as probabilities after the logistic function. ``"rank"``: larger means likelier
            and nothing else, so that all but the AUC is NaN.

    Returns:
        The table; integers ascend, strings are in code-point order, ``Slices`` by number.

    Raises:
        ValueError: If ``scale`` is unknown, a score is NaN or outside [0, 1] under
            ``"probability"``, a label is neither 0 nor 1, a weight is negative or not finite, a
            slice is neither an integer nor a string or has no name, the columns differ in length,
            or there is no row.

    Example:
        >>> labels, scores = [0, 1, 1, 0, 1], [0.25, 0.75, 0.5, 0.5, 0.5]
        >>> table = slice_metrics(labels, scores, ["new", "new", "old", "old", "old"])
        >>> table.name.tolist(), table.rows.tolist(), table.auc.tolist()
        (['new', 'old'], [2, 3], [1.0, 0.5])
        >>> table.calibration.tolist()
        [1.0, 0.75]
    """
    if scale not in ("probability", "logit", "rank"):
        raise ValueError(f"scale must be 'probability', 'logit' or 'rank', got {scale!r}")
    if scale == "probability":
        rows = forecasts(labels, scores, weights, "scores")
    else:
        positive = label_column(labels)
        score = score_column(scores, len(positive))
        rows = Forecasts(positive, score, weight_column(weights, len(positive)))
    ids, names = _ids(slices, len(rows.positive))
    table = group_aucs(rows.positive, rows.probability, ids, weights=rows.weight)
    counts, sums = _sums(rows, ids, table.group, scale)
    positives, negatives, predicted, loss = sums
    total = positives + negatives
    with np.errstate(divide="ignore", invalid="ignore"):
        calibration = np.where(positives > 0, predicted / positives, np.nan)
        entropy = positives * np.log(total / positives) + negatives * np.log(total / negatives)
        normalized = loss / entropy  # 0 * inf is the NaN of one class
        mean_loss = loss / total
    return SliceMetrics(
        table.group if names is None else names[table.group],
        counts[0],
        counts[1],
        table.auc,
        calibration,
        mean_loss,
        normalized,
    )


def _ids(slices: Column | Slices, rows: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Integers that order as the slices do, and the name of each unless it is the integer."""
    if isinstance(slices, Slices):
        names = np.asarray(slices.names)
        ids = group_column(slices.ids, rows, "slices.ids")
        if ids.dtype.kind not in "iu":
            raise ValueError(f"slices.ids must be integers, got {ids.dtype}")
        for number in (int(ids.min()), int(ids.max())):
            if not 0 <= number < len(names):
                raise ValueError(f"slices.ids must be in [0, {len(names)}), got {number}")
        return ids, names
    ids = group_column(slices, rows, "slices")
    if ids.dtype.kind in "iu":
        return ids, None
    numbers = GroupNumbers.of(ids)
    return numbers.column, numbers.names


def _sums(
    rows: Forecasts, ids: npt.NDArray[Any], distinct: npt.NDArray[Any], scale: str
) -> tuple[npt.NDArray[np.int64], _Floats]:
    """Rows and positives of each slice ``[2, S]``, and its sums ``[4, S]``.

    The sums are the weights of positives and of negatives, predictions and losses.
    """
    slices = len(distinct)
    counts = np.zeros((2, slices), np.int64)
    sums = np.zeros((4, slices))
    step = max(BLOCK, slices)  # many slices: no more slots to add up than rows
    for start in range(0, len(ids), step):
        block = slice(start, start + step)
        positive = rows.positive[block]
        # a slice without weight is not among the distinct ones; its rows weigh nothing anywhere
        place = np.minimum(np.searchsorted(distinct, ids[block]), slices - 1)
        weight = np.ones(len(place)) if rows.weight is None else rows.weight[block]
        counted = weight > 0
        counts[0] += np.bincount(place[counted], minlength=slices)
        counts[1] += np.bincount(place[counted & positive], minlength=slices)
        added = np.empty_like(sums)
        added[0] = np.bincount(place, weight * positive, slices)
        added[1] = np.bincount(place, weight * ~positive, slices)
        added[2:] = np.nan
        if scale != "rank":
            probability = _probability(rows.probability[block], scale)
            added[2] = np.bincount(place, weight * probability, slices)
            added[3] = np.bincount(place, weight * row_losses(positive, probability), slices)
        sums += added
    return counts, sums


def _probability(scores: npt.NDArray[Any], scale: str) -> _Floats:
    wide = scores.astype(np.float64, copy=False)
    if scale == "probability":
        return wide
    with np.errstate(over="ignore"):  # exp overflows to infinity, which gives the 0 that is meant
        return 1.0 / (1.0 + np.exp(-wide))
