"""Candidates of a request scored together, against a row a candidate of the same model.

One request is one user with a history and candidates. ``CandidateScorer`` reads what belongs to
the request once; pointwise expansion, what a server does without it, repeats it in a row a
candidate and scores the rows in one batch. The answers are equal before the clock starts, and
every call is given a request that was not seen before.

Seconds of one thread, rounds interleaved, medians; how both grow with the history and with the
candidates; and what two clients see that ask the scorer again and again.
Results are kept by ranker: ``--only NAME`` measures one anew.

    python -m benchmarks.candidate_scorer
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from benchmarks.candidate_rankers import RANKERS, Ranker
from sidrank.embeddings import RankingRequests
from sidrank.serving import CandidateScorer

RESULTS = Path(__file__).parent / "results" / "candidate_scorer.json"
CANDIDATES, LENGTH, CALLS, SWITCH = 500, 200, 5, 0.0005
LENGTHS, COUNTS = (50, 100, 200, 400, 800), (50, 200, 500, 1000)
COMPRESSED = {"compression tokens": (500, 1500, 5000, 15_000, 50_000)}
PARTS = ("rows", "loops", "by_history", "by_candidates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--growth-rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=list(RANKERS), default=None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    report = json.loads(options.out.read_text()) if options.only and options.out.exists() else {}
    report |= {
        "command": "python -m benchmarks.candidate_scorer",
        "candidates": CANDIDATES,
        "history": LENGTH,
        "rounds": options.rounds,
        "calls": CALLS,
        "growth_rounds": options.growth_rounds,
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    for name in [options.only] if options.only else RANKERS:
        for part, found in ranked(name, options).items():
            kept = [row for row in report.get(part, []) if row["ranker"] != name]
            report[part] = sorted([*kept, *found], key=place)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


def keep_memory() -> None:
    """Freed memory stays with the program, as under the allocators that servers use.

    glibc by default hands it back and fetches it anew, at a moment's whim: rows of the pointwise
    expansion, which are megabytes, cost from once to twice as much by that.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        libc = ctypes.CDLL(None)
        assert libc.mallopt(trim_threshold, -1)
        assert libc.mallopt(mmap_threshold, 1 << 25)


def place(row: dict[str, Any]) -> int:
    return list(RANKERS).index(row["ranker"])


def ranked(name: str, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The chosen parts for one ranker."""

    def grown(candidates: int, length: int) -> dict[str, Any]:
        return measure(name, candidates, length, rounds=options.growth_rounds)

    ways: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "rows": lambda: [measure(name, CANDIDATES, LENGTH, rounds=options.rounds, whole=True)],
        "loops": lambda: [closed_loop(name, options.seconds)],
        "by_history": lambda: [
            grown(CANDIDATES, length) for length in COMPRESSED.get(name, LENGTHS)
        ],
        "by_candidates": lambda: [grown(count, LENGTH) for count in COUNTS],
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for part in options.parts:
        found[part] = ways[part]()
        print(json.dumps(found[part]), flush=True)
    return found


def measure(
    name: str, candidates: int, length: int, *, rounds: int, whole: bool = False
) -> dict[str, Any]:
    """Milliseconds of a request both ways, after the same answers."""
    ranker = RANKERS[name](length)
    request = ranker.requests(candidates, 0)
    difference = largest_difference(ranker, request)
    assert difference < 1e-5, (name, difference)
    scorer = CandidateScorer(ranker.model)

    def pointwise(asked: RankingRequests) -> Tensor:
        return ranker.rows(*asked.pointwise())

    ways: dict[str, Callable[[RankingRequests], object]] = {
        "scorer": scorer.score,
        "pointwise": pointwise,
    }
    if whole:
        rows = request.pointwise()
        ways["ready"] = lambda _: ranker.rows(rows[0], copied(rows[1]))  # without the expansion
        if layers := ranker.layers:
            ways["layers"] = lambda _: layers(candidates)
    spent = interleaved(ways, request, rounds)
    return {
        "ranker": name,
        "said": ranker.said,
        "candidates": candidates,
        "history": length,
        "difference": difference,
        "milliseconds": {way: 1000 * seconds for way, seconds in spent.items()},
        "requests_per_second": {way: 1 / spent[way] for way in ("scorer", "pointwise")},
        "ratio": spent["pointwise"] / spent["scorer"],
    }


@torch.inference_mode()
def largest_difference(ranker: Ranker, request: RankingRequests) -> float:
    """Between the logits of the two ways, as a share of the largest one."""
    wanted = ranker.rows(*request.pointwise())
    found = torch.cat(CandidateScorer(ranker.model).score(request))
    assert wanted.std(dim=0).min() > 1e-3, wanted.std(dim=0)
    return float((found - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
def interleaved(
    ways: dict[str, Callable[[RankingRequests], object]], request: RankingRequests, rounds: int
) -> dict[str, float]:
    """Seconds of each way, each round several calls of the scorer, which is quick."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            for _ in range(CALLS if name == "scorer" else 1):
                asked = fresh(request)
                start = time.thread_time()
                way(asked)
                if turn:  # the first one warms up
                    seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def fresh(request: RankingRequests) -> RankingRequests:
    """The same request without what a batch remembers of having been read."""
    return request._replace(
        features=copied(request.features), candidates=copied(request.candidates)
    )


def copied(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=features.keys(), values=features.values(), lengths=features.lengths()
    )


def closed_loop(name: str, seconds: float, *, clients: int = 2) -> dict[str, Any]:
    """Milliseconds of requests, by clients that ask again as soon as they have an answer."""
    ranker = RANKERS[name](LENGTH)
    scorer = CandidateScorer(ranker.model)
    requests = [ranker.requests(CANDIDATES, seed) for seed in range(8)]
    for request in requests:
        scorer.score(request)
    taken: list[list[float]] = [[] for _ in range(clients)]
    worked: list[list[float]] = [[] for _ in range(clients)]
    gc.collect()
    gc.freeze()  # no collection walks through the model
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)  # a client is not kept waiting by the other's Python
    before, own = busy(), time.process_time()
    begin = time.perf_counter()

    def ask(client: int) -> None:
        place = client
        while time.perf_counter() < begin + seconds:
            asked = fresh(requests[place % len(requests)])
            start, own = time.perf_counter(), time.thread_time()
            scorer.score(asked)
            taken[client].append(time.perf_counter() - start)
            worked[client].append(time.thread_time() - own)
            place += clients

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begin
    others = busy() - before - (time.process_time() - own)
    gc.unfreeze()
    sys.setswitchinterval(interval)
    every = [one for client in taken for one in client]
    return {
        "ranker": name,
        "clients": clients,
        "seconds": spent,
        "switch_milliseconds": 1000 * SWITCH,
        "of_others": max(others, 0.0) / spent / (os.cpu_count() or 1),
        "requests": len(every),
        "requests_per_second": len(every) / spent,
        **ends(every),
        # of the client's own thread: without waiting for the other, or for other programs
        "thread": ends([one for client in worked for one in client]),
    }


def ends(seconds: list[float]) -> dict[str, float]:
    """The middle and the high end of a list, and how far they are apart."""
    middle, high = (
        1000 * float(torch.tensor(seconds, dtype=torch.float64).quantile(share))
        for share in (0.5, 0.99)
    )
    return {
        "p50_milliseconds": middle,
        "p99_milliseconds": high,
        "p99_over_p50": high / middle,
    }


def busy() -> float:
    """CPU seconds that all programs of the machine have spent."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
