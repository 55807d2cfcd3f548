"""`sidrank evaluate`: from a file of labels and scores to the figures a launch is decided on.

One pass over the named columns, then exact metrics; the figures go to the terminal as tables or
as JSON, and on request into a page. Nothing is shown before everything is known, and the page
appears whole or not at all.

Shapes: ``[n]`` rows.
"""

import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from sidrank.cli.evaluation_columns import Columns, Names, read_columns
from sidrank.cli.evaluation_figures import Figures, figures, scales_of
from sidrank.cli.evaluation_slices import slice_figures
from sidrank.cli.report_place import check_report_place
from sidrank.data import open_rows

__all__ = ["evaluate", "run"]

_PATIENCE = 2.0  # seconds before a progress bar appears
_STEPS = 5


def run(
    path: Path,
    names: Names,
    *,
    logits: bool = False,
    as_json: bool = False,
    report: Path | None = None,
) -> Figures:
    """Evaluate a file, write the page if there is to be one, and print what was found.

    Args:
        path: A parquet, CSV or NPZ file, or a folder of parquet files.
        names: Its columns.
        logits: Whether scores are logits.
        as_json: Print JSON instead of tables.
        report: Where to write the page; None for no page.

    Returns:
        The figures (see :mod:`sidrank.cli.evaluation_figures`).

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the file, one of its columns or the place of the page is not as it must be.
    """
    start = time.perf_counter()
    if report is not None:
        check_report_place(report, path)
    rows = open_rows(path)
    with tqdm(
        desc="reading",
        total=rows.num_rows,
        unit=" rows",
        unit_scale=True,
        leave=False,
        disable=None,  # unless stderr is a terminal
        delay=_PATIENCE,
    ) as bar:
        columns = read_columns(rows, names, bar.update)
    with _steps(start) as step:
        found = evaluate(columns, logits=logits, step=step)
        if report is not None:
            from sidrank.cli.evaluation_page import render
            from sidrank.pages import write_whole

            step("page")
            page = render(found, columns, names, path=path, logits=logits)
            write_whole(report, page)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    else:
        from sidrank.cli.evaluation_tables import tables

        sys.stdout.write(tables(found, names, path=path))
    sys.stdout.flush()  # a full disk is to be told like any other fault
    return found


def evaluate(
    columns: Columns, *, logits: bool = False, step: Callable[[str], object] = lambda _: None
) -> Figures:
    """Compute every figure.

    Args:
        columns: The rows; both classes have weight.
        logits: Whether scores are logits, to be turned into probabilities by the sigmoid.
        step: Told what comes next.

    Returns:
        The figures (see :mod:`sidrank.cli.evaluation_figures`).
    """
    notes: list[str] = []
    scales = scales_of(columns, logits=logits)
    found = figures(columns, scales=scales, notes=notes, step=step)
    by_slice: Figures = {}
    if columns.slices is not None:
        step("slices")
        by_slice = slice_figures(columns, columns.slices, scales=scales)
        one_class = sum(each["auc"] is None for each in by_slice.values())
        if one_class:
            notes.append(f"{one_class:,} of {len(by_slice):,} slices have one class and no AUC.")
    return {**found, "slices": by_slice, "notes": notes}


@contextmanager
def _steps(start: float) -> Generator[Callable[[str], object]]:
    """A bar that names what is being computed."""
    with tqdm(
        total=_STEPS,
        bar_format="{desc} [{elapsed}]",
        leave=False,
        disable=None,
        desc="computing",
        delay=max(0.0, start + _PATIENCE - time.perf_counter()),
        mininterval=0,
        miniters=1,
    ) as bar:

        def step(name: str) -> None:
            bar.set_description_str(name, refresh=False)
            bar.update()

        yield step
