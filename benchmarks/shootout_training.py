"""Train an arm of the shoot-out, and say what it costs and how it ranks.

Recipes of planted logs were chosen on the validation day of a log that no result uses (seed 100).
Tables and layers learn by AdamW; where there are validation rows they are scored after each pass,
and the pass with the best AUC there is the one that counts.

Shapes: ``R`` rows.
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.shootout_arms import Ranker, find, make_arm, sparse_parameters
from benchmarks.shootout_rows import World
from sidrank.layers import ConvexGate, ResidualGate
from sidrank.metrics import auc, bayes_auc, expected_auc

__all__ = [
    "Plan",
    "Recipe",
    "gate_range",
    "kind_of",
    "make_optimizer",
    "one_pass",
    "predict",
    "ranking",
    "run_arm",
]

Floats = NDArray[np.float32]
SID_TABLES = ("sid_", "code_", "past_", "memory", "generalization")


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

    def steps(self) -> dict[str, tuple[float, float]]:
        """Step size and decay of each kind of parameter."""
        return {
            "item": (self.item, self.item_decay),
            "sid": (self.sid, self.decay),
            "tables": (self.tables, self.decay),
            "gate": (self.dense, 0.0),
            "dense": (self.dense, 0.0),
        }


class Plan(Protocol):
    """What training asks of a recipe."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def cold(self) -> float: ...
    def steps(self) -> dict[str, tuple[float, float]]: ...


def run_arm(name: str, world: World, recipe: Plan, *, seed: int) -> tuple[dict[str, Any], Floats]:
    """Train one arm; its figures, and its logits of the test rows."""
    start = time.process_time()
    model = make_arm(name, world, seed=seed)
    logits, chosen = train(model, world, recipe, seed=seed)
    return {
        **ranking(world, logits),
        "rows": {key: int(mask.sum()) for key, mask in world.slices.items()},
        **chosen,
        "sparse_parameters": sparse_parameters(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gate_range": gate_range(model, world),
        "seconds": round(time.process_time() - start, 1),
    }, logits


def ranking(world: World, logits: Floats) -> dict[str, dict[str, float]]:
    """AUC by slice: expected and best possible where the truth is known, else by labels."""
    slices = {key: mask for key, mask in world.slices.items() if mask.any()}
    if world.probability is None:
        labels = world.labels("test")
        both = {key: mask for key, mask in slices.items() if len(np.unique(labels[mask])) == 2}
        found = {key: round(auc(labels[mask], logits[mask]), 6) for key, mask in both.items()}
        return {"auc": found}
    truth = world.probability[world.parts["test"]]
    return {
        "expected_auc": {
            key: round(expected_auc(truth[mask], logits[mask]), 6) for key, mask in slices.items()
        },
        "bayes_auc": {key: round(bayes_auc(truth[mask]), 6) for key, mask in slices.items()},
    }


def train(
    model: Ranker, world: World, recipe: Plan, *, seed: int
) -> tuple[Floats, dict[str, float]]:
    """Train; test logits of the pass that counts, and which pass that was and why."""
    optimizer = make_optimizer(model, recipe)
    rows = torch.from_numpy(world.parts["train"])
    best, logits, chosen = -1.0, np.empty(0, np.float32), 0
    for epoch in range(recipe.epochs):
        one_pass(model, optimizer, world, rows, recipe, seed=1000 * seed + epoch)
        if "validation" not in world.parts:
            continue
        reached = auc(world.labels("validation"), predict(model, world, "validation"))
        if reached <= best:
            break
        best, logits, chosen = reached, predict(model, world, "test"), epoch + 1
    if "validation" not in world.parts:
        return predict(model, world, "test"), {}
    return logits, {"epoch": chosen, "validation_auc": round(best, 6)}


def one_pass(
    model: Ranker,
    optimizer: torch.optim.Optimizer,
    world: World,
    rows: Tensor,
    recipe: Plan,
    *,
    seed: int,
    in_order: bool = False,
) -> None:
    """Train on some rows once, in an order that every arm shares: drawn, or as they are."""
    draws = torch.Generator().manual_seed(seed)
    order = rows if in_order else rows[torch.randperm(len(rows), generator=draws)]
    model.train()
    for part in order.split(recipe.batch):
        cold = torch.rand(len(part), generator=draws) < recipe.cold
        loss = model.loss(*world.cut(part, model.keys, cold))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def predict(model: Ranker, world: World, part: str) -> Floats:
    """Logits of the rows of a part."""
    model.eval()
    rows = torch.from_numpy(world.parts[part]).split(8192)
    return torch.cat([model(*world.cut(some, model.keys)[:2]) for some in rows]).numpy()


def make_optimizer(model: nn.Module, recipe: Plan) -> torch.optim.Optimizer:
    """AdamW by kind: the item's hash IDs, other host tables, SID tables, gates, layers."""
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in recipe.steps()}
    for name, parameter in model.named_parameters():
        groups[kind_of(name)].append(parameter)
    steps = recipe.steps()
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": steps[kind][0], "weight_decay": steps[kind][1]}
            for kind, parameters in groups.items()
            if parameters
        ],
        fused=True,
    )


def kind_of(parameter: str) -> str:
    """Which step size and decay a parameter has."""
    _, tables, table = parameter.rpartition("embedding_bags.")
    if not tables:
        return "gate" if ".gates." in parameter else "dense"
    own = table.split(".")[0]
    return own if own == "item" else "sid" if own.startswith(SID_TABLES) else "tables"


@torch.no_grad()
def gate_range(model: nn.Module, world: World) -> float | None:
    """Mean trust in the hash ID, top minus bottom decile of the count that the gate reads."""
    gate = find(model, (ConvexGate, ResidualGate))
    if not isinstance(gate, ConvexGate | ResidualGate) or not gate.statistics:
        return None
    test = torch.from_numpy(world.parts["test"])
    counts = torch.stack([world.single[name][test] for name in gate.statistics], dim=1)
    trust, shown = gate.weight(counts).squeeze(1), counts[:, 0].float()
    top, bottom = shown.quantile(0.9), shown.quantile(0.1)
    return float(trust[shown >= top].mean() - trust[shown <= bottom].mean())
