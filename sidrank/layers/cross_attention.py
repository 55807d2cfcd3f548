r"""Multi-head attention of queries over behaviours, safe for padding and for no behaviour at all.

``torch.nn.MultiheadAttention`` answers NaN for a row whose keys are all padding; here the weights
of padding are exactly zero and such a row reads a zero context.

Source: Vaswani et al., 2017, section 3.2. Differs from the source: no bias on the keys, which the
softmax would cancel; queries and keys may have widths of their own; no dropout.

Shapes: ``B`` rows, ``Q`` queries, ``T`` keys, ``H`` heads, ``D`` width.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding

__all__ = ["CrossAttention"]


class CrossAttention(nn.Module):
    r"""Each query reads the keys; queries never read each other.

    .. math::  \mathrm{softmax}\Big(\frac{(W_q x)(W_k S)^\top}{\sqrt{D/H}}\Big) W_v S, \text{ heads
        side by side, then } W_o

    Args:
        dim: Width ``D`` of the answer.
        query_dim: Width of a query.
        key_dim: Width of a key; keys are also the values.
        num_heads: Number ``H`` of heads, a divisor of ``dim``.

    Raises:
        ValueError: If a size is less than one or ``dim`` is no multiple of ``num_heads``.

    Example:
        >>> attend = CrossAttention(dim=8, query_dim=4, key_dim=6, num_heads=2)
        >>> attend(torch.zeros(2, 1, 4), torch.zeros(2, 5, 6), torch.zeros(2, 5).bool()).shape
        torch.Size([2, 1, 8])
    """

    def __init__(self, *, dim: int, query_dim: int, key_dim: int, num_heads: int = 1) -> None:
        super().__init__()
        sizes = {"dim": dim, "query_dim": query_dim, "key_dim": key_dim, "num_heads": num_heads}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads {num_heads}, got {dim}")
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.query = nn.Linear(query_dim, dim)
        self.key = nn.Linear(key_dim, dim, bias=False)
        self.value = nn.Linear(key_dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Read the keys.

        Args:
            queries: Shape ``[B, Q, query_dim]``.
            keys: Shape ``[B, T, key_dim]``.
            mask: Which keys are real, shape ``[B, T]``, bool.

        Returns:
            Answers, shape ``[B, Q, D]``; the bias of the last layer where no key is real.

        Raises:
            ValueError: If the shapes do not fit.
        """
        queries = _check.shape(queries, "queries", [-1, -1, self.query_dim])
        keys = _check.shape(keys, "keys", [queries.shape[0], -1, self.key_dim])
        real = _padding.boolean(mask, "mask", [keys.shape[0], keys.shape[1]])
        keys = _padding.zeroed(keys, real)
        q, k, v = self._heads(self.query(queries)), self._heads(self.key(keys)), self.value(keys)
        real = real.unsqueeze(1).unsqueeze(1)
        # the lowest number, not -inf: a softmax over nothing but -inf is NaN
        scores = (q @ k.transpose(2, 3)).float() * self.head_dim**-0.5
        scores = scores.masked_fill(~real, torch.finfo(torch.float32).min)
        weights = torch.softmax(scores, dim=3) * real
        context = weights.to(v.dtype) @ self._heads(v)
        return self.out(context.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
