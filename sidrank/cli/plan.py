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
from pathlib import Path
from typing import Any

from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cli.plan_tables import curves_by_table, read_tables
from sidrank.sharding.fitting import Shortage
from sidrank.sharding.plan_file import plan_figures
from sidrank.sharding.planning import CachePlan
from sidrank.sharding.remedies import Cluster, Remedy, plan_specs, remedies
from sidrank.sharding.table_specs import TableSpec

__all__ = ["Figures", "run"]

Figures = dict[str, Any]
"""Values that JSON can hold."""


def run(tables: Path, trace: Path, cluster: Cluster, *, as_json: bool = False) -> Figures:
    """Plan, and print what was found.

    Args:
        tables: The tables, see :func:`~sidrank.cli.plan_tables.read_tables`.
        trace: What ``AccessTrace.save`` or `sidrank trace` wrote.
        cluster: What to plan for.
        as_json: Print JSON instead of tables.

    Returns:
        ``fits``, ``tables`` with what becomes of each, ``ranks`` with what each holds,
        ``remedies`` if nothing fits, then what was asked.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is not as it must be, or the trace is of other tables.
    """
    specs = read_tables(tables)
    curves = curves_by_table(specs, AccessTrace.load(trace).curves())
    with _quiet():
        found = plan_specs(specs, curves, cluster)
        tried = remedies(specs, curves, cluster, found) if isinstance(found, Shortage) else []
    figures = _figures(specs, curves, cluster, found, tried)
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    else:
        from sidrank.cli.plan_words import tables as words

        sys.stdout.write(words(figures, path=tables))
    sys.stdout.flush()  # a full disk is to be told like any other fault
    return figures


def _figures(
    specs: Sequence[TableSpec],
    curves: Mapping[str, MissRatioCurve],
    cluster: Cluster,
    found: CachePlan | Shortage,
    tried: Sequence[Remedy],
) -> Figures:
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
    by_name = {spec.name: spec for spec in specs}
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
                by_name[table.name].rows,
                curves[table.name].unique_per_batch,
                by_name[table.name].pooling_factors,
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
