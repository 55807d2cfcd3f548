"""Kills of a sharded training job: what it ends with, against no kill.

The job is `examples/train_distributed.py` on two gloo ranks, every table cut by rows. What it ends
with is all that its last checkpoint holds: weights, fused and dense optimiser state, each rank's
random state, the position in the rows, exposure statistics, the AUC of every stretch.

- `kills`: a rank at random gets SIGKILL at a random time, every third time while a checkpoint is
  being written; some get SIGTERM. All ranks are started again after each.
- `other_ranks`: two ranks, then one (tables whole), then two.
- `agents`, `attempts`: under torchrun, see `train_drill_agents`.

    python -m benchmarks.train_drill
"""

import argparse
import json
import os
import platform
import random
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torchrec.distributed
import torchrec.models.dlrm  # what the ranks import is imported once, before they are forked
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.utils._pytree import keystr, tree_flatten_with_path
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

import sidrank.sharding  # noqa: F401

RESULTS = Path(__file__).parent / "results" / "train_drill.json"
EXAMPLE = Path(__file__).parents[1] / "examples" / "train_distributed.py"
STEPS, EVERY = 300, 20
GRACE = 10.0  # seconds in which the other ranks may end by themselves

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.train_drill"])


class DrawingPipeline(torchrec.distributed.TrainPipelineSparseDist):
    """Each step draws, so that a random state which was not restored shows at the end."""

    def progress(self, dataloader_iter: Iterator[Any]) -> Any:
        torch.rand(3)
        return super().progress(dataloader_iter)


def train(out: Path, data: Path, *, steps: int, every: int, way: str) -> Any:
    """The example, with every table sharded one way; of the process group there is."""
    pipeline = patch("torchrec.distributed.TrainPipelineSparseDist", DrawingPipeline)
    ways = patch.object(EmbeddingBagCollectionSharder, "sharding_types", lambda *_: [way])
    with pipeline, ways:
        arguments = {"out": out, "data": data, "steps": steps, "every": every}
        main = runpy.run_path(str(EXAMPLE))["main"]
        return main([f"--{name}={value}" for name, value in arguments.items()])


def plant(data: Path) -> None:
    runpy.run_path(str(EXAMPLE))["plant"](data)


def contents(checkpoint: Path) -> dict[str, Any]:
    """All it holds: whole tensors and values by name, whatever ranks wrote them."""
    with tempfile.TemporaryDirectory() as folder:
        dcp_to_torch_save(checkpoint, file := Path(folder) / "whole.pt")
        state = torch.load(file, weights_only=False)
    state["progress"] = torch.load(checkpoint / "progress.pt", weights_only=True)
    found = {keystr(path): value for path, value in tree_flatten_with_path(state)[0]}
    assert any("t_item.momentum" in name for name in found)  # the fused state is there
    assert any("over_arch" in name and "optimizer" in name for name in found)  # and the dense one
    return found


def without_random(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if "rng." not in name}


