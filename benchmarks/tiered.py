"""What tiered tables cost in time, and what fetching ahead hides.

*Whole*: TorchRec's fused table, all in memory. *Resident*: tiered, all rows in their slots, so that
what is added is the renaming of ids. *Moving*: a twentieth of the rows in slots, the rest in a file
(of which the page cache holds what it likes); fetched at the lookup, or during the batch before.
*Slow*: the same over a tier that waits for as long as the ranker needs for a batch; prefetching
should hide that. Rounds interleaved, medians, ratios are medians over rounds. The first two, which
wait for nothing, are seconds of the thread; the others of the wall.

    python -m benchmarks.tiered
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchrec
import torchrec.optim
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import RowOptimizer, new_rows
from sidrank.cache.slow_tier import FileTier, MemoryTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection

RESULTS = Path(__file__).parent / "results" / "tiered.json"
BAGS, PER_BAG, DIM = 2_048, 8, 64  # 16,384 lookups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table that is timed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "command": "python -m benchmarks.tiered",
        "torch": torch.__version__,
        "torchrec": torchrec.__version__,
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        **speed(options.rows, options.rounds),
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


class SlowMemory(MemoryTier):
    """Rows in memory that take a while to come."""

    delay = 0.0

    def read(self, rows: Tensor, out: Tensor) -> None:
        time.sleep(self.delay)
        super().read(rows, out)


class Ranker:
    """Dense layers and their optimiser over one collection."""

    def __init__(self, collection: Any) -> None:
        torch.manual_seed(1)
        self.collection = collection
        self.head = nn.Sequential(
            nn.Linear(DIM, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 1)
        )
        self.dense = torch.optim.SGD(self.head.parameters(), lr=0.01)

    def seconds_per_step(
        self,
        examples: Iterable[KeyedJaggedTensor],
        clock: Callable[[], float] = time.perf_counter,
    ) -> float:
        took: list[float] = []
        start = clock()
        for example in examples:
            self.dense.zero_grad()
            self.head(self.collection(example).values()).square().mean().backward()
            self.dense.step()
            took.append(clock() - start)
            start = clock()
        return statistics.median(took)


def speed(rows: int, rounds: int) -> dict[str, Any]:
    table = EmbeddingBagConfig(
        name="t", embedding_dim=DIM, num_embeddings=rows, feature_names=["f"]
    )
    rule = RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=0.01)
    slots = rows // 20
    popular = popularity(rows)
    warm, timed = large_batches(20, popular, seed=1), large_batches(30, popular, seed=2)

    whole = Ranker(FusedEmbeddingBagCollection([table], rule.kind, {"learning_rate": 0.01}))
    resident = Ranker(TieredEmbeddingBagCollection([table], slots=rows, optimizer=rule))
    with torch.no_grad():
        for ids in torch.arange(rows).split(BAGS * PER_BAG):
            resident.collection(large_batch(ids, bags=len(ids)))
    tier = SlowMemory(rows=rows, width=DIM + 1, fill=new_rows(table, rule))
    slow = Ranker(
        TieredEmbeddingBagCollection([table], slots=slots, optimizer=rule, tiers={"t": tier})
    )
    with tempfile.TemporaryDirectory() as folder:
        file = FileTier(Path(folder) / "rows", rows=rows, width=DIM + 1, fill=new_rows(table, rule))
        moving = Ranker(
            TieredEmbeddingBagCollection([table], slots=slots, optimizer=rule, tiers={"t": file})
        )

        def at_the_lookup(ranker: Ranker) -> float:
            return ranker.seconds_per_step(timed)

        def ahead(ranker: Ranker) -> float:
            return ranker.seconds_per_step(LookAheadLoader(timed, [ranker.collection], depth=1))

        for ranker in (moving, slow):
            ranker.seconds_per_step(warm)
        tier.delay = at_the_lookup(slow)
        steps: dict[str, Callable[[], float]] = {
            "whole": lambda: whole.seconds_per_step(timed, time.thread_time),
            "resident": lambda: resident.seconds_per_step(timed, time.thread_time),
            "moving": lambda: at_the_lookup(moving),
            "moving, ahead": lambda: ahead(moving),
            "slow": lambda: at_the_lookup(slow),
            "slow, ahead": lambda: ahead(slow),
        }
        took: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(rounds + 1):
            for name, step in steps.items():
                seconds = step()
                if turn:  # the first one warms up
                    took[name].append(seconds)
        misses = moving.collection.traffic["t"].miss_rate
    middle = {name: statistics.median(seconds) for name, seconds in took.items()}
    figures = {
        "rows": rows,
        "dim": DIM,
        "lookups": BAGS * PER_BAG,
        "slots": slots,
        "miss_rate": misses,
        "rounds": rounds,
        "threads": 1,
        "milliseconds": {name: 1000 * seconds for name, seconds in middle.items()},
        "spread_milliseconds": {
            name: [1000 * min(seconds), 1000 * max(seconds)] for name, seconds in took.items()
        },
        "delay_milliseconds": 1000 * tier.delay,
        "resident_overhead": statistics.median(
            one / other for one, other in zip(took["resident"], took["whole"], strict=True)
        )
        - 1,
        "ahead_over_at_the_lookup": statistics.median(
            one / other for one, other in zip(took["moving, ahead"], took["moving"], strict=True)
        ),
        "delay_hidden": statistics.median(
            (one - other) / tier.delay
            for one, other in zip(took["slow"], took["slow, ahead"], strict=True)
        ),
    }
    print(json.dumps(figures), flush=True)
    return figures


def popularity(rows: int) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -1.05)
    return ends / ends[-1], np.random.default_rng(0).permutation(rows)


def large_batches(
    count: int, popular: tuple[np.ndarray, np.ndarray], *, seed: int
) -> list[KeyedJaggedTensor]:
    random = np.random.default_rng(seed)
    ends, name_of = popular
    drawn = np.searchsorted(ends, random.random((count, BAGS * PER_BAG)))
    ids = torch.from_numpy(name_of[drawn.clip(max=len(ends) - 1)])
    return [large_batch(each, bags=BAGS) for each in ids]


def large_batch(ids: Tensor, *, bags: int) -> KeyedJaggedTensor:
    lengths = torch.full((bags,), len(ids) // bags, dtype=torch.int32)
    return KeyedJaggedTensor(["f"], ids, lengths=lengths)


if __name__ == "__main__":
    main()
