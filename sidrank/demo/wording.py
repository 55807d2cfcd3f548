"""Names of a report's arms, metrics and protocols, and how a number or an interval is written.

Shapes: a report is a tree of dictionaries, lists, numbers and strings (see
:func:`sidrank.demo.report.write_report`); every part of it may be absent.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from sidrank.metrics import Interval

__all__ = [
    "ARMS",
    "METRICS",
    "SPLITS",
    "Report",
    "Tone",
    "finite",
    "interval_at",
    "interval_text",
    "metric_text",
    "pair_name",
    "read_interval",
    "signed",
    "tone",
]

Report: TypeAlias = Mapping[str, Any]
Tone: TypeAlias = Literal["gain", "none", "loss", "unknown"]

ARMS = {
    "lr": "LR",
    "host": "Host",
    "host_matched": "Host, wider",
    "host_vector": "Host + raw vector",
    "host_scalars": "Host + two scalars",
    "sid_only": "SID only",
    "concat": "SID fields, no gate",
    "hybrid": "Hybrid",
    "hybrid_convex": "Hybrid, convex",
    "hybrid_memorization": "Hybrid + memorisation",
    "hybrid_shuffled": "Hybrid, shuffled SIDs",
    "host_continued": "Host, trained on",
    "upgraded": "Upgraded host",
    "upgraded_shuffled": "Upgraded, shuffled SIDs",
}
METRICS = {
    "auc": "AUC",
    "gauc": "GAUC",
    "auc_cold": "AUC, cold items",
    "auc_new_tail": "AUC, new + tail items",
    "auc_head": "AUC, head items",
    "log_loss": "Log loss",
    "normalized_entropy": "NE",
    "parameters": "Parameters",
    "seconds": "Seconds",
}
SPLITS = {
    "cold_items": "Cold-item protocol",
    "per_user": "Each user's last rows",
    "global_time": "Last rows by time",
}


def tone(interval: Interval | None) -> Tone:
    """How an interval lies: above zero, around it, below it.

    Args:
        interval: The interval; None if it was not measured.

    Returns:
        ``"gain"``, ``"none"``, ``"loss"``, or ``"unknown"`` for None.
    """
    if interval is None:
        return "unknown"
    return "gain" if interval.low > 0 else "loss" if interval.high < 0 else "none"


def interval_at(report: Report, split: str, pair: str, metric: str) -> Interval | None:
    """Read one paired difference.

    Args:
        report: The report.
        split: Name of the protocol.
        pair: ``"<arm>_vs_<arm>"``.
        metric: Name of the metric.

    Returns:
        The interval, or None if it is absent or not finite.
    """
    node: Any = report.get("splits", {})
    for key in (split, "paired", pair, metric):
        node = node.get(key) if isinstance(node, Mapping) else None
    return read_interval(node)


def read_interval(value: object) -> Interval | None:
    """Read ``[mean, low, high]``.

    Args:
        value: A list of three numbers, or anything else.

    Returns:
        The interval, or None if ``value`` is not three finite numbers.
    """
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    mean, low, high = (finite(number) for number in value)
    return None if mean is None or low is None or high is None else Interval(mean, low, high)


def finite(value: object) -> float | None:
    """Read a number.

    Args:
        value: A number, or anything else.

    Returns:
        The number, or None if it is none or not finite.
    """
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign, a real minus.

    Args:
        value: The number.
        digits: Digits after the point.

    Returns:
        For example ``+0.0672``.
    """
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "+")


def interval_text(interval: Interval | None) -> str:
    """An interval as text.

    Args:
        interval: The interval, or None.

    Returns:
        For example ``+0.0672 [+0.0512, +0.0831]``, or ``n/a``; the two ends are kept on one
        line by a space that does not break.
    """
    if interval is None:
        return "n/a"
    mean, low, high = map(signed, interval)
    return f"{mean} [{low},\N{NO-BREAK SPACE}{high}]"


def pair_name(pair: str) -> str:
    """Name a pair by its two arms.

    Args:
        pair: ``"<arm>_vs_<arm>"``.

    Returns:
        For example ``Hybrid vs Host``.
    """
    first, _, second = pair.partition("_vs_")
    return f"{ARMS.get(first, first)} vs {ARMS.get(second, second)}"


def metric_text(metric: str, value: object) -> str:
    """One arm's metric as text.

    Args:
        metric: Name of the metric.
        value: Its value, or None.

    Returns:
        Four digits, a count, or seconds; ``n/a`` for None.
    """
    number = finite(value)
    if number is None:
        return "n/a"
    return {"parameters": f"{number:,.0f}", "seconds": f"{number:.1f}"}.get(metric, f"{number:.4f}")
