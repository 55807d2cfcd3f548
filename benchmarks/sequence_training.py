"""Train an arm of the sequence study, and say how it ranks and what it costs.

One recipe for all arms: Adam at one step size; after each pass the validation rows are scored,
training stops when a pass did not help, and the best pass is the one that counts.
Test rows are scored with its weights, once.

An arm is an ``nn.Module`` whose ``forward(batch: SequenceBatch)`` returns logits ``[B]``. If it
has an attribute ``cut`` (a ``Cut``), batches are cut so; if it has a method ``loss(batch)``, that
is minimised instead of the binary cross-entropy.

Shapes: ``R`` rows.
"""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.sequence_rows import Cut, SequenceBatch, SequenceRows
from sidrank.metrics import PairedRun, auc, bayes_auc, expected_auc, grouped_auc, paired_interval

__all__ = ["Recipe", "Trained", "count", "difference", "figures", "loss_of", "predict", "train"]

Floats = NDArray[np.float32]
_HOST_TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        step: Adam's step size.
        batch: Rows of a step.
        epochs: Most passes.
        patience: Passes without a better validation AUC before it ends.
        decay: AdamW's weight decay of embedding tables.
        clip: Largest norm of a gradient.
        share: Of the training rows, how many a pass draws.
        together: Whether rows of a user come together, for arms that encode a history once.
    """

    step: float = 3e-3
    batch: int = 512
    epochs: int = 4
    patience: int = 1
    decay: float = 0.0
    clip: float = 5.0
    share: float = 1.0
    together: bool = False


@dataclass(frozen=True)
class Trained:
    """An arm after training.

    Attributes:
        logits: Of the test rows, by the chosen pass, shape ``[R]``.
        epoch: Which pass was chosen, from 1.
        validation_auc: What it reached there.
        losses: Mean training loss of each pass.
        seconds: Processor time.
    """

    logits: Floats
    epoch: int
    validation_auc: float
    losses: tuple[float, ...]
    seconds: float


def train(
    model: nn.Module, rows: SequenceRows, recipe: Recipe | None = None, *, seed: int
) -> Trained:
    """Train a model; it ends with the weights of the chosen pass, in eval mode.

    Args:
        model: The arm.
        rows: The log; its ``test`` part takes no part in any choice.
        recipe: How; None is the default.
        seed: Order of the rows, and dropout.

    Returns:
        What came out.
    """
    recipe = Recipe() if recipe is None else recipe
    start = time.process_time()
    optimizer = torch.optim.AdamW(_groups(model, recipe), lr=recipe.step)
    learn = rows.parts["train"]
    labels = rows.label[rows.parts["validation"]].numpy()
    best, chosen, losses = -1.0, 0, list[float]()
    kept: Mapping[str, Tensor] = {}
    torch.manual_seed(seed)
    for epoch in range(recipe.epochs):
        draws = torch.Generator().manual_seed(1000 * seed + epoch)
        order = _order(learn, rows, recipe, draws)
        order = order[: round(recipe.share * len(order))]
        model.train()
        total = 0.0
        for part in order.split(recipe.batch):
            batch = rows.batch(part, cut_of(model))
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            total += float(loss.detach()) * len(part)
        losses.append(total / len(order))
        reached = auc(labels, predict(model, rows, rows.parts["validation"]))
        if reached > best:
            best, chosen = reached, epoch + 1
            kept = copy.deepcopy(model.state_dict())
        elif epoch + 1 - chosen >= recipe.patience:
            break
    model.load_state_dict(kept)
    logits = predict(model, rows, rows.parts["test"])
    seconds = time.process_time() - start
    return Trained(logits, chosen, best, tuple(losses), seconds)


@torch.no_grad()
def predict(model: nn.Module, rows: SequenceRows, which: Tensor, *, batch: int = 1024) -> Floats:
    """Logits of some rows, in eval mode.

    Args:
        model: The arm.
        rows: The log.
        which: Rows, shape ``[R]``.
        batch: Rows at once.

    Returns:
        Shape ``[R]``.
    """
    model.eval()
    some = [model(rows.batch(part, cut_of(model))).float() for part in which.split(batch)]
    return torch.cat(some).numpy()


def loss_of(model: nn.Module, batch: SequenceBatch) -> Tensor:
    """The model's own loss, or the binary cross-entropy."""
    own = getattr(model, "loss", None)
    if own is not None:
        return cast(Tensor, own(batch))
    return F.binary_cross_entropy_with_logits(model(batch), batch.label)


def cut_of(model: nn.Module) -> Cut | None:
    """How much of each row the model reads."""
    return cast(Cut | None, getattr(model, "cut", None))


def count(model: nn.Module) -> dict[str, int]:
    """Trainable parameters: of embedding tables, and of all else."""
    tables = {
        id(each)
        for module in model.modules()
        if isinstance(module, _HOST_TABLES)
        for each in module.parameters()
    }
    sizes = {"tables": 0, "layers": 0}
    for each in model.parameters():
        if each.requires_grad:
            sizes["tables" if id(each) in tables else "layers"] += each.numel()
    return sizes


def figures(rows: SequenceRows, logits: Floats, part: str = "test") -> dict[str, float]:
    """How a ranking of a part's rows does: by the drawn labels, and by the truth if it is known.

    Args:
        rows: The log.
        logits: Of the part's rows, shape ``[R]``.
        part: ``test`` or ``validation``.

    Returns:
        ``auc``, ``gauc`` and, for planted rows, ``expected_auc`` and ``bayes_auc``.
    """
    which = rows.parts[part]
    labels, users = rows.label[which].numpy(), rows.user[which].numpy()
    found = {"auc": auc(labels, logits), "gauc": grouped_auc(labels, logits, users)}
    if rows.probability is not None:
        truth = rows.probability[which].numpy()
        found |= {"expected_auc": expected_auc(truth, logits), "bayes_auc": bayes_auc(truth)}
    return {name: round(value, 6) for name, value in found.items()}


def difference(
    runs: list[tuple[SequenceRows, Floats, Floats]], *, metric: Any = "auc", draws: int = 1000
) -> tuple[float, float, float]:
    """Mean difference in AUC over paired seeds, and the interval over users and seeds jointly.

    Args:
        runs: For each seed the log, and logits of its test rows by the treatment and the control.
        metric: ``auc`` or ``gauc``.
        draws: Of the bootstrap.

    Returns:
        Mean, low and high end of the 95% interval.
    """
    pairs: list[PairedRun] = []
    for rows, treatment, control in runs:
        test = rows.parts["test"]
        pairs.append(
            PairedRun(
                users=rows.user[test].numpy(),
                labels=rows.label[test].numpy(),
                treatment=treatment,
                control=control,
            )
        )
    return paired_interval(pairs, metric=metric, draws=draws)


def _order(learn: Tensor, rows: SequenceRows, recipe: Recipe, draws: torch.Generator) -> Tensor:
    if not recipe.together:
        return learn[torch.randperm(len(learn), generator=draws)]
    places = torch.randperm(len(rows.first), generator=draws)  # of the users
    return learn[torch.argsort(places[rows.user[learn]], stable=True)]


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    tables = {
        id(each)
        for module in model.modules()
        if isinstance(module, _HOST_TABLES)
        for each in module.parameters()
    }
    trained = [each for each in model.parameters() if each.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in tables], "weight_decay": recipe.decay},
        {"params": [p for p in trained if id(p) not in tables], "weight_decay": 0.0},
    ]
