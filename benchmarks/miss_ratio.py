"""Miss-ratio curves and cache sizes against caches that really ran on the same traffic.

The curve's error, with all rows followed and with samples; what the first half of a trace says of
the second; what collecting costs beside a training step; and held-out misses of 8 mixed tables
whose budget is divided by sidrank, by TorchRec's off-load proposer and evenly.

    python -m benchmarks.miss_ratio
"""

import argparse
import itertools
import json
import platform
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec.distributed.planner.proposers import EmbeddingOffloadScaleupProposer

from benchmarks.traffic import LRU, Ids, batches, drifting, zipf
from sidrank.cache._divide import SET, Demand
from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cache.sizes import CacheSizes, TableShape, cache_sizes
from sidrank.sharding.cache_statistics import TraceCacheStatistics

RESULTS = Path(__file__).parent / "results" / "miss_ratio.json"
LOOKUPS = 16_384
SIZES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
PLACEMENTS = 8  # of the rows under the hash that picks the sample
# rows, width, skew, lookups of a batch
TABLES = (
    (1_000_000, 64, 1.05, 8192),
    (1_000_000, 32, 0.2, 2048),
    (500_000, 128, 1.3, 8192),
    (500_000, 64, 0.8, 4096),
    (2_000_000, 32, 1.1, 8192),
    (200_000, 128, 0.6, 4096),
    (200_000, 64, 1.0, 2048),
    (100_000, 32, 0.9, 8192),
)
BUDGETS = (0.02, 0.05, 0.1, 0.2)
PARTS = ("curves", "recent", "flattening", "collector", "division")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batches", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--parts", default=",".join(PARTS), help="others stay as they were")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows, count = options.rows, options.batches
    report: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    report |= {
        "command": "python -m benchmarks.miss_ratio",
        "rows": rows,
        "batches": count,
        "lookups": LOOKUPS,
        "sizes": SIZES,
        "torchrec": metadata.version("torchrec"),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    jobs = {
        "curves": lambda: of_each(errors, rows, count),
        "recent": lambda: of_each(going_on, rows, count),
        "flattening": lambda: flattening(rows // 10, count // 4),
        "collector": lambda: collector(rows, options.rounds),
        "division": lambda: division(count // 2),
    }
    for part in options.parts.split(","):
        report[part] = jobs[part]()
        print(part, json.dumps(report[part]), flush=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


def of_each(
    judge: Callable[[list[Ids], int], dict[str, Any]], rows: int, count: int
) -> dict[str, Any]:
    """Both kinds of traffic, judged."""
    moving = drifting(rows, 1.05, 1, share=0.4, window=rows // 20, step=rows // 5000)
    sources = {"zipf": zipf(rows, 1.05, 0), "drift": moving}
    return {name: judge(batches(source, count, LOOKUPS), rows) for name, source in sources.items()}


def traced(traffic: Sequence[Ids], rows: int, sampling: float = 1.0) -> AccessTrace:
    trace = AccessTrace({"t": rows}, sampling=sampling)
    for ids in traffic:
        trace.observe({"t": ids})
    return trace


def errors(traffic: list[Ids], rows: int) -> dict[str, Any]:
    """The curve's distance from simulated caches: whole, sampled, and of the other half."""
    slots = [int(share * rows) for share in SIZES]
    half = len(traffic) // 2
    caches = [LRU(rows, size) for size in slots]
    first = np.array([cache.run(traffic[:half]) for cache in caches])
    second = np.array([cache.run(traffic[half:]) for cache in caches])
    empty = np.array([LRU(rows, size).run(traffic[half:]) for size in slots])
    whole = traced(traffic, rows)
    curve = whole.curves()["t"]
    simulated = (first + second) / curve.accesses
    early = traced(traffic[:half], rows).curves()["t"].misses_at(slots)
    accesses = sum(len(ids) for ids in traffic[half:])
    early_rate = early / sum(len(ids) for ids in traffic[:half])
    found: dict[str, Any] = {
        "accesses": curve.accesses,
        "unique_per_batch": curve.unique_per_batch,
        "touched": curve.cold,
        "cold": curve.cold / curve.accesses,
        "simulated": simulated.tolist(),
        "curve": (curve.misses_at(slots) / curve.accesses).tolist(),
        "error": float(np.abs(curve.misses_at(slots) / curve.accesses - simulated).max()),
        "held_out": {
            "predicted": early_rate.tolist(),
            "empty_cache": (empty / accesses).tolist(),
            "running_cache": (second / accesses).tolist(),
            "error": float(np.abs(early_rate - empty / accesses).max()),
            "error_running": float(np.abs(early_rate - second / accesses).max()),
        },
        "drift": drift_of(whole),
        "samples": {},
    }
    for sampling in (0.05, 0.01):
        right, wrong = [], []
        for place in range(PLACEMENTS):
            moved = [ids + place * rows for ids in traffic]
            trace = traced(moved, (place + 1) * rows, sampling)
            part = trace.curves()["t"].misses_at(slots)
            followed = float(trace._following["t"].sums().followed.sum()) / sampling
            right.append(float(np.abs(part / curve.accesses - simulated).max()))
            wrong.append(float(np.abs(part / followed - simulated).max()))
        found["samples"][str(sampling)] = {"adjusted": right, "unadjusted": wrong}
    return found


def going_on(traffic: list[Ids], rows: int) -> dict[str, Any]:
    """What the end of the first half says of caches that keep running through the second."""
    half = len(traffic) // 2
    slots = [int(share * rows) for share in SIZES]
    curve = traced(traffic[:half], rows).recent()["t"]
    predicted = curve.misses_at(slots) / curve.accesses
    missed: list[float] = []
    accesses = sum(len(ids) for ids in traffic[half:])
    for size in slots:
        cache = LRU(rows, size)
        cache.run(traffic[:half])
        missed.append(cache.run(traffic[half:]) / accesses)
    return {
        "batches": curve.batches,
        "predicted": predicted.tolist(),
        "running_cache": missed,
        "error": float(np.abs(predicted - missed).max()),
    }


def drift_of(trace: AccessTrace) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gap = trace.drift()["t"]
    return {"halves_differ": gap, "warned": bool(told)}


def flattening(rows: int, count: int) -> dict[str, Any]:
    """Traffic whose skew falls from 1.2 to 0.8 in the middle."""
    steep, flat = zipf(rows, 1.2, 0), zipf(rows, 0.8, 0)
    halves = batches(steep, count // 2, LOOKUPS) + batches(flat, count // 2, LOOKUPS)
    return drift_of(traced(halves, rows))


def collector(rows: int, rounds: int) -> dict[str, Any]:
    """A batch counted, beside a training step of the same lookups; thread time, interleaved."""
    draw = zipf(rows, 1.05, 0)
    raw = [draw(LOOKUPS) for _ in range(rounds + 20)]
    tracemalloc.start()
    trace = AccessTrace({"t": rows})
    for ids in raw[:20]:
        trace.observe({"t": ids})
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    step = training_step(rows // 10)
    spent: dict[str, list[float]] = {"observe": [], "step": [], "unique": []}
    for ids in raw[20:]:
        jobs = {
            "observe": lambda ids=ids: trace.observe({"t": ids}),
            "step": lambda ids=ids: step(torch.from_numpy(ids % (rows // 10))),
            "unique": lambda ids=ids: np.unique(ids),
        }
        for name, job in jobs.items():
            start = time.thread_time()
            job()
            spent[name].append(time.thread_time() - start)
    median = {name: 1000 * statistics.median(each) for name, each in spent.items()}
    return {
        "rounds": rounds,
        "milliseconds": median,
        "share_of_step": median["observe"] / median["step"],
        "share_of_12_ms": median["observe"] / 12,
        "bytes_a_row": held / rows,
    }


def training_step(rows: int) -> Any:
    """Eight features of one FBGEMM table of width 64, row-wise Adagrad, a head of 512-64-1."""
    samples = LOOKUPS // 8
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, 64, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.01,
    )
    head = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    offsets, labels = torch.arange(LOOKUPS + 1), torch.rand(samples, 1)

    def step(ids: torch.Tensor) -> None:
        optimizer.zero_grad()
        logits = head(table(ids, offsets).view(samples, 512))
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()

    return step


def division(count: int) -> dict[str, Any]:
    """Held-out misses of 8 tables whose budget is divided in three ways."""
    shapes, curves, recent, traffic = [], {}, {}, {}
    for place, (rows, dim, alpha, lookups) in enumerate(TABLES):
        shape = TableShape(name=f"t{place}", rows=rows, dim=dim)
        traffic[shape.name] = batches(zipf(rows, alpha, place), count, lookups)
        trace = traced(traffic[shape.name][: count // 2], rows)
        curves[shape.name], recent[shape.name] = trace.curves()["t"], trace.recent()["t"]
        shapes.append(shape)
    fixed = sum(sum(shape.cached_bytes(0).values()) for shape in shapes)
    weights = sum(shape.full_bytes()["weights"] for shape in shapes)
    found: dict[str, Any] = {"batches": count, "tables": TABLES, "fixed_bytes": fixed, "rows": []}
    for share in BUDGETS:
        budget = int(fixed + share * weights)
        ours = cache_sizes(shapes, curves, budget)
        ways = {
            "sidrank": slots_of(ours),
            "recent": slots_of(cache_sizes(shapes, recent, budget)),
            "torchrec": by_torchrec(shapes, curves, budget),
            "uniform": evenly(shapes, budget),
        }
        row: dict[str, Any] = {"budget": share, "spent": ours.hbm_bytes / budget}
        for way, slots in ways.items():
            bytes_ = sum(spent(shape, slots[shape.name]) for shape in shapes)
            assert bytes_ <= budget * 1.001, (way, share, bytes_, budget)
            row[way] = held_out(slots, traffic, {shape.name: shape.rows for shape in shapes})
        found["rows"].append(row)
    found["brute_force"] = against_brute_force(shapes, curves)
    found["miss_rate_at_0.05"] = [
        abs(
            curves[shape.name].miss_rate(0.05)
            - LRU(shape.rows, shape.rows // 20).run(traffic[shape.name][: count // 2])
            / curves[shape.name].accesses
        )
        for shape in shapes
    ]
    return found


def slots_of(sizes: CacheSizes) -> dict[str, int | None]:
    return {
        name: None if table.kernel == "fused" else table.slots
        for name, table in sizes.tables.items()
    }


def spent(shape: TableShape, slots: int | None) -> int:
    return sum((shape.full_bytes() if slots is None else shape.cached_bytes(slots)).values())


def held_out(
    slots: dict[str, int | None], traffic: dict[str, list[Ids]], rows: dict[str, int]
) -> dict[str, float]:
    """Misses of the second half, by caches that ran on the first, and by empty ones."""
    running, empty, accesses = 0, 0, 0
    for name, size in slots.items():
        half = len(traffic[name]) // 2
        accesses += sum(len(ids) for ids in traffic[name][half:])
        if size is None:
            continue
        cache = LRU(rows[name], size)
        cache.run(traffic[name][:half])
        running += cache.run(traffic[name][half:])
        empty += LRU(rows[name], size).run(traffic[name][half:])
    return {"running": running / accesses, "empty": empty / accesses}


def by_torchrec(
    shapes: list[TableShape], curves: dict[str, MissRatioCurve], budget: int
) -> dict[str, int | None]:
    """TorchRec's rule, told the truth about traffic and bytes, from caches of one set each."""
    statistics_ = [TraceCacheStatistics(curves[shape.name]) for shape in shapes]
    fixed = [spent(shape, 0) for shape in shapes]
    model = [
        [float(spent(s, s.rows) - low), float(low)] for s, low in zip(shapes, fixed, strict=True)
    ]
    least = torch.tensor([SET / shape.rows for shape in shapes], dtype=torch.float64)
    factors = EmbeddingOffloadScaleupProposer.allocate_budget(
        model=torch.tensor(model, dtype=torch.float64),
        fused_hbm_ceiling=torch.tensor([float(spent(shape, None)) for shape in shapes]),
        clfs=least,
        budget=budget - sum(spent(shape, SET) for shape in shapes),
        allocation_priority=torch.tensor(
            [each.cacheability * each.expected_lookups for each in statistics_]
        ),
    )
    return {
        shape.name: None if factor > 0.9999 else max(SET, int(factor * shape.rows) // SET * SET)
        for shape, factor in zip(shapes, factors.tolist(), strict=True)
    }


def evenly(shapes: list[TableShape], budget: int) -> dict[str, int | None]:
    """One load factor for all."""
    fixed = sum(spent(shape, 0) for shape in shapes)
    factor = (budget - fixed) / sum(spent(shape, shape.rows) - spent(shape, 0) for shape in shapes)
    return {shape.name: int(factor * shape.rows) // SET * SET for shape in shapes}


def against_brute_force(
    shapes: list[TableShape], curves: dict[str, MissRatioCurve]
) -> dict[str, float]:
    """Every three tables at 20 sizes each: the best of 8,000 divisions, and ours."""
    worst, compared = 0.0, 0
    demands: dict[str, Demand] = {}
    for shape in shapes:
        low = spent(shape, 0)
        demands[shape.name] = Demand(
            curve=curves[shape.name],
            cost=1.0,
            fixed=low,
            slot=spent(shape, 1) - low,
            full=spent(shape, None),
        )
    for chosen in itertools.combinations(shapes, 3):
        least = sum(demands[shape.name].least for shape in chosen)
        most = sum(demands[shape.name].full for shape in chosen)
        choices = [levels(demands[shape.name]) for shape in chosen]
        sums = np.add.outer(np.add.outer(choices[0][0], choices[1][0]), choices[2][0])
        costs = np.add.outer(np.add.outer(choices[0][1], choices[1][1]), choices[2][1])
        for share in BUDGETS:
            budget = int(least + share * (most - least))
            ours = cache_sizes(chosen, {each.name: curves[each.name] for each in chosen}, budget)
            cost = sum(
                0.0 if table.kernel == "fused" else float(demands[name].missed(table.slots))
                for name, table in ours.tables.items()
            )
            worst = max(worst, cost / float(costs[sums <= budget].min()))
            compared += 1
    return {"compared": compared, "worst_ratio": worst}


def levels(demand: Demand) -> tuple[Ids, np.ndarray[Any, Any]]:
    """20 load factors, one set and the whole table: bytes and misses."""
    assert demand.largest is not None
    slots = np.unique(np.append(np.arange(1, 21) * demand.curve.rows // 20 // SET * SET, SET))
    slots = slots[(slots >= SET) & (slots <= demand.largest)]
    bytes_ = np.append(demand.fixed + demand.slot * slots, demand.full)
    return bytes_, np.append(demand.missed(slots), 0.0)


if __name__ == "__main__":
    main()
