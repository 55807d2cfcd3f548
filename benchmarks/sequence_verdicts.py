"""Paired differences of the sequence study's arms, and the words that follow from them.

An interval over seeds is Student's, of the differences of one seed each; on planted logs, where
each seed has a log of its own, by the true probabilities. On MovieLens seeds share the rows, so it
tells of training alone, and the joint interval by labels, over users and seeds, has to agree.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.sequence_settings import SETTINGS

__all__ = [
    "auc_of",
    "half_closed",
    "interval",
    "labelled",
    "paired",
    "share_of",
    "shown",
    "spans",
    "verdict",
]

_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5%, one degree and more
Span = tuple[float, float, float]


def auc_of(report: Mapping[str, Any], setting: str, arm: str) -> dict[int, float]:
    """AUC of each seed, by the true probabilities where there are any."""
    return {
        run["seed"]: run.get("expected_auc", run["auc"])
        for run in report["runs"]
        if (run["setting"], run["arm"]) == (setting, arm)
    }


def paired(report: Mapping[str, Any], setting: str, arm: str, other: str) -> list[float]:
    """Differences in AUC, a seed each, of the seeds that both arms have."""
    one, two = (auc_of(report, setting, name) for name in (arm, other))
    return [one[seed] - two[seed] for seed in sorted(one.keys() & two.keys())]


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
    """Mean and 95% interval; None of fewer than two values."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    freedom = min(len(values) - 1, len(_STUDENT))
    half = _STUDENT[freedom - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def verdict(*spans: Span | None, above: float = 0.0) -> str:
    """``confirmed`` if every interval lies above a number, ``denied`` if one lies below it."""
    known = [span for span in spans if span is not None]
    if any(high < above for _, _, high in known):
        return "**denied**"
    if known and len(known) == len(spans) and all(low > above for _, low, _ in known):
        return "confirmed"
    return "not decided"


def labelled(report: Mapping[str, Any], setting: str, arm: str, other: str) -> Span | None:
    """The joint interval by labels of arm minus other, whichever of them was the control."""
    found = report["differences"].get(f"{setting}: {arm} - {other}")
    if found is not None:
        mean, low, high = found["auc"]
        return mean, low, high
    found = report["differences"].get(f"{setting}: {other} - {arm}")
    if found is None:
        return None
    mean, low, high = found["auc"]
    return -mean, -high, -low


def spans(report: Mapping[str, Any], setting: str, arm: str, other: str) -> tuple[Span | None, ...]:
    """What decides about arm minus other: over seeds and, on MovieLens, by labels too."""
    over_seeds = interval(paired(report, setting, arm, other))
    if not setting.startswith("movielens"):
        return (over_seeds,)
    return over_seeds, labelled(report, setting, arm, other)


def share_of(setting: str, part: str) -> float:
    """Share of a part in the variance of a planted setting's logit."""
    shares = SETTINGS[setting].shares
    return 0.0 if shares is None else shares.of(part)


def shown(span: Span | None) -> str:
    """A mean with its interval."""
    return "" if span is None else f"{span[0]:+.4f} [{span[1]:+.4f}, {span[2]:+.4f}]"
