"""The figures of semantic IDs in a terminal, as rich tables.

Shapes: the tree of :mod:`sidrank.cli.inspection_figures`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sidrank.cli.evaluation_wording import shown
from sidrank.cli.inspection_figures import Figures
from sidrank.cli.inspection_rows import (
    collision_rows,
    drift_rows,
    facts,
    headline_rows,
    level_header,
    level_rows,
    what_was_done,
)

__all__ = ["tables"]


def tables(found: Figures, *, path: Path) -> str:
    """Lay the figures out for the terminal that standard output is, if it is one.

    Args:
        found: The tree.
        path: The bundle.

    Returns:
        Lines of text.
    """
    console = Console()
    title = Text(f"{shown(str(path))}: {', '.join(facts(found))}", style="bold")
    parts: list[Table | Text] = [title]
    done = what_was_done(found)
    if done:
        parts.append(Text(done))
    parts.append(_table(["", "", ""], headline_rows(found), left=(0, 2)))
    parts.append(_table(level_header(found), level_rows(found)))
    changed = collision_rows(found)
    if changed:
        header = [f"collisions: {found['collisions']['policy']}", "before", "after"]
        parts.append(_table(header, changed))
    drifted = drift_rows(found)
    if drifted:
        parts.append(Text(f"Drift: new items against {found['drift']['compared_with']}"))
        parts.append(_table(["", "value", "without drift", "p"], drifted))
    parts += [Text(f"- {note}") for note in found["notes"]]
    with console.capture() as capture:
        console.print(Group(*parts))
    return capture.get()


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,)
) -> Table:
    table = Table(show_header=any(header))
    for column, name in enumerate(header):
        if column in left:
            table.add_column(name, min_width=len(name))
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
