r"""A gate that personalises: the context says how much of each lane comes through.

Source: PEPNet, Chang et al., KDD 2023, arXiv 2302.01115, section 3.2, the gate neural unit
:math:`\gamma\, \sigma(\mathrm{MLP}(x))` with :math:`\gamma = 2`. Differs from the source: the last
layer is zero at birth, so that every gate is exactly one and a trained host keeps its logits
[derived].

Shapes: ``D`` width, ``P`` width of the context.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check

__all__ = ["GateNU"]


class GateNU(nn.Module):
    r"""Multiply each lane by a number between zero and two that the context chooses.

    .. math::  x \odot 2\, \sigma\big(W_2\, \mathrm{ReLU}(W_1 c + b_1) + b_2\big), \qquad
        W_2 = 0,\ b_2 = 0 \text{ at birth}

    Args:
        context_dim: Width ``P`` of the context. Detach those parts of it that the gate is not to
            train, as the source does with shared embeddings.
        dim: Width ``D`` of what is gated.
        hidden: Width of the hidden layer.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> gate, x = GateNU(context_dim=3, dim=4), torch.randn(2, 4)
        >>> torch.equal(gate(x, torch.randn(2, 3)), x)
        True
    """

    def __init__(self, *, context_dim: int, dim: int, hidden: int = 16) -> None:
        super().__init__()
        for name, size in {"context_dim": context_dim, "dim": dim, "hidden": hidden}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.context_dim = context_dim
        self.dim = dim
        self.hidden = nn.Linear(context_dim, hidden)
        self.gate = _Zero(hidden, dim)

    def weight(self, context: Tensor) -> Tensor:
        """The gate itself.

        Args:
            context: Shape ``[..., P]``.

        Returns:
            Between 0 and 2, shape ``[..., D]``.
        """
        return 2.0 * torch.sigmoid(self.gate(functional.relu(self.hidden(context))))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Gate each row.

        Args:
            x: Shape ``[B, D]``.
            context: Shape ``[B, P]``.

        Returns:
            Shape ``[B, D]``, equal to ``x`` at birth.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x = _check.shape(x, "x", [-1, self.dim])
        context = _check.shape(context, "context", [x.shape[0], self.context_dim])
        return x * self.weight(context)


class _Zero(nn.Linear):
    """A linear layer that is zero at birth; whoever resets it, in whatever order."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
