"""Mean of the AUCs inside groups (GAUC): how well each user's own rows are ranked.

Five libraries compute five different numbers under this name; the two choices that separate
them, how a group counts and what becomes of a group with one class, are arguments here:

==========================================  ===============  ================
library                                     ``weighting``    ``single_class``
==========================================  ===============  ================
FuxiCTR ``gAUC`` (the DIN paper's)          ``impressions``  ``skip``
FuxiCTR ``avgAUC``                          ``unweighted``   ``skip``
TorchEasyRec ``GroupedAUC``                 ``unweighted``   ``skip``
RecBole ``GAUC``                            ``positives``    ``skip``
torch-rechub ``gauc_score``                 ``impressions``  ``raise``
TorchRec ``compute_auc_per_group``          ``unweighted``   ``half``
TorchRec ``compute_gauc_3d``                ``unweighted``   ``skip``
==========================================  ===============  ================

Both of TorchRec's order tied scores by row, so they differ from this function on ties, and
``compute_gauc_3d`` also leaves out groups whose scores are all equal (0.5 here).

Source: Zhu et al., Optimized Cost per Click in Taobao Display Advertising, KDD 2017; Zhou et
al., Deep Interest Network, KDD 2018, equation 8.
Differs from the source: ties count one half; weighting and one-class groups are arguments.

Shapes: ``[n]`` rows, ``[m]`` runs of rows with one group and one score, ``[G]`` groups.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import Column, group_column, label_column, score_column, weight_column

__all__ = ["GroupAUCs", "group_aucs", "grouped_auc"]

_Floats = npt.NDArray[np.float64]


class GroupAUCs(NamedTuple):
    """AUC of each group, ordered by group (strings by code point)."""

    first_row: npt.NDArray[np.intp]
    """A row of the caller's that belongs to the group, shape ``[G]``."""
    auc: _Floats
    """AUC inside the group; NaN where it has one class, shape ``[G]``."""
    impressions: _Floats
    """Rows of the group (or the sum of their weights), shape ``[G]``."""
    positives: _Floats
    """Positive rows of the group (or the sum of their weights), shape ``[G]``."""


def grouped_auc(
    labels: Column,
    scores: Column,
    groups: Column,
    *,
    weights: Column | None = None,
    weighting: Literal["impressions", "unweighted", "positives"] = "impressions",
    single_class: Literal["skip", "half", "raise"] = "skip",
) -> float:
    """Weighted mean of the exact AUC inside each group.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Any integer or float dtype, shape ``[n]``; NaN is refused.
        groups: Integers or strings, shape ``[n]``; a group's rows need not be adjacent.
        weights: Row weights, finite and not negative, shape ``[n]``. They weigh the pairs inside
            a group and, except under ``"unweighted"``, the group itself; a row of weight zero is
            as good as absent.
        weighting: A group counts as its rows (``"impressions"``), as one (``"unweighted"``) or
            as its positive rows (``"positives"``).
        single_class: A group with one class is left out (``"skip"``), counts as 0.5 with its
            weight (``"half"``), or is refused (``"raise"``).

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: If no group counts, a group has one class under ``"raise"``, a score is NaN, a
            label is neither 0 nor 1, a weight is negative or not finite, a group is neither an
            integer nor a string, the columns differ in length, or there is no row.

    Example:
        >>> labels, scores = [1, 0, 1, 0, 0, 1], [0.9, 0.1, 0.2, 0.8, 0.3, 0.7]
        >>> users = ["ann", "ann", "bob", "bob", "bob", "cid"]
        >>> grouped_auc(labels, scores, users)
        0.4
        >>> grouped_auc(labels, scores, users, weighting="unweighted", single_class="half")
        0.5
    """
    if weighting not in ("impressions", "unweighted", "positives"):
        raise ValueError(
            f"weighting must be 'impressions', 'unweighted' or 'positives', got {weighting!r}"
        )
    if single_class not in ("skip", "half", "raise"):
        raise ValueError(f"single_class must be 'skip', 'half' or 'raise', got {single_class!r}")
    table = group_aucs(labels, scores, groups, weights=weights)
    undefined = np.isnan(table.auc)
    if single_class == "raise" and undefined.any():
        row = int(table.first_row[np.argmax(undefined)])
        raise ValueError(
            f"groups must each contain both classes, got one class in the group of row {row}"
        )
    mass = {"impressions": table.impressions, "positives": table.positives}.get(
        weighting, np.ones(len(table.auc))
    )
    if single_class == "half":
        value = np.where(undefined, 0.5, table.auc)
    else:
        value, mass = table.auc[~undefined], mass[~undefined]
    if not mass.sum() > 0:
        raise ValueError(
            f"groups must include one that counts, got {len(undefined)} with one class each"
        )
    return float(np.average(value, weights=mass))


