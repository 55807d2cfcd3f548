"""The optimisers that a cache of rows can carry, and the rows they make: weight, then state.

Such an optimiser is *touch-local*: it changes the rows of the batch, by their gradients and their
own state, and nothing else. Then a row may leave the cache together with its state and come back
any number of steps later as if it had never been away. Adam is none: its bias correction counts
the steps of the table, and weight decay that reaches untouched rows, or momentum, is none either.

A row of the slow tier is ``[weight | state]``: SGD has no state, row-wise Adagrad one number,
Adagrad as many as the weight.

Source: FBGEMM 1.8's fused optimisers, of which these are the touch-local ones that run on a CPU.

Shapes: ``D`` width of the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torchrec.optim
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

__all__ = ["RowOptimizer", "new_rows", "weight_rows"]

_KINDS: dict[type, EmbOptimType] = {
    torch.optim.SGD: EmbOptimType.EXACT_SGD,
    torch.optim.Adagrad: EmbOptimType.EXACT_ADAGRAD,
    torchrec.optim.RowWiseAdagrad: EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


@dataclass(frozen=True)
class RowOptimizer:
    """A touch-local optimiser; its step is part of the backward pass.

    Attributes:
        kind: ``torch.optim.SGD``, ``torch.optim.Adagrad`` or ``torchrec.optim.RowWiseAdagrad``.
        lr: Learning rate.
        eps: What Adagrad adds to the root; FBGEMM's own value.

    Raises:
        ValueError: If ``kind`` is another one, ``lr`` is not above 0 or ``eps`` is below 0.

    Example:
        >>> RowOptimizer(torch.optim.SGD, lr=0.1).row_width(64)
        64
        >>> RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=0.1).row_width(64)
        65
    """

    kind: type[torch.optim.Optimizer]
    lr: float
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(
                "kind must be SGD, Adagrad or RowWiseAdagrad, which change nothing but the rows"
                f" of the batch, got {self.kind.__name__}"
            )
        if not self.lr > 0.0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if not self.eps >= 0.0:
            raise ValueError(f"eps must be at least 0, got {self.eps}")

    def row_width(self, dim: int) -> int:
        """How many numbers a row of the slow tier has: ``D`` and the state's."""
        return dim + self.state_width(dim)

    def state_width(self, dim: int) -> int:
        """How many numbers of state a row has."""
        return {"SGD": 0, "RowWiseAdagrad": 1, "Adagrad": dim}[self.kind.__name__]

    def fbgemm_arguments(self) -> dict[str, Any]:
        """What FBGEMM's constructor takes."""
        return {"optimizer": _KINDS[self.kind], "learning_rate": self.lr, "eps": self.eps}


def new_rows(config: EmbeddingBagConfig, optimizer: RowOptimizer) -> Callable[[int, int], Tensor]:
    """The first content of a tier, from the table's ``init_fn``.

    A tier asks for it in blocks, so ``init_fn`` sees ``[block, D]``: one that reads the number of
    rows from the tensor, such as Xavier's, needs `weight_rows`. TorchRec's own is uniform.

    Args:
        config: The table.
        optimizer: What its rows carry the state of.

    Returns:
        ``fill`` for `MemoryTier` and `FileTier`.

    Example:
        >>> table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=100)
        >>> fill = new_rows(table, RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=0.1))
        >>> block = fill(10, 12)
        >>> block.shape, block[:, 4].tolist()
        (torch.Size([2, 5]), [0.0, 0.0])
    """
    init = cast(Callable[[Tensor], Any], config.init_fn)

    def fill(start: int, stop: int) -> Tensor:
        weight = torch.empty(stop - start, config.embedding_dim)
        with torch.no_grad():
            init(weight)
        return _with_state(weight, optimizer)

    return fill


def weight_rows(weight: Tensor, optimizer: RowOptimizer) -> Callable[[int, int], Tensor]:
    """The first content of a tier, from weights that are there; the state is fresh.

    Args:
        weight: ``[rows, D]``; a memory-mapped tensor is read block by block.
        optimizer: What the rows carry the state of.

    Returns:
        ``fill`` for `MemoryTier` and `FileTier`.

    Raises:
        ValueError: If ``weight`` is not ``[rows, D]``.

    Example:
        >>> adagrad = RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=0.1)
        >>> weight_rows(torch.ones(3, 4), adagrad)(1, 2).tolist()
        [[1.0, 1.0, 1.0, 1.0, 0.0]]
    """
    if weight.dim() != 2:
        raise ValueError(f"weight must have shape [rows, D], got {list(weight.shape)}")

    def fill(start: int, stop: int) -> Tensor:
        return _with_state(weight[start:stop].detach().float(), optimizer)

    return fill


def _with_state(weight: Tensor, optimizer: RowOptimizer) -> Tensor:
    state = optimizer.state_width(weight.shape[1])
    return torch.cat([weight, weight.new_zeros(len(weight), state)], dim=1)
