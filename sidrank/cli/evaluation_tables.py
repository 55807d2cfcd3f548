"""The figures of an evaluation in a terminal, as rich tables.

Shapes: the tree of :mod:`sidrank.cli.evaluation_figures`.
"""

from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sidrank.cli.evaluation_columns import Names
from sidrank.cli.evaluation_figures import Figures
from sidrank.cli.evaluation_wording import (
    NOTHING,
    headline_rows,
    interval_text,
    largest,
    number_text,
    p_text,
    p_value_text,
    shown,
    signed_text,
)

__all__ = ["tables"]

_MOST_SLICES = 30


def tables(found: Figures, names: Names, *, path: Path) -> str:
    """Lay the figures out for the terminal that standard output is, if it is one.

    Args:
        found: The figures.
        names: Columns of the file.
        path: The file.

    Returns:
        Lines of text.
    """
    console = Console()
    parts: list[Table | Text] = [Text(_counts(found, path), style="bold"), _whole(found, names)]
    if found["compare"] is not None:
        parts.append(Text(p_value_text(found)))
    if found["slices"]:
        parts += _slices(found["slices"], names)
    parts += [Text(f"- {note}") for note in found["notes"]]
    with console.capture() as capture:
        console.print(Group(*parts))
    return capture.get()


def _counts(found: Figures, path: Path) -> str:
    text = f"{shown(str(path))}: {found['rows']:,} rows, {found['positives']:,} positives"
    if found["groups"] is None:
        return text
    counts = found["groups"]
    return (
        f"{text}, {counts['total']:,} groups ({counts['single_class']:,} of one class, "
        "left out of GAUC)"
    )


def _whole(found: Figures, names: Names) -> Table:
    table = Table()
    table.add_column("")
    table.add_column(Text(shown(names.score)), justify="right", no_wrap=True)
    if names.compare is None:
        table.add_column("95% interval", justify="right", no_wrap=True)
    else:
        table.add_column(Text(shown(names.compare)), justify="right", no_wrap=True)
        table.add_column("difference", justify="right", no_wrap=True)
    for row in headline_rows(found):
        value, ends = number_text(row.value), interval_text(row.interval)
        if names.compare is None:
            table.add_row(row.name, value, ends)
        else:
            delta = interval_text(row.delta_interval, signed=True)
            table.add_row(
                row.name,
                _over(value, ends),
                number_text(row.other),
                _over(signed_text(row.delta), delta),
            )
    return table


def _over(value: str, interval: str) -> str:
    return value if interval == NOTHING else f"{value}\n{interval}"


def _slices(slices: Figures, names: Names) -> list[Table | Text]:
    table = Table(title=Text(f"by {shown(names.slices or '')}"), title_justify="left")
    heads = ["positives", "AUC", "NE", "calibration"]
    if names.compare is not None:
        heads = ["AUC", "difference", "p", "adjusted p"]
    table.add_column("", min_width=8, overflow="fold")
    for head in ("rows", *heads):
        table.add_column(head, justify="right", no_wrap=True)
    kept = largest(slices, _MOST_SLICES)
    for name, each in kept.items():
        auc = number_text(each["auc"], 4)
        other = each["compare"]
        if other is None:
            cells = [
                f"{each['positives']:,}",
                _over(auc, interval_text(each["auc_interval"], 4)),
                number_text(each["normalized_entropy"], 4),
                number_text(each["calibration"], 4),
            ]
        else:
            ends = interval_text(other["interval"], 4, signed=True)
            delta = _over(signed_text(other["delta_auc"], 4), ends)
            cells = [auc, delta, p_text(other["p_value"]), p_text(other["adjusted_p_value"])]
        table.add_row(Text(shown(name)), f"{each['rows']:,}", *cells)
    hidden = len(slices) - len(kept)
    more = [Text(f"and {hidden:,} smaller slices: --json has all")] if hidden else []
    return [table, *more]
