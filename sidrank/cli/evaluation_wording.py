"""How an evaluation's figures are called and written, in the terminal and on the page alike.

Shapes: none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sidrank.cli.evaluation_figures import Figures

__all__ = [
    "NOTHING",
    "HeadlineRow",
    "headline_rows",
    "interval_text",
    "largest",
    "number_text",
    "p_text",
    "p_value_text",
    "shown",
    "signed_text",
]

_PROBABILITY_NAMES = {
    "logloss": "Log loss",
    "normalized_entropy": "Normalized entropy",
    "calibration": "Calibration",
    "brier": "Brier score",
    "ece": "ECE, 15 bins",
}
NOTHING = "–"
_LEAST_P = 0.0001
_GAUC_NAMES = {
    "impressions": "GAUC by impressions",
    "unweighted": "GAUC unweighted",
    "positives": "GAUC by positives",
}


class HeadlineRow(NamedTuple):
    """One figure of all rows."""

    name: str
    value: float | None
    interval: list[float] | None
    other: float | None
    """The same figure of the compared scores."""
    delta: float | None
    """The scores' minus the others'."""
    delta_interval: list[float] | None


def headline_rows(found: Figures) -> list[HeadlineRow]:
    """The figures of all rows, one line each.

    Args:
        found: The figures.

    Returns:
        AUC, the GAUCs if there are groups, then the figures of the probabilities.
    """
    compared = found["compare"]
    other: dict[str, Any] = {} if compared is None else compared
    rows = [
        HeadlineRow(
            "AUC",
            found["auc"],
            found["auc_interval"],
            other.get("auc"),
            other.get("delta_auc"),
            other.get("interval"),
        )
    ]
    gauc: Figures = found["gauc"] or {}
    for kind, name in _GAUC_NAMES.items() if gauc else ():
        theirs = [
            (other.get(key) or {}).get(kind)
            for key in ("gauc", "delta_gauc", "delta_gauc_interval")
        ]
        rows.append(HeadlineRow(name, gauc[kind], found["gauc_interval"][kind], *theirs))
    for key, name in _PROBABILITY_NAMES.items():
        mine, control = found[key], other.get(key)
        delta = None if mine is None or control is None else mine - control
        rows.append(HeadlineRow(name, mine, None, control, delta, None))
    return rows


def p_value_text(found: Figures) -> str:
    """Say what the paired test of all rows says.

    Args:
        found: The figures, with a comparison.

    Returns:
        A sentence.
    """
    value = found["compare"]["p_value"]
    if value is None:
        return "The difference in AUC could not be tested."
    sign = "=" if value >= _LEAST_P else ""
    test = "paired DeLong test" + ("" if found["groups"] is None else ", clustered by group")
    return f"Difference in AUC: p {sign} {p_text(value)} ({test}).".replace("  ", " ")


def largest(slices: Figures, most: int) -> Figures:
    """The slices with the most rows.

    Args:
        slices: Figures by slice.
        most: How many to keep.

    Returns:
        Their figures, in the order of ``slices``.
    """
    if len(slices) <= most:
        return slices
    kept = set(sorted(slices, key=lambda name: slices[name]["rows"], reverse=True)[:most])
    return {name: each for name, each in slices.items() if name in kept}


def number_text(value: float | None, digits: int = 6) -> str:
    """Write a figure.

    Args:
        value: The figure; None if there is none.
        digits: Decimals; six tell launches apart.

    Returns:
        The figure; a dash for None.
    """
    return NOTHING if value is None else f"{value:.{digits}f}"


def signed_text(value: float | None, digits: int = 6) -> str:
    """Write a difference.

    Args:
        value: The difference; None if there is none.
        digits: Decimals.

    Returns:
        The difference with its sign; a dash for None.
    """
    return NOTHING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def interval_text(ends: Sequence[float] | None, digits: int = 6, *, signed: bool = False) -> str:
    """Write an interval.

    Args:
        ends: Both ends; None if there is no interval.
        digits: Decimals.
        signed: Whether it is one of a difference.

    Returns:
        ``[low, high]``; a dash for None.
    """
    if ends is None:
        return NOTHING
    write = signed_text if signed else number_text
    return f"[{write(ends[0], digits)}, {write(ends[1], digits)}]"


def p_text(value: float | None) -> str:
    """Write a p-value.

    Args:
        value: The p-value; None if there was no test.

    Returns:
        Up to four decimals; a dash for None.
    """
    if value is None:
        return NOTHING
    return "< 0.0001" if value < _LEAST_P else f"{value:.4f}"


def shown(name: str) -> str:
    r"""A name out of a file, without what a terminal would obey.

    Args:
        name: The name.

    Returns:
        The name, escaped if it holds anything that cannot be printed.

    Example:
        >>> shown("Köln"), shown(chr(27) + "[2J")
        ('Köln', '\\x1b[2J')
    """
    return name if name.isprintable() else ascii(name)[1:-1]
