"""Planning: the bounded proposer against TorchRec's default, and `sidrank plan` at full size.

Simulated GPUs, no device. The peer is TorchRec's ``EmbeddingShardingPlanner`` as it comes, with
the same constraints; step times are TorchRec's own estimates, for both by the same estimator.
*Roomy* clusters hold every table whole; on *scarce* ones both planners get the same caches, of a
fifth of the tables' bytes. Seconds are of the process, one thread. The large model runs as the
command itself, in a process of its own, whose wall time and largest memory are taken.

    python -m benchmarks.planning
"""

import argparse
import json
import logging
import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.perf_models import NoopPerfModel
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption, Stats

from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.sharding.cached_tables import cached_tables, table_shapes
from sidrank.sharding.fitting import Placed, cache_sharders, cuda_topology, place, pruned
from sidrank.sharding.remedies import Cluster, plan_specs
from sidrank.sharding.table_specs import TableSpec, model_of, pooling_constraints

RESULTS = Path(__file__).parent / "results" / "planning.json"
RANKS, ROWS = 64, 10_000_000_000
SIZES = (25, 50, 100, 200, 400)
CLUSTERS = (1, 8, 64, 256, 1024)
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": "python -m benchmarks.planning",
        "ranks": RANKS,
        "rounds": options.rounds,
        "threads": 1,
        "torchrec": metadata.version("torchrec"),
        "machine": platform.machine(),
        "against": [],
    }
    for room in ("roomy", "scarce"):
        report["against"].append(against(options.tables, room, rounds=options.rounds))
        print(json.dumps(report["against"][-1]), flush=True)
    sizes = [size for size in SIZES if size <= options.most]
    report["growth"] = [grown(size, RANKS) for size in sizes]
    report["slope"] = slope(sizes, [row["seconds"] for row in report["growth"]])
    report["clusters"] = [grown(options.tables, ranks) for ranks in CLUSTERS]
    print(json.dumps({key: report[key] for key in ("growth", "slope", "clusters")}), flush=True)
    report["command_at_full_size"] = command(sizes[-1])
    print(json.dumps(report["command_at_full_size"]), flush=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


class Told(Stats):
    """What TorchRec's planner says of a run."""

    def __init__(self) -> None:
        self.proposals = 0
        self.best: list[ShardingOption] = []

    def log(self, *args: Any, **kwargs: Any) -> None:
        self.proposals, self.best = kwargs["num_proposals"], kwargs["best_plan"]


def against(count: int, room: str, *, rounds: int) -> dict[str, Any]:
    """Both planners on the same tables, constraints and cluster."""
    specs = tables(count, ROWS // 10)
    model, sharders = model_of(specs), cache_sharders()
    shapes = table_shapes(model, sharders=sharders)
    total = sum(sum(shape.full_bytes().values()) for shape in shapes.values())
    hbm = int(total * (4 if room == "roomy" else 0.25) / RANKS) + GIB
    topology = cuda_topology(RANKS, hbm_bytes=hbm, ddr_bytes=total)
    given: dict[str, ParameterConstraints] = pooling_constraints(specs)
    if room == "scarce":
        given, _ = cached_tables(shapes, curves(specs), total // 5, base=given)
    seconds: dict[str, list[float]] = {"sidrank": [], "TorchRec": []}
    steps: dict[str, float] = {}
    proposals: dict[str, int] = {}
    for _ in range(rounds):
        start = time.process_time()
        placed = place(
            model, pruned(shapes, given, topology), topology, batch_size=512, sharders=sharders
        )
        seconds["sidrank"].append(time.process_time() - start)
        assert isinstance(placed, Placed), placed
        steps["sidrank"] = placed.step_ms
        start = time.process_time()
        told = Told()
        planner = EmbeddingShardingPlanner(
            topology=topology,
            batch_size=512,
            constraints=given,
            storage_reservation=FixedPercentageStorageReservation(0.0),
            stats=told,
            debug=False,
        )
        planner.plan(model, sharders)
        seconds["TorchRec"].append(time.process_time() - start)
        steps["TorchRec"] = NoopPerfModel(topology).rate(told.best)
        proposals["TorchRec"] = told.proposals
    middle = {name: statistics.median(own) for name, own in seconds.items()}
    return {
        "tables": count,
        "room": room,
        "hbm_gib": hbm / GIB,
        "table_gib": total / GIB,
        "seconds": middle,
        "step_ms": steps,
        "peer_proposals": proposals["TorchRec"],
        "seconds_ratio": middle["sidrank"] / middle["TorchRec"],
        "step_ratio": steps["sidrank"] / steps["TorchRec"],
    }


def grown(count: int, ranks: int) -> dict[str, Any]:
    """Sizes, plan and verification of many tables, on a cluster for half of them."""
    specs = tables(count, ROWS // 10)
    total = sum(spec.rows * spec.dim * 4 for spec in specs)
    cluster = Cluster(ranks, hbm_gib=total / GIB / ranks / 2 + 2, ddr_gib=2 * total / GIB)
    start = time.process_time()
    found = plan_specs(specs, curves(specs), cluster)
    seconds = time.process_time() - start
    return {"tables": count, "ranks": ranks, "seconds": seconds, "fits": hasattr(found, "plan")}


def command(count: int) -> dict[str, Any]:
    """`sidrank plan` on the large model."""
    specs = tables(count, ROWS)
    total = sum(spec.rows * spec.dim * 4 for spec in specs)
    with tempfile.TemporaryDirectory() as folder:
        listed, traced = Path(folder) / "tables.json", Path(folder) / "traffic.trace"
        listed.write_text(
            json.dumps(
                [
                    {
                        "name": spec.name,
                        "rows": spec.rows,
                        "dim": spec.dim,
                        "features": list(spec.features),
                        "pooling": list(spec.pooling_factors),
                        "dtype": spec.dtype,
                        "optimizer": spec.optimizer,
                    }
                    for spec in specs
                ]
            )
        )
        observed(specs).save(traced)
        hbm, ddr = total / GIB / RANKS / 4, 2 * total / GIB / RANKS + 16
        words = ["plan", str(listed), "--trace", str(traced), "--world-size", str(RANKS)]
        words += ["--hbm-gib", f"{hbm:.1f}", "--ddr-gib", f"{ddr:.1f}", "--json"]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "sidrank.cli", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
    found = json.loads(done.stdout)
    return {
        "tables": count,
        "rows": sum(spec.rows for spec in specs),
        "ranks": RANKS,
        "hbm_gib": round(hbm, 1),
        "table_gib": total / GIB,
        "seconds": seconds,
        "memory_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIB,
        "fits": found["fits"],
        "cached": sum(each["kernel"] == "fused_uvm_caching" for each in found["tables"]),
        "fullest_rank": max(rank["hbm_bytes"] for rank in found["ranks"]) / (hbm * GIB),
        "exit": done.returncode,
    }


def tables(count: int, total: int) -> list[TableSpec]:
    """Tables whose sizes spread as those of rankers do: a few hold nearly all rows."""
    rng = np.random.default_rng(0)
    weight = np.exp(rng.normal(0, 2.5, count))
    rows = np.maximum((weight / weight.sum() * total).astype(np.int64), 100)
    rows[rows.argmax()] += total - rows.sum()
    dims = rng.choice([32, 64, 128], count)
    factors = np.round(np.exp(rng.normal(0.5, 1.0, count)).clip(1, 50), 1)
    return [
        TableSpec(
            name=f"t{place}",
            rows=int(rows[place]),
            dim=int(dims[place]),
            features=(f"f{place}",),
            pooling_factors=(float(factors[place]),),
        )
        for place in range(count)
    ]


def curves(specs: Sequence[TableSpec]) -> Mapping[str, MissRatioCurve]:
    """Made-up traffic: misses fall as a power of the slots, tables differ in skew."""
    rng = np.random.default_rng(1)
    found: dict[str, MissRatioCurve] = {}
    for spec in specs:
        lookups = float(min(512 * RANKS * spec.pooling_factors[0], spec.rows))
        accesses = 100 * lookups
        cold = min(0.1 * accesses, float(spec.rows))
        slots = np.unique(np.geomspace(1, spec.rows, 64).astype(np.int64))
        fall = 1 - (slots / spec.rows) ** rng.uniform(0.2, 1.0)
        misses = np.clip(cold + (accesses - cold) * fall, cold, accesses)
        found[spec.name] = MissRatioCurve(
            rows=spec.rows, batches=100, accesses=accesses, cold=cold, slots=slots, misses=misses
        )
    return found


def observed(specs: Sequence[TableSpec]) -> AccessTrace:
    """A trace of skewed ids, of a tenth of the rows: the tables are too long to follow all."""
    rng = np.random.default_rng(2)
    trace = AccessTrace({spec.name: spec.rows for spec in specs}, sampling=0.1)
    for _ in range(12):
        trace.observe(
            {
                spec.name: np.minimum(spec.rows * rng.random(2000) ** 6, spec.rows - 1).astype(int)
                for spec in specs
            }
        )
    return trace


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Growth on log-log axes."""
    xs, ys = [math.log(size) for size in sizes], [math.log(each) for each in seconds]
    return float(np.polyfit(xs, ys, 1)[0]) if len(xs) > 1 else float("nan")


if __name__ == "__main__":
    main()
