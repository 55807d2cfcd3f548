"""A table larger than the memory that a training job may have.

Ten million rows of 64 numbers and their optimiser state, 2.6 GB in a file, under a limit of 1.4 GB
that counts the page cache too. Each way of training runs in a process of its own:

- *ahead*: tiered, a twentieth of the rows in slots, fetched during the batch before;
- *at the lookup*: the same, fetched when it is looked up;
- *page cache*: no cache but the kernel's, as it is ordinarily used: the mapped file with
  ``MADV_RANDOM``, rows gathered and scattered by torch, with the same optimiser written in torch;
- *page cache, 16 threads*: the same, but a batch is touched as `FileTier` does it, which tells
  what the slots gain from what that gains;
- *in memory*: TorchRec's fused table, which the limit should kill.

All begin with nothing of the file in memory and see the same batches. Timed are the first steps,
in which slots and page cache fill, and as many after a warm-up, when rows leave as fast as they
come and pages have to be written as fast as they are read: what a job sees for the rest of its
days. Means over steps, since the kernel writes pages in bursts; medians over rounds. Page faults
that wait for the disk are counted beside the time, and depend less on what else the machine does.

The limit is a memory cgroup, which has to be made and handed over by whoever owns the machine:

    sudo mkdir /sys/fs/cgroup/sidrank && sudo chown -R $USER /sys/fs/cgroup/sidrank
    python -m benchmarks.tiered_memory --cgroup /sys/fs/cgroup/sidrank
"""

import argparse
import json
import mmap
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

import numpy as np
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
TIERED = ("ahead", "at the lookup")
WAYS = (*TIERED, "page cache", "page cache, 16 threads", "in memory")
PHASES = ("first", "steady")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cgroup", type=Path, help="a memory cgroup that may be written")
    parser.add_argument("--limit-mib", type=int, default=1400)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=120, help="that are timed, twice")
    parser.add_argument("--warm-up", type=int, default=160, help="steps before the steady ones")
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
    file_of(options).close()  # made outside the limit, whoever comes first
    rounds: list[dict[str, dict[str, Any]]] = []
    killed: dict[str, bool] = {}
    for turn in range(options.rounds):
        rounds.append({})
        for way in WAYS:
            if killed.get(way):
                continue
            outcome = in_a_process(way)
            killed[way] = outcome is None
            if outcome is not None:
                rounds[-1][way] = outcome
            print(turn, way, outcome, flush=True)
        options.out.write_text(json.dumps(report_of(options, rounds, killed), indent=2) + "\n")
    path_of(options).unlink()


def report_of(
    options: argparse.Namespace,
    rounds: list[dict[str, dict[str, Any]]],
    killed: dict[str, bool],
) -> dict[str, Any]:
    survivors = [way for way in WAYS if not killed[way]]

    def ratio(phase: str, way: str, other: str) -> float:
        return statistics.median(each[way][phase] / each[other][phase] for each in rounds)

    return {
        "command": "python -m benchmarks.tiered_memory --cgroup DIRECTORY",
        "limit_mib": options.limit_mib,
        "table_mib": options.rows * (DIM + 1) * 4 >> 20,
        "rows": options.rows,
        "slots": options.rows // 20,
        "lookups": BAGS * PER_BAG,
        "steps": options.steps,
        "warm_up": options.warm_up,
        "rounds": len(rounds),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "miss_rate": {phase: rounds[0]["ahead"]["miss_rate"][phase] for phase in PHASES},
        "milliseconds": {
            phase: {way: [1000 * each[way][phase] for each in rounds] for way in survivors}
            for phase in PHASES
        },
        "page_faults": {
            phase: {
                way: statistics.median(each[way]["page_faults"][phase] for each in rounds)
                for way in survivors
            }
            for phase in PHASES
        },
        "own_mib": {way: max(each[way]["own_mib"] for each in rounds) for way in survivors},
        "killed": killed,
        "ratios": {
            phase: {
                "ahead / page cache": ratio(phase, "ahead", "page cache"),
                "ahead / page cache, 16 threads": ratio(phase, "ahead", "page cache, 16 threads"),
                "ahead / at the lookup": ratio(phase, "ahead", "at the lookup"),
            }
            for phase in PHASES
        },
    }


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
    last = options.warm_up + options.steps
    examples = large_batches(last, popularity(options.rows), seed=0)
    ways: dict[str, Callable[[argparse.Namespace], Callable[[KeyedJaggedTensor], None]]] = {
        "page cache": lambda options: page_cache_step(MappedRows(path_of(options), options.rows)),
        "page cache, 16 threads": lambda options: page_cache_step(file_of(options)),
        "in memory": in_memory_step,
    }
    loader: Iterable[KeyedJaggedTensor] = examples
    collection: TieredEmbeddingBagCollection | None = None
    if options.way in ways:
        step = ways[options.way](options)
    else:
        step, collection = tiered_step(options)
        if options.way == "ahead":
            loader = LookAheadLoader(examples, [collection], depth=1)
    forget_pages(path_of(options))
    timed = {"first": (0, options.steps), "steady": (options.warm_up, last)}
    faults: list[int] = [page_faults()]
    clock: list[float] = [time.perf_counter()]
    missed: list[tuple[int, int]] = [(0, 0)]
    for example in loader:
        step(example)
        clock.append(time.perf_counter())
        faults.append(page_faults())
        traffic = None if collection is None else collection.traffic["t"]
        missed.append((0, 0) if traffic is None else (traffic.misses, traffic.lookups))
    outcome: dict[str, Any] = {"own_mib": own_mib(), "page_faults": {}}
    for phase, (begin, end) in timed.items():
        outcome[phase] = (clock[end] - clock[begin]) / options.steps
        outcome["page_faults"][phase] = (faults[end] - faults[begin]) / options.steps
    if collection is not None:
        outcome["miss_rate"] = {
            phase: (missed[end][0] - missed[begin][0]) / (missed[end][1] - missed[begin][1])
            for phase, (begin, end) in timed.items()
        }
    return outcome


def forget_pages(path: Path) -> None:
    """Begin with nothing of the file in memory."""
    file = os.open(path, os.O_RDWR)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def page_faults() -> int:
    """Of all threads so far, those that had to wait for the disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def own_mib() -> int:
    """Memory of the process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10


class MappedRows:
    """The rows of a file, mapped and touched as torch does it."""

    def __init__(self, path: Path, rows: int) -> None:
        with path.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        mapped.madvise(mmap.MADV_RANDOM)
        numbers = np.frombuffer(mapped, dtype=np.float32, count=rows * (DIM + 1), offset=4096)
        self.table = torch.from_numpy(numbers).view(rows, DIM + 1)

    def read(self, rows: Tensor, out: Tensor) -> None:
        torch.index_select(self.table, 0, rows, out=out)

    def write(self, rows: Tensor, values: Tensor) -> None:
        self.table[rows] = values


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


def page_cache_step(tier: MappedRows | FileTier) -> Callable[[KeyedJaggedTensor], None]:
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
