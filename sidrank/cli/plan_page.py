"""A plan as one HTML page that can be sent to a colleague, before training and after it.

Shapes: the tree of ``sidrank.cli.plan.run``; none otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cli.evaluation_wording import NOTHING, shown
from sidrank.cli.plan_plots import UNITS, agreement_plot, curve_plot, rank_plot
from sidrank.pages import cards, document, figure, section, table, write_whole

__all__ = ["render", "write_plan_page"]

_GIB = 2.0**30
_MOST_CURVES = 60
_READING = (
    "A table either lies in HBM whole or has a cache there, and host memory holds its rows; the "
    "load factor is the share of its rows that has a place in HBM. A batch asks for each distinct "
    "row once, and misses it if it is not in the cache: predicted misses are the share of these "
    "rows that would have been fetched in the traffic that was traced, by a least-recently-used "
    "cache. The first access of a row misses in a cache of any size. A long run pays first "
    "accesses once, a trace pays them all: expect fewer misses from a run longer than the trace. "
    "Bytes are what the embedding operators allocate, inputs and outputs of lookups included; the "
    "time of a step is the planner's estimate. No GPU was used to make the plan."
)


def write_plan_page(
    report: Path,
    found: Mapping[str, Any],
    curves: Mapping[str, MissRatioCurve],
    *,
    source: Path | str,
    measured: Mapping[str, float] | None = None,
) -> Path:
    """Write the page: beside a new plan, or again after training with what was missed.

    After training, what was measured comes from a collection that counts:
    ``{name: each.miss_rate for name, each in collection.traffic.items()}``.

    Args:
        report: The file, new or to be replaced whole.
        found: What :func:`~sidrank.cli.plan.figures_of` says of a ``CachePlan``, or what
            `sidrank plan --json` printed, read.
        curves: Curves of the tables, by name: ``AccessTrace.curves()``.
        source: What the plan was made of, such as the list of tables.
        measured: Share of the distinct rows of a batch that a run missed, by name of the table;
            tables may be left out.

    Returns:
        ``report``.

    Raises:
        OSError: If the page cannot be written.
        ValueError: If a curve is missing, or what was measured is no share or of other tables.
    """
    return write_whole(report, render(found, curves, source=source, measured=measured))


def render(
    found: Mapping[str, Any],
    curves: Mapping[str, MissRatioCurve],
    *,
    source: Path | str,
    measured: Mapping[str, float] | None = None,
) -> str:
    """Build the page.

    Args:
        found: See :func:`write_plan_page`.
        curves: Likewise.
        source: Likewise.
        measured: Likewise.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: If a curve is missing, or what was measured is no share or of other tables.
    """
    ran = _checked(found, curves, measured)
    title = _title(found)
    parts = [_header(found, title, ran, source)]
    if found["fits"]:
        parts.append(section("Budget", _budget(found)))
        if ran:
            parts.append(section("Predicted against measured", _agreement(found, curves, ran)))
        parts.append(section("Tables", [_tables(found)]))
        plots = _curves(found, curves, ran)
        if plots:
            parts.append(section("Caches", plots))
    else:
        parts.append(section("What is scarce, and what helps", _remedies(found)))
    parts.append(section("Where this comes from", [_facts(found, source)]))
    return document(title, "".join(parts))


def _checked(
    found: Mapping[str, Any],
    curves: Mapping[str, MissRatioCurve],
    measured: Mapping[str, float] | None,
) -> Mapping[str, float]:
    names = [each["name"] for each in found["tables"]]
    lacking = [name for name in names if name not in curves]
    if lacking:
        raise ValueError(f"curves must hold every table, got none of {shown(lacking[0])}")
    if measured is None:
        return {}
    if not measured:
        raise ValueError("measured must hold one table or more, got none")
    for name, rate in measured.items():
        if name not in names:
            raise ValueError(f"measured must be of tables of the plan, got {shown(name)}")
        if not 0 <= rate <= 1:
            raise ValueError(f"measured must lie in [0, 1], got {rate} of {shown(name)}")
    return measured


def _title(found: Mapping[str, Any]) -> str:
    gpus = f"{found['world_size']:,} GPU{'s' if found['world_size'] != 1 else ''}"
    if not found["fits"]:
        return f"The tables do not fit into {gpus}"
    count, cached = len(found["tables"]), len(_cached(found))
    one = f"{count:,} table{'s' if count != 1 else ''} on {gpus}"
    return f"{one}, {cached:,} behind a cache"


def _header(
    found: Mapping[str, Any], title: str, ran: Mapping[str, float], source: Path | str
) -> str:
    told = ["sidrank plan", shown(Path(source).name)]
    told.append(
        f"{found['hbm_gib']:g} GiB of HBM and {found['ddr_gib']:g} GiB of host memory a GPU"
    )
    told.append(f"{found['batch']:,} rows a GPU and step")
    return (
        f'<header>\n<p class="facts">{escape(" · ".join(told))}</p>\n<h1>{escape(title)}.</h1>\n'
        f"{cards(_boxes(found, ran))}"
        f"<details><summary>How to read this page</summary><p>{_READING}</p></details>\n</header>\n"
    )


def _boxes(found: Mapping[str, Any], ran: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    if not found["fits"]:
        short = found["shortage"]
        return [
            ("loss", "Scarce", short["scarce"], "no plan was found"),
            (
                "",
                "Largest claim",
                _size(short["table_bytes"]),
                f"by {shown(short['table'])}, with the smallest cache",
            ),
        ]
    boxes: list[tuple[str, str, str, str]] = []
    for name, held, budget in _memories(found):
        whole = budget * found["world_size"]
        below = f"{_size(sum(held))} of {_size(whole)}"
        boxes.append(("", f"{name} spent", f"{sum(held) / whole:.1%}", below))
    predicted = _weighted(found, {each["name"]: each["predicted_miss"] for each in found["tables"]})
    boxes.append(("", "Predicted misses", f"{predicted:.2%}", "of all distinct rows of a batch"))
    if ran:
        tables = f"{len(ran):,} table{'s' if len(ran) != 1 else ''}"
        known = {each["name"]: each["predicted_miss"] for each in found["tables"]}
        of_these = _weighted(found, {name: known[name] for name in ran})
        below = f"of {tables}; predicted {of_these:.2%}"
        boxes.append(("", "Measured misses", f"{_weighted(found, ran):.2%}", below))
    else:
        boxes.append(("", "Slowest GPU", f"{found['step_ms']:,.3g} ms", "a step, an estimate"))
    return boxes


def _budget(found: Mapping[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    plots: list[str] = []
    for place, (name, held, budget) in enumerate(_memories(found)):
        whole = budget * found["world_size"]
        cells = [_size(budget), _size(min(held)), _size(max(held)), _size(sum(held))]
        cells += [_size(whole), f"{sum(held) / whole:.1%}"]
        rows.append([name, *map(_cell, cells)])
        plot = rank_plot(held, budget, memory=name, color=place)
        plots.append(figure(plot, f"{name} that each rank holds; the budget, if near, is dashed."))
    header = [
        "Memory",
        "Budget of a GPU",
        "Least held",
        "Most held",
        "Spent in all",
        "Budget in all",
    ]
    return [
        table([*header, "Spent"], rows, "What there is for tables, and what they take"),
        f'<div class="beside">{"".join(plots)}</div>\n',
        f"<p>The slowest GPU spends {found['step_ms']:,.3f} ms of a step on embeddings, by the "
        "planner's estimate.</p>\n",
    ]


def _tables(found: Mapping[str, Any]) -> str:
    header = ["Table", "Sharding", "Kernel", "Shards", "Rows", "Load factor", "Predicted misses"]
    header += ["Fetched rows a step", "HBM", "Host memory"]
    rows = [
        [
            shown(each["name"]),
            *(f'<td class="text">{escape(str(each[key]))}</td>' for key in ("sharding", "kernel")),
            _cell(f"{each['shards']:,}"),
            _cell(f"{each['rows']:,}"),
            _cell(f"{each['load_factor']:.2%}"),
            _cell(f"{each['predicted_miss']:.2%}"),
            _cell(f"{each['lookups'] * each['predicted_miss']:,.0f}"),
            _cell(_size(each["hbm_bytes"])),
            _cell(_size(each["ddr_bytes"])),
        ]
        for each in found["tables"]
    ]
    return table(header, rows, "What becomes of each table; bytes are of all ranks")


def _curves(
    found: Mapping[str, Any], curves: Mapping[str, MissRatioCurve], ran: Mapping[str, float]
) -> list[str]:
    """The curve of each cached table, those that fetch most first."""
    order = sorted(_cached(found), key=lambda each: -each["lookups"] * each["predicted_miss"])
    plots: list[str] = []
    for each in order[:_MOST_CURVES]:
        name, share = shown(each["name"]), each["load_factor"]
        caption = (
            f"{name}: {share:.2%} of {each['rows']:,} rows in HBM miss"
            f" {each['predicted_miss']:.2%} of the distinct rows of a batch"
        )
        rate = ran.get(each["name"])
        caption += "." if rate is None else f"; measured {rate:.2%}."
        curve = _curve(each, curves)
        plot = curve_plot(curve, share, title=f"Miss-ratio curve of {name}", measured=rate)
        plots.append(figure(plot, caption))
    if not plots:
        return []
    left = len(order) - len(plots)
    said = "Dashed: the size that was chosen. Dotted: first accesses, missed by any cache."
    if left:
        said += f" These {len(plots)} tables fetch most; {left:,} more are in the table only."
    return [f"<p>{said}</p>\n", f'<div class="beside">{"".join(plots)}</div>\n']


def _agreement(
    found: Mapping[str, Any], curves: Mapping[str, MissRatioCurve], ran: Mapping[str, float]
) -> list[str]:
    rows: list[list[str]] = []
    pairs: list[tuple[float, float]] = []
    for each in found["tables"]:
        name, predicted, rate = each["name"], each["predicted_miss"], ran.get(each["name"])
        cached = each in _cached(found)
        later = _curve(each, curves).miss_rate(each["load_factor"], cold=False) if cached else 0.0
        cells = [f"{predicted:.2%}", f"{later:.2%}"]
        if rate is None:
            cells += [NOTHING, NOTHING]
        else:
            pairs.append((predicted, rate))
            cells += [f"{rate:.2%}", f"{100 * (rate - predicted):+.2f}"]
        rows.append([shown(name), *map(_cell, cells)])
    header = ["Table", "Predicted misses", "Without first accesses", "Measured misses"]
    caption = "Predicted and measured misses, of the distinct rows of a batch"
    told = (
        "Measured misses of each table that was measured, over predicted ones; on the dotted line "
        "they are equal."
    )
    return [
        table([*header, "Difference, points"], rows, caption),
        figure(agreement_plot(pairs), told),
    ]


def _remedies(found: Mapping[str, Any]) -> list[str]:
    short = found["shortage"]
    parts = [
        f"<p>{escape(short['scarce'])} is scarce, and {escape(shown(short['table']))} alone takes"
        f" {_size(short['table_bytes'])} of it with the smallest cache.</p>\n"
    ]
    rows = [
        [name, _cell(_size(short[key]) if short[key] else NOTHING)]
        for name, key in (("HBM", "missing_hbm_bytes"), ("Host memory", "missing_ddr_bytes"))
    ]
    parts.append(table(["Memory", "Missing"], rows, "What is missing over all GPUs at least"))
    said = "".join(
        f'<li><span class="pill gain">fits with</span><span>{escape(shown(each["text"]))}'
        "</span></li>\n"
        for each in found["remedies"]
    )
    if said:
        parts.append("<p>Any one of these, each tried, makes it fit:</p>\n")
        parts.append(f'<ul class="findings">\n{said}</ul>\n')
    else:
        parts.append("<p>No single change that was tried helps.</p>\n")
    return parts


def _facts(found: Mapping[str, Any], source: Path | str) -> str:
    told = {
        "Tables": str(source),
        "GPUs": f"{found['world_size']:,}, simulated",
        "HBM of each": f"{found['hbm_gib']:g} GiB",
        "Host memory for each": f"{found['ddr_gib']:g} GiB",
        "Rows a GPU and step": f"{found['batch']:,}",
        "sidrank": version("sidrank"),
    }
    rows = [[name, f'<td class="text">{escape(shown(text))}</td>'] for name, text in told.items()]
    return table(["Name", "Value"], rows, "What was asked")


def _memories(found: Mapping[str, Any]) -> list[tuple[str, list[int], float]]:
    """Of each kind of memory its name, what the ranks hold, and what each may hold."""
    return [
        (name, [rank[f"{key}_bytes"] for rank in found["ranks"]], found[f"{key}_gib"] * _GIB)
        for name, key in (("HBM", "hbm"), ("Host memory", "ddr"))
    ]


def _cached(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for each in found["tables"] if each["load_factor"] < 1]


def _curve(of: Mapping[str, Any], curves: Mapping[str, MissRatioCurve]) -> MissRatioCurve:
    """The curve over all rows of the table; ids that never came may be missing from the trace."""
    curve = curves[of["name"]]
    return replace(curve, rows=of["rows"]) if curve.rows < of["rows"] else curve


def _weighted(found: Mapping[str, Any], rates: Mapping[str, float]) -> float:
    """Mean rate of tables, each counted by the distinct rows that a batch asks for."""
    weight = {each["name"]: each["lookups"] for each in found["tables"] if each["name"] in rates}
    total = sum(weight.values())
    return sum(rates[name] * weight[name] for name in weight) / total if total else 0.0


def _size(count: float) -> str:
    """Bytes in the unit in which they are easiest to read."""
    unit = min(int(math.log2(count) // 10), len(UNITS) - 1) if count >= 1 else 0
    return f"{count / 2.0 ** (10 * unit):,.4g} {UNITS[unit]}"


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"
