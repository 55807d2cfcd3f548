"""Section of the guide about planted situations: what the tower gains, and each of its parts."""

import math
import statistics
from typing import Any

from benchmarks.paired_seeds import Span, differences, interval, shown, verdict
from benchmarks.situations import ARMS, CONTROLS, LOG
from benchmarks.tables import table

AIM = 0.7
TOWER, DEALT = CONTROLS[2:]


def situations(report: dict[str, Any]) -> str:
    """AUC of each arm, the share of the gap from DIN to the best that it closes, and the claims."""
    runs = report["runs"]
    arms = [arm for arm in ARMS if any(run["arm"] == arm for run in runs)]
    seeds = {run["seed"] for run in runs}
    known = _mean(runs, "bayes_auc"), _mean(runs, "taste_auc")
    text = (
        f"Planted logs of {LOG.users:,} users with {12 * LOG.visits} behaviours each, of which"
        f" {LOG.accidents:.0%} mean nothing, and {LOG.requests} requests; {len(seeds)} seeds,"
        " judged on users that no model was trained on, by the true probabilities. The best"
        f" possible AUC is {known[0]:.4f}, that of who knows all but situations {known[1]:.4f}. The"
        " gap is that"
        " between DIN and the best, with Student's interval over seeds; all arms read the situation"
        " of the request, and the two DINs have at least as many parameters as the tower and twice"
        " its passes. *Dealt anew*: the situations of each user's behaviours, among them, in"
        " training and test."
    )
    rows: list[list[str]] = []
    for arm in arms:
        own = [run for run in runs if run["arm"] == arm]
        shares = report["closed"].get(arm, [])
        rows.append(
            [
                arm,
                f"{own[0]['parameters']:,}",
                f"{_mean(own, 'expected_auc'):.4f}",
                _percent(interval(shares)),
                ", ".join(f"{share:.0%}" for share in shares),
            ]
        )
    header = ["arm", "parameters", "AUC", "gap closed", "by seed"]
    parts = [f"## Planted situations\n\n{text}", table(header, rows), _claims(report)]
    without = [arm for arm in arms if arm not in CONTROLS]
    if without:
        parts.append(_parts(runs, without))
    return "\n\n".join(parts) + "\n"


def _claims(report: dict[str, Any]) -> str:
    shares, runs = report["closed"], report["runs"]
    aim = verdict(interval(shares.get(TOWER, [])), above=AIM)
    more = interval(differences(runs, TOWER, CONTROLS[1], _auc))
    nothing = interval(shares.get(DEALT, []))
    kept = [run for run in runs if run["arm"] == TOWER]
    return (
        f"That the tower closes {AIM:.0%} of the gap: {aim}. That it is better than DIN with"
        f" situations: {verdict(more)}. With situations dealt anew it closes"
        f" {_percent(nothing)}: {_nothing(nothing)}. Without a budget in the loss it kept"
        f" {_mean(kept, 'kept_accidents'):.0%} of the accidents and"
        f" {_mean(kept, 'kept_others'):.0%} of the rest."
    )


def _parts(runs: list[dict[str, Any]], without: list[str]) -> str:
    rows: list[list[str]] = []
    for arm in without:
        less = differences(runs, TOWER, arm, _auc)
        span = interval(less)
        rows.append(
            [
                arm.removeprefix("without "),
                shown(span),
                f"{sum(value > 0 for value in less)} of {len(less)}",
                _worth(span),
            ]
        )
    header = ["part", "AUC with it − without", "seeds up", "is it worth anything here"]
    return table(header, rows)


def _nothing(span: Span | None) -> str:
    if span is None:
        return "not run"
    if span[1] > 0:
        return "**the control gains too**"
    return "no gain"


def _worth(span: Span | None) -> str:
    """In words."""
    found = verdict(span)
    return {"confirmed": "yes", "**denied**": "**it costs**"}.get(found, "not seen")


def _percent(span: Span | None) -> str:
    if span is None:
        return ""
    mean, low, high = (f"{each:.0%}" for each in span)
    return f"{mean} [{low}, {high}]" if math.isfinite(span[1]) else mean


def _auc(run: dict[str, Any]) -> float:
    return run["expected_auc"]


def _mean(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.fmean(run[name] for run in runs)
