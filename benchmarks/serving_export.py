"""Rankers as they are in Python, exported, and compiled: requests a second, bytes, and the AUC.

Rankers of ``benchmarks/candidate_rankers.py`` are exported and compiled, the hybrid DLRM once more
with int8 tables. All are read back, which runs their self-tests, and must give the
same logits as the model in Python, at numbers of candidates that the export did not see, before
the clock starts. One request of one user, thread time of one thread, rounds interleaved, medians.

What int8 does to the ranking is asked of the demo's hybrid, trained on MovieLens: both forms
score the same held-out rows.

    python -m benchmarks.serving_export

The exports take minutes and are kept where ``--exports`` says, so that parts can be run apart:
``--only export``, ``--only speed``, ``--only auc``, and ``--rankers NAME`` measures one anew.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.candidate_rankers import RANKERS, Ranker
from sidrank.data import read_movielens
from sidrank.demo.arms import build_arm
from sidrank.demo.preparation import prepare
from sidrank.demo.settings import read_settings
from sidrank.demo.training import fit, predict
from sidrank.embeddings import RankingRequests
from sidrank.metrics import auc, paired_delong
from sidrank.serving.export import export_ranker
from sidrank.serving.exported_ranker import load_ranker
from sidrank.serving.int8_tables import int8_tables

RESULTS = Path(__file__).parent / "results" / "serving_export.json"
LENGTH, COUNTS, UNSEEN = 200, (50, 500), (1, 2, 7, 333)
NAMES, INT8 = ("DLRM 64-32", "SIDRanker", "TokenFormer", "SituationCTR"), ("DLRM 64-32",)
PROTOCOLS = ("cold_items", "per_user")
KERNELS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--exports", type=Path, default=None)
    parser.add_argument("--only", choices=["export", "speed", "auc"], default=None)
    parser.add_argument("--rankers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")
    report: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    report |= {
        "command": "python -m benchmarks.serving_export",
        "history": LENGTH,
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    with tempfile.TemporaryDirectory() as given:
        place = options.exports or Path(given)
        if options.only in (None, "export"):
            export_all(place, options.rankers)
        if options.only in (None, "speed"):
            for name in options.rankers:  # others keep what was found of them
                kept = {row["ranker"]: row for row in report.get("rows", [])}
                kept[name] = measure(name, place, options.rounds)
                rows = [kept[each] for each in NAMES if each in kept]
                report |= {"rounds": options.rounds, "rows": rows}
                options.out.write_text(json.dumps(report, indent=2) + "\n")
        if options.only in (None, "auc"):
            found = [
                ranked(protocol, seed) for protocol in PROTOCOLS for seed in range(options.seeds)
            ]
            report |= {"auc": found}
    if options.only != "export":
        options.out.write_text(json.dumps(report, indent=2) + "\n")


def built(name: str) -> Ranker:
    """The same weights in every process."""
    torch.manual_seed(0)
    return RANKERS[name](LENGTH)


def forms(name: str, model: Any) -> dict[str, Any]:
    """Where tables are most of the bytes, they come as bytes too."""
    return {"fp32": model, **({"int8": int8_tables(model)} if name in INT8 else {})}


def folder_of(place: Path, name: str, form: str) -> Path:
    return place / f"{name.replace(' ', '_').lower()}_{form}"


def export_all(place: Path, names: Sequence[str]) -> None:
    """All forms of all rankers; what is there is kept."""
    place.mkdir(exist_ok=True)
    for name in names:
        ranker = built(name)
        asked = joined([ranker.requests(count, 100 + count) for count in (3, 11, 5)])
        for form, model in forms(name, ranker.model).items():
            folder = folder_of(place, name, form)
            if folder.exists():
                continue
            start = time.perf_counter()
            export_ranker(model, asked, folder, compiled=True)
            print(folder.name, f"{time.perf_counter() - start:.0f} s", flush=True)


def joined(parts: list[RankingRequests]) -> RankingRequests:
    """Requests one after the other."""
    from torchrec import KeyedJaggedTensor

    def all_of(side: str) -> KeyedJaggedTensor:
        kjts: list[KeyedJaggedTensor] = [getattr(part, side) for part in parts]
        keys = kjts[0].keys()
        bags = [kjt[key] for key in keys for kjt in kjts]
        return KeyedJaggedTensor(
            keys,
            torch.cat([bag.values() for bag in bags]),
            lengths=torch.cat([bag.lengths() for bag in bags]),
        )

    return RankingRequests(
        torch.cat([part.dense for part in parts]),
        all_of("features"),
        all_of("candidates"),
        torch.cat([part.counts for part in parts]),
    )


def measure(name: str, place: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of a request in every form, after the same answers."""
    ranker = built(name)
    ways: dict[str, Callable[[RankingRequests], Any]] = {}
    difference: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for form, model in forms(name, ranker.model).items():
        folder = folder_of(place, name, form)
        if not folder.exists():
            print(f"{folder} is not there: {name} {form} is left out", flush=True)
            continue
        served = {
            f"exported {form}": load_ranker(folder),
            f"compiled {form}": load_ranker(folder, compiled=True),
        }
        ways[f"Python {form}"] = model.rank
        for way, other in served.items():
            ways[way] = other.rank
            difference[way] = max(
                largest_difference(model, other, ranker.requests(count, count))
                for count in (*UNSEEN, *COUNTS)
            )
            assert difference[way] < 1e-5, (name, way, difference)
        for file in ("program.pt2", "compiled.pt2"):
            sizes[f"{file} {form}"] = (folder / file).stat().st_size
    spent: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        request = ranker.requests(count, 0)
        spent[str(count)] = interleaved({way: bound(f, request) for way, f in ways.items()}, rounds)
    row = {
        "ranker": name,
        "said": ranker.said,
        "difference": difference,
        "bytes": sizes,
        "kernels": {
            str(count): kernels(bound(ranker.model.rank, ranker.requests(count, 0)))
            for count in COUNTS
        },
        "milliseconds": {
            count: {way: 1000 * seconds for way, seconds in each.items()}
            for count, each in spent.items()
        },
    }
    print(json.dumps(row), flush=True)
    return row


