r"""RankMixer: tokens that exchange their heads, and a feed-forward network for each token.

Tokens of a ranker are groups of features that have little in common, so what is shared between
them in a transformer, the attention and the feed-forward network, is neither here: tokens meet by
a fixed exchange (:func:`sidrank.layers.token_mixing`) and each has weights of its own. All of them
run as one batched matrix product.

Source: RankMixer, arXiv 2507.15551: ``S = LN(Mix(X) + X)``, ``X' = LN(PFFN(S) + S)``.
Differs from the source: sparse experts are a module in the place of the network,
``SparseMoE(..., num_tokens=T)``, balanced without a loss, in place of the source's ReLU routing
with a penalty [derived].

Shapes: ``B`` rows, ``T`` tokens, ``D`` width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers.token_mixing import token_mixing

__all__ = ["PerTokenFFN", "PerTokenLinear", "RankMixerBlock"]


class RankMixerBlock(nn.Module):
    r"""Mix tokens, then let each token think for itself.

    .. math::  S = \mathrm{LN}(\mathrm{Mix}(X) + X), \qquad Y = \mathrm{LN}(\mathrm{FFN}(S) + S)

    Args:
        num_tokens: Number ``T`` of tokens.
        dim: Width ``D``, a multiple of ``num_tokens``.
        ffn: What each token thinks with, ``[B, T, D]`` to ``[B, T, D]``: :class:`PerTokenFFN` or
            ``SparseMoE(..., num_tokens=T)``.

    Raises:
        ValueError: If a size is less than one or ``dim`` is no multiple of ``num_tokens``.

    Example:
        >>> block = RankMixerBlock(
        ...     num_tokens=3, dim=12, ffn=PerTokenFFN(num_tokens=3, dim=12, hidden=24)
        ... )
        >>> block(torch.randn(2, 3, 12)).shape
        torch.Size([2, 3, 12])
    """

    def __init__(self, *, num_tokens: int, dim: int, ffn: nn.Module) -> None:
        super().__init__()
        _sizes(num_tokens=num_tokens, dim=dim)
        if dim % num_tokens:
            raise ValueError(f"dim must be a multiple of num_tokens {num_tokens}, got {dim}")
        self.num_tokens = num_tokens
        self.dim = dim
        self.mix_norm = nn.LayerNorm(dim)
        self.ffn = ffn
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix and think.

        Args:
            x: Tokens, shape ``[B, T, D]``.

        Returns:
            Tokens, shape ``[B, T, D]``.

        Raises:
            ValueError: If ``x`` does not have shape ``[B, T, D]``.
        """
        x = _check.shape(x, "x", [-1, self.num_tokens, self.dim])
        s = self.mix_norm(token_mixing(x, self.num_tokens) + x)
        return self.ffn_norm(self.ffn(s) + s)


class PerTokenFFN(nn.Module):
    r"""Two linear layers with a GELU between them, for each token its own.

    Args:
        num_tokens: Number ``T`` of tokens.
        dim: Width ``D`` in and out.
        hidden: Width between the layers.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> PerTokenFFN(num_tokens=3, dim=4, hidden=8)(torch.randn(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, *, num_tokens: int, dim: int, hidden: int) -> None:
        super().__init__()
        _sizes(num_tokens=num_tokens, dim=dim, hidden=hidden)
        self.hidden = PerTokenLinear(num_tokens=num_tokens, in_dim=dim, out_dim=hidden)
        self.out = PerTokenLinear(num_tokens=num_tokens, in_dim=hidden, out_dim=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Think.

        Args:
            x: Tokens, shape ``[B, T, D]``.

        Returns:
            Thoughts, shape ``[B, T, D]``.

        Raises:
            ValueError: If ``x`` does not have shape ``[B, T, D]``.
        """
        return self.out(F.gelu(self.hidden(x)))


class PerTokenLinear(nn.Module):
    """A linear layer for each token, as one batched matrix product.

    Args:
        num_tokens: Number ``T`` of tokens.
        in_dim: Width in.
        out_dim: Width out.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> PerTokenLinear(num_tokens=3, in_dim=4, out_dim=5)(torch.randn(2, 3, 4)).shape
        torch.Size([2, 3, 5])
    """

    def __init__(self, *, num_tokens: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        _sizes(num_tokens=num_tokens, in_dim=in_dim, out_dim=out_dim)
        self.num_tokens = num_tokens
        self.in_dim = in_dim
        self.weight = nn.Parameter(torch.empty(num_tokens, in_dim, out_dim))
        self.bias = nn.Parameter(torch.empty(num_tokens, out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw as ``nn.Linear`` does."""
        bound = 1.0 / math.sqrt(self.in_dim)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each token's layer.

        Args:
            x: Tokens, shape ``[B, T, in_dim]``.

        Returns:
            Shape ``[B, T, out_dim]``.

        Raises:
            ValueError: If ``x`` does not have shape ``[B, T, in_dim]``.
        """
        x = _check.shape(x, "x", [-1, self.num_tokens, self.in_dim])
        return torch.baddbmm(self.bias.unsqueeze(1), x.transpose(0, 1), self.weight).transpose(0, 1)


def _sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
