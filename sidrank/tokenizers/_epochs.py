"""Gradient steps over shuffled batches: the training loop of the tokenizers that need one.

Adam (Kingma and Ba, 2015) in float32; its step fades out at the end. It draws from a generator
of its own, and neither global random states nor the autocast, inference or no-grad mode of the
caller reach it.

Shapes: ``V`` items, ``D`` width, ``P`` pairs, ``B`` items of a step, ``Q`` pairs of a step.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidrank.tokenizers.protocol import Progress

__all__ = ["Batch", "Training", "run_epochs", "untouched"]

_FADING = 0.2  # share of the steps, the last ones, over which the learning rate falls to zero


@dataclass(frozen=True, slots=True)
class Training:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the items.
        batch_size: Items in a step, ``B``; with pairs, also pairs in a step. None takes a
            hundredth of the items, but 64 at least and 1024 at most.
        learning_rate: Step size of Adam; it falls to zero over the last fifth of the steps.
    """

    epochs: int = 40
    batch_size: int | None = None
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, got {self.batch_size}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees.

    Attributes:
        x: Vectors, shape ``[B, D]``.
        pairs: Rows of the paired items in all vectors, shape ``[Q, 2]``, if there are pairs.
        paired: Vectors of the left and the right items, shape ``[2, Q, D]``, likewise.
        elapsed: Share of the steps that are over, from 0 to 1.
    """

    x: Tensor
    pairs: Tensor | None
    paired: Tensor | None
    elapsed: float


def run_epochs(
    x: Tensor,
    pairs: Tensor | None,
    *,
    training: Training,
    networks: Sequence[Tensor],
    codewords: Sequence[Tensor],
    codeword_step: float,
    loss_of: Callable[[Batch], Tensor],
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Lower a loss.

    Args:
        x: All vectors, shape ``[V, D]``, float32.
        pairs: Rows of ``x`` that belong together, shape ``[P, 2]``, or None.
        training: How long and how fast.
        networks: Weights and biases, changed in place.
        codewords: Codebooks that follow the gradient, likewise.
        codeword_step: Their learning rate, as a multiple of that of the networks.
        loss_of: The loss of a batch; called once a step, so it may keep statistics.
        rng: Where the order of items and pairs comes from.
        progress: Told after every epoch.

    Raises:
        ValueError: If the loss does not stay finite.
    """
    rate = training.learning_rate
    groups: list[dict[str, Any]] = [{"params": list(networks), "first": rate}]
    if codewords:
        groups.append({"params": list(codewords), "first": codeword_step * rate})
    for parameter in (*networks, *codewords):
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(groups, lr=rate)
    size = training.batch_size or min(max(len(x) // 100, 64), 1024)
    steps_in_all = training.epochs * -(-len(x) // size)
    drawn = _pairs_without_end(pairs, size, rng)
    steps = 0
    for epoch in range(training.epochs):
        order = torch.from_numpy(rng.permutation(len(x))).to(x.device)
        for rows in order.split(size):
            some = next(drawn)
            paired = None if some is None else x[some.T]
            loss = loss_of(Batch(x[rows], some, paired, steps / steps_in_all))
            if not loss.isfinite():
                raise ValueError(
                    "learning_rate must keep the loss finite, "
                    f"got {loss.item()} in epoch {epoch + 1} at {training.learning_rate}"
                )
            for group in optimizer.param_groups:
                group["lr"] = group["first"] * min(1.0, (1.0 - steps / steps_in_all) / _FADING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        if progress is not None:
            progress("training epochs", epoch + 1, training.epochs)


@contextmanager
def untouched(device: torch.device) -> Generator[None]:
    """Train as if the caller had set no mode: no autocast, no inference mode, gradients on.

    Args:
        device: Where the training happens.

    Yields:
        Nothing.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def _pairs_without_end(
    pairs: Tensor | None, size: int, rng: np.random.Generator
) -> Iterator[Tensor | None]:
    while pairs is None:
        yield None
    while True:
        order = torch.from_numpy(rng.permutation(len(pairs))).to(pairs.device)
        for rows in order.split(size):
            yield pairs[rows]
