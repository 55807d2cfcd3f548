"""`sidrank tokenize`: from a file of item vectors to a bundle of semantic IDs.

Everything that can be refused without reading is refused first; then the items are read, a
tokenizer learns (or the one of an older bundle is taken), the table is made and measured, and
the bundle appears under its name whole or not at all. The page, if one is wanted, comes last:
`sidrank inspect --report` can draw most of it again.

The tree that `--json` prints is that of `sidrank inspect`
(:mod:`sidrank.cli.inspection_figures`) and, after it::

    bundle          where it was written
    new_items       items that got a code
    already_there   items of the file that the older bundle has; they keep theirs
    not_in_file     items of the older bundle that the file lacks; they keep theirs
    collisions      {policy, moved, unresolved, before{...}, after{...}}
    infeasible      items per level that a capacity could not be kept for, or null
    drift           new items against published ones, or null

Shapes: ``V`` items, ``N`` levels.
"""

import json
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from sidrank.cli.inspection_figures import Figures, quality_notes, tokenizer_figures
from sidrank.cli.progress_line import progress_line
from sidrank.cli.report_place import check_report_place
from sidrank.cli.tokenize_drift import drift_figures, drift_notes
from sidrank.cli.tokenize_items import ItemColumns, Items, read_items
from sidrank.cli.tokenize_plan import OldBundle, Plan, check_plan, open_old
from sidrank.cli.tokenize_table import collision_figures, propose, resolve, table_quality
from sidrank.cli.tokenizer_names import fit_tokenizer
from sidrank.data import open_rows
from sidrank.semantic_ids import SIDQuality, SIDTable, save_bundle
from sidrank.tokenizers.capacity_rq import CapacityConstrainedRQ
from sidrank.tokenizers.protocol import Progress, Tokenizer

__all__ = ["run"]


def run(
    path: Path,
    columns: ItemColumns,
    plan: Plan,
    *,
    out: Path,
    report: Path | None = None,
    as_json: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Write a bundle, and say how good it is.

    Args:
        path: A parquet, CSV or NPZ file of items, or a folder of parquet files.
        columns: Its columns.
        plan: How the codes are to be made.
        out: The bundle to write; must not exist.
        report: Where to write a page; None for no page.
        as_json: Print JSON instead of tables.
        threads: Threads of torch; None for its own choice.
        progress: Told of every step; None shows a bar.

    Returns:
        The tree that `--json` prints.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the file, one of its columns, the plan, the older bundle or the place of
            an output is not as it must be.
    """
    check_plan(plan, columns)
    _check_places(out, report, path)
    old = None if plan.append_to is None else open_old(plan.append_to, plan)
    with _threads(threads), progress_line(hidden=as_json) as bar:
        tell = bar if progress is None else progress
        items = read_items(open_rows(path), columns, seed=plan.seed or 0, progress=tell)
        if old is not None:
            _check_width(items, old, path, columns)
        found, table = _made(items, plan, old, out, tell)
        if report is not None:
            from sidrank.cli.inspection_page import render
            from sidrank.pages import write_whole

            tell("page", 0, 1)
            write_whole(report, render(found, table, path=out, words=_words(items)))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    else:
        from sidrank.cli.inspection_tables import tables

        sys.stdout.write(tables(found, path=out))
    sys.stdout.flush()  # a full disk is to be told like any other fault
    return found


def _made(
    items: Items, plan: Plan, old: OldBundle | None, out: Path, tell: Progress
) -> tuple[Figures, SIDTable]:
    """Learn, encode, measure and write."""
    published = None if old is None else old.bundle.table
    policy = plan.collisions or ("suffix" if old is not None and old.suffix else "keep")
    tokenizer = old.tokenizer if old is not None else _fitted(items, plan, tell)
    proposal = propose(items, tokenizer, published, tell)
    tell("resolving collisions", 0, 1)
    resolution = resolve(items, proposal, tokenizer, policy=policy, published=published)
    table = resolution.table
    tell("measuring quality", 0, 1)
    measured = table_quality(table, items, tokenizer)
    collided = collision_figures(resolution, items, measured, policy=policy)
    tell("measuring drift", 0, 1)
    drifted = None if old is None else drift_figures(items, proposal, tokenizer, old.bundle)
    found = measured.to_dict(complete=True)
    made_by: Figures = {"name": type(tokenizer).__name__, "arguments": tokenizer.arguments}
    found["tokenizer"] = tokenizer_figures(made_by)
    found["notes"] = [
        *quality_notes(found),
        *_partial_notes(measured, table, items),
        *drift_notes(drifted),
    ]
    if collided["unresolved"]:
        found["notes"].append(
            f"{collided['unresolved']:,} items found no free code and share their SID."
        )
    infeasible = None
    if old is None and isinstance(tokenizer, CapacityConstrainedRQ):
        infeasible = [len(rows) for rows in tokenizer.infeasible]
        if any(infeasible):
            found["notes"].append(
                f"The capacity could not be kept for {max(infeasible):,} items of a level: they "
                "outweigh a code, or no code had room for them."
            )
    found |= {
        "bundle": str(out),
        "new_items": len(proposal.rows),
        "already_there": len(items.ids) - len(proposal.rows),
        "not_in_file": len(table) - len(items.ids),
        "collisions": collided,
        "infeasible": infeasible,
        "drift": drifted,
    }
    tell("writing", 0, 1)
    save_bundle(out, table, tokenizer=tokenizer, quality=measured)
    tell("writing", 1, 1)
    return found, table


def _fitted(items: Items, plan: Plan, tell: Progress) -> Tokenizer:
    return fit_tokenizer(
        plan.tokenizer or "",
        items,
        levels=plan.levels or (),
        sample=plan.sample,
        seed=plan.seed or 0,
        progress=tell,
    )


def _check_places(out: Path, report: Path | None, source: Path) -> None:
    """Refuse a place that cannot take an output before an hour is spent on learning."""
    if os.path.lexists(out):
        raise ValueError(f"out must not exist yet, got {out}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out must lie in a folder that exists, got {out}")
    if report is not None:
        check_report_place(report, source)
        if report.absolute() == out.absolute():
            raise ValueError(f"report must be another place than out, got {report} for both")
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}."):
        pass


def _check_width(items: Items, old: OldBundle, path: Path, columns: ItemColumns) -> None:
    nothing = torch.zeros(1, len(old.tokenizer.levels), dtype=torch.int32)
    width, got = old.tokenizer.decode(nothing).shape[1], items.vectors.shape[1]
    if got != width:
        raise ValueError(
            f"{path}: column {columns.embedding!r} must hold vectors of width {width} as the "
            f"bundle that is added to, got {got}"
        )


def _partial_notes(measured: SIDQuality, table: SIDTable, items: Items) -> list[str]:
    if measured.neighbour_recall is not None or len(table) == 1:
        return []
    return [
        f"Neighbour recall and reconstruction were not measured: {len(table) - len(items.ids):,} "
        "published items are not in the file. Collisions alone say little."
    ]


def _words(items: Items) -> dict[int, str]:
    if items.words is None:
        return {}
    return dict(zip(items.ids.tolist(), items.words, strict=True))


@contextmanager
def _threads(count: int | None) -> Generator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
