"""A small training job on journaled tables, and ways to kill it.

It is run in processes of their own; what it ends with depends on its seeds alone.
"""

import hashlib
import mmap
import multiprocessing
import os
import signal
from pathlib import Path
from typing import NamedTuple

import torch
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim import RowWiseAdagrad

from sidrank.cache import slow_tier
from sidrank.cache.commit import TieredCheckpoint
from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.slow_tier import FileTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection

STEPS, EVERY, BATCH = 12, 4, 6
WIDTHS = {"items": 4, "users": 8}
OPTIMIZER = RowOptimizer(RowWiseAdagrad, lr=0.1)


def tables(scale):
    return [
        EmbeddingBagConfig(
            name=name, embedding_dim=dim, num_embeddings=rows * scale, feature_names=[name]
        )
        for (name, dim), rows in zip(WIDTHS.items(), (60, 120), strict=True)
    ]


def open_tiers(folder, scale):
    def fill(width):
        def rows(start, stop):
            return torch.arange(start * width, stop * width).sin().abs().view(-1, width)

        return rows

    tiers = {}
    for table in tables(scale):
        width = OPTIMIZER.row_width(table.embedding_dim)
        tiers[table.name] = FileTier(
            folder / table.name, rows=table.num_embeddings, width=width, fill=fill(width)
        )
    return tiers


def batches(start, stop, scale):
    size = BATCH * min(scale, 50)
    lengths = torch.ones(2 * size, dtype=torch.int32)
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        ids = [
            (torch.rand(size, generator=generator).square() * table.num_embeddings).long()
            for table in tables(scale)
        ]
        yield KeyedJaggedTensor(list(WIDTHS), torch.cat(ids), lengths=lengths)


def train(
    folder, *, steps=STEPS, every=EVERY, scale=1, depth=0, during=lambda what: None, progress=None
):
    """Train to the end from wherever the checkpoint is; the digest of all state.

    With ``depth=0`` there is no worker, so a commit asks for the same operations each time.
    """
    torch.set_num_threads(1)
    tiers = open_tiers(folder, scale)
    during("recovery")
    checkpoint = TieredCheckpoint(folder / "checkpoint", tiers)
    during(None)
    torch.manual_seed(0)
    size = BATCH * min(scale, 50)
    collection = TieredEmbeddingBagCollection(
        tables(scale), slots=2 * size + 3, optimizer=OPTIMIZER, tiers=checkpoint.tiers
    )
    head = torch.nn.Linear(sum(WIDTHS.values()), 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    noise = torch.Generator().manual_seed(7)

    def state(step):
        return {
            "head": head.state_dict(),
            "optimizer": optimizer.state_dict(),
            "noise": noise.get_state(),
            "cursor": step,
        }

    if checkpoint.step is None:
        checkpoint.commit(0, [collection], state=state(0))
    kept = checkpoint.state()
    head.load_state_dict(kept["head"])
    optimizer.load_state_dict(kept["optimizer"])
    noise.set_state(kept["noise"])
    loader = LookAheadLoader(
        batches(kept["cursor"], steps, scale),
        [collection],
        features=lambda features: features,
        window=3,
        depth=depth,
    )
    for step, features in enumerate(loader, kept["cursor"] + 1):
        optimizer.zero_grad()
        target = torch.rand(size, generator=noise)
        logits = head(collection(features).values()).squeeze(1)
        (logits - target).square().mean().backward()
        optimizer.step()
        if progress is not None:
            progress.value = step
        if step % every == 0:
            during(step)
            checkpoint.commit(step, [collection], state=state(step))
            during(None)
    evictions = sum(traffic.evictions for traffic in collection.traffic.values())
    rolled_back = checkpoint.rolled_back
    checkpoint.close()
    return digest(tiers, head, optimizer), evictions, rolled_back


def digest(tiers, head, optimizer):
    """Of every bit that the training left."""
    parts = [parameter.detach() for parameter in head.parameters()]
    for kept in optimizer.state_dict()["state"].values():
        parts += [kept["exp_avg"], kept["exp_avg_sq"], kept["step"]]
    for tier in tiers.values():
        out = torch.empty(tier.rows, tier.width)
        tier.read(torch.arange(tier.rows), out)
        parts.append(out)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


class Killer:
    """Counts what reaches the system, and kills this process after, or in the midst of, one."""

    def __init__(self, at=None, torn=False):
        self.on, self.seen = False, []
        self._at, self._torn = at, torn

    def install(self):
        for name in ("open", "pwrite", "write", "fsync", "replace", "rename", "unlink", "close"):
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        killer = self

        class Map(mmap.mmap):
            def flush(self):
                super().flush()
                killer.after("msync")

        mmap.mmap = Map
        write = slow_tier.FileTier.write

        def rows_written(tier, rows, values):
            if self.torn_now():
                write(tier, rows[: len(rows) // 2], values[: len(rows) // 2])
                self.die()
            write(tier, rows, values)
            self.after("rows")

        slow_tier.FileTier.write = rows_written

    def torn_now(self):
        return self.on and self._torn and len(self.seen) == self._at

    def after(self, name):
        if self.on:
            self.seen.append(name)
            if not self._torn and len(self.seen) == self._at:
                self.die()

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def _wrapped(self, name, function):
        def call(*args, **kwargs):
            # a page is copied whole: the 16 bytes of a count are there or not
            told = "count" if name == "pwrite" and len(args[1]) == 16 else name
            if told == "pwrite" and self.torn_now():
                function(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
                self.die()
            result = function(*args, **kwargs)
            self.after(told)
            return result

        return call


class Answer(NamedTuple):
    """Of a run that got to its end."""

    digest: str
    evictions: int
    rolled_back: int
    operations: list[str]


def run(folder, answer, *, at=None, torn=False, within=None, **options):
    """Train with a kill at the ``at``-th operation of the commit of a step, or of the recovery."""
    killer = Killer(at, torn)
    killer.install()

    def during(what):
        killer.on = what is not None and what == within

    digest, evictions, rolled_back = train(Path(folder), during=during, **options)
    answer.send(Answer(digest, evictions, rolled_back, killer.seen))


def begin(folder, job=None, **options):
    """Start ``run``, or another job, in a process of its own.

    Returns the process, and where its answer comes from.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=job or run, args=(folder, theirs), kwargs=options)
    process.start()
    theirs.close()
    return process, ours


def end(process, connection):
    """Its exit code, and what it has to say: None if it was killed."""
    try:
        answer = connection.recv()
    except EOFError:
        answer = None
    process.join()
    connection.close()
    return process.exitcode, answer


def start(folder, **options):
    return end(*begin(folder, **options))
