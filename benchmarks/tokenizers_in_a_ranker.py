"""Which tokenizer serves a ranker best, and which figure of a tokenizer tells beforehand?

Every tokenizer quantises the same item vectors of the demo's ``cold_items`` protocol (MovieLens,
five folds, vectors from another surface's log), and the demo's ranker is trained on the codes
twice: beside the hash ID (hybrid) and in its place (SID only). The ranker's settings are the
demo's, chosen on validation rows for RQ-KMeans of (8, 8, 8); nothing is tuned for a tokenizer.
What pairs, exposures and categories a tokenizer or a figure uses comes from the same other log.

python -m benchmarks.tokenizers_in_a_ranker            about a quarter of an hour on two cores
"""

import argparse
import json
import multiprocessing
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from sidrank.data import MovieLens, read_movielens
from sidrank.demo.arms import build_arm
from sidrank.demo.preparation import Fold, prepare
from sidrank.demo.settings import read_settings
from sidrank.demo.training import fit, predict
from sidrank.metrics import PairedRun, auc, paired_interval
from sidrank.semantic_ids import SIDSpec, SIDTable, quality
from sidrank.tokenizers import (
    R3VAE,
    RQVAE,
    CapacityConstrainedRQ,
    R3VAELosses,
    R3VAERating,
    ResKMeansFSQ,
    RQKMeans,
    RQVAECodebook,
    RQVAELosses,
    Tokenizer,
)

RESULT = Path(__file__).parent / "results" / "tokenizers_in_a_ranker.json"
PROTOCOL, SEEDS = "cold_items", 10  # a seed also names the fold, one of five
ARMS = ("hybrid", "sid_only")
PAIRS = 20_000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Variant:
    """A tokenizer under test.

    Attributes:
        make: Builds it from a seed.
        pairs: Whether it learns from co-liked items.
        weights: Whether it learns from exposures.
        shuffled: Control: each item gets the codes of another.
    """

    make: Callable[..., Tokenizer]
    pairs: bool = False
    weights: bool = False
    shuffled: bool = False


@dataclass(frozen=True)
class Run:
    """One tokenizer with one seed: what the rankers say of the judged rows.

    Attributes:
        tokenizer: Its name.
        seed: The seed.
        users: User of each judged row, shape ``[n]``.
        labels: Label of each judged row.
        slices: Masks of rows by name.
        logits: By arm.
        figures: Of the codes alone.
    """

    tokenizer: str
    seed: int
    users: Ints
    labels: Ints
    slices: dict[str, NDArray[np.bool_]]
    logits: dict[str, NDArray[np.float64]]
    figures: dict[str, float]

    def auc(self, arm: str, rows: str) -> float:
        mask = self.slices[rows]
        return auc(self.labels[mask], self.logits[arm][mask])


SMALL, LARGE = (8, 8, 8), (32, 32, 32)
VARIANTS = {
    "RQ-KMeans 8³": Variant(partial(RQKMeans, levels=SMALL)),
    "RQ-KMeans 16³": Variant(partial(RQKMeans, levels=(16, 16, 16))),
    "RQ-KMeans 32³": Variant(partial(RQKMeans, levels=LARGE)),
    "RQ-KMeans 64": Variant(partial(RQKMeans, levels=(64,))),
    "RQ-KMeans 8⁴": Variant(partial(RQKMeans, levels=(8, 8, 8, 8))),
    "RQ-KMeans + FSQ 8³": Variant(partial(ResKMeansFSQ, levels=SMALL)),
    "RQ-KMeans + FSQ 32³": Variant(partial(ResKMeansFSQ, levels=LARGE)),
    "capacity 8³": Variant(partial(CapacityConstrainedRQ, levels=SMALL), weights=True),
    "capacity 32³": Variant(partial(CapacityConstrainedRQ, levels=LARGE), weights=True),
    "RQ-VAE 8³": Variant(partial(RQVAE, levels=SMALL)),
    "RQ-VAE 32³": Variant(partial(RQVAE, levels=LARGE)),
    "RQ-VAE 8³, pairs": Variant(
        partial(RQVAE, levels=SMALL, losses=RQVAELosses(contrastive=0.1)), pairs=True
    ),
    "RQ-VAE 32³, pairs": Variant(
        partial(RQVAE, levels=LARGE, losses=RQVAELosses(contrastive=0.1)), pairs=True
    ),
    "RQ-VAE 32³, random last": Variant(
        partial(RQVAE, levels=LARGE, codebook=RQVAECodebook(random_last_m=1))
    ),
    "R3-VAE 8³": Variant(partial(R3VAE, levels=SMALL)),
    "R3-VAE 32³": Variant(partial(R3VAE, levels=LARGE)),
    "R3-VAE 32³, warm": Variant(partial(R3VAE, levels=LARGE, rating=R3VAERating(cold=0.02))),
    "R3-VAE 8³, SC + PD": Variant(
        partial(R3VAE, levels=SMALL, losses=R3VAELosses(cohesion=0.1, discrimination=0.1)),
        pairs=True,
    ),
    "control: RQ-KMeans 8³ shuffled": Variant(partial(RQKMeans, levels=SMALL), shuffled=True),
    "control: RQ-KMeans 32³ shuffled": Variant(partial(RQKMeans, levels=LARGE), shuffled=True),
}

