"""Paired differences of a study's arms over a few seeds, and the words that follow from them.

An interval over seeds is Student's, of the differences of one seed each; on planted logs, where
each seed has a log of its own, by the true probabilities. On MovieLens seeds share the rows, so it
tells of training alone, and the joint interval by labels, over users and seeds, is what counts.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.sequence_settings import SETTINGS

__all__ = [
    "Span",
    "auc",
    "auc_of",
    "differences",
    "half_closed",
    "interval",
    "labelled",
    "of_auc",
    "paired",
    "share_of",
    "shown",
    "spans",
    "up",
    "verdict",
]

Run = dict[str, Any]
Span = tuple[float, float, float]
# 97.5% points of Student's t for 2, 3, ... values
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def auc(run: Mapping[str, Any]) -> float:
    """By the truth where it is known."""
    return run.get("expected_auc", run["auc"])


def auc_of(report: Mapping[str, Any], setting: str, arm: str) -> dict[int, float]:
    """AUC of each seed."""
    runs = report["runs"]
    return {r["seed"]: auc(r) for r in runs if (r["setting"], r["arm"]) == (setting, arm)}


def differences(
    runs: Sequence[Run], name: str, other: str, value: Callable[[Run], float]
) -> list[float]:
    """``value`` of an arm minus that of another, seed by seed where both ran."""
    found = {(run["arm"], run["seed"]): value(run) for run in runs}
    seeds = sorted({seed for arm, seed in found if arm == name})
    return [found[name, s] - found[other, s] for s in seeds if (other, s) in found]


def paired(report: Mapping[str, Any], setting: str, arm: str, other: str) -> list[float]:
    """Differences in AUC, a seed each, of the seeds that both arms have."""
    runs = [run for run in report["runs"] if run["setting"] == setting]
    return differences(runs, arm, other, auc)


def half_closed(
    report: Mapping[str, Any], setting: str, arm: str, low: str, high: str
) -> tuple[float, list[float]]:
    """Share of the way from low to high that an arm goes, and what it goes beyond half of it."""
    found = [auc_of(report, setting, name) for name in (arm, low, high)]
    seeds = sorted(set.intersection(*map(set, found)))
    gone = [found[0][seed] - found[1][seed] for seed in seeds]
    way = [found[2][seed] - found[1][seed] for seed in seeds]
    share = sum(gone) / sum(way) if sum(way) > 0 else math.nan
    return share, [one - 0.5 * all_of_it for one, all_of_it in zip(gone, way, strict=True)]


def interval(values: Sequence[float]) -> Span | None:
    """Mean and ends of the 95% interval; of one value without ends, of none nothing."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    point = _STUDENT[min(len(values), len(_STUDENT) + 1) - 2]
    half = point * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def labelled(report: Mapping[str, Any], setting: str, arm: str, other: str) -> Span | None:
    """The joint interval by labels of arm minus other, whichever of them was the control."""
    for sign, key in ((1, f"{setting}: {arm} - {other}"), (-1, f"{setting}: {other} - {arm}")):
        if key in report["differences"]:
            mean, *ends = (sign * value for value in report["differences"][key]["auc"])
            return mean, min(ends), max(ends)
    return None


def spans(report: Mapping[str, Any], setting: str, arm: str, other: str) -> tuple[Span | None, ...]:
    """What decides about arm minus other: over seeds and, on MovieLens, by labels too."""
    over_seeds = interval(paired(report, setting, arm, other))
    if not setting.startswith("movielens"):
        return (over_seeds,)
    return over_seeds, labelled(report, setting, arm, other)


def of_auc(
    report: Mapping[str, Any], setting: str, one: str, other: str
) -> tuple[Span, list[float]] | None:
    """The widest ground for a claim, with the differences of each seed; None if not both ran.

    Over seeds on planted logs; on MovieLens the joint interval by labels where there is one.
    """
    each = paired(report, setting, one, other)
    found = spans(report, setting, one, other)
    span = found[-1] or found[0]
    return None if span is None else (span, each)


def verdict(*spans: Span | None, above: float = 0.0) -> str:
    """``confirmed`` if every interval lies above a number, ``denied`` if one lies below it."""
    known = [span for span in spans if span is not None]
    if any(high < above for _, _, high in known):
        return "**denied**"
    if known and len(known) == len(spans) and all(low > above for _, low, _ in known):
        return "confirmed"
    return "open"


def shown(span: Span | None, digits: int = 4) -> str:
    """``+0.0123 [+0.0100, +0.0146]``; the mean alone if one seed is all there is."""
    if span is None:
        return ""
    mean, low, high = (f"{each:+.{digits}f}" for each in span)
    return f"{mean} [{low}, {high}]" if math.isfinite(span[1]) else mean


def up(values: Sequence[float]) -> str:
    """``4 of 5``."""
    return f"{sum(value > 0 for value in values)} of {len(values)}"


def share_of(setting: str, part: str) -> float:
    """Share of a part in the variance of a planted setting's logit."""
    shares = SETTINGS[setting].shares
    return 0.0 if shares is None else shares.of(part)