def bound(rank: Callable[[RankingRequests], Any], request: RankingRequests) -> Callable[[], Any]:
    return lambda: rank(request)


@torch.inference_mode()
def largest_difference(model: Any, other: Any, request: RankingRequests) -> float:
    """Between logits, as a share of 1 and the largest one together."""
    wanted, found = model.rank(request), other.rank(request)
    if len(wanted) > 1:
        assert float(wanted.std(dim=0).min()) > 1e-3
    return float(((found - wanted).abs() / (1 + wanted.abs())).max())


@torch.inference_mode()
def interleaved(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, way in ways.items():
            start = time.thread_time()
            way()
            if turn > 1:  # the first ones warm up
                seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


@torch.inference_mode()
def kernels(way: Callable[[], Any], calls: int = 10) -> float:
    """Share of a call's time in matrix products and attention: a compiled program calls them."""
    way()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(calls):
            way()
    spent = {op.key: op.self_cpu_time_total for op in seen.key_averages()}
    return sum(us for key, us in spent.items() if key.startswith(KERNELS)) / sum(spent.values())


def ranked(protocol: str, seed: int) -> dict[str, Any]:
    """AUC of a trained hybrid on held-out rows, with its tables as they are and as bytes."""
    settings = read_settings()
    fold = prepare(read_movielens(), protocol, seed, settings.vectors[protocol])
    recipe = settings.recipe(protocol, "hybrid")
    model: nn.Module = build_arm(
        "hybrid",
        features=fold.features,
        table=fold.table,
        vectors=fold.vectors,
        recipe=recipe,
        seed=seed,
    )
    fit(model, fold.batches, fold.learn, recipe, seed=seed)
    logits = {
        form: predict(each, fold.batches, fold.judge)
        for form, each in forms(INT8[0], model).items()
    }
    paired = paired_delong(fold.labels, logits["int8"], logits["fp32"])
    row = {
        "protocol": protocol,
        "seed": seed,
        "rows": len(fold.judge),
        "width": recipe.width,
        "auc": {form: auc(fold.labels, each) for form, each in logits.items()},
        "difference": paired.difference,
        "interval": [paired.low, paired.high],
        "largest_logit_difference": float(abs(logits["int8"] - logits["fp32"]).max()),
    }
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
