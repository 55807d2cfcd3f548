"""A small ranker on tiered tables, and on TorchRec's own fused ones: what is trained from what."""

import os
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
import torchrec.optim
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.slow_tier import FileTier, MemoryTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection

OPTIMIZERS = {
    "sgd": RowOptimizer(torch.optim.SGD, lr=0.05),
    "rowwise": RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=0.05),
    "adagrad": RowOptimizer(torch.optim.Adagrad, lr=0.05),
}
SLOTS = 64
ROWS = 220


def tables(pooling="sum", count=3):
    """``z`` is alone, ``x`` and ``y`` are read by two tables each; two widths."""
    pooled = PoolingType.MEAN if pooling == "mean" else PoolingType.SUM
    made = [("one", 8, ["x"]), ("two", 4, ["x", "y"]), ("three", 8, ["z", "y"])]
    return [
        EmbeddingBagConfig(
            name=name, embedding_dim=dim, num_embeddings=ROWS, feature_names=names, pooling=pooled
        )
        for name, dim, names in made[:count]
    ]


def batch(features, weights=None):
    """A batch from lists of bags."""
    bags = [bag for column in features.values() for bag in column]
    return KeyedJaggedTensor(
        list(features),
        torch.tensor([value for bag in bags for value in bag], dtype=torch.int64),
        weights=weights,
        lengths=torch.tensor([len(bag) for bag in bags], dtype=torch.int32),
    )


def batches(count, seed=0, weighted=False):
    """Popular ids and rare ones, bags of none to three."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        lengths = random.integers(0, 4, (3, 6))
        total = int(lengths.sum())
        popular = random.zipf(1.3, total) % ROWS
        ids = np.where(random.random(total) < 0.5, popular, random.integers(0, ROWS, total))
        weights = torch.from_numpy(random.random(total).astype(np.float32)) if weighted else None
        made.append(
            KeyedJaggedTensor(
                ["x", "y", "z"],
                torch.from_numpy(ids),
                weights=weights,
                lengths=torch.from_numpy(lengths.reshape(-1).astype(np.int32)),
            )
        )
    return made


def train(collection, loader):
    """The losses of a head over the collection; the head steps too."""
    torch.manual_seed(1)
    width = sum(
        table.embedding_dim * len(table.feature_names)
        for table in collection.embedding_bag_configs()
    )
    head = torch.nn.Sequential(torch.nn.Linear(width, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))
    head.to(collection.device)
    dense = torch.optim.SGD(head.parameters(), lr=0.1)
    losses = []
    for step, example in enumerate(loader):
        dense.zero_grad()
        loss = (head(collection(example).values()).squeeze(1) - step % 3).square().mean()
        loss.backward()
        dense.step()
        losses.append(loss.item())
    return losses


def born(pooling="sum", count=3):
    """The weights that both start from, by table."""
    made = torch.Generator().manual_seed(5)
    return {
        table.name: torch.rand(ROWS, table.embedding_dim, generator=made) - 0.5
        for table in tables(pooling, count)
    }


def tiered(
    optimizer="rowwise",
    *,
    pooling="sum",
    count=3,
    weighted=False,
    slots=SLOTS,
    folder=None,
    device=None,
):
    """The collection at birth, in memory or in files of ``folder``."""
    rule, weights = OPTIMIZERS[optimizer], born(pooling, count)
    tiers = {}
    for table in tables(pooling, count):
        sizes = {"rows": ROWS, "width": rule.row_width(table.embedding_dim)}
        state = torch.zeros(ROWS, rule.state_width(table.embedding_dim))
        whole = torch.cat([weights[table.name], state], dim=1)
        tiers[table.name] = (
            MemoryTier(**sizes) if folder is None else FileTier(folder / table.name, **sizes)
        )
        tiers[table.name].write(torch.arange(ROWS), whole)
    return TieredEmbeddingBagCollection(
        tables(pooling, count),
        slots=slots,
        optimizer=rule,
        tiers=tiers,
        is_weighted=weighted,
        device=device,
    )


def fused(optimizer="rowwise", *, pooling="sum", count=3, weighted=False):
    """TorchRec's own collection, whole in memory, from the same weights."""
    rule = OPTIMIZERS[optimizer]
    collection = FusedEmbeddingBagCollection(
        tables(pooling, count),
        rule.kind,
        {"learning_rate": rule.lr, "eps": rule.eps},
        is_weighted=weighted,
    )
    weights = born(pooling, count).items()
    collection.load_state_dict({f"embedding_bags.{name}.weight": w for name, w in weights})
    return collection


def rows_of(collection):
    """Every row as the tiers have it, weight and state."""
    collection.flush()
    found = {}
    for name, tier in collection.tiers.items():
        found[name] = torch.empty(tier.rows, tier.width)
        tier.read(torch.arange(tier.rows), found[name])
    return found


def rows_of_fused(collection):
    """The same of TorchRec's."""
    states = collection.fused_optimizer().state_dict()["state"]
    found = {}
    for table in collection.embedding_bag_configs():
        name = f"embedding_bags.{table.name}.weight"
        of_table = states.get(f"{table.name}.weight", {})  # SGD has none
        parts = [collection.state_dict()[name], *of_table.values()]
        found[table.name] = torch.cat(
            [part.detach().reshape(table.num_embeddings, -1) for part in parts], dim=1
        )
    return found


@cache
def uncached(optimizer, pooling, count, weighted, threads, steps):
    """Losses and rows of the whole tables."""
    with threads_of(threads):
        collection = fused(optimizer, pooling=pooling, count=count, weighted=weighted)
        losses = train(collection, batches(steps, weighted=weighted))
        return losses, rows_of_fused(collection)


@contextmanager
def threads_of(count):
    """Torch's number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


class UnevenTier(MemoryTier):
    """Gives the processor away, now often and now not at all, whenever it is read or written."""

    def __init__(self, tier, seed):
        super().__init__(rows=tier.rows, width=tier.width)
        everything = torch.arange(tier.rows)
        block = torch.empty(tier.rows, tier.width)
        tier.read(everything, block)
        super().write(everything, block)
        self._random = np.random.default_rng(seed)

    def _linger(self):
        for _ in range(int(self._random.integers(0, 3) * self._random.integers(0, 400))):
            os.sched_yield()

    def read(self, rows, out):
        self._linger()
        super().read(rows, out)
        self._linger()

    def write(self, rows, values):
        self._linger()
        super().write(rows, values)


def uneven(collection, seed):
    """The same collection over tiers that take their time."""
    tiers = {
        name: UnevenTier(tier, seed + at)
        for at, (name, tier) in enumerate(collection.tiers.items())
    }
    return TieredEmbeddingBagCollection(
        collection.embedding_bag_configs(),
        slots=SLOTS,
        optimizer=collection.optimizer,
        tiers=tiers,
    )


def loaded(collection, examples, *, depth=None, window=0):
    """The batches as they are, or read ahead."""
    if depth is None:
        return examples
    return LookAheadLoader(examples, [collection], depth=depth, window=window)
