r"""A pre-norm transformer block with RMSNorm and SwiGLU: the brick of every sequence encoder.

Source: Zhang and Sennrich, arXiv 1910.07467 (RMSNorm); Shazeer, arXiv 2002.05202 (SwiGLU); the
gated residual: TokenFormer, arXiv 2604.13737.

Shapes: ``B`` rows, ``T`` tokens, ``D`` width.
"""

from torch import Tensor, nn

from sidrank.layers import _padding
from sidrank.layers.nlir import NLIR
from sidrank.layers.rotary import Turns
from sidrank.layers.self_attention import Memory, SelfAttention
from sidrank.layers.swiglu import SwiGLU

__all__ = ["DecoderBlock"]


class DecoderBlock(nn.Module):
    r"""Attention, then a feed-forward layer, each added to the stream.

    .. math::  x \leftarrow x + \mathrm{Attn}(\mathrm{RMS}(x)), \qquad
        x \leftarrow x + \mathrm{SwiGLU}(\mathrm{RMS}(x))

    Args:
        attention: How tokens read tokens.
        hidden: Width inside the feed-forward layer.
        residual: Gates the attention branch; ``None`` adds it.

    Raises:
        ValueError: If ``hidden`` is less than one.

    Example:
        >>> import torch
        >>> block = DecoderBlock(attention=SelfAttention(dim=8, num_heads=2), hidden=16)
        >>> block(torch.randn(2, 5, 8), torch.ones(2, 5).bool()).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self, *, attention: SelfAttention, hidden: int, residual: NLIR | None = None
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(attention.dim)
        self.attention = attention
        self.residual = residual
        self.ffn_norm = nn.RMSNorm(attention.dim)
        self.ffn = SwiGLU(dim=attention.dim, hidden=hidden)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor | Turns | None = None,
        visible: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Apply the block.

        Args:
            x: Tokens, shape ``[B, T, D]``; padding may hold anything.
            mask: Which tokens are real, shape ``[B, T]``, bool.
            positions: Positions for RoPE, shape ``[T]`` or ``[B, T]``, or their turns; by default
                0, 1, 2, ...
            visible: Which tokens a token may read, shape ``[T, T]`` or ``[B, T, T]``; by
                default what ``attention`` says.
            memory: Keys and values that every token reads besides.

        Returns:
            Shape ``[B, T, D]``, zero at padding.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x = _padding.zeroed(x, _padding.boolean(mask, "mask", [-1, -1]))
        branch = self.attention(self.attention_norm(x), mask, positions, visible, memory)
        x = x + branch if self.residual is None else self.residual(x, branch)
        return _padding.zeroed(x + self.ffn(self.ffn_norm(x)), mask)
