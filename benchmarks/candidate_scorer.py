"""Candidates of a request scored together, against a row a candidate of the same model.

One request is one user with a history and candidates. ``CandidateScorer`` reads what belongs to
the request once; pointwise expansion, what a server does without it, repeats it in a row a
candidate and scores the rows in one batch. The answers are equal before the clock starts.

Seconds of one thread, rounds interleaved, medians; then how both grow with the history and with
the candidates, and what two clients see that ask the scorer again and again.

    python -m benchmarks.candidate_scorer
"""

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.candidate_rankers import RANKERS, Ranker
from sidrank.embeddings import RankingRequests
from sidrank.serving import CandidateScorer

RESULTS = Path(__file__).parent / "results" / "candidate_scorer.json"
CANDIDATES, LENGTH = 500, 200
LENGTHS, COUNTS = (50, 100, 200, 400, 800), (50, 200, 500, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--growth-rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in RANKERS:
        rows.append(measure(name, CANDIDATES, LENGTH, rounds=options.rounds, ready=True))
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python -m benchmarks.candidate_scorer",
        "candidates": CANDIDATES,
        "history": LENGTH,
        "rounds": options.rounds,
        "growth_rounds": options.growth_rounds,
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
        "loops": [closed_loop(name, options.seconds) for name in RANKERS],
        "by_history": [
            measure(name, CANDIDATES, length, rounds=options.growth_rounds)
            for name in RANKERS
            for length in LENGTHS
        ],
        "by_candidates": [
            measure(name, count, LENGTH, rounds=options.growth_rounds)
            for name in RANKERS
            for count in COUNTS
        ],
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def measure(
    name: str, candidates: int, length: int, *, rounds: int, ready: bool = False
) -> dict[str, Any]:
    """Milliseconds of a request both ways, after the same answers."""
    ranker = RANKERS[name](length)
    request = ranker.requests(candidates, 0)
    difference = largest_difference(ranker, request)
    assert difference < 1e-5, (name, difference)
    scorer = CandidateScorer(ranker.model)
    rows = request.pointwise()

    @torch.inference_mode()
    def pointwise() -> Tensor:
        return ranker.rows(*request.pointwise())

    @torch.inference_mode()
    def of_ready_rows() -> Tensor:
        return ranker.rows(*rows)

    ways: dict[str, Callable[[], object]] = {
        "scorer": lambda: scorer.score(request),
        "pointwise": pointwise,
    }
    if ready:  # without the expansion itself
        ways["ready"] = of_ready_rows
    spent = interleaved(ways, rounds)
    return {
        "ranker": name,
        "said": ranker.said,
        "candidates": candidates,
        "history": length,
        "difference": difference,
        "milliseconds": {way: 1000 * seconds for way, seconds in spent.items()},
        "requests_per_second": {way: 1 / seconds for way, seconds in spent.items()},
        "ratio": spent["pointwise"] / spent["scorer"],
    }


@torch.inference_mode()
def largest_difference(ranker: Ranker, request: RankingRequests) -> float:
    """Between the logits of the two ways, as a share of the largest one."""
    wanted = ranker.rows(*request.pointwise())
    found = torch.cat(CandidateScorer(ranker.model).score(request))
    assert wanted.std(dim=0).min() > 1e-3, wanted.std(dim=0)
    return float((found - wanted).abs().max() / wanted.abs().max())


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.thread_time()
            way()
            if turn:  # the first one warms up
                seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def closed_loop(name: str, seconds: float, *, clients: int = 2) -> dict[str, Any]:
    """Milliseconds of requests, by clients that ask again as soon as they have an answer."""
    ranker = RANKERS[name](LENGTH)
    scorer = CandidateScorer(ranker.model)
    requests = [ranker.requests(CANDIDATES, seed) for seed in range(8)]
    for request in requests:
        scorer.score(request)
    taken: list[list[float]] = [[] for _ in range(clients)]
    begin = time.perf_counter()

    def ask(client: int) -> None:
        place = client
        while (start := time.perf_counter()) < begin + seconds:
            scorer.score(requests[place % len(requests)])
            taken[client].append(time.perf_counter() - start)
            place += clients

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begin
    every = torch.tensor([each for one in taken for each in one], dtype=torch.float64)
    middle, high = (1000 * float(every.quantile(share)) for share in (0.5, 0.99))
    return {
        "ranker": name,
        "clients": clients,
        "seconds": spent,
        "requests": len(every),
        "requests_per_second": len(every) / spent,
        "p50_milliseconds": middle,
        "p99_milliseconds": high,
        "p99_over_p50": high / middle,
    }


if __name__ == "__main__":
    main()
