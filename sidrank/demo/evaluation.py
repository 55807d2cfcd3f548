"""Scores of all arms and seeds → the tables of the report.

Differences are paired (same rows, same seed) and their intervals come from a joint bootstrap
over users and seeds.

Shapes: ``n`` judged rows of one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidrank.metrics import (
    PairedRun,
    auc,
    grouped_auc,
    log_loss,
    normalized_entropy,
    paired_interval,
)

__all__ = ["BUCKETS", "PAIRS", "Judged", "arm_figures", "by_frequency", "paired_figures"]

PAIRS = (
    ("hybrid", "host"),
    ("hybrid", "host_matched"),
    ("hybrid", "host_vector"),
    ("hybrid", "host_scalars"),
    ("hybrid", "hybrid_shuffled"),
    ("hybrid_shuffled", "host"),
    ("host_vector", "host"),
    ("host_scalars", "host"),
    ("host", "lr"),
    ("hybrid_convex", "host"),
    ("hybrid_memorization", "hybrid"),
    ("concat", "host"),
    ("sid_only", "host"),
)
BUCKETS = ((0, 0), (1, 4), (5, 19), (20, 49), (50, 10**9))

Bools = NDArray[np.bool_]
Triple = list[float] | None


@dataclass(frozen=True, slots=True)
class Judged:
    """Judged rows of one seed with the logits of its arms.

    Attributes:
        users: User of each row, shape ``[n]``.
        labels: 1 for a like, shape ``[n]``.
        frequency: Training rows of the row's item, shape ``[n]``.
        head: Whether the item is of the most frequent fifth in training, shape ``[n]``.
        exposure: Impressions of the item strictly before the row, shape ``[n]``.
        logits: By arm, shape ``[n]``.
    """

    users: NDArray[np.int64]
    labels: NDArray[np.int64]
    frequency: NDArray[np.int64]
    head: Bools
    exposure: NDArray[np.int64]
    logits: dict[str, NDArray[np.float64]]

    def slice(self, name: str) -> Bools:
        """Rows that a measure is taken on.

        Args:
            name: ``auc_cold``, ``auc_head``, ``auc_new_tail``; any other is all rows.

        Returns:
            A mask, shape ``[n]``.
        """
        if name == "auc_cold":
            return self.frequency == 0
        if name in ("auc_head", "auc_new_tail"):
            return self.head if name == "auc_head" else ~self.head
        return np.ones(len(self.labels), dtype=bool)


def arm_figures(runs: Sequence[Judged], arm: str, *, cold: bool) -> dict[str, float | None]:
    """Means over the seeds of an arm's measures.

    Args:
        runs: One for each seed.
        arm: Name of the arm.
        cold: Whether rows of cold items are a slice of their own.

    Returns:
        AUC, GAUC, log loss, NE and AUC by slice; None where a slice has one class.
    """
    figures: dict[str, list[float]] = {}
    for run in runs:
        logits = run.logits[arm]
        probabilities = 1 / (1 + np.exp(-logits))
        figures.setdefault("gauc", []).append(grouped_auc(run.labels, logits, run.users))
        figures.setdefault("log_loss", []).append(log_loss(run.labels, probabilities))
        figures.setdefault("normalized_entropy", []).append(
            normalized_entropy(run.labels, probabilities)
        )
        for name in _slices(cold):
            rows = run.slice(name)
            if len(np.unique(run.labels[rows])) == 2:
                figures.setdefault(name, []).append(auc(run.labels[rows], logits[rows]))
    names = ["gauc", "log_loss", "normalized_entropy", *_slices(cold)]
    return {name: float(np.mean(figures[name])) if name in figures else None for name in names}


def paired_figures(
    runs: Sequence[Judged], treatment: str, control: str, *, cold: bool
) -> dict[str, Triple]:
    """Differences between two arms, each as mean, low and high.

    Args:
        runs: One for each seed.
        treatment: The arm that is positive when better.
        control: The arm it is compared with.
        cold: Whether rows of cold items are a slice of their own.

    Returns:
        ``auc``, ``gauc``, ``auc_new_tail`` and ``auc_cold``; None where it cannot be measured.
    """
    names = [name for name in ("gauc", *_slices(cold)) if name != "auc_head"]
    return {
        name: _interval(runs, treatment, control, [run.slice(name) for run in runs], name)
        for name in names
    }


def by_frequency(runs: Sequence[Judged], treatment: str, control: str) -> list[dict[str, object]]:
    """AUC difference by how many training rows an item has.

    Args:
        runs: One for each seed.
        treatment: The arm that is positive when better.
        control: The arm it is compared with.

    Returns:
        One entry a bucket, rarest first.
    """
    entries: list[dict[str, object]] = []
    for low, high in BUCKETS:
        masks = [(run.frequency >= low) & (run.frequency <= high) for run in runs]
        name = str(low) if low == high else f"{low}-{high}" if high < 10**9 else f"{low}+"
        rows = sum(int(mask.sum()) for mask in masks)
        delta = _interval(runs, treatment, control, masks, "auc") if rows else None
        entries.append({"bucket": name, "rows": rows, "delta": delta})
    return entries


def _slices(cold: bool) -> tuple[str, ...]:
    return ("auc", "auc_new_tail", "auc_head", *(("auc_cold",) if cold else ()))


def _interval(
    runs: Sequence[Judged], treatment: str, control: str, masks: Sequence[Bools], name: str
) -> Triple:
    paired = _paired_runs(runs, treatment, control, masks)
    if not paired:
        return None
    try:
        found = paired_interval(paired, metric="gauc" if name == "gauc" else "auc")
    except ValueError as error:
        if "enough users to resample" not in str(error):
            raise
        return None  # the report says n/a
    return [found.mean, found.low, found.high]


def _paired_runs(
    runs: Sequence[Judged], treatment: str, control: str, masks: Sequence[Bools]
) -> list[PairedRun]:
    """Runs in the form that ``paired_interval`` takes, without those of one class.

    Args:
        runs: One for each seed.
        treatment: The arm that is positive when better.
        control: The arm it is compared with.
        masks: Rows to measure on, for each run.

    Returns:
        One for each run whose masked rows have both classes.
    """
    return [
        PairedRun(
            users=run.users,
            labels=run.labels,
            treatment=run.logits[treatment],
            control=run.logits[control],
            mask=mask,
        )
        for run, mask in zip(runs, masks, strict=True)
        if len(np.unique(run.labels[mask])) == 2
    ]
