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

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sidrank.metrics._columns import Column, group_column, label_column, score_column, weight_column
from sidrank.metrics._groups import GroupNumbers
from sidrank.metrics._keys import Keys, score_keys
from sidrank.metrics._words import (
    Positives,
    ranks,
    row_blocks,
    sort_in_place,
    stable_order,
    whole_runs,
)

__all__ = ["GroupAUCs", "group_aucs", "grouped_auc"]

_Floats = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]
_GROUP_SHIFT = np.uint64(33)  # below the group: 32 bits of score, one of label


class GroupAUCs(NamedTuple):
    """AUC of each group, ordered by group (strings by code point)."""

    group: npt.NDArray[Any]
    """The group, as the caller names it, shape ``[G]``."""
    auc: _Floats
    """AUC inside the group; NaN where it has one class, shape ``[G]``."""
    impressions: _Floats
    """Rows of the group (or the sum of their weights), shape ``[G]``."""
    positives: _Floats
    """Positive rows of the group (or the sum of their weights), shape ``[G]``."""

    def mean(
        self,
        *,
        weighting: Literal["impressions", "unweighted", "positives"] = "impressions",
        single_class: Literal["skip", "half", "raise"] = "skip",
    ) -> float:
        """Weighted mean over the groups: what :func:`grouped_auc` returns.

        Args:
            weighting: As for :func:`grouped_auc`.
            single_class: As for :func:`grouped_auc`.

        Returns:
            A float in [0, 1]; the order of the groups changes no bit of it.

        Raises:
            ValueError: If no group counts, or a group has one class under ``"raise"``.
        """
        masses = {
            "impressions": self.impressions,
            "unweighted": np.ones(len(self.auc)),
            "positives": self.positives,
        }
        if weighting not in masses:
            raise ValueError(
                f"weighting must be 'impressions', 'unweighted' or 'positives', got {weighting!r}"
            )
        if single_class not in ("skip", "half", "raise"):
            raise ValueError(
                f"single_class must be 'skip', 'half' or 'raise', got {single_class!r}"
            )
        undefined = np.isnan(self.auc)
        if single_class == "raise" and undefined.any():
            group = self.group[np.argmax(undefined)].item()
            raise ValueError(
                f"groups must each contain both classes, got one class in group {group!r}"
            )
        value, mass = np.where(undefined, 0.5, self.auc), masses[weighting]
        if single_class == "skip":
            value, mass = value[~undefined], mass[~undefined]
        total = math.fsum(mass)
        if not total > 0:
            raise ValueError(
                f"groups must include one that counts, got {len(undefined)} with one class each"
            )
        return min(math.fsum(value * mass) / total, 1.0)


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
    table = group_aucs(labels, scores, groups, weights=weights)
    return table.mean(weighting=weighting, single_class=single_class)


