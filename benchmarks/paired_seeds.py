"""Paired differences over a few seeds: mean, Student's interval, and the word that goes with it."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Paired", "auc", "differences", "interval", "of_auc", "shown", "up", "verdict"]

Run = dict[str, Any]
Paired = tuple[float, float, float]
# 97.5% points of Student's t for 2, 3, ... values
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values: Sequence[float]) -> Paired:
    """Mean and ends of the 95% interval; of one value it is without ends."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    point = _STUDENT[min(len(values), len(_STUDENT) + 1) - 2]
    half = point * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def differences(
    runs: Sequence[Run], name: str, other: str, value: Callable[[Run], float]
) -> list[float]:
    """``value`` of an arm minus that of another, seed by seed where both ran."""
    found = {(run["arm"], run["seed"]): value(run) for run in runs}
    seeds = sorted({seed for arm, seed in found if arm == name})
    return [found[name, s] - found[other, s] for s in seeds if (other, s) in found]


def of_auc(
    report: dict[str, Any], setting: str, one: str, other: str
) -> tuple[Paired, list[float]] | None:
    """Difference of two arms in AUC, with its interval, and seed by seed; None if not both ran.

    Planted logs are judged by the truth and differ from seed to seed, so the interval is over
    seeds. MovieLens is one log: there it is the study's, over its users and the seeds.
    """
    runs = [run for run in report["runs"] if run["setting"] == setting]
    each = differences(runs, one, other, auc)
    if not each:
        return None
    if any("expected_auc" in run for run in runs):
        return interval(each), each
    held = report["differences"]
    for sign, key in ((1, f"{setting}: {one} - {other}"), (-1, f"{setting}: {other} - {one}")):
        if key in held:
            mean, *ends = (sign * value for value in held[key]["auc"])
            return (mean, min(ends), max(ends)), each
    return interval(each), each


def auc(run: Run) -> float:
    """By the truth where it is known."""
    return run.get("expected_auc", run["auc"])


def shown(paired: Paired, digits: int = 4) -> str:
    """``+0.0123 [+0.0100, +0.0146]``; the mean alone if one seed is all there is."""
    mean, low, high = (f"{each:+.{digits}f}" for each in paired)
    return f"{mean} [{low}, {high}]" if math.isfinite(paired[1]) else mean


def up(values: Sequence[float]) -> str:
    """``4 of 5``."""
    return f"{sum(value > 0 for value in values)} of {len(values)}"


def verdict(paired: Paired) -> str:
    """Whether the difference is above zero, by its interval."""
    _, low, high = paired
    return "confirmed" if low > 0 else "**denied**" if high < 0 else "open: the interval holds 0"
