"""Gradient steps over shuffled rows, where a row may be an item or a pair of items.

Adam (Kingma and Ba, 2015). The order comes from a generator of its own, and neither global
random states nor the caller's autocast, inference or no-grad mode reach it.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sidrank.tokenizers._epochs import Training, untouched
from sidrank.tokenizers.protocol import Progress

__all__ = ["batch_size", "descend"]


def descend(
    parameters: Iterable[Tensor],
    count: int,
    loss_of: Callable[[Tensor], Tensor],
    *,
    training: Training,
    generator: torch.Generator,
    progress: Progress | None,
) -> None:
    """Lower a loss.

    Args:
        parameters: What is changed, in place; all of it learns.
        count: Number of rows; every epoch sees each of them once.
        loss_of: Loss of some rows, int64, on the device of the parameters.
        training: How long and how fast.
        generator: Where the order comes from, on the CPU.
        progress: Told after every epoch.

    Raises:
        ValueError: If the loss does not stay finite.
    """
    moved = [parameter.requires_grad_() for parameter in parameters]
    device = moved[0].device
    with untouched(device):
        optimizer = torch.optim.Adam(moved, lr=training.learning_rate)
        for epoch in range(training.epochs):
            order = torch.randperm(count, generator=generator).to(device)
            for rows in order.split(batch_size(training, count)):
                loss = loss_of(rows)
                if not loss.isfinite():
                    raise ValueError(
                        "learning_rate must keep the loss finite, "
                        f"got {loss.item()} in epoch {epoch + 1} at {training.learning_rate}"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if progress is not None:
                progress("training epochs", epoch + 1, training.epochs)
        optimizer.zero_grad()


def batch_size(training: Training, count: int) -> int:
    """Tell how many rows a step has.

    Args:
        training: How long and how fast.
        count: Rows in all.

    Returns:
        The size that is asked for, or what ``Training`` says if none is.
    """
    return training.batch_size or min(max(count // 100, 64), 1024)
