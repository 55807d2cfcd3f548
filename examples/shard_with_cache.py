"""From traffic to a plan to training: tables that do not fit, on MovieLens.

The traffic of one epoch says how often a cache of any size would miss. That sizes the caches of
eight GPUs, of which none is here: MovieLens is small, so they get 200 kB each. And the same tables
train on this CPU behind a small cache, their rows in a file, left in the middle as by a kill: they
end bit for bit where all in memory end.

    python examples/shard_with_cache.py
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim import RowWiseAdagrad

from sidrank.cache import (
    AccessTrace,
    FileTier,
    LookAheadLoader,
    RowOptimizer,
    TieredCheckpoint,
    TieredEmbeddingBagCollection,
    weight_rows,
)
from sidrank.data import MovieLens, read_movielens
from sidrank.sharding.fitting import cuda_topology
from sidrank.sharding.planning import plan_caches

DIM, BATCH, COMMIT, GPUS, HBM, CACHED = 64, 256, 50, 8, 200_000, 512
OPTIMIZER = RowOptimizer(RowWiseAdagrad, lr=0.1)


def tables(data: MovieLens) -> list[EmbeddingBagConfig]:
    sizes = {"user": len(data.user_ids), "item": len(data.item_ids)}
    return [
        EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=[name])
        for name, rows in sizes.items()
    ]


def batches(data: MovieLens, start: int = 0) -> Iterator[tuple[KeyedJaggedTensor, Tensor]]:
    """The log in the order of time, from a batch on."""
    user, item = torch.from_numpy(data.user_index), torch.from_numpy(data.item_index)
    for row in range(start * BATCH, len(user) - BATCH + 1, BATCH):
        rows = slice(row, row + BATCH)
        ids = torch.cat([user[rows], item[rows]]).long()
        lengths = torch.ones(len(ids), dtype=torch.int32)
        labels = torch.from_numpy(data.label[rows]).float()
        yield KeyedJaggedTensor(["user", "item"], ids, lengths=lengths), labels


class Ranker(nn.Module):
    """Pooled rows through two layers, to the loss."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embeddings = embeddings
        self.head = nn.Sequential(nn.Linear(2 * DIM, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, features: KeyedJaggedTensor, labels: Tensor) -> Tensor:  # noqa: D102
        logits = self.head(self.embeddings(features).values()).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def ranker(data: MovieLens, slots: int, tiers: dict[str, FileTier] | None = None) -> Ranker:
    torch.manual_seed(0)
    return Ranker(
        TieredEmbeddingBagCollection(tables(data), slots=slots, optimizer=OPTIMIZER, tiers=tiers)
    )


def train(
    model: Ranker, data: MovieLens, checkpoint: TieredCheckpoint | None = None, stop: int = -1
) -> list[float]:
    """The losses, from where the checkpoint is to the end, or to a batch where it is left."""
    dense, start = torch.optim.Adam(model.head.parameters()), 0
    if checkpoint is not None and checkpoint.step is not None:
        kept, start = checkpoint.state(), checkpoint.step
        model.head.load_state_dict(kept["head"])
        dense.load_state_dict(kept["dense"])
    losses = []
    loader = LookAheadLoader(
        batches(data, start), [model.embeddings], features=lambda batch: batch[0], window=20
    )
    for step, batch in enumerate(loader, start):
        if checkpoint is not None and step % COMMIT == 0:
            state = {"head": model.head.state_dict(), "dense": dense.state_dict()}
            checkpoint.commit(step, [model.embeddings], state=state)
        if step == stop:
            return losses
        loss = model(*batch)
        dense.zero_grad()
        loss.backward()
        dense.step()
        losses.append(loss.item())
    return losses


def main() -> dict[str, float]:
    data = read_movielens()
    trace = AccessTrace({table.name: table.num_embeddings for table in tables(data)})
    for features, _ in batches(data):
        trace.observe_features(features, tables=tables(data))
    for name, curve in trace.curves().items():
        shares = ", ".join(f"{curve.miss_rate(at):.0%} at {at:.0%}" for at in (0.1, 0.25, 0.5))
        print(f"{name}: a cache of part of its rows misses {shares}")

    model = nn.Sequential(EmbeddingBagCollection(tables=tables(data), device=torch.device("meta")))
    cluster = cuda_topology(GPUS, hbm_bytes=HBM)
    plan = plan_caches(model, trace, cluster, batch_size=BATCH // GPUS)
    for table in plan.tables:
        cache = f"{table.load_factor:.0%} in HBM, {table.predicted_miss:.1%} predicted misses"
        print(f"{table.name}: {table.sharding}, {table.kernel}, {cache}")

    whole = ranker(data, slots=10**6)
    initial = whole.embeddings.state_dict()
    expected = train(whole, data)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            table.name: FileTier(
                Path(folder) / table.name,
                rows=table.num_embeddings,
                width=OPTIMIZER.row_width(DIM),
                fill=weight_rows(initial[f"embedding_bags.{table.name}.weight"], OPTIMIZER),
            )
            for table in tables(data)
        }
        checkpoint = TieredCheckpoint(Path(folder) / "checkpoint", files)
        train(ranker(data, CACHED, checkpoint.tiers), data, checkpoint, stop=130)
        checkpoint.close()  # what came after the last commit is gone, as after a kill
        checkpoint = TieredCheckpoint(Path(folder) / "checkpoint", files)
        went_back = checkpoint.step
        cached = ranker(data, CACHED, checkpoint.tiers)
        losses = train(cached, data, checkpoint)
        traffic = cached.embeddings.traffic.values()
        print(f"left in step 130, went on from {went_back}, {checkpoint.rolled_back} rows back")
    equal = losses == expected[went_back:]
    misses = sum(each.misses for each in traffic) / sum(each.lookups for each in traffic)
    print(f"{misses:.0%} of the rows were fetched; losses bit-equal: {equal}")
    return {"equal": equal, "misses": misses, "went_back": went_back}


if __name__ == "__main__":
    main()