def difference(one: dict[str, Any], other: dict[str, Any], at_least: int = 25) -> float:
    """Of tensors and numbers the largest; anything else must be equal."""
    assert one.keys() == other.keys()
    kinds = (torch.Tensor, float)
    numbers = [name for name, value in one.items() if isinstance(value, kinds)]
    assert len(numbers) >= at_least
    assert all(one[name] == other[name] for name in one.keys() - set(numbers))
    pairs = [(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in numbers]
    assert all(a.shape == b.shape for a, b in pairs)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def last(out: Path, step: int = STEPS) -> Path:
    return out / f"step-{step:010}"


class Job:
    """Ranks of one attempt, in processes of their own, as an agent would start them.

    Each calls ``task(out, data, **options)`` in the default process group.
    """

    def __init__(
        self, out: Path, data: Path, *, ranks: int, task: Callable[..., Any] = train, **options: Any
    ) -> None:
        self.out = out
        # the parent owns the store: it takes a free port itself, so there is no race for one
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes = [
            FORKS.Process(
                target=_rank,
                args=(rank, ranks, self.store.port, task, (out, data), options),
                daemon=True,
            )
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def ended(self, seconds: float | None) -> bool:
        """Whether a rank ended within some time."""
        return bool(wait([process.sentinel for process in self.processes], seconds))

    def kill(self, rank: int, with_signal: int = signal.SIGKILL) -> None:
        os.kill(self.processes[rank].pid or 0, with_signal)

    def end(self, grace: float | None = None) -> list[int]:
        """Exit codes; with ``grace``, so many seconds after the first end the others are killed."""
        self.ended(None)
        until = None if grace is None else time.monotonic() + grace
        for process in self.processes:
            process.join(None if until is None else max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        return [process.exitcode or 0 for process in self.processes]


def _rank(
    rank: int,
    ranks: int,
    port: int,
    task: Callable[..., Any],
    places: tuple[Path, Path],
    options: dict[str, Any],
) -> None:
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    task(*places, **options)
    os._exit(0)  # gloo's threads may abort an orderly exit


def finished(out: Path, data: Path, *, ranks: int, **options: Any) -> None:
    codes = Job(out, data, ranks=ranks, **options).end()
    assert codes == [0] * ranks, codes


def newest(out: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in out.glob("step-*")), default=0)


def kills(place: Path | None, wanted: int = 36, terminations: int = 6) -> dict[str, Any]:
    draw, told = random.Random(0), Counter[str]()
    options = {"ranks": 2, "steps": STEPS, "every": EVERY, "way": "row_wise"}
    with tempfile.TemporaryDirectory(dir=place) as name:
        plant(data := Path(name) / "rows")
        (warm := FORKS.Process(target=int)).start()  # the imports
        warm.join()
        started = time.monotonic()
        finished(whole := Path(name) / "whole", data, **options)
        life = time.monotonic() - started
        expected = contents(last(whole))
        while told["kills"] < wanted + terminations:
            told["jobs"] += 1
            out = Path(name) / f"job-{told['jobs']}"
            while newest(out) < STEPS:
                with_signal = signal.SIGKILL if told["kills"] < wanted else signal.SIGTERM
                enough = told["kills"] == wanted + terminations
                before, began = newest(out), time.time()
                job = Job(out, data, **options)
                aimed = told["kills"] % 3 == 2
                if enough or not _come_to_it(job, draw, life, aimed=aimed):
                    assert job.end() == [0, 0]
                    break
                victim = draw.randrange(2)
                job.kill(victim, with_signal)
                codes = job.end(GRACE)
                if codes[victim] == 0:
                    continue  # it was over already
                assert codes[victim] == -with_signal, codes
                told.update(["kills", with_signal.name, f"rank {victim}"])
                told[f"the other rank: {codes[1 - victim]}"] += 1
                left = [p for p in out.glob("writing-*") if p.stat().st_mtime > began]
                told["in the writing"] += len(left)
                told["all was written but the name"] += sum(
                    (p / ".metadata").exists() for p in left
                )
                assert newest(out) >= before, (before, newest(out))
                print(f"newest {newest(out)}, {dict(told)}", flush=True)
            assert difference(contents(last(out)), expected) == 0.0
        aucs = torch.load(last(whole) / "progress.pt", weights_only=True)["auc"]
    return {"steps": STEPS, "every": EVERY, "seconds_of_a_job": life, **told, "auc": aucs}


def _come_to_it(job: Job, draw: random.Random, life: float, *, aimed: bool) -> bool:
    """Wait until it is time for a kill; False if the job was over before."""
    if not aimed:
        return not job.ended(draw.uniform(0.0, 0.8 * life))
    began, skip = time.time(), draw.randrange(4)
    seen: set[str] = set()
    while len(seen) <= skip:
        if job.ended(0.001):
            return False
        for path in job.out.glob("writing-*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime > began:
                    seen.add(path.name)
    return not job.ended(draw.uniform(0.0, 0.1))


def other_ranks(place: Path | None) -> list[dict[str, Any]]:
    """From two ranks to one and back, against two ranks all the way, after each leg."""
    legs = [(2, "row_wise", 100), (1, "table_wise", 200), (2, "row_wise", STEPS)]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=place) as name:
        plant(data := Path(name) / "rows")
        for ranks, way, steps in legs:
            finished(out := Path(name) / "legs", data, ranks=ranks, steps=steps, every=20, way=way)
            whole = Path(name) / f"whole-{steps}"
            finished(whole, data, ranks=2, steps=steps, every=20, way="row_wise")
            one, two = (without_random(contents(last(each, steps))) for each in (out, whole))
            apart = {part: _apart(one, two, part) for part in ("model", "optimizer", "progress")}
            found.append({"ranks": ranks, "way": way, "to_step": steps, "difference": apart})
            print(found[-1], flush=True)
    return found


def _apart(one: dict[str, Any], two: dict[str, Any], part: str) -> float:
    """Of a part alone; what is no number is compared in any case."""
    numbers = (torch.Tensor, float)
    kept = [
        {k: v for k, v in each.items() if k.startswith(f"['{part}']") or not isinstance(v, numbers)}
        for each in (one, two)
    ]
    return difference(kept[0], kept[1], at_least=3)


def main() -> None:
    from benchmarks import train_drill_agents  # which needs this file

    parts: dict[str, Callable[[Path | None], Any]] = {
        "kills": kills,
        "other_ranks": other_ranks,
        "agents": train_drill_agents.agents,
        "attempts": train_drill_agents.attempts,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=parts, default=[*parts], help="the rest stays"
    )
    parser.add_argument("--folder", type=Path, default=None, help="for the checkpoints; any disk")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    report["command"] = "python -m benchmarks.train_drill"
    report |= {"torch": torch.__version__, "machine": platform.machine()}
    for name in options.parts:
        report[name] = parts[name](options.folder)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
