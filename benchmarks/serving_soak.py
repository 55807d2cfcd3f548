"""Train, serve and swap for twenty minutes: no error, no torn answer, flat memory.

A trainer (``benchmarks/soak_training.py``, a process of its own) writes a delta every five
seconds. The server takes it from the folder, applies, checks and publishes it, while clients ask
again as soon as they have an answer. Every request needs several calls of the model. *Every* answer
is compared, bit for bit, with the logits that the trainer's own model of exactly the version that
answered gave to that request. Now and then a version is rolled back and published again, a poisoned
one is offered, and a damaged file and a delta of another version are.

Memory is the server's, after each swap: resident set, and that set with pages that several mappings
show counted once (Pss).

    python -m benchmarks.serving_soak --minutes 20
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import soak_training
from benchmarks.soak_training import MOST_CANDIDATES, Size, Trainer
from sidrank.serving.candidate_scorer import CandidateScorer
from sidrank.serving.delta import Delta, apply_delta
from sidrank.serving.delta_file import load_delta
from sidrank.serving.probe_check import ProbeCheck
from sidrank.serving.ranker_version import RankerVersion
from sidrank.serving.versions import Versions

RESULTS = Path(__file__).parent / "results" / "serving_soak.json"
CLIENTS = 2
ROLLBACK_EVERY, POISON_EVERY = 20, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between versions")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ticks = int(options.minutes * 60 / options.every)
    size = Size(rows=max(60_000, 2_800 * ticks), ticks=ticks)
    if options.train:
        keep_training(Trainer(size, options.train), options.every, 60 * options.minutes)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = soak(size, Path(folder), options.every)
    report["command"] = f"python -m benchmarks.serving_soak --minutes {options.minutes:g}"
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def keep_training(trainer: Trainer, every: float, seconds: float) -> None:
    """A version every so many seconds, or as soon after as it is ready, until the time is over."""
    print(json.dumps({"ready": True}), flush=True)
    begin = time.monotonic()
    due = begin + every
    while due <= begin + seconds:
        loss = trainer.train()
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic()) + every  # late is late: nothing is made up for
        print(json.dumps({"loss": loss} | trainer.publish()), flush=True)


class Server:
    """Takes versions from a folder and answers the fixed requests.

    Args:
        size: How the model is built.
        folder: Where the trainer writes.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        self.folder = folder
        self.requests = soak_training.read_requests(folder)
        first = RankerVersion.first(soak_training.first_model(size, folder))
        self.expected = {1: soak_training.expected(folder, 1)}
        check = ProbeCheck(self.requests[0], largest_shift=0.2)
        self.versions = Versions(first, check=check)
        self.models: list[weakref.ref[nn.Module]] = [weakref.ref(first.model)]
        self.refused = 0
        self.rollbacks = 0
        self.lock = threading.Lock()
        self.answers = self.wrong = 0
        self.errors: list[str] = []
        self.met: set[int] = set()
        self.calls = Histogram()

    def take(self) -> dict[str, Any] | None:
        """Apply and publish the next delta, if it is there."""
        current = self.versions.current
        file = self.folder / f"delta-{current.number + 1:06}"
        if not file.exists():
            return None
        begin = time.perf_counter()
        delta = load_delta(file)
        loaded = time.perf_counter()
        version = apply_delta(current, delta)
        applied = time.perf_counter()
        self.expected[version.number] = soak_training.expected(self.folder, version.number)
        ready = time.perf_counter()
        self.versions.publish(version)
        published = time.perf_counter()
        self.models = [model for model in self.models if model() is not None]
        self.models.append(weakref.ref(version.model))
        number = version.number
        del version
        if number % POISON_EVERY == 0:
            self._offer_bad_ones(file, delta)
        if number % ROLLBACK_EVERY == 0:
            self._roll_back_and_forth(delta)
        living = self.versions.living()
        for done in [each for each in self.expected if each < number - 1 and each not in living]:
            del self.expected[done]
            (self.folder / f"delta-{done:06}").unlink(missing_ok=True)
            (self.folder / f"expected-{done:06}").unlink()
        return {
            "load_ms": 1000 * (loaded - begin),
            "apply_ms": 1000 * (applied - loaded),
            "publish_ms": 1000 * (published - ready),
            "bytes": delta.nbytes,
        }

    def ask(self, place: int) -> None:
        """One request of a client, compared with what the trainer's model says."""
        request = self.requests[place % len(self.requests)]
        begin = time.perf_counter()
        with self.versions.pin() as version:
            scorer = CandidateScorer(version, most_candidates=MOST_CANDIDATES)
            logits = torch.cat(scorer.score(request))
            number = version.number
            spent = time.perf_counter() - begin
            same = torch.equal(logits, self.expected[number][place % len(self.requests)])
        del version, scorer
        with self.lock:
            self.answers += 1
            self.wrong += not same
            self.met.add(number)
            self.calls.add(spent)

    def _offer_bad_ones(self, file: Path, delta: Delta) -> None:
        """A version with NaN, a file cut short and the delta that was just taken: all refused."""
        current = self.versions.current
        bias = next(name for name in delta.whole if name.endswith("over_arch.model.1.bias"))
        nan = Delta(
            base=current.hash,
            number=current.number + 1,
            rows={},
            whole={bias: torch.full((1,), float("nan"))},
            items={},
        )
        short = file.with_name("short")
        short.write_bytes(file.read_bytes()[:-1])
        for offer in (
            lambda: self.versions.publish(apply_delta(current, nan)),
            lambda: load_delta(short),
            lambda: apply_delta(current, delta),
        ):
            try:
                offer()
            except ValueError:
                self.refused += 1
        assert self.versions.current is current

    def _roll_back_and_forth(self, delta: Delta) -> None:
        before = self.versions.rollback()
        self.versions.publish(apply_delta(before, delta))
        self.models.append(weakref.ref(self.versions.current.model))
        self.rollbacks += 1

    def living(self) -> int:
        """Models of versions that still hold memory."""
        return sum(model() is not None for model in self.models)


