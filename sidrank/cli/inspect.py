"""`sidrank inspect`: what a bundle of semantic IDs is, and how good.

The bundle is checked byte by byte as it is read. What can be counted from the codes is counted
anew; what needs vectors was measured when the bundle was written.

Shapes: ``V`` items, ``N`` levels.
"""

import json
import sys
from pathlib import Path

from sidrank.cli.inspection_figures import Figures, bundle_figures
from sidrank.cli.report_place import check_report_place
from sidrank.semantic_ids import load_bundle

__all__ = ["run"]


def run(path: Path, *, as_json: bool = False, report: Path | None = None) -> Figures:
    """Say what a bundle holds.

    Args:
        path: The bundle.
        as_json: Print JSON instead of tables.
        report: Where to write a page; None for no page.

    Returns:
        The tree of :mod:`sidrank.cli.inspection_figures`.

    Raises:
        OSError: If the page cannot be written.
        ValueError: If the bundle is not whole or not what it was, it has no item, or the page
            has no place.
    """
    if report is not None:
        check_report_place(report, path)
        if report.absolute().parent == path.absolute():
            raise ValueError(f"report must not lie in the bundle, got {report}")
    bundle = load_bundle(path)
    found = bundle_figures(bundle)
    if report is not None:
        from sidrank.cli.inspection_page import render
        from sidrank.pages import write_whole

        write_whole(report, render(found, bundle.table, path=path))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    else:
        from sidrank.cli.inspection_tables import tables

        sys.stdout.write(tables(found, path=path))
    sys.stdout.flush()  # a full disk is to be told like any other fault
    return found
