"""The training loop, written out, over batches that are cut from prebuilt tensors.

There is no trainer here on purpose: a loop of fifteen lines is what a reader wants to see, and
what his own system already has. The optimiser is keyed by parameter names, as TorchRec's are,
so that its state can follow a host into an upgraded model.

Shapes: ``R`` rows, ``B`` rows of a batch, ``F`` dense features.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from sidrank.demo.features import Features
from sidrank.demo.settings import Recipe

__all__ = ["Batches", "fit", "make_optimizer", "predict", "train"]


class Batches:
    """Cuts batches of any rows; row ``r + R`` is the cold twin of row ``r``.

    Args:
        features: Features of ``R`` rows and their twins.
    """

    def __init__(self, features: Features) -> None:
        self.num_rows = len(features.rows)
        self.keys = [*features.single, *features.multi]
        self._dense = torch.from_numpy(features.dense)
        self._label = torch.from_numpy(features.label).float()
        self._single = torch.from_numpy(np.stack([*features.single.values()]))
        self._multi = [torch.from_numpy(ids) for ids in features.multi.values()]

    def cut(self, rows: Tensor) -> tuple[Tensor, KeyedJaggedTensor, Tensor]:
        """Dense features, sparse features and labels of the named rows.

        Args:
            rows: Positions below ``2R``, shape ``[B]``.

        Returns:
            Dense ``[B, F]``, a batch with every key, labels ``[B]``.
        """
        values = [self._single[:, rows].flatten()]
        lengths = [torch.ones_like(values[0])]
        for table in self._multi:
            ids = table[rows]
            held = ids >= 0
            values.append(ids[held])
            lengths.append(held.sum(dim=1))
        batch = KeyedJaggedTensor.from_lengths_sync(
            keys=self.keys, values=torch.cat(values), lengths=torch.cat(lengths)
        )
        return self._dense[rows], batch, self._label[rows]


def fit(
    model: nn.Module, batches: Batches, rows: NDArray[np.int64], recipe: Recipe, *, seed: int
) -> float:
    """Train a model; the same seed gives every arm the same order of rows and twins.

    Args:
        model: Has DLRM's signature, ``(dense_features, sparse_features) -> logits [B, 1]``.
        batches: Where the rows come from.
        rows: Rows to train on, positions below ``R``.
        recipe: How.
        seed: Order of the rows and choice of the twins.

    Returns:
        Seconds it took.
    """
    start = time.perf_counter()
    optimizer = make_optimizer(model, recipe)
    train(model, optimizer, batches, rows, recipe, seed=seed)
    return time.perf_counter() - start


def train(
    model: nn.Module,
    optimizer: CombinedOptimizer,
    batches: Batches,
    rows: NDArray[np.int64],
    recipe: Recipe,
    *,
    seed: int,
) -> int:
    """Train on, with an optimiser that may have a past.

    Args:
        model: As in ``fit``.
        optimizer: Of the model's parameters.
        batches: Where the rows come from.
        rows: Rows to train on, positions below ``R``.
        recipe: Passes, size of a batch, share of cold twins.
        seed: Order of the rows and choice of the twins.

    Returns:
        Number of steps.
    """
    parts = [
        part
        for epoch in range(recipe.epochs)
        for part in _order(batches, rows, recipe, seed=1000 * seed + epoch)
    ]
    loss_of = nn.BCEWithLogitsLoss()
    model.train()
    for part in parts:
        dense, sparse, label = batches.cut(part)
        loss = loss_of(model(dense, sparse).squeeze(1), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(parts)


def _order(
    batches: Batches, rows: NDArray[np.int64], recipe: Recipe, *, seed: int
) -> tuple[Tensor, ...]:
    """One pass over the rows, some of them replaced by their cold twins, in batches."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.from_numpy(rows)
    if not recipe.in_order:
        order = order[torch.randperm(len(rows), generator=generator)]
    twin = torch.rand(len(order), generator=generator) < recipe.cold_share
    return torch.where(twin, order + batches.num_rows, order).split(recipe.batch)


def make_optimizer(model: nn.Module, recipe: Recipe) -> CombinedOptimizer:
    """AdamW in five groups: item table, the host's other tables, SID tables, gate, dense layers.

    Args:
        model: The model.
        recipe: Step sizes and decays.

    Returns:
        The optimiser, keyed by parameter names.
    """
    groups: dict[str, dict[str, Tensor]] = {
        "item": {},
        "tables": {},
        "branch": {},
        "gate": {},
        "dense": {},
    }
    for name, parameter in model.named_parameters():
        group = "tables" if ".embedding_bags." in name else "dense"
        if any(f".embedding_bags.{kind}_" in name for kind in ("sid", "memory")):
            group = "branch"
        elif name.endswith(".embedding_bags.item.weight"):
            group = "item"
        elif ".gates." in name:
            group = "gate"
        groups[group][name] = parameter
    steps = {
        "item": (recipe.item_lr, recipe.table_decay),
        "tables": (recipe.table_lr, recipe.table_decay),
        "branch": (recipe.branch_lr, recipe.branch_decay),
        "gate": (recipe.gate_lr, 0.0),
        "dense": (recipe.lr, recipe.decay),
    }

    def adam(group: str) -> KeyedOptimizerWrapper:
        lr, decay = steps[group]

        def of(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)

        return KeyedOptimizerWrapper(groups[group], of)

    return CombinedOptimizer([adam(group) for group in groups if groups[group]])


@torch.no_grad()
def predict(model: nn.Module, batches: Batches, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logit of a like for each row.

    Args:
        model: As in ``fit``.
        batches: Where the rows come from.
        rows: Positions below ``2R``.

    Returns:
        Logits, shape of ``rows``.
    """
    model.eval()
    parts: list[Tensor] = []
    for part in torch.from_numpy(rows).split(4096):
        dense, sparse, _ = batches.cut(part)
        parts.append(model(dense, sparse).squeeze(1).double())
    return torch.cat(parts).numpy()
