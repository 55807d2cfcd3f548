"""What exact AUC and GAUC cost, and what others compute under those names.

Every timed pair is compared first: AUC with scikit-learn's to 1e-12, GAUC with FuxiCTR's and
with pandas' groupby over scikit-learn's to 1e-12. Rounds are interleaved and the median of five
kept. The physical limit is ``numpy.sort`` of as many 64-bit words. Peers that cannot finish ten
million rows are timed on fewer, as the table says, and compared by rows a second.

    python -m benchmarks.metrics
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuxictr.metrics import evaluate_metrics
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC
from torchrec.metrics.auc import compute_auc, compute_auc_per_group
from torchrec.metrics.gauc import compute_gauc_3d

from sidrank.metrics import StreamingAUC, auc, grouped_auc

RESULTS = Path(__file__).parent / "results" / "metrics.json"
Columns = dict[str, np.ndarray]
GROWTH = (10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", help="one part; the others stay as they are in the results")
    options = parser.parse_args()
    parts: dict[str, Callable[[], object]] = {
        "auc": lambda: auc_speed(options.rows, options.rounds),
        "growth": growth,
        "gauc": lambda: gauc_speed(options.rows, options.rounds),
        "binning": binning,
        "ties": ties,
    }
    report: dict[str, Any] = json.loads(options.out.read_text()) if options.only else {}
    report |= {
        "command": "python -m benchmarks.metrics",
        "rounds": options.rounds,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    for name in [options.only] if options.only else parts:
        report[name] = parts[name]()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def rows(count: int, *, rate: float = 0.05, groups: int = 0, seed: int = 0) -> Columns:
    """Labels at about ``rate``, float32 scores that rank them at an AUC near 0.76."""
    generator = np.random.default_rng(seed)
    labels = generator.random(count) < rate
    logits = generator.standard_normal(count) + labels + math.log(rate / (1 - rate)) - 0.5
    columns = {"labels": labels, "scores": (1 / (1 + np.exp(-logits))).astype(np.float32)}
    if groups:
        columns["groups"] = generator.integers(0, groups, count)
    return columns


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each call, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def auc_speed(count: int, rounds: int) -> list[dict[str, Any]]:
    columns = rows(count)
    labels, scores = columns["labels"], columns["scores"]
    words = np.random.default_rng(1).integers(0, 2**63, count, dtype=np.uint64)
    tensors = [torch.from_numpy(scores)], [torch.from_numpy(labels).float()], [torch.ones(count)]
    stacked = [[column.unsqueeze(0) for column in part] for part in tensors]
    exact = BinaryAUROC(thresholds=None)

    def torchmetrics() -> float:
        exact.reset()
        return float(exact(tensors[0][0], tensors[1][0].int()))

    value = auc(labels, scores)
    peers = {
        "scikit-learn roc_auc_score": lambda: float(roc_auc_score(labels, scores)),
        "torchmetrics BinaryAUROC(thresholds=None)": torchmetrics,
        "TorchRec compute_auc": lambda: float(compute_auc(1, *stacked)[0]),
    }
    differences = {name: call() - value for name, call in peers.items()}
    assert abs(differences["scikit-learn roc_auc_score"]) <= 1e-12
    calls = {"sidrank auc": lambda: auc(labels, scores), **peers}
    seconds = medians({**calls, "numpy.sort of uint64": lambda: np.sort(words)}, rounds)
    return table(seconds, "sidrank auc", dict.fromkeys(seconds, count), differences)


def gauc_speed(count: int, rounds: int) -> list[dict[str, Any]]:
    columns = rows(count, groups=count // 20)
    labels, scores, groups = columns["labels"], columns["scores"], columns["groups"]
    generator = np.random.default_rng(1)
    words = generator.integers(0, 2**63, count, dtype=np.uint64)
    wide = generator.integers(-(2**63), 2**63, count // 20)[groups]
    names = np.char.add("user-", np.arange(count // 20).astype(np.str_))[groups]
    value = grouped_auc(labels, scores, groups)
    assert grouped_auc(labels, scores, wide) == value
    assert grouped_auc(labels, scores, names) == value

    seconds = medians(
        {
            "sidrank grouped_auc": lambda: grouped_auc(labels, scores, groups),
            "sidrank, any 64-bit groups": lambda: grouped_auc(labels, scores, wide),
            "sidrank, string groups": lambda: grouped_auc(labels, scores, names),
            "numpy.sort of uint64": lambda: np.sort(words),
        },
        rounds,
    )
    counts = dict.fromkeys(seconds, count)

    sample = rows(200_000, rate=0.2, groups=20_000)
    expected = grouped_auc(**sample)
    found: dict[str, float] = {}

    def keep(name: str, call: Callable[[Columns], float]) -> None:
        found[name] = call(sample)

    peers = {
        "pandas groupby over scikit-learn": by_pandas,
        "FuxiCTR gAUC": by_fuxictr,
        "sidrank grouped_auc, same sample": lambda columns: grouped_auc(**columns),
    }
    slow = {name: partial(keep, name, call) for name, call in peers.items()}
    seconds |= medians(slow, rounds)
    differences = {name: other - expected for name, other in found.items()}
    assert all(abs(difference) <= 1e-12 for difference in differences.values())
    counts |= dict.fromkeys(peers, 200_000)
    return table(seconds, "sidrank grouped_auc", counts, differences)


def by_pandas(columns: Columns) -> float:
    """GAUC by impressions as a groupby, the way it is usually written."""

    def one(group: pd.DataFrame) -> pd.Series:
        if group["labels"].nunique() < 2:
            return pd.Series({"auc": math.nan, "rows": 0.0})
        value = roc_auc_score(group["labels"], group["scores"])
        return pd.Series({"auc": value, "rows": float(len(group))})

    found = pd.DataFrame(columns).groupby("groups")[["labels", "scores"]].apply(one).dropna()
    return float((found["auc"] * found["rows"]).sum() / found["rows"].sum())


def by_fuxictr(columns: Columns) -> float:
    labels = columns["labels"].astype(np.int64)
    found = evaluate_metrics(labels, columns["scores"], ["gAUC"], columns["groups"])
    return float(found["gAUC"])


def table(
    seconds: dict[str, float], ours: str, counts: dict[str, int], differences: dict[str, float]
) -> list[dict[str, Any]]:
    """One row a call; ``ratio`` is its time for as many rows over ours."""
    base = seconds[ours] / counts[ours]
    return [
        {
            "what": name,
            "rows": counts[name],
            "seconds": value,
            "ratio": value / counts[name] / base,
            "difference": differences.get(name),
        }
        for name, value in seconds.items()
    ]


def growth() -> dict[str, Any]:
    """Seconds by number of rows, and the slope of their logarithms."""
    found: dict[str, list[float]] = {"auc": [], "grouped_auc": []}
    for count in GROWTH:
        columns = rows(count, groups=count // 20)
        rounds = 5 if count <= 10**7 else 3
        one = medians(
            {
                "auc": partial(auc, columns["labels"], columns["scores"]),
                "grouped_auc": partial(grouped_auc, **columns),
            },
            rounds,
        )
        for name, value in one.items():
            found[name].append(value)
    size = np.log(GROWTH)
    slopes = {name: float(np.polyfit(size, np.log(times), 1)[0]) for name, times in found.items()}
    return {"rows": GROWTH, "seconds": found, "slope": slopes}


def binning() -> list[dict[str, Any]]:
    """Binned AUC minus exact AUC, mean of five draws of 400,000 rows, by click rate."""
    found = []
    for rate in (0.5, 0.15, 0.045, 0.01, 0.001):
        line: dict[str, Any] = {"rate": rate}
        gaps: dict[int, list[float]] = {200: [], 1000: []}
        widths, outside = [], 0
        for seed in range(5):
            columns = rows(400_000, rate=rate, seed=seed)
            exact = auc(columns["labels"], columns["scores"])
            scores = torch.from_numpy(columns["scores"])
            labels = torch.from_numpy(columns["labels"]).int()
            for thresholds, gap in gaps.items():
                gap.append(float(BinaryAUROC(thresholds=thresholds)(scores, labels)) - exact)
            bounded = StreamingAUC(exact=False)
            for part in np.array_split(np.arange(400_000), 20):
                bounded.update(columns["labels"][part], columns["scores"][part])
            lower, upper = bounded.bounds()
            widths.append(upper - lower)
            outside += not lower <= exact <= upper
        line["thresholds"] = {str(key): statistics.mean(gap) for key, gap in gaps.items()}
        line["bounded_width"] = statistics.mean(widths)
        line["exact_outside_bounds"] = outside
        found.append(line)
    return found


def ties() -> list[dict[str, Any]]:
    """TorchRec's answers to inputs whose answer is plain, in two row orders."""

    def plain(order: list[int], labels: list[float], scores: list[float]) -> float:
        columns = [torch.tensor([[column[i] for i in order]]) for column in (scores, labels)]
        ones = torch.ones(1, len(order))
        return float(compute_auc(1, [columns[0]], [columns[1]], [ones])[0])

    def session(order: list[int], labels: list[float], scores: list[float]) -> float:
        columns = [torch.tensor([[[column[i] for i in order]]]) for column in (scores, labels)]
        found = compute_gauc_3d(*columns, torch.ones(1, 1, len(order)))
        return float(found["auc_sum"][0] / found["num_samples"][0])

    four = ([1.0, 1.0, 0.0, 0.0], [0.5] * 4)
    three = ([1.0, 0.0, 0.0], [0.5, 0.5, 0.2])
    per_group = compute_auc_per_group(
        1,
        [torch.tensor([[0.9, 0.1, 0.5, 0.4]])],
        [torch.tensor([[1.0, 0.0, 0.0, 0.0]])],
        [torch.ones(1, 4)],
        torch.tensor([1, 1, 2, 2]),
    )
    return [
        {
            "input": "four equal scores, two positive",
            "exact": auc(*four),
            "TorchRec": "compute_auc",
            "answers": [plain([0, 1, 2, 3], *four), plain([3, 2, 1, 0], *four)],
        },
        {
            "input": "scores .5 .5 .2, one of the tied two positive",
            "exact": grouped_auc(*three, [1, 1, 1]),
            "TorchRec": "compute_gauc_3d",
            "answers": [session([0, 1, 2], *three), session([1, 0, 2], *three)],
        },
        {
            "input": "one perfect group, one without a positive",
            "exact": grouped_auc([1, 0, 0, 0], [0.9, 0.1, 0.5, 0.4], [1, 1, 2, 2]),
            "TorchRec": "compute_auc_per_group",
            "answers": [float(per_group[0])],
        },
    ]


if __name__ == "__main__":
    main()
