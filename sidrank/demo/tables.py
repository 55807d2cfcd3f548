"""The report in a terminal: the same words and numbers as the page, as rich tables.

Shapes: the report is the tree described in :mod:`sidrank.demo.report`.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidrank.demo import wording as words
from sidrank.demo.findings import headline, key_findings
from sidrank.demo.wording import Report, Tone

__all__ = ["print_tables"]

_STYLES: dict[Tone, str] = {"gain": "green", "loss": "red", "none": "", "unknown": "dim"}
_SHOWN = ("auc", "auc_cold", "auc_new_tail", "gauc", "log_loss")
_SHOWN_PAIRED = ("auc", "auc_cold", "gauc")  # three intervals fit 80 columns


def print_tables(report: Report, console: Console | None = None) -> None:
    """Print the arms and the paired differences of every protocol, then what they say.

    Args:
        report: The report.
        console: Where to print; None means standard output.
    """
    console = console or Console()
    for name, title in words.SPLITS.items():
        split = (report.get("splits") or {}).get(name)
        if split is None:
            continue
        if split.get("arms"):
            console.print(_arms(f"{title}: arms, means over seeds", split["arms"]))
        if split.get("paired"):
            console.print(_paired(f"{title}: differences, joint 95% intervals", split["paired"]))
    upgrade = report.get("upgrade") or {}
    if upgrade.get("paired"):
        console.print(_paired("Upgrading a trained host", upgrade["paired"]))
    console.print(Text(headline(report) + ".", style="bold"))
    for finding in key_findings(report):
        console.print(Text(f"- {finding.text}", style=_STYLES[finding.tone]))


def _arms(title: str, arms: Mapping[str, Mapping[str, Any]]) -> Table:
    found = {metric for values in arms.values() for metric in values}
    metrics = [metric for metric in _SHOWN if metric in found]
    table = _table(title, "Arm", metrics)
    known = [arm for arm in words.ARMS if arm in arms]
    for arm in known + sorted(set(arms) - set(known)):
        cells = (words.metric_text(metric, arms[arm].get(metric)) for metric in metrics)
        table.add_row(words.ARMS.get(arm, arm), *cells)
    return table


def _paired(title: str, paired: Mapping[str, Mapping[str, Any]]) -> Table:
    found = {metric for values in paired.values() for metric in values}
    metrics = [metric for metric in _SHOWN_PAIRED if metric in found]
    table = _table(title, "Difference", metrics, no_wrap=True)
    for pair, values in paired.items():
        intervals = [words.read_interval(values.get(metric)) for metric in metrics]
        cells = (
            Text(
                words.interval_text(interval).replace(" [", "\n["),
                style=_STYLES[words.tone(interval)],
            )
            for interval in intervals
        )
        table.add_row(words.pair_name(pair), *cells)
    return table


def _table(title: str, first: str, metrics: list[str], *, no_wrap: bool = False) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for metric in metrics:
        table.add_column(words.METRICS[metric], justify="right", no_wrap=no_wrap)
    return table
