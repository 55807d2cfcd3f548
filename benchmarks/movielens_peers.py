"""Our rankers against other libraries', trees and a regression, on MovieLens-100K.

Both causal questions of the demo: each user's last tenth (``per_user``), and the log's
(``global_time``). Every ranker gets one set of features (``benchmarks.movielens_peers_rows``), as
many trials on the validation rows of seed 0, the same loop, and is judged on the test rows once a
seed. Our best on validation stands for us; differences have joint intervals over users and seeds.

Then lists: our ranker with NeuralNDCG, with and without the cross-entropy, against the
cross-entropy alone, by nDCG@1 of a request (a user's sitting, in runs of at most twenty rows).

    python -m benchmarks.movielens_peers      goes on where it was; two hours on an idle core
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.movielens_peers_ours import AS_THEY_ARE, DEALT, GIVEN
from benchmarks.movielens_peers_rows import PeerRows, make_rows
from benchmarks.movielens_peers_training import Listwise, final, trials, tune, tune_listwise
from sidrank.data import read_movielens
from sidrank.demo.settings import read_settings
from sidrank.metrics import PairedRun, auc, grouped_auc, ndcg, paired_interval
from sidrank.metrics.intervals import resample

RESULT = Path(__file__).parent / "results" / "movielens_peers.json"
SCORES = Path(__file__).parent.parent / "build" / "movielens_peers"
PROTOCOLS = ("per_user", "global_time")
# fresh ones: on others an earlier host was judged, whose results led to this one
SEEDS, DRAWS = tuple(range(10, 15)), 1000
# with the setting of another: a peer that is told what our tower found, and our tower's null
CONTROLS = {
    "LightGBM + least squares": "LightGBM",
    DEALT: "sidrank LeastSquaresRead",
    GIVEN: "sidrank LeastSquaresRead",
    AS_THEY_ARE: "sidrank LeastSquaresRead",
}
# cheap ones first, so that what there is compares
NAMES = (
    *("LR", "sidrank LeastSquaresRead", "FuxiCTR FinalMLP", "torch-rechub DeepFM", "LightGBM"),
    *("torch-rechub DCNv2", "DeepCTR-Torch DIN", "sidrank host", "torch-rechub DIN"),
    *(*CONTROLS, "sidrank DIN", "sidrank SituationTower"),
)
LOSSES: dict[str, tuple[Listwise, ...]] = {
    "BCE": (Listwise(),),
    "NeuralNDCG": (
        Listwise(weight=1.0, pointwise=0.0, temperature=1.0),
        Listwise(weight=1.0, pointwise=0.0, temperature=0.3),
    ),
    "BCE + NeuralNDCG": (
        Listwise(weight=0.5, pointwise=1.0, temperature=1.0),
        Listwise(weight=2.0, pointwise=1.0, temperature=1.0),
    ),
}
WHEELS = ("torch-rechub", "deepctr-torch", "fuxictr", "lightgbm", "scikit-learn", "torch")

Run = dict[str, Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--protocols", nargs="*", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    report = read(options.out)
    for name in options.models:
        for protocol in options.protocols:
            choose(report, protocol, name)
            write(options.out, report)
            for seed in options.seeds:
                judge(report, protocol, name, seed)
            write(options.out, report)
    for protocol in options.protocols:
        lists(report, protocol, options.seeds)
        why_lists(report, protocol, options.seeds[0])
        write(options.out, report)
    compare(report)
    write(options.out, report)


def read(path: Path) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text())
    return {
        "command": "python -m benchmarks.movielens_peers",
        "wheels": {name: metadata.version(name) for name in WHEELS},
        "draws": DRAWS,
        "rows": {},
        "chosen": {},
        "runs": [],
        "losses": {},
        "lists": [],
        "why_lists": {},
        "differences": {},
    }


def write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_suffix(".part")
    waiting.write_text(json.dumps(report, indent=1) + "\n")
    waiting.replace(path)


@lru_cache(maxsize=2)
def rows_of(protocol: str, *, validate: bool) -> PeerRows:
    recipe = read_settings().vectors[protocol]
    return make_rows(read_movielens(), protocol, recipe, validate=validate)


def choose(report: dict[str, Any], protocol: str, name: str) -> None:
    """The trials of one ranker on validation rows; the best is kept."""
    found = report["chosen"].setdefault(protocol, {})
    if name in found:
        return
    if name in CONTROLS:
        found[name] = found[CONTROLS[name]] | {"trials": [], "auc": None}
        return
    tried = [tune(name, rows_of(protocol, validate=True), setting) for setting in trials(name)]
    best = max(tried, key=lambda trial: trial["auc"])
    found[name] = best | {"trials": tried}
    print(protocol, name, [round(t["auc"], 4) for t in tried], best["passes"], flush=True)


def judge(report: dict[str, Any], protocol: str, name: str, seed: int) -> None:
    """One final run."""
    key = (protocol, name, seed)
    if key in {(r["protocol"], r["model"], r["seed"]) for r in report["runs"]}:
        return
    rows = rows_of(protocol, validate=False)
    scores, parameters = final(name, rows, report["chosen"][protocol][name], seed=seed)
    keep(protocol, name, seed, scores)
    measured = figures(rows, scores)
    report["runs"].append(
        {"protocol": protocol, "model": name, "seed": seed, "parameters": parameters, **measured}
    )
    part = rows.parts["judge"].numpy()
    report["rows"][protocol] = {
        "learn": len(rows.parts["learn"]),
        "judge": len(part),
        "users": len(np.unique(rows.user[part])),
        "requests": len(np.unique(rows.request[part])),
    }
    print(*key, f"{measured['auc']:.4f} {measured['gauc']:.4f}", flush=True)


def figures(rows: PeerRows, scores: Floats) -> dict[str, float]:
    part = rows.parts["judge"].numpy()
    label = rows.label.numpy()[part].astype(np.int64)
    return {
        "auc": auc(label, scores),
        "gauc": grouped_auc(label, scores, rows.user[part]),
        "ndcg@1": ndcg(label, scores, rows.request[part], k=1),
    }


def ours_on_validation(report: dict[str, Any], protocol: str) -> str:
    """Our best by validation AUC."""
    found = report["chosen"][protocol]
    ours = [name for name in found if name.startswith("sidrank")]
    return max(ours, key=lambda name: found[name]["auc"])


def lists(report: dict[str, Any], protocol: str, seeds: Sequence[int]) -> None:
    """Losses of our ranker, chosen by nDCG@1 on validation rows, then judged."""
    name = ours_on_validation(report, protocol)
    chosen = report["losses"].setdefault(protocol, {})
    held = {(r["protocol"], r["loss"], r["seed"]) for r in report["lists"]}
    for loss, tried in LOSSES.items():
        if loss not in chosen:
            own = report["chosen"][protocol][name]
            rows = rows_of(protocol, validate=True)
            found = [tune_listwise(name, rows, own, each) for each in tried]
            chosen[loss] = max(found, key=lambda trial: trial["ndcg@1"]) | {"model": name}
            print(protocol, loss, [round(t["ndcg@1"], 4) for t in found], flush=True)
        for seed in seeds:
            if (protocol, loss, seed) in held:
                continue
            rows = rows_of(protocol, validate=False)
            own = report["chosen"][protocol][name] | {"passes": chosen[loss]["passes"]}
            listwise = Listwise(**chosen[loss]["listwise"])
            scores, _ = final(name, rows, own, seed=seed, listwise=listwise)
            keep(protocol, loss, seed, scores)
            measured = figures(rows, scores)
            report["lists"].append({"protocol": protocol, "loss": loss, "seed": seed, **measured})
            print(protocol, loss, seed, f"{measured['ndcg@1']:.4f}", flush=True)


def why_lists(report: dict[str, Any], protocol: str, seed: int) -> None:
    """What there was to be seen, and what the loss does on the rows that it learns from."""
    found = report.setdefault("why_lists", {})
    if protocol in found:
        return
    rows = rows_of(protocol, validate=False)
    judged = rows.parts["judge"].numpy()
    label, request = rows.label.numpy()[judged].astype(np.int64), rows.request[judged]
    scores = [np.load(scores_at(protocol, loss, seed)) for loss in ("BCE", "NeuralNDCG")]
    gains = [top_gain(label, each, request) for each in scores]
    _, number = np.unique(request, return_inverse=True)
    shown, liked = np.bincount(number), np.bincount(number, weights=label)
    mixed = (liked > 0) & (liked < shown)
    tops = [np.full(len(shown), -1), np.full(len(shown), -1)]
    for top, each in zip(tops, scores, strict=True):
        order = np.lexsort((each, number))
        top[number[order]] = order  # the last of each request is its highest
    name, learned = ours_on_validation(report, protocol), []
    place = rows.parts["learn"].numpy()
    for loss in ("BCE", "NeuralNDCG"):
        chosen = report["losses"][protocol][loss]
        own = report["chosen"][protocol][name] | {"passes": chosen["passes"]}
        listwise = Listwise(**chosen["listwise"])
        logits, _ = final(name, rows, own, seed=seed, listwise=listwise, part="learn")
        own_label = rows.label.numpy()[place].astype(np.int64)
        learned.append(ndcg(own_label, logits, rows.request[place], k=1))
    found[protocol] = {
        "requests": len(gains[0]),
        "decidable": int(mixed.sum()),
        "other_top": float((tops[0] != tops[1])[mixed].mean()),
        "learned": learned[1] - learned[0],
    }


def keep(protocol: str, name: str, seed: int, scores: Floats) -> None:
    SCORES.mkdir(parents=True, exist_ok=True)
    np.save(scores_at(protocol, name, seed), scores)


def scores_at(protocol: str, name: str, seed: int) -> Path:
    return SCORES / f"{protocol}-{name.replace(' ', '_').replace('+', 'and')}-{seed}.npy"


def compare(report: dict[str, Any]) -> None:
    """Our pick, and our other rankers, minus each peer; and each listwise loss minus BCE."""
    for protocol in report["chosen"]:
        rows = rows_of(protocol, validate=False)
        held = {r["model"] for r in report["runs"] if r["protocol"] == protocol}
        pick = ours_on_validation(report, protocol)
        pairs = [(pick, name) for name in NAMES if name in held - {pick}]
        others = held - set(CONTROLS)
        peers = [name for name in NAMES if name in others and not name.startswith("sidrank")]
        pairs += [pair for pair in CONTROLS.items() if held.issuperset(pair)]
        for name in sorted(held - {pick}):
            pairs += [(name, peer) for peer in peers if name.startswith("sidrank")]
        for one, other in pairs:
            key = f"{protocol}: {one} - {other}"
            seeds = _seeds(report["runs"], "model", protocol, one, other)
            if seeds and report["differences"].get(key, {}).get("seeds") != len(seeds):
                report["differences"][key] = difference(rows, protocol, one, other, seeds)
                print(key, report["differences"][key], flush=True)
        for loss in LOSSES:
            seeds = _seeds(report["lists"], "loss", protocol, loss, "BCE")
            key = f"{protocol}: {loss} - BCE"
            if loss != "BCE" and seeds:
                found = difference(rows, protocol, loss, "BCE", seeds)
                found["ndcg@1"] = request_interval(rows, protocol, loss, "BCE", seeds)
                report["differences"][key] = found
                print(key, found, flush=True)


def _seeds(runs: Sequence[Run], kind: str, protocol: str, one: str, other: str) -> list[int]:
    held = [
        {r["seed"] for r in runs if r["protocol"] == protocol and r[kind] == name}
        for name in (one, other)
    ]
    return sorted(held[0] & held[1])


def difference(
    rows: PeerRows, protocol: str, one: str, other: str, seeds: Sequence[int]
) -> dict[str, Any]:
    part = rows.parts["judge"].numpy()
    label = rows.label.numpy()[part].astype(np.int64)
    runs = [
        PairedRun(
            users=rows.user[part],
            labels=label,
            treatment=np.load(scores_at(protocol, one, seed)),
            control=np.load(scores_at(protocol, other, seed)),
        )
        for seed in seeds
    ]
    found: dict[str, Any] = {"seeds": len(seeds)}
    for metric in ("auc", "gauc"):
        interval = paired_interval(runs, metric=metric, draws=DRAWS)
        found[metric] = [round(value, 6) for value in interval]
    return found


def request_interval(
    rows: PeerRows, protocol: str, one: str, other: str, seeds: Sequence[int]
) -> list[float]:
    """Difference in nDCG@1 with its joint interval over users and seeds."""
    part = rows.parts["judge"].numpy()
    label, request = rows.label.numpy()[part].astype(np.int64), rows.request[part]
    _, user = np.unique(rows.user[part], return_inverse=True)
    gains = np.stack(
        [
            top_gain(label, np.load(scores_at(protocol, one, seed)), request)
            - top_gain(label, np.load(scores_at(protocol, other, seed)), request)
            for seed in seeds
        ]
    )  # [seeds, requests with a like]
    requests = np.unique(request[label == 1])
    first = np.searchsorted(np.sort(request), requests)
    owner = user[np.argsort(request, kind="stable")[first]]
    return joint_interval(gains, owner)


def joint_interval(gains: Floats, owner: Ints, *, seed: int = 0) -> list[float]:
    """Mean of ``[seeds, requests]`` and its interval; a user brings all his requests."""
    number = int(owner.max()) + 1
    sums = np.stack([np.bincount(owner, weights=row, minlength=number) for row in gains])
    counts = np.bincount(owner, minlength=number)
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        users = resample(generator, number, number)
        taken = resample(generator, len(gains), max(1, len(gains) - 1))
        drawn.append(float((taken @ sums @ users) / max(taken.sum() * (counts @ users), 1)))
    ends = np.quantile(drawn, [0.025, 0.975])
    return [round(float(value), 6) for value in (gains.mean(), *ends)]


def top_gain(label: Ints, scores: Floats, request: Ints) -> Floats:
    """nDCG@1 of each request with a like: the label of its top row, ties averaged."""
    _, number = np.unique(request, return_inverse=True)
    top = np.full(number.max() + 1, -np.inf)
    np.maximum.at(top, number, scores)
    first = scores == top[number]
    likes = np.bincount(number, weights=label * first) / np.bincount(number, weights=first)
    return likes[np.bincount(number, weights=label) > 0]


if __name__ == "__main__":
    main()
