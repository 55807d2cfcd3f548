"""Row-wise tiered tables on two ranks: what is trained, and a job of it that can be killed."""

import hashlib
import os
import secrets
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim import RowWiseAdagrad

from sidrank.cache.commit import TieredCheckpoint
from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import RowOptimizer, weight_rows
from sidrank.cache.row_wise import RowWiseTieredCollection, row_range, row_wise_tables
from sidrank.cache.slow_tier import FileTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection
from tests.cache.crash_job import Answer, Killer, begin, end

OPTIMIZERS = {
    "sgd": RowOptimizer(torch.optim.SGD, lr=0.5),
    "rowwise": RowOptimizer(RowWiseAdagrad, lr=0.5),
}
BATCH, STEPS = 8, 60  # of the global batch; a power of two, so that means of means are exact


def tables():
    """Sizes that two ranks cannot halve, and a feature of two tables."""
    return [
        EmbeddingBagConfig(
            name=name, embedding_dim=dim, num_embeddings=rows, feature_names=features
        )
        for name, dim, rows, features in (("a", 4, 101, ["x"]), ("b", 8, 160, ["x", "y"]))
    ]


def weight(table):
    count = table.num_embeddings * table.embedding_dim
    return torch.arange(count).float().sin().view(-1, table.embedding_dim)


def batches(longest, rank, ranks):
    """The rank's part of each global batch."""
    generator = torch.Generator().manual_seed(3)
    rows = BATCH // ranks
    for _ in range(STEPS):
        bags = [
            [
                torch.randint(0, limit, (length,), generator=generator)
                for length in torch.randint(0, longest + 1, (BATCH,), generator=generator).tolist()
            ][rank * rows : (rank + 1) * rows]
            for limit in (101, 160)
        ]
        flat = [bag for column in bags for bag in column]
        yield KeyedJaggedTensor(
            ["x", "y"],
            torch.cat(flat),
            lengths=torch.tensor([len(bag) for bag in flat], dtype=torch.int32),
        )


def train(collection, loader, lookup):
    """The outputs of each step; a table's gradient depends on its own output only."""
    outputs = []
    for features in loader:
        pooled = lookup(features).values()
        outputs.append(pooled.detach().clone())
        (pooled - torch.linspace(-1, 1, pooled.shape[1])).square().mean(1).mean().backward()
    collection.flush()
    return outputs


def content(collection):
    found = {}
    for name, tier in collection.tiers.items():
        found[name] = torch.empty(tier.rows, tier.width)
        tier.read(torch.arange(tier.rows), found[name])
    return found


def tiers(optimizer, folder):
    """Of this rank's rows."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    made = {}
    for table in tables():
        rows = row_range(table.num_embeddings, rank, ranks)
        made[table.name] = FileTier(
            folder / f"{table.name}-{rank}",
            rows=len(rows),
            width=optimizer.row_width(table.embedding_dim),
            fill=weight_rows(weight(table)[rows.start : rows.stop], optimizer),
        )
    return made


def sharded(optimizer, made, slots=36):
    local = TieredEmbeddingBagCollection(
        row_wise_tables(tables(), dist.get_rank(), dist.get_world_size()),
        slots=slots,
        optimizer=optimizer,
        tiers=made,
    )
    return RowWiseTieredCollection(tables(), local=local, process_group=dist.group.WORLD)


def run(folder, answer, *, rank, store, at=None, within=None, every=12):
    """Be a rank of the job, killed at the ``at``-th operation of the commit of step ``within``."""
    killer = Killer(at)
    killer.install()
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=timedelta(0, 60)
    )
    optimizer = OPTIMIZERS["rowwise"]
    made = tiers(optimizer, Path(folder))
    checkpoint = TieredCheckpoint(Path(folder) / "checkpoint", made, process_group=dist.group.WORLD)
    collection = sharded(optimizer, checkpoint.tiers, slots=16)
    if checkpoint.step is None:
        checkpoint.commit(0, [collection.local])
    began = checkpoint.step
    rest = list(batches(1, rank, 2))[began:]
    ours = (collection.distribute(each) for each in rest)
    loader = LookAheadLoader(
        ours, [collection.local], features=lambda features: features, window=4, depth=0
    )
    for step, features in enumerate(loader, began + 1):
        pooled = collection.pool(features).values()
        (pooled - torch.linspace(-1, 1, pooled.shape[1])).square().mean(1).mean().backward()
        if step % every == 0:
            killer.on = step == within
            checkpoint.commit(step, [collection.local])
            killer.on = False
    checkpoint.close()
    whole = b"".join(rows.numpy().tobytes() for rows in content(collection.local).values())
    digest = hashlib.sha256(whole).hexdigest()
    answer.send(Answer(digest, began, checkpoint.rolled_back, killer.seen))
    os._exit(0)  # gloo's threads may abort an orderly exit


def start(folder, kills=({}, {}), within=None):
    """Both ranks in processes of their own: exit codes and answers."""
    store = str(Path(folder) / secrets.token_hex(8))
    both = [
        begin(folder, run, rank=rank, store=store, within=within, **kill)
        for rank, kill in enumerate(kills)
    ]
    return [end(*each) for each in both]