class Clients:
    """Threads that ask again as soon as they have an answer."""

    def __init__(self, server: Server, number: int = CLIENTS) -> None:
        self.stop = threading.Event()
        self.threads = [
            threading.Thread(target=self._ask, args=(server, client)) for client in range(number)
        ]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, server: Server, client: int) -> None:
        place = client
        while not self.stop.is_set():
            try:
                server.ask(place)
            except Exception as error:  # every one counts
                server.errors.append(repr(error))
                return
            place += 1


class Histogram:
    """Durations in bins a percent wide: it never grows."""

    def __init__(self) -> None:
        self.edges = 1e-4 * 1.01 ** np.arange(1200)
        self.counts = np.zeros(1201, np.int64)
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        self.counts[int(np.searchsorted(self.edges, seconds))] += 1
        self.largest = max(self.largest, seconds)

    def quantile(self, share: float) -> float:
        place = np.searchsorted(self.counts.cumsum(), share * self.counts.sum())
        return float(self.edges[min(int(place), len(self.edges) - 1)])


def memory() -> dict[str, float]:
    """MiB of this process."""
    found: dict[str, float] = {}
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/self/{file}").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("VmRSS", "RssAnon", "RssShmem", "Pss"):
                found[name] = int(rest.split()[0]) / 1024
    return found


def soak(size: Size, folder: Path, every: float) -> dict[str, Any]:
    """Serve until the trainer is done."""
    command = [sys.executable, "-m", "benchmarks.serving_soak", "--train", str(folder)]
    command += ["--minutes", str(size.ticks * every / 60), "--every", str(every)]
    log = folder / "log"
    with log.open("w") as written:
        training = subprocess.Popen(command, stdout=written)
    while not log.read_text().startswith('{"ready"'):
        assert training.poll() is None, "the trainer ended"
        time.sleep(0.1)
    server = Server(size, folder)
    samples: list[dict[str, float]] = []
    swaps: list[dict[str, Any]] = []
    begin = time.monotonic()
    with Clients(server):
        while True:
            ended = training.poll()
            swap = server.take()
            if swap is not None:
                swaps.append(swap)
                sample = {"seconds": time.monotonic() - begin, "living": server.living()}
                samples.append(sample | memory())
                print(json.dumps(sample | samples[-1] | swap), flush=True)
            elif ended is not None:
                break
            time.sleep(0.02)
    seconds = time.monotonic() - begin
    assert ended == 0, ended
    lines = [json.loads(line) for line in log.read_text().splitlines()][1:]
    report = summary(server, samples, swaps, lines)
    held(report)
    return report | {
        "seconds": seconds,
        "every_seconds": every,
        "clients": CLIENTS,
        "requests_per_second": server.answers / seconds,
        "parameters_mib": sum(p.nbytes for p in server.versions.current.model.parameters()) / 2**20,
        "size": size._asdict(),
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "environment": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")},
        "samples": [{k: round(v, 2) for k, v in sample.items()} for sample in samples],
    }


def summary(
    server: Server,
    samples: list[dict[str, float]],
    swaps: list[dict[str, Any]],
    lines: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the run says."""
    middle = {name: float(np.median([swap[name] for swap in swaps])) for name in swaps[0]}
    gaps = np.diff([sample["seconds"] for sample in samples]) if len(samples) > 1 else [0.0]
    return {
        "versions": server.versions.current.number,
        "versions_met": len(server.met),
        "gaps": {"median": float(np.median(gaps)), "largest": float(np.max(gaps))},
        "most_living": int(max(sample["living"] for sample in samples)),
        "answers": server.answers,
        "wrong_answers": server.wrong,
        "errors": server.errors,
        "refused": server.refused,
        "rollbacks": server.rollbacks,
        "p50_ms": 1000 * server.calls.quantile(0.5),
        "p99_ms": 1000 * server.calls.quantile(0.99),
        "largest_ms": 1000 * server.calls.largest,
        "swap": middle | {"largest_apply_ms": max(swap["apply_ms"] for swap in swaps)},
        "new_items": sum(line["items"] for line in lines),
        "loss": [lines[0]["loss"], lines[-1]["loss"]],
        "memory": {name: flatness(samples, name) for name in ("VmRSS", "Pss", "RssAnon")},
    }


def flatness(samples: list[dict[str, float]], name: str) -> dict[str, float]:
    """How far memory went from where it was when warm: a fifth of the run."""
    warm = samples[len(samples) // 5 :]
    start = float(np.median([sample[name] for sample in warm[: max(1, len(warm) // 10)]]))
    values = np.array([sample[name] for sample in warm])
    hours = np.array([sample["seconds"] for sample in warm]) / 3600
    slope = np.polyfit(hours, values, 1)[0] if len(warm) > 1 else 0.0
    return {
        "warm_mib": start,
        "lowest": float(values.min() / start - 1),
        "highest": float(values.max() / start - 1),
        "end": float(np.median(values[-max(1, len(warm) // 10) :]) / start - 1),
        "mib_per_hour": float(slope),
    }


def held(report: dict[str, Any]) -> None:
    """Everything but memory, which is reported as it is."""
    assert report["errors"] == [], report["errors"]
    assert report["wrong_answers"] == 0 < report["answers"], report
    assert report["most_living"] <= 2 + CLIENTS, report["most_living"]
    assert report["refused"] == 3 * (report["versions"] // POISON_EVERY), report["refused"]


if __name__ == "__main__":
    main()
