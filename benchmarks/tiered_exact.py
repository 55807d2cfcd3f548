"""Tiered tables against TorchRec's own, whole in memory: equal to the last bit?

A small ranker is trained on both, for every combination of optimiser, prefetching, pooling, number
of tables (with features shared between them), tier and threads; each loss, and at the end every
weight and every number of optimiser state, is compared with ``==``. The cache is small enough that
at least three in ten rows asked for are missing and each slot changes hands ten times.

    OMP_WAIT_POLICY=passive python -m benchmarks.tiered_exact

(Passive, since two threads that spin on a busy machine take a hundred times as long.)
"""

import argparse
import itertools
import json
import platform
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchrec
import torchrec.optim
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.slow_tier import FileTier, MemoryTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection

RESULTS = Path(__file__).parent / "results" / "tiered_exact.json"
FACTORS: dict[str, list[Any]] = {
    "optimizer": [torch.optim.SGD, torchrec.optim.RowWiseAdagrad],
    "depth": [None, 1, 2],
    "pooling": ["sum", "mean", "weighted"],
    "tables": [1, 3],
    "tier": ["memory", "file"],
    "threads": [1, 2],
}
ROWS, SLOTS = 220, 64
RATE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": "OMP_WAIT_POLICY=passive python -m benchmarks.tiered_exact",
        "torch": torch.__version__,
        "torchrec": torchrec.__version__,
        "machine": platform.machine(),
        "factors": {
            name: [getattr(value, "__name__", value) for value in values]
            for name, values in FACTORS.items()
        },
        **equality(options.steps),
    }
    print(json.dumps(report), flush=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def equality(steps: int) -> dict[str, Any]:
    counts = {"runs": 0, "equal": 0}
    misses: list[float] = []
    turnovers: list[float] = []
    expected: dict[Any, Any] = {}
    for values in itertools.product(*FACTORS.values()):
        setting = dict(zip(FACTORS, values, strict=True))
        torch.set_num_threads(setting["threads"])
        key = tuple(setting[name] for name in ("optimizer", "pooling", "tables", "threads"))
        if key not in expected:
            expected[key] = of_torchrec(setting, steps)
        with tempfile.TemporaryDirectory() as folder:
            collection = tiered(setting, Path(folder))
            examples: Iterable[KeyedJaggedTensor] = small_batches(steps, setting)
            if setting["depth"] is not None:
                examples = LookAheadLoader(examples, [collection], depth=setting["depth"], window=7)
            losses = train(collection, examples)
            found = all_rows(collection)
        print(setting, flush=True)
        counts["runs"] += 1
        counts["equal"] += losses == expected[key][0] and all(
            torch.equal(found[name], rows) for name, rows in expected[key][1].items()
        )
        busiest = max(collection.traffic.values(), key=lambda traffic: traffic.lookups)
        misses.append(busiest.miss_rate)
        turnovers.append(busiest.evictions / SLOTS)
    return {
        **counts,
        "steps": steps,
        "lowest_miss_rate": min(misses),
        "fewest_evictions_per_slot": min(turnovers),
    }


def configs(setting: dict[str, Any]) -> list[EmbeddingBagConfig]:
    pooling = PoolingType.MEAN if setting["pooling"] == "mean" else PoolingType.SUM
    read = [("one", 8, ["x"]), ("two", 4, ["x", "y"]), ("three", 8, ["z", "y"])]
    return [
        EmbeddingBagConfig(
            name=name, embedding_dim=dim, num_embeddings=ROWS, feature_names=names, pooling=pooling
        )
        for name, dim, names in read[: setting["tables"]]
    ]


def weights(table: EmbeddingBagConfig) -> Tensor:
    random = torch.Generator().manual_seed(len(table.name))
    return torch.rand(ROWS, table.embedding_dim, generator=random) - 0.5


def tiered(setting: dict[str, Any], folder: Path) -> TieredEmbeddingBagCollection:
    rule = RowOptimizer(setting["optimizer"], lr=RATE)
    tiers: dict[str, MemoryTier | FileTier] = {}
    for table in configs(setting):
        width = rule.row_width(table.embedding_dim)
        if setting["tier"] == "file":
            tiers[table.name] = FileTier(folder / table.name, rows=ROWS, width=width)
        else:
            tiers[table.name] = MemoryTier(rows=ROWS, width=width)
    collection = TieredEmbeddingBagCollection(
        configs(setting),
        slots=SLOTS,
        optimizer=rule,
        tiers=tiers,
        is_weighted=setting["pooling"] == "weighted",
    )
    collection.load_state_dict(
        {f"embedding_bags.{table.name}.weight": weights(table) for table in configs(setting)}
    )
    return collection


def of_torchrec(setting: dict[str, Any], steps: int) -> tuple[list[float], dict[str, Tensor]]:
    collection = FusedEmbeddingBagCollection(
        configs(setting),
        setting["optimizer"],
        {"learning_rate": RATE},
        is_weighted=setting["pooling"] == "weighted",
    )
    names = {table.name: f"embedding_bags.{table.name}.weight" for table in configs(setting)}
    collection.load_state_dict({names[table.name]: weights(table) for table in configs(setting)})
    losses = train(collection, small_batches(steps, setting))
    states = collection.fused_optimizer().state_dict()["state"]
    rows: dict[str, Tensor] = {}
    for name, key in names.items():
        parts = [collection.state_dict()[key], *states.get(f"{name}.weight", {}).values()]
        rows[name] = torch.cat([part.detach().reshape(ROWS, -1) for part in parts], dim=1)
    return losses, rows


def small_batches(count: int, setting: dict[str, Any]) -> list[KeyedJaggedTensor]:
    random = np.random.default_rng(0)
    made: list[KeyedJaggedTensor] = []
    for _ in range(count):
        lengths = random.integers(0, 4, (3, 6))
        total = int(lengths.sum())
        popular = random.zipf(1.3, total) % ROWS
        ids = np.where(random.random(total) < 0.5, popular, random.integers(0, ROWS, total))
        share = torch.from_numpy(random.random(total).astype(np.float32))
        made.append(
            KeyedJaggedTensor(
                ["x", "y", "z"],
                torch.from_numpy(ids),
                weights=share if setting["pooling"] == "weighted" else None,
                lengths=torch.from_numpy(lengths.reshape(-1).astype(np.int32)),
            )
        )
    return made


def train(collection: Any, examples: Iterable[KeyedJaggedTensor]) -> list[float]:
    torch.manual_seed(1)
    tables: list[EmbeddingBagConfig] = collection.embedding_bag_configs()
    width = sum(table.embedding_dim * len(table.feature_names) for table in tables)
    head = nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 1))
    dense = torch.optim.SGD(head.parameters(), lr=0.1)
    losses: list[float] = []
    for step, example in enumerate(examples):
        dense.zero_grad()
        loss = (head(collection(example).values()).squeeze(1) - step % 3).square().mean()
        loss.backward()
        dense.step()
        losses.append(loss.item())
    return losses


def all_rows(collection: TieredEmbeddingBagCollection) -> dict[str, Tensor]:
    collection.flush()
    found: dict[str, Tensor] = {}
    for name, tier in collection.tiers.items():
        found[name] = torch.empty(tier.rows, tier.width)
        tier.read(torch.arange(tier.rows), found[name])
    return found


if __name__ == "__main__":
    main()
