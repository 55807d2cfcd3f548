"""The figures of an evaluation as a plain tree, ready for JSON: numbers, lists, strings, null.

All keys are always there. What cannot be said is null, and ``notes`` says why; no number is a NaN
or an infinity.

- ``rows, positives``: counts, whatever the weights. ``auc, auc_interval``.
- ``logloss, normalized_entropy, calibration, brier, ece``: of the probabilities.
- ``gauc, gauc_interval``: by weighting (``unweighted, impressions, positives``), groups of one
  class left out; ``groups``: ``total, used, single_class``. Null without groups.
- ``compare``: ``auc, gauc`` and the probability figures of the other scores, then ``delta_auc,
  interval, p_value`` and by weighting ``delta_gauc, delta_gauc_interval``: the scores minus the
  others. Null without others.
- ``slices``: by value of the slice column all of the above, of its rows alone; empty without
  one. There ``compare`` has an ``adjusted_p_value`` too (Benjamini-Hochberg over the slices).
- ``notes``: sentences on what is null.

Intervals are ``[low, high]`` and hold 95%. Where there are groups, rows of one group are taken
for alike and groups for independent.

Source: the interval of GAUC is that of a ratio of two means over groups, Cochran, Sampling
Techniques, 1977, section 6.4.

Shapes: ``[n]`` rows, ``[G]`` groups.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidrank.cli.evaluation_columns import Columns
from sidrank.metrics import (
    GroupAUCs,
    auc,
    brier_score,
    calibration,
    delong,
    expected_calibration_error,
    group_aucs,
    log_loss,
    normalized_entropy,
    paired_delong,
)

__all__ = ["WEIGHTINGS", "Figures", "Scales", "figures", "probabilities", "scales_of"]

Figures: TypeAlias = dict[str, Any]
Scale: TypeAlias = Literal["probability", "logit", "rank"]
WEIGHTINGS = ("unweighted", "impressions", "positives")
_QUANTILE = NormalDist().inv_cdf(0.975)
_BLOCK = 1 << 18


class Scales(NamedTuple):
    """What the two columns of scores are."""

    scores: Scale
    compare: Scale | None


def scales_of(columns: Columns, *, logits: bool) -> Scales:
    """Say what the scores are: all rows decide, so that no slice differs from the whole.

    Args:
        columns: All rows.
        logits: Whether scores are logits.

    Returns:
        ``"logit"`` if so, else ``"probability"`` if all lie in [0, 1], else ``"rank"``.
    """
    others = columns.compare
    return Scales(
        _scale(columns.scores, logits=logits),
        None if others is None else _scale(others, logits=logits),
    )


def _scale(scores: NDArray[Any], *, logits: bool) -> Scale:
    if logits:
        return "logit"
    return "probability" if scores.min() >= 0 and scores.max() <= 1 else "rank"


def figures(
    columns: Columns, *, scales: Scales, notes: list[str], step: Callable[[str], object]
) -> Figures:
    """Compute every figure of some rows, without slices.

    Args:
        columns: The rows. Those of a slice may be of one class, or without weight.
        scales: What the scores are, from :func:`scales_of`.
        notes: Takes sentences on what is null.
        step: Told what comes next.

    Returns:
        The tree above but for ``slices`` and ``notes``.
    """
    counted, positives = _counted(columns)
    step("AUC")
    value, interval = _auc(columns, notes) if 0 < positives < counted else (None, None)
    step("GAUC")
    table = _group_table(columns, columns.scores) if counted else None
    if table is not None and np.isnan(table.auc).all():
        notes.append("No group holds both classes: there is no GAUC.")
    step("calibration")
    tree: Figures = {
        "rows": len(columns.labels),
        "positives": int(np.count_nonzero(columns.labels)),
        "auc": value,
        "auc_interval": interval,
        **_of_probabilities(columns, columns.scores, scales.scores, "scores", notes),
        **_of_groups(table),
        "compare": None,
    }
    if columns.compare is not None:
        step("comparison")
        others = columns.compare
        tree["compare"] = {
            "auc": None if value is None else auc(columns.labels, others, columns.weights),
            **_of_probabilities(columns, others, scales.compare, "compared scores", notes),
            **_auc_difference(columns, others, value, testable=interval is not None),
            **_gauc_difference(table, _group_table(columns, others) if counted else None),
        }
    return tree


def probabilities(scores: NDArray[Any], scale: Scale) -> NDArray[Any] | None:
    """Scores as probabilities.

    Args:
        scores: Scores without NaN, shape ``[n]``.
        scale: What they are.

    Returns:
        Numbers in [0, 1], shape ``[n]``; None if the scores only rank.
    """
    if scale != "logit":
        return scores if scale == "probability" else None
    result = np.empty(len(scores), np.float64)
    with np.errstate(over="ignore"):  # exp(710) is infinite, and 1 / (1 + inf) is 0
        for start in range(0, len(scores), _BLOCK):
            block = slice(start, start + _BLOCK)
            result[block] = 1.0 / (1.0 + np.exp(-scores[block].astype(np.float64)))
    return result


def _counted(columns: Columns) -> tuple[int, int]:
    """Rows and positive rows of positive weight."""
    if columns.weights is None:
        return len(columns.labels), int(np.count_nonzero(columns.labels))
    heavy = columns.weights > 0
    return int(np.count_nonzero(heavy)), int(np.count_nonzero(heavy & columns.labels))


def _auc(columns: Columns, notes: list[str]) -> tuple[float, list[float] | None]:
    if columns.weights is not None:
        notes.append("Rows are weighted: AUC and its difference have no interval and no p-value.")
        return auc(columns.labels, columns.scores, columns.weights), None
    try:
        estimate = delong(columns.labels, columns.scores, groups=columns.groups)
    except ValueError as error:  # too few rows or groups to judge by
        notes.append(f"AUC and its difference have no interval: {error}.")
        return auc(columns.labels, columns.scores), None
    return estimate.auc, [estimate.low, estimate.high]


def _auc_difference(
    columns: Columns, others: NDArray[Any], value: float | None, *, testable: bool
) -> Figures:
    delta = interval = p_value = None
    if testable:
        paired = paired_delong(columns.labels, columns.scores, others, groups=columns.groups)
        delta = paired.difference
        if math.isfinite(paired.p_value):
            p_value, interval = paired.p_value, [paired.low, paired.high]
    elif value is not None:
        delta = value - auc(columns.labels, others, columns.weights)
    return {"delta_auc": delta, "interval": interval, "p_value": p_value}


def _of_probabilities(
    columns: Columns, scores: NDArray[Any], scale: Scale | None, what: str, notes: list[str]
) -> Figures:
    names = ("logloss", "normalized_entropy", "calibration", "brier", "ece")
    tree: Figures = dict.fromkeys(names)
    chance = probabilities(scores, scale or "rank")
    if chance is None:
        notes.append(
            f"The {what} reach from {scores.min():.6g} to {scores.max():.6g} and are no "
            "probabilities: log loss, NE, calibration, Brier score and ECE are null. "
            "If they are logits, --logits turns them into probabilities."
        )
        return tree
    counted, positives = _counted(columns)
    given = (columns.labels, chance, columns.weights)
    if counted:
        tree["logloss"] = log_loss(*given)
        tree["brier"] = brier_score(*given)
        tree["ece"] = expected_calibration_error(*given)
    if positives:
        tree["calibration"] = calibration(*given)
    if 0 < positives < counted:
        tree["normalized_entropy"] = normalized_entropy(*given)
    # weights of 1e300 and 1e-300 can leave a quotient that is no number
    return {name: value if _is_finite(value) else None for name, value in tree.items()}


def _group_table(columns: Columns, scores: NDArray[Any]) -> GroupAUCs | None:
    if columns.groups is None:
        return None
    return group_aucs(columns.labels, scores, columns.groups, weights=columns.weights)


def _of_groups(table: GroupAUCs | None) -> Figures:
    if table is None:
        return {"gauc": None, "gauc_interval": None, "groups": None}
    total, used = len(table.auc), int(np.count_nonzero(~np.isnan(table.auc)))
    means, intervals = _means(table, lowest=0.0)
    return {
        "gauc": means,
        "gauc_interval": intervals,
        "groups": {"total": total, "used": used, "single_class": total - used},
    }


def _gauc_difference(table: GroupAUCs | None, other: GroupAUCs | None) -> Figures:
    if table is None or other is None:
        return dict.fromkeys(("gauc", "delta_gauc", "delta_gauc_interval"))
    # the same rows, so the same groups in the same order
    means, intervals = _means(table._replace(auc=table.auc - other.auc), lowest=-1.0)
    return {
        "gauc": _means(other, lowest=0.0)[0],
        "delta_gauc": means,
        "delta_gauc_interval": intervals,
    }


def _means(table: GroupAUCs, *, lowest: float) -> tuple[Figures, Figures]:
    """Mean over the groups and its interval, by weighting; None where there are too few."""
    means: Figures = dict.fromkeys(WEIGHTINGS)
    intervals: Figures = dict.fromkeys(WEIGHTINGS)
    used = ~np.isnan(table.auc)
    count = int(np.count_nonzero(used))
    for kind in WEIGHTINGS if count else ():
        means[kind] = table.mean(weighting=kind)
        if count > 1:
            masses = {"impressions": table.impressions, "positives": table.positives}
            mass = masses[kind][used] if kind in masses else np.ones(count)
            residuals = mass * (table.auc[used] - means[kind])
            variance = math.fsum(residuals * residuals) * count / (count - 1)
            half = _QUANTILE * math.sqrt(variance) / math.fsum(mass)
            intervals[kind] = [max(lowest, means[kind] - half), min(1.0, means[kind] + half)]
    return means, intervals


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
