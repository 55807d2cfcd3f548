"""The upgrade path: a trained host gains semantic IDs and keeps everything it had.

Train a host. Save it. Build the same host with semantic IDs, load the checkpoint (weights and
optimiser state), and look at the logits before the first step: they are the host's, bit for
bit. Then train both for the same extra steps on the same rows, with a third that has every
item's SID on another item.

Shapes: ``R`` judged rows.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.models.dlrm import DLRM
from torchrec.optim.keyed import CombinedOptimizer

from sidrank.demo.arms import make_host, shuffled, upgrade
from sidrank.demo.preparation import Fold
from sidrank.demo.settings import Recipe
from sidrank.demo.training import make_optimizer, predict, train
from sidrank.embeddings import load_host_checkpoint
from sidrank.semantic_ids import SIDTable

__all__ = ["Upgraded", "run_upgrade"]

_EXTRA_EPOCHS = 1


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What one seed of the upgrade path gives.

    Attributes:
        delta: Largest difference of any judged logit before the first step.
        steps: Extra steps.
        new: Parameter tensors that the host did not have.
        moved: How many of them changed.
        logits: Of the judged rows after the extra steps: ``host_continued``, ``upgraded``,
            ``upgraded_shuffled``.
    """

    delta: float
    steps: int
    new: int
    moved: int
    logits: dict[str, NDArray[np.float64]]


def run_upgrade(fold: Fold, recipe: Recipe, *, seed: int) -> Upgraded:
    """Train a host, upgrade it, continue both.

    Args:
        fold: The rows.
        recipe: How the host is trained and what the new tables' step size is.
        seed: Seed of the initial values and of the order of rows.

    Returns:
        Logits and the step-0 difference.
    """
    torch.manual_seed(seed)
    host = make_host(fold.features, recipe)
    optimizer = make_optimizer(host, recipe)
    train(host, optimizer, fold.batches, fold.learn, recipe, seed=seed)
    before = predict(host, fold.batches, fold.judge)
    checkpoint = {
        "model": {name: value.clone() for name, value in host.state_dict().items()},
        "optimizer": _copied(optimizer.state_dict()),
    }

    deltas: list[float] = []
    new = moved = steps = 0
    extra = replace(recipe, epochs=_EXTRA_EPOCHS)
    logits: dict[str, NDArray[np.float64]] = {}

    def continued(model: DLRM, its: CombinedOptimizer) -> NDArray[np.float64]:
        nonlocal steps
        steps = train(model, its, fold.batches, fold.learn, extra, seed=seed + 500)
        return predict(model, fold.batches, fold.judge)

    logits["host_continued"] = continued(host, optimizer)
    tables: dict[str, SIDTable] = {
        "upgraded": fold.table,
        "upgraded_shuffled": shuffled(fold.table, seed),
    }
    for name, table in tables.items():
        torch.manual_seed(seed + 1)
        model = upgrade(make_host(fold.features, recipe), table, recipe)
        its = make_optimizer(model, recipe)
        born = load_host_checkpoint(model, checkpoint, optimizer=its)
        deltas.append(float(np.abs(predict(model, fold.batches, fold.judge) - before).max()))
        fresh = {n: p.detach().clone() for n, p in model.named_parameters() if n in born}
        logits[name] = continued(model, its)
        now = dict(model.named_parameters())
        new = len(fresh)
        moved = sum(not torch.equal(now[n], value) for n, value in fresh.items())
    return Upgraded(delta=max(deltas), steps=steps, new=new, moved=moved, logits=logits)


def _copied(state: dict[str, object]) -> dict[str, object]:
    """A deep copy of nested dictionaries of tensors."""
    copies: dict[str, object] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            copies[name] = _copied(value)
        else:
            copies[name] = value.clone() if isinstance(value, torch.Tensor) else value
    return copies
