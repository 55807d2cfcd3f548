"""A plan in a terminal, as rich tables.

Shapes: the tree of :func:`sidrank.cli.plan.run`.
"""

from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sidrank.cli.evaluation_wording import shown

__all__ = ["tables"]

_GIB = 2.0**30


def tables(found: dict[str, Any], *, path: Path) -> str:
    """Lay the figures out for the terminal that standard output is, if it is one.

    Args:
        found: The figures.
        path: The list of tables.

    Returns:
        Lines of text.
    """
    console = Console()
    cluster = (
        f"{found['world_size']:,} GPUs with {found['hbm_gib']:g} GiB of HBM and"
        f" {found['ddr_gib']:g} GiB of host memory each"
    )
    parts: list[Table | Text] = []
    if found["fits"]:
        parts.append(Text(f"{shown(str(path))}: fits into {cluster}", style="bold"))
        parts += [_of_tables(found), *_of_ranks(found)]
    else:
        short = found["shortage"]
        parts.append(Text(f"{shown(str(path))}: does not fit into {cluster}", style="bold"))
        parts.append(
            Text(
                f"{short['scarce']} is scarce, and {shown(short['table'])} alone takes"
                f" {short['table_bytes'] / _GIB:,.3g} GiB of it with the smallest cache."
            )
        )
        said = [Text(f"- {shown(remedy['text'])}") for remedy in found["remedies"]]
        head = (
            "Any one of these makes it fit:" if said else "No single change that was tried helps."
        )
        parts += [Text(head), *said]
    with console.capture() as capture:
        console.print(Group(*parts))
    return capture.get()


def _of_tables(found: dict[str, Any]) -> Table:
    table = Table()
    for name in ("table", "sharding", "kernel"):
        table.add_column(name, overflow="fold")
    for name in ("rows in HBM", "missed", "HBM GiB", "host GiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found["tables"]:
        table.add_row(
            shown(each["name"]),
            each["sharding"],
            each["kernel"],
            f"{each['load_factor']:.2%}",
            f"{each['predicted_miss']:.2%}",
            f"{each['hbm_bytes'] / _GIB:,.3f}",
            f"{each['ddr_bytes'] / _GIB:,.3f}",
        )
    return table


def _of_ranks(found: dict[str, Any]) -> list[Text]:
    lines: list[Text] = []
    for what, key in (("HBM", "hbm_bytes"), ("host memory", "ddr_bytes")):
        held = [rank[key] / _GIB for rank in found["ranks"]]
        lines.append(
            Text(
                f"{what} of a GPU: {min(held):,.3f} to {max(held):,.3f} GiB,"
                f" {sum(held):,.3f} in all"
            )
        )
    lines.append(
        Text(f"slowest GPU: {found['step_ms']:,.3f} ms of embedding work a step (an estimate)")
    )
    return lines