REFERENCE = "RQ-KMeans 8³"
SLICES = ("all", "new_tail", "cold")
GROUPS = {
    "all": [name for name in VARIANTS if not VARIANTS[name].shuffled],
    "8³": [name for name in VARIANTS if "8³" in name and not VARIANTS[name].shuffled],
    "32³": [name for name in VARIANTS if "32³" in name and not VARIANTS[name].shuffled],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    # one seed after the other, so that each process prepares it once
    tasks = [(name, seed) for seed in range(SEEDS) for name in VARIANTS]
    runs: list[Run] = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _start) as pool:
        for run in pool.imap(_run, tasks):
            runs.append(run)
            print(run.seed, run.tokenizer, f"{run.auc('hybrid', 'new_tail'):.4f}", flush=True)
    report = {
        "command": "python -m benchmarks.tokenizers_in_a_ranker",
        "protocol": PROTOCOL,
        "seeds": SEEDS,
        "tokenizers": [summary(name, runs) for name in VARIANTS],
        "correlation": correlations(runs),
    }
    RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def summary(name: str, runs: list[Run]) -> dict[str, Any]:
    """Means over the seeds, and the paired difference from the demo's own tokenizer."""
    mine = [run for run in runs if run.tokenizer == name]
    theirs = [run for run in runs if run.tokenizer == REFERENCE]
    found: dict[str, Any] = {"tokenizer": name, "arms": {}}
    for arm in ARMS:
        means = {key: float(np.mean([run.auc(arm, key) for run in mine])) for key in SLICES}
        pairs = [
            PairedRun(
                users=run.users,
                labels=run.labels,
                treatment=run.logits[arm],
                control=other.logits[arm],
                mask=run.slices["new_tail"],
            )
            for run, other in zip(mine, theirs, strict=True)
        ]
        interval = paired_interval(pairs)
        means["new_tail_minus_reference"] = [interval.mean, interval.low, interval.high]
        found["arms"][arm] = means
    found["figures"] = {
        key: float(np.mean([run.figures[key] for run in mine])) for key in mine[0].figures
    }
    return found


def correlations(runs: list[Run]) -> dict[str, Any]:
    """Spearman's correlation over the tokenizers, of a figure with the AUC on new + tail items.

    The interval comes from drawing seeds anew; the tokenizers are the ones there are.
    """
    rng = np.random.default_rng(0)
    draws = [rng.integers(SEEDS, size=SEEDS) for _ in range(2000)]
    found: dict[str, Any] = {}
    for group, names in GROUPS.items():
        of = {(run.tokenizer, run.seed): run for run in runs}
        found[group] = {"tokenizers": len(names)}
        for arm in ARMS:
            gain = np.array([[of[n, s].auc(arm, "new_tail") for s in range(SEEDS)] for n in names])
            for key in runs[0].figures:
                figure = np.array([[of[n, s].figures[key] for s in range(SEEDS)] for n in names])
                drawn = [
                    spearman(figure[:, d].mean(axis=1), gain[:, d].mean(axis=1)) for d in draws
                ]
                low, high = np.quantile(drawn, [0.025, 0.975])
                mean = spearman(figure.mean(axis=1), gain.mean(axis=1))
                found[group].setdefault(arm, {})[key] = [mean, float(low), float(high)]
    return found


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Correlation of ranks, equal values sharing their mean rank."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _start() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")