def group_aucs(
    labels: Column, scores: Column, groups: Column, *, weights: Column | None = None
) -> GroupAUCs:
    """AUC, rows and positives of every group: the parts :func:`grouped_auc` averages.

    One sort by group and score, then cumulative sums; no loop over groups.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Any integer or float dtype, shape ``[n]``; NaN is refused.
        groups: Integers or strings, shape ``[n]``.
        weights: Row weights, finite and not negative, shape ``[n]``. The sums returned are
            relative to the largest weight.

    Returns:
        One entry per group that has a row of positive weight.

    Raises:
        ValueError: If a column is not what :func:`grouped_auc` asks for.
    """
    positive = label_column(labels)
    score = score_column(scores, len(positive))
    group = group_column(groups, len(positive))
    if group.dtype.kind in "US":  # integers sort much faster
        group = np.unique(group, return_inverse=True)[1]
    weight = weight_column(weights, len(positive))
    order = np.lexsort((score, group))
    if weight is not None:
        order = order[weight[order] > 0]
    positive, score, group = positive[order], score[order], group[order]
    new_group = np.append(True, group[1:] != group[:-1])
    new_run = new_group | np.append(True, score[1:] != score[:-1])
    starts = np.flatnonzero(new_group)
    runs = np.flatnonzero(new_run)
    first_run = np.cumsum(new_run)[starts] - 1  # index into runs of each group's first one
    mass = np.diff(starts, append=len(order)).astype(np.float64)
    if weight is None:
        above = np.add.reduceat(positive, runs, dtype=np.int64)
        below = np.diff(runs, append=len(order)) - above
        scale = np.ones(len(starts))
    else:
        # Weights relative to the group's own: its digits survive beside much heavier groups.
        sizes, weight = mass.astype(np.int64), weight[order]
        mass = scale = np.add.reduceat(weight, starts)
        weight = weight / np.repeat(scale, sizes)
        above = np.add.reduceat(np.where(positive, weight, 0.0), runs)
        below = np.add.reduceat(np.where(positive, 0.0, weight), runs)
    pairs = np.add.reduceat(above * (2 * _running_total(below, first_run) - below), first_run)
    positives = np.add.reduceat(above, first_run).astype(np.float64)
    negatives = np.add.reduceat(below, first_run).astype(np.float64)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a one-class group
        value = np.clip(pairs / (2.0 * positives * negatives), 0.0, 1.0)
    return GroupAUCs(order[starts], value, mass, positives * scale)


def _running_total(
    values: npt.NDArray[np.int64] | _Floats, starts: npt.NDArray[np.intp]
) -> _Floats:
    """Cumulative sum that begins anew at each start, shape ``[m]``."""
    # Taking each segment's total off at the next start keeps the running sum as small as a
    # segment: a cumulative sum over all rows would lose the digits of small weights.
    totals = np.add.reduceat(values, starts)
    stepped = values.copy()
    stepped[starts[1:]] -= totals[:-1]
    running = np.cumsum(stepped)
    drift = running[starts] - values[starts]
    return running - np.repeat(drift, np.diff(starts, append=len(values)))
