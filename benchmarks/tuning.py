"""Choose the demo's settings on validation rows, the host's first and longest.

Per protocol: a random search for the host; then, with what it found, the same number of trials
for each of hybrid, host + raw vector and host + two scalars (their own step sizes and
epochs), the hybrid's also over how vectors are weighed and quantised. Each search starts from
what is committed. Trials are judged on
validation rows of folds (or seeds) 3 and 4, which the default demo does not report on; no test
row is read. The score is AUC, in ``cold_items`` the mean of AUC on all rows and on cold items.

    python -m benchmarks.claims --tune
"""

import json
import multiprocessing
import random
import sys
import warnings
from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import torch

from sidrank.data import read_movielens
from sidrank.demo.arms import build_arm
from sidrank.demo.preparation import Fold, prepare
from sidrank.demo.protocols import PROTOCOLS
from sidrank.demo.regression import fit_regression
from sidrank.demo.settings import SETTINGS_FILE, Recipe, Settings, VectorRecipe, read_settings
from sidrank.demo.training import fit, predict
from sidrank.metrics import auc

__all__ = ["tune"]

SEEDS = (3, 4)
HOST_TRIALS = 24
TRIALS = 8
PENALTIES = (0.01, 0.03, 0.1, 0.3)
SPACE = {
    "width": (8, 16),
    "hidden": (32, 64),
    "init": (0.01, 0.05),
    "lr": (3e-4, 5e-4, 1e-3, 2e-3, 4e-3),
    "decay": (0.01, 0.1, 1.0),
    "table_lr": (1e-4, 3e-4, 1e-3, 3e-3),
    "item_lr": (3e-4, 1e-3, 3e-3),
    "table_decay": (0.01, 0.1, 1.0),
    "epochs": (1, 2, 3, 4),
    "batch": (256, 512),
    "cold_share": (0.0, 0.05, 0.1, 0.2, 0.3),
    "buckets": (True, False),
}
BRANCH_SPACE = {
    "branch_lr": (2e-3, 5e-3, 1e-2, 2e-2),
    "branch_decay": (0.01, 0.1, 1.0),
    "gate_lr": (2e-3, 2e-2),
}
WEIGHTS = (
    (0.7, 1.0, 0.7, 0.2),
    (0.4, 1.0, 0.5, 0.0),
    (1.0, 1.0, 0.5, 0.5),
    (0.3, 1.0, 0.3, 0.0),
    (0.5, 1.0, 0.2, 0.2),
)
LEVELS = ((8, 8, 8), (8, 4, 4), (16, 8, 8), (8, 8), (6, 6, 6, 6), (12, 12, 12))

Trial = tuple[str, str, Recipe, VectorRecipe]


def tune() -> None:
    """Search all protocols and write ``sidrank/demo/settings.json``."""
    before = read_settings()
    recipes = dict(before.recipes)
    vectors = dict(before.vectors)
    regression = dict(before.regression)
    rng = random.Random(0)
    with multiprocessing.get_context("spawn").Pool(2, initializer=_start) as pool:
        for protocol in reversed(PROTOCOLS):
            base = vectors[protocol]
            first = [recipes[protocol]["host"]]
            hosts = first + [_draw(rng, Recipe(), SPACE) for _ in range(HOST_TRIALS - 1)]
            found: dict[str, Recipe] = {}
            found["host"] = _best(pool, [(protocol, "host", host, base) for host in hosts])[2]
            host = found["host"]
            tries = [(protocol, "hybrid", start, base) for start in _starts(before, protocol, host)]
            while len(tries) < TRIALS:
                choice = VectorRecipe(rng.choice(WEIGHTS), rng.choice(LEVELS))
                tries.append((protocol, "hybrid", _vary(rng, host), choice))
            best = _best(pool, tries)
            found["hybrid"], vectors[protocol] = best[2], best[3]
            for arm in ("host_vector", "host_scalars"):
                variants = _starts(before, protocol, host, arm)
                variants += [_vary(rng, host) for _ in range(TRIALS - len(variants))]
                tries = [(protocol, arm, variant, vectors[protocol]) for variant in variants]
                found[arm] = _best(pool, tries)[2]
            recipes[protocol] = found
            floors = pool.starmap(_floor, [(protocol, penalty) for penalty in PENALTIES])
            regression[protocol] = PENALTIES[int(np.argmax(floors))]
            _write(Settings(recipes=recipes, vectors=vectors, regression=regression))


def _starts(before: Settings, protocol: str, host: Recipe, arm: str = "hybrid") -> list[Recipe]:
    """First trials of an arm: the host's settings, and those that are committed for it."""
    return [host, before.recipe(protocol, arm)]


def _draw(rng: random.Random, recipe: Recipe, space: dict[str, tuple[object, ...]]) -> Recipe:
    return replace(recipe, **{name: rng.choice(values) for name, values in space.items()})


def _vary(rng: random.Random, host: Recipe) -> Recipe:
    """A trial of an arm that adds to the host: its own step sizes, length and dense step."""
    changed = _draw(rng, host, BRANCH_SPACE)
    epochs = max(1, host.epochs + rng.choice((-1, 0, 0, 1)))
    return replace(changed, epochs=epochs, lr=host.lr * rng.choice((0.5, 1.0, 1.0, 2.0)))


def _best(pool: "multiprocessing.pool.Pool", trials: list[Trial]) -> Trial:
    scores = pool.map(_score, trials, chunksize=1)
    best = int(np.argmax(scores))
    protocol, arm, recipe, vectors = trials[best]
    print(
        f"{protocol} {arm}: {scores[best]:.4f}, first trial {scores[0]:.4f}, of {len(trials)}",
        flush=True,
    )
    print(f"  {recipe} {vectors}", file=sys.stderr, flush=True)
    return trials[best]


@lru_cache(maxsize=24)
def _fold(protocol: str, seed: int, vectors: VectorRecipe) -> Fold:
    return prepare(read_movielens(), protocol, seed, vectors, validate=True)


def _score(trial: Trial) -> float:
    protocol, arm, recipe, vectors = trial
    scores: list[float] = []
    for seed in SEEDS:
        fold = _fold(protocol, seed, vectors)
        model = build_arm(
            arm,
            features=fold.features,
            table=fold.table,
            vectors=fold.vectors,
            recipe=recipe,
            seed=seed,
        )
        fit(model, fold.batches, fold.learn, recipe, seed=seed)
        scores.append(_measure(protocol, fold, predict(model, fold.batches, fold.judge)))
    return float(np.mean(scores))


def _floor(protocol: str, penalty: float) -> float:
    fold = _fold(protocol, SEEDS[0], VectorRecipe())
    logits, _, _ = fit_regression(fold.features, fold.learn, fold.judge, inverse_penalty=penalty)
    return _measure(protocol, fold, logits)


def _measure(protocol: str, fold: Fold, logits: np.ndarray) -> float:
    every = auc(fold.labels, logits)
    if protocol != "cold_items":
        return every
    cold = fold.frequency == 0
    return (every + auc(fold.labels[cold], logits[cold])) / 2


def _write(settings: Settings) -> None:
    text = json.dumps(asdict(settings), indent=1)
    SETTINGS_FILE.write_text(text + "\n")


def _start() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")
