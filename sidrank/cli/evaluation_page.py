"""An evaluation as one HTML page that can be sent to a colleague.

Everything that comes from the file, names and values alike, is escaped.

Shapes: the tree of :mod:`sidrank.cli.evaluation_figures`; ``[n]`` rows.
"""

import shlex
from collections.abc import Iterable
from html import escape
from importlib.metadata import version
from pathlib import Path

from sidrank.cli.evaluation_columns import Columns, Names
from sidrank.cli.evaluation_figures import Figures, probabilities, scales_of
from sidrank.cli.evaluation_plots import reliability_plot, score_histogram, slice_plot
from sidrank.cli.evaluation_wording import (
    headline_rows,
    interval_text,
    largest,
    number_text,
    p_text,
    p_value_text,
    shown,
    signed_text,
)
from sidrank.metrics import reliability
from sidrank.pages import cards, document, figure, section, table

__all__ = ["render"]

_MOST_DRAWN = 30
_MOST_LISTED = 500
_READING = (
    "AUC counts a tie as one half. GAUC is the mean AUC inside groups, groups of one class left "
    "out, weighted by their rows (impressions), not at all, or by their positive rows. "
    "Normalized entropy is the log loss divided by the entropy of the base rate: below 1 is "
    "better than predicting that rate. Calibration is predicted over observed positives: above 1 "
    "predicts too many. ECE is the mean distance between prediction and outcome over 15 bins of "
    "equal mass. Intervals hold 95%; where there are groups, rows of one group count as alike. "
    "Differences are the scores minus the compared scores."
)


def render(found: Figures, columns: Columns, names: Names, *, path: Path, logits: bool) -> str:
    """Build the page.

    Args:
        found: The figures.
        columns: The rows, shape ``[n]``.
        names: Columns of the file.
        path: The file.
        logits: Whether scores are logits.

    Returns:
        A whole HTML document.
    """
    title = _title(found, names)
    parts = [
        _header(found, names, title, path),
        section("All rows", [_whole(found, names), *_notes(found["notes"])]),
        section("Scores", _plots(columns, names, logits=logits)),
    ]
    if found["slices"]:
        parts.append(section(f"By {shown(names.slices or '')}", _slices(found["slices"], names)))
    parts.append(section("Where this comes from", [_facts(names, path, logits=logits)]))
    return document(title, "".join(parts))


def _title(found: Figures, names: Names) -> str:
    score, other = shown(names.score), found["compare"]
    if other is None:
        return f"{score}: AUC {number_text(found['auc'])}"
    delta, ends = other["delta_auc"], other["interval"]
    against = f"{score} against {shown(names.compare or '')}: AUC {signed_text(delta)}"
    if ends is None:
        return f"{against}, not tested"
    if ends[0] <= 0 <= ends[1]:
        return f"{against}, no difference shown"
    return f"{against}, {'better' if delta > 0 else 'worse'}"


def _header(found: Figures, names: Names, title: str, path: Path) -> str:
    facts = [
        "sidrank evaluate",
        shown(path.name),
        f"{found['rows']:,} rows",
        f"{found['positives']:,} positives",
    ]
    if found["groups"] is not None:
        facts.append(
            f"{found['groups']['total']:,} groups, {found['groups']['used']:,} with both classes"
        )
    wanted = ("AUC", "GAUC by impressions", "Normalized entropy", "Calibration")
    boxes = [
        (
            "",
            row.name,
            number_text(row.value),
            interval_text(row.interval, 4) if row.interval else "",
        )
        for row in headline_rows(found)
        if row.name in wanted and row.value is not None
    ]
    other = found["compare"]
    if other is not None and other["delta_auc"] is not None:
        ends = other["interval"] or [0.0, 0.0]
        tone = "gain" if ends[0] > 0 else "loss" if ends[1] < 0 else ""
        below = interval_text(other["interval"], 4, signed=True) if other["interval"] else ""
        boxes.insert(0, (tone, "Difference in AUC", signed_text(other["delta_auc"]), below))
    tested = "" if other is None else f"<p>{escape(p_value_text(found))}</p>\n"
    return (
        f'<header>\n<p class="facts">{escape(" · ".join(facts))}</p>\n<h1>{escape(title)}.</h1>\n'
        f"{cards(boxes)}{tested}<details><summary>How to read this page</summary><p>{_READING}</p>"
        "</details>\n</header>\n"
    )


def _whole(found: Figures, names: Names) -> str:
    header = ["Figure", shown(names.score)]
    if names.compare is not None:
        header += [shown(names.compare), "Difference"]
    rows: list[list[str]] = []
    for row in headline_rows(found):
        cells = [_cell(number_text(row.value), row.interval)]
        if names.compare is not None:
            cells.append(_cell(number_text(row.other), None))
            cells.append(_cell(signed_text(row.delta), row.delta_interval, signed=True))
        rows.append([row.name, *cells])
    return table(header, rows, "Figures of all rows, with 95% intervals where there are any")


