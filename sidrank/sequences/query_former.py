r"""A history of any length as a few tokens, read by learned queries.

``M`` queries read the behaviours, then one another. The cost grows linearly with the history, the
number of tokens that comes out not at all. It is a function of the set: order and time count only
if the behaviours carry them, for instance by a
:class:`~sidrank.sequences.time_aware_attention.TimeEncoding` before it.

Source: OneMall, arXiv 2601.21770, its Query-Former; the layer after Perceiver, arXiv 2103.03206,
and BLIP-2, arXiv 2301.12597 [derived]. Differs from those: queries are normed before each of the
three steps and behaviours are read as they are [derived]; a SwiGLU for the feed-forward layer.

Shapes: ``B`` rows, ``L`` behaviours, ``M`` queries, ``D`` width.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import CrossAttention
from sidrank.layers.self_attention import SelfAttention
from sidrank.layers.swiglu import SwiGLU

__all__ = ["QueryFormer"]


class QueryFormer(nn.Module):
    r"""Learned queries read a history, layer by layer.

    .. math::  Q \leftarrow Q + \mathrm{MHA}(\mathrm{LN}\,Q, S, S), \quad
        Q \leftarrow Q + \mathrm{SelfAttn}(\mathrm{LN}\,Q), \quad
        Q \leftarrow Q + \mathrm{FFN}(\mathrm{LN}\,Q)

    A row without behaviours yields tokens too, always the same ones.

    Args:
        dim: Width ``D`` of behaviours and tokens.
        num_queries: Number ``M`` of tokens.
        num_layers: How often the history is read.
        num_heads: Attention heads, a divisor of ``dim``.
        hidden: Width inside the feed-forward layers; by default four times ``dim``.

    Raises:
        ValueError: If a size is less than one or ``dim`` is no multiple of ``num_heads``.

    Example:
        >>> compress = QueryFormer(dim=8, num_queries=3, num_heads=2)
        >>> compress(torch.randn(2, 100, 8), torch.ones(2, 100).bool()).shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self,
        *,
        dim: int,
        num_queries: int,
        num_layers: int = 1,
        num_heads: int = 1,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        for name, size in {"num_queries": num_queries, "num_layers": num_layers}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        hidden = 4 * dim if hidden is None else hidden
        self.layers = nn.ModuleList(
            [_Layer(dim=dim, num_heads=num_heads, hidden=hidden) for _ in range(num_layers)]
        )
        self.dim = dim
        self.num_queries = num_queries
        self.queries = nn.Parameter(torch.empty(num_queries, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the queries anew; the layers have their own."""
        nn.init.normal_(self.queries, std=self.dim**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Read histories.

        Args:
            x: Behaviours in any order, shape ``[B, L, D]``; padding may hold anything.
            mask: Which are real, shape ``[B, L]``, bool.

        Returns:
            Tokens, shape ``[B, M, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x = _check.shape(x, "x", [-1, -1, self.dim])
        queries = self.queries.to(x.dtype).unsqueeze(0).expand(x.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, x, mask)
        return queries


class _Layer(nn.Module):
    def __init__(self, *, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.read_norm = nn.LayerNorm(dim)
        self.read = CrossAttention(dim=dim, query_dim=dim, key_dim=dim, num_heads=num_heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim=dim, num_heads=num_heads)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = SwiGLU(dim=dim, hidden=hidden)

    def forward(self, queries: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        queries = queries + self.read(self.read_norm(queries), x, mask)
        every = torch.ones_like(queries[:, :, 0], dtype=torch.bool)
        visible = every.unsqueeze(1) & every.unsqueeze(2)
        queries = queries + self.attention(self.attention_norm(queries), every, None, visible)
        return queries + self.ffn(self.ffn_norm(queries))
