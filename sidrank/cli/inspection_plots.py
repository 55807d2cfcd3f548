"""The plots of the page on semantic IDs.

Shapes: ``V`` items, ``N`` levels, ``K`` codes of a level.
"""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sidrank.cli.inspection_figures import Figures
from sidrank.pages.drawing import COLORS, INK, MARKERS, STYLE, svg
from sidrank.semantic_ids import SIDTable
from sidrank.semantic_ids.prefixes import number_prefixes

__all__ = ["bucket_plot", "recall_plot", "usage_plot"]

_POINTS = 60  # of a line: a path with one for each of 8192 codes is large and no finer
_LINES = ("-", "--", "-.", ":")


def usage_plot(table: SIDTable) -> str:
    """Share of the items that the most used codes hold, one line a level.

    Args:
        table: The codes.

    Returns:
        An ``<svg>`` element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for level, size in enumerate(table.spec.codebook_sizes):
            ranks, share = _cumulative(table.codes[:, level], size)
            axes.plot(
                ranks,
                share,
                color=COLORS[level % len(COLORS)],
                linestyle=_LINES[level % len(_LINES)],
                label=f"level {level + 1}",
            )
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (1, 3)))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("share of the codes, most used first")
        axes.set_ylabel("share of the items")
        figure.legend(loc="outside upper left", ncols=4, handlelength=1.6, columnspacing=1.0)
        return svg(figure, "Share of the items that the most used codes of each level hold")


def bucket_plot(table: SIDTable) -> str:
    """Share of the items that are alone with their SID, or one of so many.

    Args:
        table: The codes.

    Returns:
        An ``<svg>`` element.
    """
    sizes = np.bincount(number_prefixes(table.codes)[-1])
    group = np.ceil(np.log2(sizes)).astype(np.int64)
    share = np.bincount(group, weights=sizes) / sizes.sum()
    names = [_between(each) for each in range(len(share))]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set_xlim(-0.6, max(len(share), 4) - 0.4)
        axes.bar(range(len(share)), share, color=COLORS[0])
        for at, value in enumerate(share):
            text = f"{value:.1%}" if value >= 0.001 or value == 0 else "<0.1%"
            if len(share) <= 8:
                axes.text(at, value, text, ha="center", va="bottom", fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=0 if len(names) <= 6 else 60)
        axes.set_ylim(0, 1.1 * max(share))
        axes.set_xlabel("items that share the SID")
        axes.set_ylabel("share of the items")
        return svg(figure, "Share of the items by how many share their SID")


def recall_plot(found: Figures) -> str:
    """Neighbour recall by rebuilt vectors and by prefixes, beside chance.

    Args:
        found: The tree.

    Returns:
        An ``<svg>`` element; nothing if it was not measured.
    """
    recall = found["neighbour_recall"]
    if recall is None:
        return ""
    kinds = {"by_vector": "rebuilt vectors", "by_prefix": "common prefixes"}
    sideways: dict[Any, Any] = STYLE | {"axes.grid.axis": "x"}
    with mpl.rc_context(sideways):
        figure = Figure(figsize=(4.2, 1.9), layout="constrained")
        axes = figure.subplots()
        for row, kind in enumerate(kinds):
            axes.errorbar(
                recall[kind],
                row,
                xerr=2 * recall[f"{kind}_error"],
                fmt=MARKERS[row],
                color=COLORS[row],
                capsize=3,
            )
        axes.axvline(recall["chance"], color=INK, linewidth=1, linestyle="--")
        axes.annotate(
            "chance", (recall["chance"], 1.6), xytext=(3, 0), textcoords="offset points", fontsize=9
        )
        axes.set_yticks([0, 1], list(kinds.values()))
        axes.set_ylim(-0.5, 1.95)
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"recall of the {recall['k']} nearest neighbours")
        return svg(figure, "Neighbour recall")


def _cumulative(codes: NDArray[np.int32], size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ranks of the codes and the share of the items they hold, from (0, 0) to (1, 1)."""
    counts = np.sort(np.unique(codes, return_counts=True)[1])[::-1]
    share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    at = np.unique(np.linspace(0, len(counts), _POINTS).round().astype(np.int64))
    ranks = np.append(at / size, 1.0)
    return ranks, np.append(share[at], 1.0)


def _between(group: int) -> str:
    high = 1 << group
    low = high // 2 + 1
    return f"{high:,}" if low >= high else f"{low:,}–{high:,}"
