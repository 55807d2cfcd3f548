"""Train an arm of the shoot-out, and say what it costs and how it ranks.

Recipes were chosen on the validation day of a log that no result uses (seed 100). Tables and
layers learn by AdamW; after each pass the validation day is scored, and the pass with the best AUC
there is the one that counts.

Shapes: ``R`` rows.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.shootout_arms import Ranker, find, make_arm, sparse_parameters
from benchmarks.shootout_rows import World
from sidrank.layers import ConvexGate, ResidualGate
from sidrank.metrics import auc, bayes_auc, expected_auc

__all__ = ["Recipe", "predict", "run_arm", "train"]

Floats = NDArray[np.float32]
HOST_TABLES = ("user", "segment", "hour")


@dataclass(frozen=True)
class Recipe:
    """Step sizes of the item's hash-ID table, of the other host tables, of SID tables and layers.

    Attributes:
        epochs: Most passes.
        batch: Rows of a step.
        cold: Share of the training rows whose item is made cold.
        item_decay: Weight decay of the hash-ID table.
        decay: Weight decay of the other tables.
    """

    item: float = 1e-2
    tables: float = 1e-2
    sid: float = 1e-2
    dense: float = 2e-3
    item_decay: float = 1.5
    decay: float = 0.3
    epochs: int = 2
    batch: int = 4096
    cold: float = 0.3


def run_arm(name: str, world: World, recipe: Recipe, *, seed: int) -> tuple[dict[str, Any], Floats]:
    """Train one arm; its figures, and its logits of the test rows."""
    start = time.process_time()
    model = make_arm(name, world, seed=seed)
    logits, epoch, reached = train(model, world, recipe, seed=seed)
    log, test = world.log, world.parts["test"]
    probability = log.probability[test]
    return {
        "expected_auc": {
            key: round(expected_auc(probability[mask], logits[mask]), 6)
            for key, mask in world.slices.items()
            if mask.any()
        },
        "bayes_auc": {
            key: round(bayes_auc(probability[mask]), 6)
            for key, mask in world.slices.items()
            if mask.any()
        },
        "rows": {key: int(mask.sum()) for key, mask in world.slices.items()},
        "epoch": epoch,
        "validation_auc": round(reached, 6),
        "sparse_parameters": sparse_parameters(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gate_range": _gate_range(model, world),
        "seconds": round(time.process_time() - start, 1),
    }, logits


def train(model: Ranker, world: World, recipe: Recipe, *, seed: int) -> tuple[Floats, int, float]:
    """Test logits of the pass that ranks the validation day best, which it was, its AUC there."""
    optimizer = _optimizer(model, recipe)
    rows = torch.from_numpy(world.parts["train"])
    labels = world.log.label[world.parts["validation"]]
    best, logits, chosen = -1.0, np.empty(0, np.float32), 0
    for epoch in range(recipe.epochs):
        draws = torch.Generator().manual_seed(1000 * seed + epoch)
        order = rows[torch.randperm(len(rows), generator=draws)]
        model.train()
        for part in order.split(recipe.batch):
            cold = torch.rand(len(part), generator=draws) < recipe.cold
            loss = model.loss(*world.cut(part, model.keys, cold))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reached = auc(labels, predict(model, world, "validation"))
        if reached <= best:
            break
        best, logits, chosen = reached, predict(model, world, "test"), epoch + 1
    return logits, chosen, best


@torch.no_grad()
def predict(model: Ranker, world: World, part: str) -> Floats:
    """Logits of the rows of a part."""
    model.eval()
    rows = torch.from_numpy(world.parts[part]).split(8192)
    return torch.cat([model(*world.cut(some, model.keys)[:2]) for some in rows]).numpy()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups: dict[str, list[nn.Parameter]] = {"item": [], "sid": [], "tables": [], "dense": []}
    for name, parameter in model.named_parameters():
        _, tables, table = name.rpartition("embedding_bags.")
        kind = "dense"
        if tables:
            own = table.split(".")[0]
            kind = own if own == "item" else "tables" if own in HOST_TABLES else "sid"
        groups[kind].append(parameter)
    decay = {"item": recipe.item_decay, "sid": recipe.decay, "tables": recipe.decay, "dense": 0.0}
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": getattr(recipe, kind),
                "weight_decay": decay[kind],
            }
            for kind, parameters in groups.items()
            if parameters
        ],
        fused=True,
    )


@torch.no_grad()
def _gate_range(model: nn.Module, world: World) -> float | None:
    """Mean trust in the hash ID, top minus bottom decile of the count that the gate reads."""
    gate = find(model, (ConvexGate, ResidualGate))
    if not isinstance(gate, ConvexGate | ResidualGate) or not gate.statistics:
        return None
    test = torch.from_numpy(world.parts["test"])
    counts = torch.stack([world.single[name][test] for name in gate.statistics], dim=1)
    trust, shown = gate.weight(counts).squeeze(1), counts[:, 0].float()
    top, bottom = shown.quantile(0.9), shown.quantile(0.1)
    return float(trust[shown >= top].mean() - trust[shown <= bottom].mean())
