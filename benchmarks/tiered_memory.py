"""A table larger than the memory that a training job may have.

Ten million rows of 64 numbers and their optimiser state, 2.6 GB in a file, under a limit of 1.4 GB
that counts the page cache too. Each way of training runs in a process of its own:

- *ahead*: tiered, a twentieth of the rows in slots, fetched during the batch before;
- *at the lookup*: the same, fetched when it is looked up;
- *page cache*: no cache but the kernel's: the mapped file, ``MADV_RANDOM``, with the same
  optimiser written in torch;
- *in memory*: TorchRec's fused table, which the limit should kill.

The limit is a memory cgroup, which has to be made and handed over by whoever owns the machine:

    sudo mkdir /sys/fs/cgroup/sidrank && sudo chown -R $USER /sys/fs/cgroup/sidrank
    python -m benchmarks.tiered_memory --cgroup /sys/fs/cgroup/sidrank
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torchrec.optim
from torch import Tensor, nn
from torch.nn import functional
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from benchmarks.tiered import BAGS, DIM, PER_BAG, large_batches, popularity
from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.slow_tier import FileTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection

RESULTS = Path(__file__).parent / "results" / "tiered_memory.json"
RATE, EPS = 0.01, 1e-8
WAYS = ("ahead", "at the lookup", "page cache", "in memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cgroup", type=Path, help="a memory cgroup that may be written")
    parser.add_argument("--limit-mib", type=int, default=1400)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        join(options.cgroup)
        print(json.dumps(run(options)))
        return
    why = unusable(options.cgroup)
    if why:
        print(f"skipped: {why}")
        return
    limit_file(options.cgroup).write_text(str(options.limit_mib << 20))
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    resident: dict[str, int] = {}
    killed: dict[str, bool] = {}
    for turn in range(options.rounds):
        for way in WAYS:
            if killed.get(way):
                continue
            outcome = in_a_process(way)
            killed[way] = outcome is None
            if outcome is not None:
                took[way].append(outcome["seconds_per_step"])
                resident[way] = max(resident.get(way, 0), outcome["resident_mib"])
            print(turn, way, outcome, flush=True)
    path_of(options).unlink()
    seconds = {way: statistics.median(values) for way, values in took.items() if values}
    report = {
        "command": "python -m benchmarks.tiered_memory --cgroup DIRECTORY",
        "limit_mib": options.limit_mib,
        "table_mib": options.rows * (DIM + 1) * 4 >> 20,
        "rows": options.rows,
        "slots": options.rows // 20,
        "lookups": BAGS * PER_BAG,
        "steps": options.steps,
        "rounds": options.rounds,
        "milliseconds": {way: 1000 * value for way, value in seconds.items()},
        "resident_mib": resident,
        "killed": killed,
        "ahead_over_page_cache": seconds["ahead"] / seconds["page cache"],
        "ahead_over_at_the_lookup": seconds["ahead"] / seconds["at the lookup"],
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def limit_file(cgroup: Path) -> Path:
    second = cgroup / "memory.max"
    return second if second.exists() else cgroup / "memory.limit_in_bytes"


def unusable(cgroup: Path | None) -> str | None:
    if cgroup is None:
        return "no --cgroup was given; the limit needs a memory cgroup that may be written"
    for file in (limit_file(cgroup), cgroup / "cgroup.procs"):
        if not os.access(file, os.W_OK):
            return f"{file} cannot be written"
    return None


def join(cgroup: Path | None) -> None:
    if cgroup is not None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def in_a_process(way: str) -> dict[str, Any] | None:
    """What it reports; None if it was killed."""
    command = [sys.executable, "-m", "benchmarks.tiered_memory", "--way", way, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -9:
        return None
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def run(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    examples = large_batches(options.steps, popularity(options.rows), seed=0)
    ways: dict[str, Callable[[argparse.Namespace], Callable[[KeyedJaggedTensor], None]]] = {
        "page cache": page_cache_step,
        "in memory": in_memory_step,
    }
    loader: Iterable[KeyedJaggedTensor] = examples
    if options.way in ways:
        step = ways[options.way](options)
    else:
        step, collection = tiered_step(options)
        if options.way == "ahead":
            loader = LookAheadLoader(examples, [collection], depth=1)
    start = time.perf_counter()
    for example in loader:
        step(example)
    seconds = (time.perf_counter() - start) / options.steps
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {"seconds_per_step": seconds, "resident_mib": most}


def new_rows_of(start: int, stop: int) -> Tensor:
    rows = torch.rand(stop - start, DIM + 1) * 0.01
    rows[:, DIM] = 0.0
    return rows


def path_of(options: argparse.Namespace) -> Path:
    return options.folder / f"sidrank-{options.rows}-rows"


def file_of(options: argparse.Namespace) -> FileTier:
    """One file for all; what is timed does not depend on what is in it."""
    return FileTier(path_of(options), rows=options.rows, width=DIM + 1, fill=new_rows_of)


def head_of() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    head = nn.Sequential(nn.Linear(DIM, 128), nn.ReLU(), nn.Linear(128, 1))
    return head, torch.optim.SGD(head.parameters(), lr=RATE)


def table_of(options: argparse.Namespace) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name="t", embedding_dim=DIM, num_embeddings=options.rows, feature_names=["f"]
    )


def step_of(pooled: Callable[[KeyedJaggedTensor], Tensor]) -> Callable[[KeyedJaggedTensor], None]:
    head, dense = head_of()

    def step(example: KeyedJaggedTensor) -> None:
        dense.zero_grad()
        head(pooled(example)).square().mean().backward()
        dense.step()

    return step


def tiered_step(
    options: argparse.Namespace,
) -> tuple[Callable[[KeyedJaggedTensor], None], TieredEmbeddingBagCollection]:
    collection = TieredEmbeddingBagCollection(
        [table_of(options)],
        slots=options.rows // 20,
        optimizer=RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=RATE, eps=EPS),
        tiers={"t": file_of(options)},
    )
    return step_of(lambda example: collection(example).values()), collection


def in_memory_step(options: argparse.Namespace) -> Callable[[KeyedJaggedTensor], None]:
    collection = FusedEmbeddingBagCollection(
        [table_of(options)], torchrec.optim.RowWiseAdagrad, {"learning_rate": RATE}
    )
    return step_of(lambda example: collection(example).values())


def page_cache_step(options: argparse.Namespace) -> Callable[[KeyedJaggedTensor], None]:
    tier = file_of(options)
    head, dense = head_of()

    def step(example: KeyedJaggedTensor) -> None:
        rows, place = example.values().unique(return_inverse=True)
        block = torch.empty(len(rows), DIM + 1)
        tier.read(rows, block)
        weight = block[:, :DIM].requires_grad_()
        pooled = functional.embedding_bag(place, weight, example.offsets()[:-1], mode="sum")
        dense.zero_grad()
        head(pooled).square().mean().backward()
        dense.step()
        gradient = weight.grad
        assert gradient is not None
        with torch.no_grad():
            block[:, DIM] += gradient.square().mean(1)
            weight -= RATE * gradient / (block[:, DIM:].sqrt() + EPS)
        tier.write(rows, torch.cat([weight, block[:, DIM:]], dim=1).detach())

    return step


if __name__ == "__main__":
    main()
