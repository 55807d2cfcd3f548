"""`sidrank plan`: from a list of tables and a trace to a sharding plan, before a GPU is booked.

The cluster is simulated: TorchRec's planner runs on a CPU against GPUs of the size that is asked
for. Step times are its estimates, bytes are those that FBGEMM allocates.

Shapes: none.
"""

import json
import logging
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cli.plan_tables import curves_by_table, read_tables
from sidrank.cli.report_place import check_report_place
from sidrank.sharding.fitting import Shortage
from sidrank.sharding.plan_file import plan_figures
from sidrank.sharding.planning import CachePlan
from sidrank.sharding.remedies import Cluster, Remedy, plan_specs, remedies
from sidrank.sharding.table_specs import TableSpec

__all__ = ["Figures", "figures_of", "run"]

Figures = dict[str, Any]
"""Values that JSON can hold."""


def run(
    tables: Path,
    trace: Path,
    cluster: Cluster,
    *,
    as_json: bool = False,
    report: Path | None = None,
) -> Figures:
    """Plan, and print what was found.

    Args:
        tables: The tables, see :func:`~sidrank.cli.plan_tables.read_tables`.
        trace: What ``AccessTrace.save`` or `sidrank trace` wrote.
        cluster: What to plan for.
        as_json: Print JSON instead of tables.
        report: Where to write a page; None for no page.

    Returns:
        ``fits``, ``tables`` with what becomes of each, ``ranks`` with what each holds,
        ``remedies`` if nothing fits, then what was asked.

    Raises:
        ImportError: If the page needs a package that is not there.
        OSError: If a file cannot be read, or the page cannot be written.
        ValueError: If a file is not as it must be, the trace is of other tables, or the page has
            no place.
    """
    if report is not None:
        import_module("sidrank.cli.plan_page")  # known to work before minutes of planning

        for source in (tables, trace):
            check_report_place(report, source)
    specs = read_tables(tables)
    curves = curves_by_table(specs, AccessTrace.load(trace).curves())
    with _quiet():
        found = plan_specs(specs, curves, cluster)
        tried = remedies(specs, curves, cluster, found) if isinstance(found, Shortage) else []
    figures = figures_of(found, curves, cluster, specs=specs, tried=tried)
    if report is not None:
        from sidrank.cli.plan_page import write_plan_page

        write_plan_page(report, figures, curves, source=tables)
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    else:
        from sidrank.cli.plan_words import tables as words

        sys.stdout.write(words(figures, path=tables))
    sys.stdout.flush()  # a full disk is to be told like any other fault
    return figures


def figures_of(
    found: CachePlan | Shortage,
    curves: Mapping[str, MissRatioCurve],
    cluster: Cluster,
    *,
    specs: Sequence[TableSpec] = (),
    tried: Sequence[Remedy] = (),
) -> Figures:
    """What JSON and page say of a plan.

    Args:
        found: The plan, or what was scarce.
        curves: Curves of its tables, by name.
        cluster: What was planned for.
        specs: The tables; if they are not given, they have the rows that the curves have.
        tried: Remedies, if nothing fits.

    Returns:
        The tree of ``run``.
    """
    fits = isinstance(found, CachePlan)
    return {
        "fits": fits,
        "tables": _tables(specs, curves, found) if fits else [],
        "ranks": [
            {"hbm_bytes": rank.hbm_bytes, "ddr_bytes": rank.ddr_bytes}
            for rank in (found.ranks if fits else ())
        ],
        "remedies": [
            {
                "table": remedy.table,
                "change": remedy.change,
                "from": remedy.before,
                "to": remedy.after,
                "text": remedy.text,
            }
            for remedy in tried
        ],
        "step_ms": found.step_ms if fits else None,
        "shortage": None
        if fits
        else {
            "table": found.table,
            "table_bytes": found.table_bytes,
            "scarce": found.scarce,
            "missing_hbm_bytes": max(found.hbm_bytes, 0),
            "missing_ddr_bytes": max(found.ddr_bytes, 0),
        },
        "world_size": cluster.world_size,
        "hbm_gib": cluster.hbm_gib,
        "ddr_gib": cluster.ddr_gib,
        "batch": cluster.batch_size,
    }


def _tables(
    specs: Sequence[TableSpec], curves: Mapping[str, MissRatioCurve], found: CachePlan
) -> list[Figures]:
    rows = {table.name: curves[table.name].rows for table in found.tables}
    rows |= {spec.name: spec.rows for spec in specs}
    factors = {spec.name: spec.pooling_factors for spec in specs}
    return [
        {
            "name": table.name,
            "sharding": table.sharding,
            "kernel": table.kernel,
            "load_factor": table.load_factor,
            "predicted_miss": table.predicted_miss,
            "hbm_bytes": table.hbm_bytes,
            "ddr_bytes": table.ddr_bytes,
            "shards": len(table.ranks),
            **plan_figures(
                rows[table.name],
                curves[table.name].unique_per_batch,
                factors.get(table.name, ()),
            ),
        }
        for table in found.tables
    ]


@contextmanager
def _quiet() -> Generator[None]:
    """TorchRec's planner logs every proposal, and warns of simulated hardware."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
