"""The plots of an evaluation's page.

Shapes: ``[n]`` rows, ``[m]`` bins of a reliability table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sidrank.metrics import Reliability
from sidrank.pages.drawing import COLORS, INK, MARKERS, STYLE, svg

__all__ = ["reliability_plot", "score_histogram", "slice_plot"]

_LITERAL: dict[Any, Any] = STYLE | {"text.parse_math": False}  # a $ in a name is a $
_BINS = 40
_BLOCK = 1 << 18


def reliability_plot(tables: Mapping[str, Reliability]) -> str:
    """Observed rate over predicted probability, bin by bin, with intervals.

    Args:
        tables: Reliability by name of the scores.

    Returns:
        An ``<svg>`` element.
    """
    with mpl.rc_context(_LITERAL):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for index, (name, table) in enumerate(tables.items()):
            axes.errorbar(
                table.prediction,
                table.rate,
                yerr=np.stack([table.rate - table.low, table.high - table.rate]),
                fmt=MARKERS[index],
                markersize=4,
                color=COLORS[index],
                capsize=2,
                label=_short(name),
            )
        points = [np.concatenate([each.prediction, each.high]) for each in tables.values()]
        end = float(np.max(np.concatenate(points)))
        axes.plot([0, end], [0, end], color=INK, linewidth=1, linestyle="--")
        axes.set_xlabel("mean predicted probability")
        axes.set_ylabel("observed rate")
        figure.legend(loc="outside upper left", ncols=2)
        return svg(figure, "Observed rate by predicted probability")


def score_histogram(labels: NDArray[np.bool_], scores: NDArray[Any], weights: Any) -> str:
    """How the scores of positive and of negative rows are spread.

    Args:
        labels: Whether each row is positive, shape ``[n]``.
        scores: Scores without NaN, shape ``[n]``; infinite ones are left out.
        weights: Weight of each row, shape ``[n]``, or None.

    Returns:
        An ``<svg>`` element; nothing if no score is finite.
    """
    low, high = _finite_range(scores)
    if not low <= high:
        return ""
    counts = np.zeros((2, _BINS))
    edges = np.histogram_bin_edges([], _BINS, (low, high))
    for start in range(0, len(labels), _BLOCK):
        rows = slice(start, start + _BLOCK)
        score, weight = scores[rows].astype(np.float64), None if weights is None else weights[rows]
        for positive in (False, True):
            chosen = (labels[rows] == positive) & np.isfinite(score)
            mass = None if weight is None else weight[chosen]
            counts[int(positive)] += np.histogram(score[chosen], edges, weights=mass)[0]
    with mpl.rc_context(_LITERAL):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(("negative rows", "positive rows")):
            share = counts[index] / max(counts[index].sum(), np.finfo(np.float64).tiny)
            axes.stairs(share, edges, color=COLORS[index], label=name, linestyle=("-", "--")[index])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("score")
        axes.set_ylabel("share of the class")
        figure.legend(loc="outside upper left", ncols=2)
        return svg(figure, "Scores of positive and negative rows")


def slice_plot(
    names: Sequence[str], values: Sequence[float], ends: Sequence[Any], what: str
) -> str:
    """One figure of every slice with its interval.

    Args:
        names: The slices.
        values: The figure of each.
        ends: Interval of each, or None.
        what: Name of the figure.

    Returns:
        An ``<svg>`` element.
    """
    sideways: dict[Any, Any] = _LITERAL | {"axes.grid.axis": "x"}
    with mpl.rc_context(sideways):
        figure = Figure(figsize=(4.2, 1.0 + 0.26 * len(names)), layout="constrained")
        axes = figure.subplots()
        spans = [
            [value, value] if end is None else end for value, end in zip(values, ends, strict=True)
        ]
        low, high = np.array(spans, dtype=np.float64).T
        middle = np.array(values, dtype=np.float64)
        axes.errorbar(
            middle,
            np.arange(len(names)),
            xerr=np.abs(np.stack([middle - low, high - middle])),
            fmt=MARKERS[0],
            markersize=4,
            color=COLORS[0],
            capsize=2,
        )
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(what)
        return svg(figure, f"{what} by slice")


def _finite_range(scores: NDArray[Any]) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for start in range(0, len(scores), _BLOCK):
        block = scores[start : start + _BLOCK].astype(np.float64)
        block = block[np.isfinite(block)]
        if len(block):
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    return low, high


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
