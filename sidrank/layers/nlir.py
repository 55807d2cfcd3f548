r"""NLIR: a residual connection whose branch is gated by the stream itself.

Source: TokenFormer, arXiv 2604.13737, non-linear interaction residual: the attention branch is
multiplied by a sigmoid of the hidden state before the norm. Differs from the source: the gate is
doubled and its weights are zero at birth, so that the block is born with a plain residual
[derived]; it has a bias [derived].

Shapes: ``D`` width.
"""

import torch
from torch import Tensor, nn

__all__ = ["NLIR"]


class NLIR(nn.Module):
    r"""Add a branch to a stream, channel by channel as much as the stream asks for.

    .. math::  x + 2\, \sigma(x W_g + b) \odot \mathrm{branch}

    Args:
        dim: Width ``D``.

    Raises:
        ValueError: If ``dim`` is less than one.

    Example:
        >>> NLIR(dim=2)(torch.ones(1, 3, 2), torch.ones(1, 3, 2))[0, 0].tolist()
        [2.0, 2.0]
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.gate = _Zero(dim, dim)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add.

        Args:
            x: The stream before its norm, shape ``[..., D]``.
            branch: What attention made of it, shape ``[..., D]``.

        Returns:
            Shape ``[..., D]``.
        """
        return x + 2.0 * torch.sigmoid(self.gate(x)) * branch


class _Zero(nn.Linear):
    """A linear layer that is zero at birth; whoever resets it, in whatever order."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
