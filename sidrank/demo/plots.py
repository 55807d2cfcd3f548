"""The report's plots, each a small SVG that takes its text colour from the page.

Small on purpose: drawn 4.2 inches wide with 10-point labels, they are still readable when a
telephone shows them at 330 pixels. Text stays text: it can be searched and follows the page's
font.

Shapes: ``K`` codes in a codebook, ten exposure deciles, any number of frequency buckets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sidrank.demo.wording import ARMS, finite, read_interval, signed
from sidrank.pages.drawing import COLORS, INK, MARKERS, STYLE, svg

__all__ = ["code_usage", "gain_by_frequency", "gate_by_decile"]


def gain_by_frequency(by_frequency: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """AUC difference in each bucket of item frequency, with its interval.

    Args:
        by_frequency: Buckets of each pair, rarest first: ``bucket`` (its name), ``rows`` and
            ``delta`` (``[mean, low, high]`` or None).

    Returns:
        An ``<svg>`` element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.1), layout="constrained")
        axes = figure.subplots()
        names: list[str] = []
        for index, (pair, buckets) in enumerate(by_frequency.items()):
            shift = 0.18 * (index - (len(by_frequency) - 1) / 2)
            found = [(place, read_interval(row.get("delta"))) for place, row in enumerate(buckets)]
            shown = [(place + shift, interval) for place, interval in found if interval]
            means = np.array([interval.mean for _, interval in shown])
            ends = np.array([[interval.low, interval.high] for _, interval in shown])
            axes.errorbar(
                [place for place, _ in shown],
                means,
                yerr=np.abs(ends.reshape(-1, 2).T - means),
                fmt=MARKERS[index % 4],
                color=COLORS[index % 4],
                capsize=3,
                label=ARMS.get(pair.partition("_vs_")[0], pair),
            )
            names = names or [f"{row['bucket']}\n{_short(row.get('rows'))}" for row in buckets]
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel("training rows of the item; below: test rows")
        axes.set_ylabel("AUC minus the host's")
        axes.yaxis.set_major_formatter(FuncFormatter(_signed_tick))
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
        return svg(figure, "AUC gain over the host by item frequency")


def gate_by_decile(gate: Mapping[str, Any]) -> str:
    """Mean gate in each exposure decile, true statistics beside shuffled ones.

    Args:
        gate: ``true`` and ``shuffled``, ten numbers each, rarest items first.

    Returns:
        An ``<svg>`` element.
    """
    names = {"true": "true statistics", "shuffled": "shuffled statistics"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.subplots()
        for index, (key, name) in enumerate(names.items()):
            if not gate.get(key):
                continue
            axes.plot(
                range(1, len(gate[key]) + 1),
                np.array(gate[key], dtype=float),
                marker=MARKERS[index],
                color=COLORS[index],
                linestyle=("-", "--")[index],
                label=name,
            )
        axes.set_xticks(range(1, 11))
        axes.set_xlabel("exposure decile (1 = rarest items)")
        axes.set_ylabel("mean gate (1 = hash ID)")
        figure.legend(loc="outside upper left", ncols=2)
        return svg(figure, "Mean gate by exposure decile")


def code_usage(usage: Sequence[Sequence[float]]) -> str:
    """Items per code, codes from most to least used, one line per level.

    Args:
        usage: Items of every code, one list of ``K`` counts per level.

    Returns:
        An ``<svg>`` element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.subplots()
        for level, counts in enumerate(usage):
            ordered = np.sort(np.array(counts, dtype=float))[::-1]
            axes.step(
                np.arange(1, len(ordered) + 1),
                ordered,
                where="mid",
                color=COLORS[level % 4],
                linestyle=("-", "--", "-.", ":")[level % 4],
                label=f"level {level + 1}",
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("codes, most used first")
        axes.set_ylabel("items per code")
        figure.legend(loc="outside upper left", ncols=4)
        return svg(figure, "Items per code at each level")


def _short(rows: object) -> str:
    number = finite(rows)
    if number is None:
        return ""
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"


def _signed_tick(value: float, _position: int) -> str:
    return signed(value, 2)
