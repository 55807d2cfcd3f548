"""What looking codes up costs: a million ids against a plain ``index_select`` of the same bytes.

The peer is the least that any lookup must do: fetch one million random rows of ``[1M, 3]``
int32. Beside it stand the dense path (compact ids) and the hashed path (arbitrary 64-bit ids,
half of the queries unknown in a second run). Rounds are interleaved, the median of at least
five is kept, and all answers are compared before anything is timed.

    python -m benchmarks.sid_lookup
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable

RESULTS = Path(__file__).parent / "results" / "sid_lookup.json"
SPEC = SIDSpec((256, 256, 256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows += measure(items=options.items, rounds=options.rounds, threads=threads)
    report = {
        "command": "python -m benchmarks.sid_lookup",
        "items": options.items,
        "queries": options.items,
        "levels": SPEC.num_levels,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'path':<24}{'threads':>8}{'ms':>10}{'x index_select':>16}{'built in s':>12}")
    for row in rows:
        built = "" if row["build_seconds"] is None else f"{row['build_seconds']:.2f}"
        print(
            f"{row['path']:<24}{row['threads']:>8}{row['milliseconds']:>10.2f}"
            f"{row['ratio']:>16.2f}{built:>12}"
        )


def measure(*, items: int, rounds: int, threads: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (items, 3), dtype=np.int32)
    wanted = rng.integers(0, items, items)
    anywhere = rng.permutation(np.unique(rng.integers(-(2**63), 2**63 - 1, items + items // 100)))
    ids, strangers = anywhere[:items], rng.integers(-(2**63), 2**63 - 1, items)

    dense, dense_seconds = built(np.arange(items), codes)
    hashed, hashed_seconds = built(ids, codes)
    plain, order = torch.from_numpy(codes), torch.from_numpy(wanted)
    hits = torch.from_numpy(ids[wanted])
    half = torch.where(order % 2 == 0, hits, torch.from_numpy(strangers))
    expected = plain.index_select(0, order)
    assert torch.equal(dense(order), expected)
    assert torch.equal(hashed(hits), expected)
    assert torch.equal(hashed(half), expected.masked_fill((order % 2 == 1).unsqueeze(1), -1))

    calls: dict[str, tuple[Callable[[], Tensor], float | None]] = {
        "index_select": (lambda: plain.index_select(0, order), None),
        "dense ids": (lambda: dense(order), dense_seconds),
        "64-bit ids": (lambda: hashed(hits), hashed_seconds),
        "64-bit ids, half unknown": (lambda: hashed(half), hashed_seconds),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, _build) in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "path": name,
            "threads": threads,
            "milliseconds": 1000 * medians[name],
            "ratio": medians[name] / medians["index_select"],
            "build_seconds": build,
        }
        for name, (_call, build) in calls.items()
    ]


def built(ids: np.ndarray, codes: np.ndarray) -> tuple[SIDLookup, float]:
    table = SIDTable(ids, codes, spec=SPEC)
    start = time.perf_counter()
    return SIDLookup(table), time.perf_counter() - start


if __name__ == "__main__":
    main()
