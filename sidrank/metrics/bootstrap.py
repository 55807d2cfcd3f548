"""Interval of AUC or GAUC from resampled users: what is left of doubt when their rows are alike.

A user brings a handful of rows that share habits, screen and luck. Resampling rows pretends that
they are independent and gives intervals that are too short; resampling whole users does not.
The sums of each user are taken once, so that a draw of GAUC costs one pass over the users and a
draw of AUC one over the rows. For the AUC of very many rows :func:`sidrank.metrics.delong` with
``groups=`` gives nearly the same interval without a draw; GAUC has no such formula here.

Source: the bootstrap over clusters, Davison and Hinkley, Bootstrap Methods and their
Application, 1997, section 3.8; the percentile interval, section 5.3.1.
Differs from the source: nothing. How often it covers: ``benchmarks/coverage.py``.

Shapes: ``[n]`` rows, ``[G]`` groups.
"""

from typing import Literal

import numpy as np

from sidrank.metrics._columns import Column, group_column, label_column, score_column
from sidrank.metrics._groups import GroupNumbers
from sidrank.metrics._resampled import (
    ResampledAUC,
    ResampledGAUC,
    Weighting,
    check_options,
    percentile_ends,
    resample,
)
from sidrank.metrics._words import ranks
from sidrank.metrics.intervals import Interval

__all__ = ["cluster_bootstrap"]


def cluster_bootstrap(
    labels: Column,
    scores: Column,
    groups: Column,
    *,
    control: Column | None = None,
    metric: Literal["auc", "gauc"] = "gauc",
    weighting: Weighting = "impressions",
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """AUC or GAUC, or a difference of two models, with its percentile interval over groups.

    Several seeds or folds of a model: :func:`sidrank.metrics.paired_interval`.

    Args:
        labels: Booleans or numbers in {0, 1}, shape ``[n]``.
        scores: Any integer or float dtype, shape ``[n]``; NaN is refused.
        groups: Integers or strings, shape ``[n]``; groups are independent, rows of one may not be.
        control: Scores of a second model on the same rows, shape ``[n]``: its value is taken off
            in every draw.
        metric: ``"gauc"``, groups with one class left out, or ``"auc"``.
        weighting: How a group counts in GAUC, as in :func:`sidrank.metrics.grouped_auc`.
        draws: Bootstrap draws.
        confidence: Share of the draws inside the interval.
        seed: Seed of the resampling; the interval is a function of it.

    Returns:
        The value on all rows, and the two ends.

    Raises:
        ValueError: If an option is not one of those above, ``draws`` is below 2, ``confidence`` is
            not in (0, 1), a column is bad (see :func:`sidrank.metrics.grouped_auc`), there is one
            group, the rows have one class (``"gauc"``: every group has), or more than one draw in
            twenty has.

    Example:
        >>> users = ["ann", "ann", "bob", "bob", "cid", "cid"]
        >>> cluster_bootstrap([1, 0, 1, 0, 1, 0], [0.9, 0.1, 0.2, 0.8, 0.6, 0.3], users)
        Interval(mean=0.6666666666666666, low=0.0, high=1.0)
    """
    check_options(metric, draws, confidence)
    if weighting not in ("impressions", "unweighted", "positives"):
        raise ValueError(
            f"weighting must be 'impressions', 'unweighted' or 'positives', got {weighting!r}"
        )
    positive = label_column(labels)
    rows = len(positive)
    columns = [score_column(scores, rows)]
    if control is not None:
        columns.append(score_column(control, rows, "control"))
    group = group_column(groups, rows)
    if group.dtype.kind in "US":
        group = GroupNumbers.of(group).column
    number, first_row = ranks(group)
    user, num_users = number.astype(np.intp), len(first_row)
    if num_users < 2:
        raise ValueError(f"groups must be at least 2, got {num_users}")
    if metric == "auc":
        measure = ResampledAUC(user, positive, columns)
    else:
        measure = ResampledGAUC(user, positive, columns, weighting)
    plain = measure(np.ones(num_users, np.int64))
    if np.isnan(plain) and metric == "auc":
        positives = int(np.count_nonzero(positive))
        raise ValueError(
            f"labels must contain both classes, got {positives} positives in {rows} rows"
        )
    if np.isnan(plain):
        raise ValueError(
            f"groups must include one that counts, got {num_users} with one class each"
        )
    generator = np.random.default_rng(seed)
    drawn = [measure(resample(generator, num_users, num_users)) for _ in range(draws)]
    defined = [value for value in drawn if not np.isnan(value)]
    return Interval(plain, *percentile_ends(defined, draws, confidence, "groups"))
