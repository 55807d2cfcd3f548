"""What semantic IDs cost a training step: the hybrid against the same lookups added by hand.

Three rankers, all sharded by ``DistributedModelParallel`` on one rank with SGD fused into the
tables' backward pass:

* ``host``: a DLRM with its own tables, the item table of one million rows;
* ``by hand``: the host plus five tables of the sizes and rows that the SIDs read, their
  ids ready in the batch, their outputs added to the item's embedding;
* ``hybrid``: the host in ``HybridEmbeddingBagCollection``: code lookup, five resolutions,
  attention, gate.

With the attention and the gate taken out, ``hybrid`` reads the same rows as ``by hand``: equal
results are checked first. Rounds are interleaved and the median is kept.

    python -m benchmarks.hybrid_step
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import HybridEmbeddingBagCollection, RawIDSource, SIDExpander
from sidrank.layers import ResidualGate
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable

RESULTS = Path(__file__).parent / "results" / "hybrid_step.json"
DIM = 64
FEATURES = {"item": 1_000_000, **{f"f{index}": 100_000 for index in range(7)}}
SPEC = SIDSpec((256, 256, 256))


class ByHand(nn.Module):
    """What an engineer would write: five more tables, summed into the item."""

    def __init__(self, host: EmbeddingBagCollection, more: list[EmbeddingBagConfig]) -> None:
        super().__init__()
        self.configs = list(host.embedding_bag_configs())
        self.more = [config.feature_names[0] for config in more]
        self.ebc = EmbeddingBagCollection(tables=[*self.configs, *more])

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self.configs

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        pooled = self.ebc(features).to_dict()
        item = pooled["item"] + torch.stack([pooled[name] for name in self.more]).sum(dim=0)
        values = [item, *(pooled[name] for name in FEATURES if name != "item")]
        return KeyedTensor(list(FEATURES), [DIM] * len(FEATURES), torch.cat(values, dim=1))


def collection() -> EmbeddingBagCollection:
    tables = [
        EmbeddingBagConfig(name=f"t_{n}", embedding_dim=DIM, num_embeddings=r, feature_names=[n])
        for n, r in FEATURES.items()
    ]
    return EmbeddingBagCollection(tables=tables)


def sharded(embeddings: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = DLRM(
        embeddings,  # type: ignore[arg-type]
        dense_in_features=13,
        dense_arch_layer_sizes=[256, DIM],
        over_arch_layer_sizes=[256, 128, 1],
    )
    plans = {}
    for path, part in model.named_modules():
        if type(part) is EmbeddingBagCollection:
            apply_optimizer_in_backward(torch.optim.SGD, part.parameters(), {"lr": 0.1})
            ways = {config.name: table_wise(rank=0) for config in part.embedding_bag_configs()}
            plans[path] = construct_module_sharding_plan(
                part, ways, world_size=1, local_size=1, device_type="cpu"
            )
    model = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan(plans),
        sharders=[EmbeddingBagCollectionSharder()],
    )
    dense = [p for p in model.parameters() if not hasattr(p, "_in_backward_optimizers")]
    return model, torch.optim.SGD(dense, lr=0.1)


def step(pair: tuple[nn.Module, torch.optim.Optimizer], batch: tuple[Tensor, ...]) -> None:
    model, optimizer = pair
    dense, sparse, labels = batch
    optimizer.zero_grad()
    logits = model(dense, sparse).squeeze(1)
    torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
    optimizer.step()


def measure(*, size: int, rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    items = FEATURES["item"]
    table = SIDTable(np.arange(items), rng.integers(0, 256, (items, 3)), spec=SPEC)
    expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(table))})
    tables = expander.embedding_bag_configs(embedding_dim=DIM)
    hybrid = HybridEmbeddingBagCollection(
        collection(),
        tables,
        expander=expander,
        gates={"item": ResidualGate(statistics=["shown", "liked"])},
    )
    models = {
        "host": sharded(collection()),
        "by hand": sharded(ByHand(collection(), tables)),
        "hybrid": sharded(hybrid),
    }
    batches = [example(rng, size, expander) for _ in range(4)]
    check(batches[0], expander, tables)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 3):
        for name, pair in models.items():
            plain, ready = batches[turn % len(batches)]
            batch = ready if name == "by hand" else plain
            start = time.perf_counter()
            step(pair, batch)
            if turn >= 3:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def example(
    rng: np.random.Generator, size: int, expander: SIDExpander
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """One batch twice: as the host's loader gives it, and with the SID rows ready in it."""
    columns = {name: rng.integers(0, rows, size) for name, rows in FEATURES.items()}
    columns |= {"item_raw": columns["item"]}
    columns |= {"shown": rng.integers(0, 1000, size), "liked": rng.integers(0, 100, size)}
    sparse = KeyedJaggedTensor.from_lengths_sync(
        keys=list(columns),
        values=torch.from_numpy(np.concatenate(list(columns.values()))),
        lengths=torch.ones(size * len(columns), dtype=torch.int32),
    )
    dense = torch.from_numpy(rng.random((size, 13), dtype=np.float32))
    labels = torch.from_numpy(rng.integers(0, 2, size)).float()
    return (dense, sparse, labels), (dense, expander(sparse), labels)


def check(batch: tuple[tuple[Tensor, ...], ...], expander: SIDExpander, tables: list) -> None:
    """The hybrid's collection and the hand-made one read the same rows."""
    (_, plain, _), (_, ready, _) = batch
    small = EmbeddingBagCollection(tables=tables)
    for embedding in small.embedding_bags.values():
        nn.init.normal_(embedding.weight)
    assert torch.equal(small(expander(plain)).values(), small(ready).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        medians = measure(size=options.batch, rounds=options.rounds)
        for name, value in medians.items():
            ratio = value / medians["by hand"]
            rows.append(
                {"ranker": name, "threads": threads, "milliseconds": 1000 * value, "ratio": ratio}
            )
    report = {
        "command": "python -m benchmarks.hybrid_step",
        "batch": options.batch,
        "item_rows": FEATURES["item"],
        "dim": DIM,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'ranker':<12}{'threads':>8}{'ms':>10}{'x by hand':>12}")
    for row in rows:
        print(
            f"{row['ranker']:<12}{row['threads']:>8}{row['milliseconds']:>10.1f}"
            f"{row['ratio']:>12.2f}"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