@lru_cache(maxsize=1)
def _fold(number: int) -> tuple[MovieLens, Fold, Ints, NDArray[np.float64]]:
    log = read_movielens()
    fold = prepare(log, PROTOCOL, number, read_settings().vectors[PROTOCOL])
    rows = fold.split.vector_rows
    shown = np.bincount(log.item_index[rows], minlength=len(log.item_ids))
    return log, fold, co_liked(log, rows, seed=number), shown.astype(np.float64)


def co_liked(log: MovieLens, rows: Ints, *, seed: int) -> Ints:
    """Pairs of different items that one user liked, drawn user by user."""
    rng = np.random.default_rng(seed)
    liked = rows[log.label[rows] == 1]
    users, items = log.user_index[liked], log.item_index[liked]
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    first = np.searchsorted(users, users)
    count = np.searchsorted(users, users, side="right") - first
    places = rng.integers(len(users), size=2 * PAIRS)
    other = first[places] + rng.integers(count[places])
    pairs = np.column_stack([items[places], items[other]])
    return pairs[pairs[:, 0] != pairs[:, 1]][:PAIRS]


def _run(task: tuple[str, int]) -> Run:
    name, number = task
    variant = VARIANTS[name]
    log, fold, pairs, shown = _fold(number)
    vectors = torch.from_numpy(fold.vectors.vectors)
    tokenizer = variant.make(seed=number)
    tokenizer.fit(
        vectors,
        weights=shown if variant.weights else None,
        pairs=pairs if variant.pairs else None,
    )
    assigned = getattr(tokenizer, "assigned", None)
    codes = np.asarray(tokenizer.encode(vectors) if assigned is None else assigned)
    if variant.shuffled:
        codes = codes[np.random.default_rng(number).permutation(len(codes))]
    table = SIDTable(log.item_ids, codes, spec=SIDSpec(tokenizer.levels))
    settings = read_settings()
    logits: dict[str, NDArray[np.float64]] = {}
    for arm in ARMS:
        recipe = settings.recipe(PROTOCOL, arm)
        model = build_arm(
            arm,
            features=fold.features,
            table=table,
            vectors=fold.vectors,
            recipe=recipe,
            seed=number,
        )
        fit(model, fold.batches, fold.learn, recipe, seed=number)
        logits[arm] = predict(model, fold.batches, fold.judge)
    return Run(
        tokenizer=name,
        seed=number,
        users=fold.users,
        labels=fold.labels,
        slices={
            "all": fold.labels >= 0,
            "new_tail": ~fold.head,
            "cold": fold.frequency == 0,
        },
        logits=logits,
        figures=figures(log, fold, table, tokenizer, pairs),
    )


def figures(
    log: MovieLens, fold: Fold, table: SIDTable, tokenizer: Tokenizer, pairs: Ints
) -> dict[str, float]:
    """What is known of the codes before a ranker is trained."""
    vectors = fold.vectors.vectors
    genre = np.array([genres[0] if genres else "" for genres in log.genres])
    measured = quality(
        table, vectors=vectors, tokenizer=tokenizer, categories=genre, pairs=pairs
    ).to_dict(complete=True)
    recall, cohesion = measured["neighbour_recall"], measured["semantic_cohesion"]
    return {
        "items_in_collision": measured["items_in_collision"],
        "reconstruction": measured["reconstruction_error"]["mse"],
        "recall_by_vector": recall["by_vector"],
        "recall_by_prefix": recall["by_prefix"],
        "cohesion_first": cohesion[0],
        "discrimination": measured["preference_discrimination"],
        "perplexity_first": measured["perplexity"][0],
    }


if __name__ == "__main__":
    main()
