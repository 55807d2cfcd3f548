"""The gate study: does the convex gate trust a hash id more, the more it has been seen?

Asked where the question has an answer. Beside a host that is told how its items did so far, a
hash id has nothing left to remember: there the trained gate goes to 0 for every item (the
``hybrid_convex`` arm; the report shows it). So the host of this study is not given its item's
own statistics, only the gate reads them; the SIDs say what an item is like (co-likes and words)
and not how good it is; and rows come once, in the order of time, as a production ranker meets
them, so that the count a row carries *is* how often its hash id was trained.

A smooth function of one number is monotone whatever it has learned, so rank correlation says
nothing. The range does, mean gate of the top minus the bottom exposure decile, beside that of
the same training with the statistics shuffled over rows.

Shapes: ``n`` judged rows of one seed, ``S`` gate statistics.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sidrank.demo.arms import build_arm, gate_of
from sidrank.demo.evaluation import Judged
from sidrank.demo.features import GATE_STATISTICS, without_item_statistics
from sidrank.demo.preparation import Fold
from sidrank.demo.settings import read_settings
from sidrank.demo.training import Batches, fit
from sidrank.metrics.intervals import resample

__all__ = ["gate_by_decile", "gate_range", "gate_weights", "run_gate_study"]

Floats = NDArray[np.float64]
_DECILES = 10
_DRAWS = 1000


def run_gate_study(fold: Fold, *, seed: int, null: bool) -> Floats:
    """Train the convex form and read its gate.

    Args:
        fold: The rows, with SIDs that do not tell how good an item is.
        seed: Seed of the initial values and of the shuffle.
        null: Whether each row, and its cold twin, carries the statistics of a random row.

    Returns:
        ``g`` of each judged row from its true statistics, shape ``[n]``; of the null model too:
        what is asked is how much its *function* of exposure varies over those that occur.
    """
    recipe = read_settings().recipe("gate", "hybrid_convex")
    features = without_item_statistics(fold.features)
    if null:
        order = np.random.default_rng(seed).permutation(len(features.rows))
        for name in GATE_STATISTICS:
            features.single[name] = np.tile(features.single[name][: len(order)][order], 2)
    model = build_arm(
        "hybrid_convex",
        features=features,
        table=fold.table,
        vectors=fold.vectors,
        recipe=recipe,
        seed=seed,
    )
    fit(model, Batches(features), fold.learn, recipe, seed=seed)
    return gate_weights(model, fold)


@torch.no_grad()
def gate_weights(model: nn.Module, fold: Fold) -> Floats:
    """``g`` of each judged row, from its true statistics.

    Args:
        model: A trained hybrid.
        fold: The rows.

    Returns:
        Gate values, shape ``[n]``.
    """
    single = fold.features.single
    counts = np.stack([single[name][fold.judge] for name in GATE_STATISTICS], axis=1)
    return gate_of(model).weight(torch.from_numpy(counts)).squeeze(1).double().numpy()


def gate_by_decile(runs: Sequence[Judged], gates: Sequence[Floats]) -> list[float]:
    """Mean gate by exposure decile of the rows, least exposed first.

    Args:
        runs: One for each seed.
        gates: ``g`` of each run's rows, shape ``[n]``.

    Returns:
        Ten means over rows and seeds.
    """
    means = [
        [gate[part].mean() for part in _deciles(run)] for run, gate in zip(runs, gates, strict=True)
    ]
    return np.mean(means, axis=0).tolist()


def gate_range(runs: Sequence[Judged], gates: Sequence[Floats], *, seed: int = 0) -> list[float]:
    """Mean gate of the top minus the bottom decile, and its joint 95% interval.

    Users and seeds are drawn with replacement, as in ``sidrank.metrics.paired_interval``.

    Args:
        runs: One for each seed.
        gates: ``g`` of each run's rows, shape ``[n]``.
        seed: Seed of the bootstrap.

    Returns:
        Mean, low, high.
    """
    generator = np.random.default_rng(seed)
    users = np.unique(np.concatenate([run.users for run in runs]))
    ends = [(parts[0], parts[-1]) for parts in map(_deciles, runs)]
    places = [np.searchsorted(users, run.users) for run in runs]

    def difference(run: int, counts: NDArray[np.int64]) -> float:
        means: list[float] = []
        for part in ends[run]:
            weights = counts[places[run][part]]
            if not weights.sum():
                return float("nan")
            means.append(float(np.average(gates[run][part], weights=weights)))
        return means[1] - means[0]

    everyone = np.ones(len(users), dtype=np.int64)
    plain = float(np.mean([difference(run, everyone) for run in range(len(runs))]))
    draws: list[float] = []
    for _ in range(_DRAWS):
        counts = resample(generator, len(users), len(users))
        taken = resample(generator, len(runs), max(1, len(runs) - 1))
        found = [difference(run, counts) for run in np.repeat(np.arange(len(runs)), taken).tolist()]
        draws.append(float(np.mean(found)))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return [plain, float(low), float(high)]


def _deciles(run: Judged) -> list[NDArray[np.int64]]:
    order = np.argsort(run.exposure, kind="stable").astype(np.int64)
    return list(np.array_split(order, _DECILES))
