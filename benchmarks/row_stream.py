"""Training rows from parquet into TorchRec features, against Arrow's own read of the same columns.

A file of 26 columns of ids (int64), 13 of dense numbers (float32) and a label is read whole:

* ``arrow``: row groups to Arrow tables, no check, no order, no batch: the limit;
* ``RowStream``: checked, mixed or not, in batches, as a ``KeyedJaggedTensor``.

First the answers: every row of the file comes once, with every value in its column. Rounds are
interleaved, medians of CPU seconds (of all threads) and of wall seconds. Memory is the peak of a
process of its own above what the imports take.

    python -m benchmarks.row_stream
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from sidrank.data import RowColumns, RowPlan, RowStream
from sidrank.embeddings import features_of

RESULTS = Path(__file__).parent / "results" / "row_stream.json"
SPARSE = tuple(f"id_{place}" for place in range(26))
DENSE = tuple(f"number_{place}" for place in range(13))
COLUMNS = RowColumns(["label"], DENSE, SPARSE)
BATCH, LANES, MIXED = 8192, 8, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--group-rows", type=int, default=1 << 16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--peak", nargs=4, metavar=("FILE", "READERS", "SHUFFLED", "MIXED"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        path, readers, shuffled, mixed = options.peak
        print(peak(Path(path), int(readers), bool(int(shuffled)), int(mixed)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        write(file, options.rows, options.group_rows)
        for shuffled in (False, True):
            check(file, shuffled)
        report = {
            "command": "python -m benchmarks.row_stream",
            "rows_read": options.rows,
            "row_group": options.group_rows,
            "file_mib": file.stat().st_size / 2**20,
            "decoded_mib": options.rows * (8 * len(SPARSE) + 4 * len(DENSE) + 4) / 2**20,
            "batch": BATCH,
            "lanes": LANES,
            "mixed": MIXED,
            "rounds": options.rounds,
            "pyarrow": pa.__version__,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "rows": measure(file, options.rows, options.rounds),
            "memory": [
                {"readers": readers, "mixed": mixed, "peak_mib": peak_of(file, readers, mixed)}
                for readers in (1, 2)
                for mixed in (1, MIXED)
            ],
        }
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for row in report["rows"]:
        print(json.dumps(row))
    print(json.dumps(report["memory"]))


def write(file: Path, rows: int, group_rows: int) -> None:
    """Ids of long tails, in vocabularies from a hundred to a million."""
    draw = np.random.default_rng(0)
    columns: dict[str, NDArray[Any]] = {
        name: draw.zipf(1.2, rows).astype(np.int64) % 10 ** (2 + place % 5)
        for place, name in enumerate(SPARSE)
    }
    columns |= {name: draw.random(rows, np.float32) for name in DENSE}
    columns["label"] = (draw.random(rows) < 0.1).astype(np.float32)
    pq.write_table(pa.table(columns), file, row_group_size=group_rows)


def stream(file: Path, readers: int, shuffled: bool, mixed: int = MIXED) -> RowStream:
    plan = RowPlan(file, batch_rows=BATCH, lanes=LANES, seed=0 if shuffled else None, mixed=mixed)
    return RowStream(plan, COLUMNS, readers=readers)


def check(file: Path, shuffled: bool) -> None:
    """Every row once: a number is made of all values of a row, each with its column's weight."""
    weights = np.random.default_rng(1).integers(1, 2**62, 40, dtype=np.uint64)

    def mark(columns: list[NDArray[Any]]) -> NDArray[np.uint64]:
        total = np.zeros(len(columns[0]), np.uint64)
        for weight, column in zip(weights, columns, strict=True):
            bits = np.ascontiguousarray(column).view(f"u{column.itemsize}").astype(np.uint64)
            total += bits * weight  # wraps
        return total

    table = pq.read_table(file)
    wanted = mark([table[name].to_numpy() for name in [*SPARSE, *DENSE, "label"]])
    found: list[NDArray[np.uint64]] = []
    for rows in stream(file, 2, shuffled):
        features = features_of(rows)
        columns = [features[name].values().numpy() for name in SPARSE]
        assert int(features.lengths().min()) == int(features.lengths().max()) == 1
        found.append(mark([*columns, *rows.dense.numpy().T, rows.labels[:, 0].numpy()]))
    assert np.array_equal(np.sort(np.concatenate(found)), np.sort(wanted))


def arrow(file: Path, readers: int) -> None:
    """Whole row groups, by as many threads."""

    def groups(first: int) -> None:
        with pq.ParquetFile(file) as parquet:
            for group in range(first, parquet.num_row_groups, readers):
                parquet.read_row_group(group, use_threads=False)

    with ThreadPoolExecutor(readers) as threads:
        list(threads.map(groups, range(readers)))


def read(file: Path, readers: int, shuffled: bool, mixed: int = MIXED) -> int:
    """All batches of an epoch; how many rows they had."""
    return sum(features_of(rows).stride() for rows in stream(file, readers, shuffled, mixed))


def measure(file: Path, rows: int, rounds: int) -> list[dict[str, Any]]:
    ways: dict[tuple[str, int], Callable[[], object]] = {}
    for readers in (1, 2):
        ways["arrow", readers] = lambda readers=readers: arrow(file, readers)
        ways["in order", readers] = lambda readers=readers: read(file, readers, False)
        ways["shuffled", readers] = lambda readers=readers: read(file, readers, True)
    wall: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    cpu: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, run in ways.items():
            before = time.process_time()
            start = time.perf_counter()
            run()
            if turn:  # the first one warms up
                wall[way].append(time.perf_counter() - start)
                cpu[way].append(time.process_time() - before)
    found: list[dict[str, Any]] = []
    for what, readers in ways:
        seconds, spent = (statistics.median(taken[what, readers]) for taken in (wall, cpu))
        found.append(
            {
                "what": what,
                "readers": readers,
                "seconds": seconds,
                "fastest_seconds": min(wall[what, readers]),
                "cpu_seconds": spent,
                "rows_per_second": rows / seconds,
                "rows_per_cpu_second": rows / spent,
                # of CPU seconds, which other programs on the machine do not change
                "of_arrow": statistics.median(cpu["arrow", readers]) / spent,
            }
        )
    return found


def peak_of(file: Path, readers: int, mixed: int) -> float:
    command = [sys.executable, "-m", "benchmarks.row_stream", "--peak"]
    command += [str(file), str(readers), "1", str(mixed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def peak(file: Path, readers: int, shuffled: bool, mixed: int) -> float:
    """MiB above what the process had before it read."""
    before = _high_water()
    read(file, readers, shuffled, mixed)
    return _high_water() - before


def _high_water() -> float:
    # of this program alone, which ru_maxrss is not: it keeps what the parent had
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