def group_aucs(
    labels: Column, scores: Column, groups: Column, *, weights: Column | None = None
) -> GroupAUCs:
    """AUC, rows and positives of every group: the parts :func:`grouped_auc` averages.

    One sort by group and score; no loop over groups.

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
    weight = weight_column(weights, len(positive))
    if weight is not None and not weight.all():
        counts = weight > 0
        positive, score = positive[counts], score[counts]
        group, weight = group[counts], weight[counts]
    numbers = GroupNumbers.of(group)
    words = _words(positive, score_keys(score), numbers)
    if weight is None:
        sort_in_place(words)
        return _count(words, numbers)
    # Rows of one word are added in the order of their weights, whatever the caller's is.
    order = stable_order(weight.view(np.int64))
    order = order[stable_order(words[order])]
    return _weigh(words[order], weight[order], numbers)


def _words(
    positive: npt.NDArray[np.bool_], keys: Keys, groups: GroupNumbers
) -> npt.NDArray[np.uint64]:
    """Group (31 bits), score (32) and label (1) of each row, shape ``[n]``."""
    if keys.dtype == np.uint64:
        keys = ranks(keys)[0]  # there are never more distinct scores than rows
    words = np.empty(len(positive), np.uint64)
    for block in row_blocks(len(words)):
        word = groups.numbers(block) << np.uint64(32)
        word |= keys[block]
        word <<= np.uint64(1)
        word |= positive[block]
        words[block] = word
    return words


def _count(words: npt.NDArray[np.uint64], groups: GroupNumbers) -> GroupAUCs:
    """Read off sorted words of rows that count once each."""
    starts = _group_starts(words)
    positives, places, tied = (np.zeros(len(starts), np.int64) for _ in range(3))
    before = 0  # groups that start before the block
    for run in whole_runs(words):
        found = Positives.of(words[run])
        inside = np.searchsorted(starts[before:], run.stop) + before
        at = np.searchsorted(starts[before:inside], run.start + found.places, "right")
        at += before - 1
        _add(positives, at, np.ones(len(at), np.int64))
        _add(places, at, run.start + found.places)
        at = np.searchsorted(starts[before:inside], run.start + found.tied_places, "right")
        _add(tied, at + before - 1, found.tied_pairs)
        before = inside
    rows = np.diff(starts, append=len(words))
    # A positive's place, less the positives before it, is the negatives it does not lose to.
    not_above = places - positives * starts - positives * (positives - 1) // 2
    return _table(
        groups.ids(words[starts] >> _GROUP_SHIFT),
        (2 * not_above - tied).astype(np.float64),
        positives.astype(np.float64),
        (rows - positives).astype(np.float64),
    )


def _group_starts(words: npt.NDArray[np.uint64]) -> _Counts:
    """First place of each group in sorted words, shape ``[G]``."""
    starts = [np.zeros(1, np.int64)]
    for block in row_blocks(len(words) - 1):
        group = words[block.start : block.stop + 1] >> _GROUP_SHIFT
        starts.append(np.flatnonzero(group[1:] != group[:-1]) + (block.start + 1))
    return np.concatenate(starts)


def _add(totals: _Counts, groups: _Counts, values: _Counts) -> None:
    """Add each value to the total of its group; ``groups`` ascend."""
    if len(groups):
        firsts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
        totals[groups[firsts]] += np.add.reduceat(values, firsts)


def _weigh(words: npt.NDArray[np.uint64], weight: _Floats, groups: GroupNumbers) -> GroupAUCs:
    """Read off sorted words of weighted rows."""
    starts = _group_starts(words)
    runs = np.flatnonzero(np.append(True, words[1:] | np.uint64(1) != words[:-1] | np.uint64(1)))
    first_run = np.searchsorted(runs, starts)
    # Weights relative to the group's own: its digits survive beside much heavier groups.
    scale = np.add.reduceat(weight, starts)
    weight = weight / np.repeat(scale, np.diff(starts, append=len(words)))
    positive = (words & np.uint64(1)).astype(np.bool_)
    above = np.add.reduceat(np.where(positive, weight, 0.0), runs)
    below = np.add.reduceat(np.where(positive, 0.0, weight), runs)
    wins = np.add.reduceat(above * (2 * _running_total(below, first_run) - below), first_run)
    positives = np.add.reduceat(above, first_run)
    negatives = np.add.reduceat(below, first_run)
    ids = groups.ids(words[starts] >> _GROUP_SHIFT)
    table = _table(ids, wins, positives, negatives)
    return table._replace(impressions=scale, positives=positives * scale)


def _table(
    group: npt.NDArray[Any], twice_wins: _Floats, positives: _Floats, negatives: _Floats
) -> GroupAUCs:
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a one-class group
        value = np.clip(twice_wins / (2.0 * positives * negatives), 0.0, 1.0)
    return GroupAUCs(group, value, positives + negatives, positives)


def _running_total(values: _Floats, starts: npt.NDArray[np.intp]) -> _Floats:
    """Cumulative sum that begins anew at each start, shape ``[m]``; a segment adds up to 1."""
    # In fixed point, sums that wrap around still differ by the right number: no group's digits
    # depend on the groups before it.
    fixed = np.ldexp(values, 61).astype(np.int64)
    running = np.cumsum(fixed)
    before = running[starts] - fixed[starts]
    running -= np.repeat(before, np.diff(starts, append=len(values)))
    return np.ldexp(running.astype(np.float64), -61)