def _notes(notes: Iterable[str]) -> list[str]:
    rows = "".join(
        f'<li><span class="pill">note</span><span>{escape(note)}</span></li>\n' for note in notes
    )
    return [f'<ul class="findings">\n{rows}</ul>\n'] if rows else []


def _plots(columns: Columns, names: Names, *, logits: bool) -> list[str]:
    scales = scales_of(columns, logits=logits)
    given = {shown(names.score): probabilities(columns.scores, scales.scores)}
    if columns.compare is not None and names.compare != names.score:
        given[shown(names.compare or "")] = probabilities(columns.compare, scales.compare or "rank")
    tables = {
        name: reliability(columns.labels, chance, columns.weights)
        for name, chance in given.items()
        if chance is not None
    }
    del given
    parts: list[str] = []
    if tables:
        caption = (
            "What was predicted and what happened, in bins of equal mass with 95% intervals; on "
            "the dashed line predictions mean what they say."
        )
        parts.append(figure(reliability_plot(tables), caption))
    histogram = score_histogram(columns.labels, columns.scores, columns.weights)
    if histogram:
        parts.append(figure(histogram, f"Scores ({shown(names.score)}) of both classes."))
    return [f'<div class="beside">{"".join(parts)}</div>\n'] if parts else []


def _slices(slices: Figures, names: Names) -> list[str]:
    parts = []
    key, ends, what = "auc", "auc_interval", "AUC"
    source = slices
    if names.compare is not None:
        key, ends, what = "delta_auc", "interval", "difference in AUC"
        source = {name: each["compare"] for name, each in slices.items()}
    kept = [name for name in largest(slices, _MOST_DRAWN) if source[name][key] is not None]
    if kept:
        values = [source[name][key] for name in kept]
        plot = slice_plot(
            [shown(name) for name in kept], values, [source[name][ends] for name in kept], what
        )
        few = "" if len(slices) <= _MOST_DRAWN else f" The {_MOST_DRAWN} largest slices."
        parts.append(figure(plot, f"The {what} in each slice, with 95% intervals.{few}"))
    header = ["Slice", "Rows", "Positives", "AUC", "NE", "Calibration"]
    if names.compare is not None:
        header += ["Difference", "p", "Adjusted p"]
    listed = largest(slices, _MOST_LISTED)
    caption = "Figures of each slice"
    if names.compare is not None:
        caption += "; adjusted p-values bound the share of false findings (Benjamini-Hochberg)"
    if len(listed) < len(slices):
        caption += f"; the {len(listed):,} largest of {len(slices):,} slices"
    parts.append(table(header, [_slice_row(*item) for item in listed.items()], caption))
    return parts


def _slice_row(name: str, each: Figures) -> list[str]:
    cells = [
        _cell(f"{each['rows']:,}", None),
        _cell(f"{each['positives']:,}", None),
        _cell(number_text(each["auc"]), each["auc_interval"]),
        _cell(number_text(each["normalized_entropy"]), None),
        _cell(number_text(each["calibration"]), None),
    ]
    other = each["compare"]
    if other is not None:
        cells += [
            _cell(signed_text(other["delta_auc"]), other["interval"], signed=True),
            _cell(p_text(other["p_value"]), None),
            _cell(p_text(other["adjusted_p_value"]), None),
        ]
    return [shown(name), *cells]


def _facts(names: Names, path: Path, *, logits: bool) -> str:
    options = {
        "--label": names.label,
        "--score": names.score,
        "--compare": names.compare,
        "--group": names.group,
        "--slice": names.slices,
        "--weight": names.weight,
    }
    command = ["sidrank", "evaluate", str(path)]
    for option, value in options.items():
        command += [] if value is None else [option, value]
    command += ["--logits"] if logits else []
    facts = {"Command": shlex.join(command), "File": str(path.resolve())}
    if path.is_file():
        facts["Bytes"] = f"{path.stat().st_size:,}"
    facts["sidrank"] = version("sidrank")
    rows = [[name, f'<td class="text">{escape(shown(text))}</td>'] for name, text in facts.items()]
    return table(["Name", "Value"], rows, "How to get these figures again")


def _cell(value: str, ends: list[float] | None, *, signed: bool = False) -> str:
    below = "" if ends is None else f"<small>{interval_text(ends, signed=signed)}</small>"
    tone = ""
    if signed and ends is not None:
        tone = ' class="gain"' if ends[0] > 0 else ' class="loss"' if ends[1] < 0 else ""
    return f"<td{tone}>{escape(value)}{below}</td>"
