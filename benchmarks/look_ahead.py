"""What it is worth to know the batches ahead: hits of LRU, of windows, and of the best policy.

Planted traffic of 600 batches of 16,384 lookups into ten million rows, popularity a power law of
exponent 1.05; once as it is, and once with two fifths of the lookups going to rows that came up of
late, a window that moves. Counted are distinct rows per batch, over the second half. No row may
bypass the cache: all rows of a batch are in it at once.

    python -m benchmarks.look_ahead
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sidrank.cache.look_ahead import simulate, simulate_set_associative

RESULTS = Path(__file__).parent / "results" / "look_ahead.json"
SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
WINDOWS = (2, 10, 50, 150)

Integers = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batches", type=int, default=600)
    parser.add_argument("--lookups", type=int, default=16_384)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sizes = {"rows": options.rows, "batches": options.batches, "lookups": options.lookups}
    report: dict[str, Any] = {
        "command": "python -m benchmarks.look_ahead",
        **sizes,
        "exponent": 1.05,
        "recent_share": 0.4,
        "windows": list(WINDOWS),
        "traces": {},
    }
    for name, recent in (("stationary", 0.0), ("drifting", 0.4)):
        batches = traffic(recent=recent, **sizes)
        rows = []
        for share in SHARES:
            rows.append(hit_rates(batches, options.rows, share))
            print(name, json.dumps(rows[-1]), flush=True)
        report["traces"][name] = {
            "distinct_per_batch": float(np.mean([len(batch) for batch in batches])),
            "touched": len(np.unique(np.concatenate(batches))),
            "rows": rows,
        }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def traffic(*, rows: int, batches: int, lookups: int, recent: float) -> list[Integers]:
    """The distinct rows of each batch, ascending."""
    random = np.random.default_rng(0)
    weights = np.arange(1, rows + 1, dtype=np.float64) ** -1.05
    ends = np.cumsum(weights / weights.sum())
    name_of = random.permutation(rows)
    age, pace = rows / 250, rows // 25_000  # rows since it came up, rows that come up in a batch
    made: list[Integers] = []
    for now in range(batches):
        popular = np.searchsorted(ends, random.random(lookups)).clip(max=rows - 1)
        late = (now * pace - random.exponential(age, lookups).astype(np.int64)) % rows
        made.append(np.unique(name_of[np.where(random.random(lookups) < recent, late, popular)]))
    return made


def hit_rates(batches: list[Integers], rows: int, share: float) -> dict[str, Any]:
    slots = int(rows * share)
    half = len(batches) // 2
    asked = sum(len(batch) for batch in batches[half:])
    hits = {
        "lru": simulate(batches, rows=rows, slots=slots),
        "sets of 32": simulate_set_associative(batches, rows=rows, slots=slots),
        **{str(w): simulate(batches, rows=rows, slots=slots, window=w) for w in WINDOWS},
        "best": simulate(batches, rows=rows, slots=slots, window=len(batches)),
    }
    rates = {name: float(counted[half:].sum() / asked) for name, counted in hits.items()}
    return {"share": share, "slots": slots, "hit_rate": rates}


if __name__ == "__main__":
    main()
