"""How much memory evaluation takes: 100 million rows from parquet, and the bounded mode.

The first part writes a parquet file of random rows, runs ``sidrank evaluate --json --group`` on
it in a process of its own and reads that process's peak from the operating system. The second
feeds ten million rows at a click rate of 1% to the bounded ``StreamingAUC``, then runs a thousand
random trials in which the exact AUC must lie inside its bounds: click rates from 0.01% to 50%,
scores in clusters a few units in the last place wide, spikes, sorted streams, random merges.

    python -m benchmarks.metrics_memory
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidrank.metrics import StreamingAUC, auc

RESULTS = Path(__file__).parent / "results" / "metrics_memory.json"
_ROWS_A_GROUP = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--stream", type=int, default=10_000_000)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report = {
        "command": "python -m benchmarks.metrics_memory",
        "machine": platform.machine(),
        "numpy": np.__version__,
        "evaluate": evaluate(options.rows),
        "bounded": bounded(options.stream),
        "trials": trials(options.trials),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def evaluate(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scores.parquet"
        write(file, rows)
        command = [sys.executable, "-m", "sidrank.cli", "evaluate", str(file), "--json"]
        command += ["--label", "click", "--score", "score", "--group", "user"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        # Of all children that have ended; there is no other.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        answer = json.loads(done.stdout)
        size = file.stat().st_size
    return {
        "rows": rows,
        "file_gib": size / 2**30,
        "seconds": seconds,
        "peak_gib": peak / 2**30,
        "auc": answer["auc"],
        "gauc": answer["gauc"],
        "groups": answer["groups"],
    }


def write(file: Path, rows: int) -> None:
    generator = np.random.default_rng(0)
    writer = None
    for start in range(0, rows, _ROWS_A_GROUP):
        count = min(_ROWS_A_GROUP, rows - start)
        labels = generator.random(count) < 0.05
        logits = generator.standard_normal(count) + labels - 3.4
        table = pa.table(
            {
                "user": generator.integers(0, max(rows // 20, 1), count),
                "click": labels.astype(np.int8),
                "score": (1 / (1 + np.exp(-logits))).astype(np.float32),
            }
        )
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def bounded(rows: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    labels = generator.random(rows) < 0.01
    logits = generator.standard_normal(rows) + labels - 5
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    exact = auc(labels, scores)
    state = StreamingAUC(exact=False)
    tracemalloc.start()
    start = time.perf_counter()
    for part in range(0, rows, 100_000):
        state.update(labels[part : part + 100_000], scores[part : part + 100_000])
    lower, upper = state.bounds()
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "rows": rows,
        "rate": 0.01,
        "width": upper - lower,
        "inside": lower <= exact <= upper,
        "midpoint_error": state.compute() - exact,
        "peak_mib": peak / 2**20,
        "seconds_traced": seconds,
    }


def trials(count: int) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    outside, widths = 0, []
    for trial in range(count):
        labels, scores = columns(generator, trial)
        exact = auc(labels, scores)
        shards = [StreamingAUC(exact=False) for _ in range(int(generator.integers(1, 8)))]
        cuts = np.sort(generator.integers(0, len(labels), 20))
        for part in np.split(np.arange(len(labels)), cuts):
            if len(part):
                shards[int(generator.integers(len(shards)))].update(labels[part], scores[part])
        while len(shards) > 1:
            taken = shards.pop(int(generator.integers(len(shards))))
            shards[int(generator.integers(len(shards)))].merge(taken)
        lower, upper = shards[0].bounds()
        outside += not lower <= exact <= upper
        widths.append(upper - lower)
    return {
        "trials": count,
        "outside": outside,
        "widest": max(widths),
        "median_width": float(np.median(widths)),
    }


def columns(generator: np.random.Generator, trial: int) -> tuple[np.ndarray, np.ndarray]:
    """One adversarial set of rows; every kind comes up in turn."""
    rows = int(10 ** generator.uniform(5, 6.3))
    rate = 10 ** generator.uniform(-4, np.log10(0.5))
    labels = generator.random(rows) < rate
    labels[:2] = [True, False]
    smooth = 1 / (1 + np.exp(-(generator.standard_normal(rows) * 2 + labels + np.log(rate))))
    kind = trial % 8
    if kind == 0:  # float32 as a model writes it
        return labels, smooth.astype(np.float32)
    if kind == 1:  # every row within a few units in the last place
        ulps = generator.integers(0, 10 ** int(generator.integers(1, 7)), rows)
        return labels, np.float64(0.5) + ulps * 2.0**-53
    if kind == 2:  # a default score for a third of the rows
        return labels, np.where(generator.random(rows) < 0.3, 0.0123, smooth)
    if kind == 3:  # sorted stream
        order = np.argsort(smooth)
        return labels[order], smooth[order]
    if kind == 4:  # positives first
        order = np.argsort(~labels)
        return labels[order], smooth[order]
    if kind == 5:  # heavy ties
        return labels, np.round(smooth, 3)
    if kind == 6:  # infinities, both zeros, numbers below the smallest normal one
        edges = np.array([-np.inf, np.inf, 0.0, -0.0, 5e-324, -5e-324, 1e-310])
        odd = generator.choice(edges, rows)
        return labels, np.where(generator.random(rows) < 0.5, odd, smooth)
    # clusters far apart, each a few units in the last place wide
    centre = generator.choice([1e-30, 1e-6, 0.1, 0.7, 1e12], rows)
    return labels, centre * (1 + generator.integers(0, 1000, rows) * 2.0**-52)


if __name__ == "__main__":
    main()
