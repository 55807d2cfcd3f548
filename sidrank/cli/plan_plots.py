"""The plots of the page on a plan.

No name of a table is drawn: matplotlib would read a dollar sign in it as mathematics.

Shapes: ``P`` points of a curve, ``R`` ranks.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.pages.drawing import COLORS, INK, MARKERS, STYLE, svg

__all__ = ["UNITS", "agreement_plot", "curve_plot", "rank_plot"]

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_POINTS = 80  # of a line: a path with one for each slot that was counted is large and no finer
_MOST_BARS = 64
_HEADROOM = 1.08


def rank_plot(held: Sequence[int], budget: float, *, memory: str, color: int = 0) -> str:
    """What each rank holds, beside what it may hold.

    Args:
        held: Bytes of each rank; ``[R]``, at least one.
        budget: Bytes that a rank may hold.
        memory: What is held, such as ``HBM``.
        color: Place of the colour.

    Returns:
        An ``<svg>`` element.
    """
    top = max(*held, 1)
    near = budget <= 4 * top  # else the line would make all bars look empty
    unit = min(int(np.log2(max(top, budget if near else 1)) // 10), len(UNITS) - 1)
    scaled = np.asarray(held, dtype=np.float64) / 2.0 ** (10 * unit)
    limit = budget / 2.0 ** (10 * unit)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.subplots()
        if len(scaled) <= _MOST_BARS:
            axes.bar(range(len(scaled)), scaled, color=COLORS[color])
        else:  # one path: a thousand bars are a large file
            edges = np.arange(len(scaled) + 1) - 0.5
            axes.stairs(scaled, edges, fill=True, color=COLORS[color])
        if near:
            axes.axhline(limit, color=INK, linewidth=1, linestyle="--")
        axes.set_ylim(0, _HEADROOM * max(float(scaled.max()), limit if near else 0.0) or 1.0)
        axes.set_xlim(-0.6, len(scaled) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("rank")
        axes.set_ylabel(f"{memory}, {UNITS[unit]}")
        return svg(figure, f"{memory} of each rank")


def curve_plot(
    curve: MissRatioCurve, load_factor: float, *, title: str, measured: float | None = None
) -> str:
    """What a cache of each size misses, with the size that was chosen.

    Args:
        curve: The curve.
        load_factor: The chosen size, as a share of the rows.
        title: What it shows, for those who cannot see it.
        measured: What a run missed, if there was one.

    Returns:
        An ``<svg>`` element.
    """
    reach = float(curve.slots[-1]) / curve.rows if curve.slots.size else 1.0
    right = min(1.0, max(1.1 * reach, 2 * load_factor))
    shares = np.unique(np.append(np.linspace(0, right, _POINTS), load_factor))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.plot(shares, curve.miss_rate(shares), color=COLORS[0], label="predicted")
        at_most = curve.miss_rate(1.0)
        axes.axhline(at_most, color=INK, linewidth=1, linestyle=(0, (1, 3)), label="first accesses")
        axes.axvline(load_factor, color=INK, linewidth=1, linestyle="--")
        axes.plot(
            load_factor, curve.miss_rate(load_factor), color=COLORS[0], marker=MARKERS[0], ls="none"
        )
        if measured is not None:
            axes.plot(
                load_factor,
                measured,
                color=COLORS[1],
                marker=MARKERS[1],
                ls="none",
                label="measured",
            )
        axes.set_xlim(0, right)
        axes.set_ylim(0, 1.03)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("rows of the table in HBM")
        axes.set_ylabel("distinct rows missed")
        figure.legend(loc="outside upper left", ncols=3, handlelength=1.6, columnspacing=1.0)
        return svg(figure, title)


def agreement_plot(pairs: Sequence[tuple[float, float]]) -> str:
    """Measured misses over predicted ones, one point a table.

    Args:
        pairs: Of each table the predicted and the measured share; at least one.

    Returns:
        An ``<svg>`` element.
    """
    both: dict[Any, Any] = STYLE | {"axes.grid.axis": "both"}
    predicted, measured = zip(*pairs, strict=True)
    top = min(1.0, max(_HEADROOM * max(*predicted, *measured), 0.01))
    with mpl.rc_context(both):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle=(0, (1, 3)))
        axes.plot(predicted, measured, color=COLORS[1], marker=MARKERS[1], ls="none", clip_on=False)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("predicted misses")
        axes.set_ylabel("measured misses")
        return svg(figure, "Measured misses of each table over predicted ones")
