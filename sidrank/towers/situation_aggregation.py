r"""What a candidate reads of the behaviours it kept, by type of behaviour.

Views are many and purchases few; in one softmax the many drown the few. So each type has a target
attention of its own, and the answers stand side by side.

Source: DSAIN, arXiv 2604.12298, heterogeneous situation aggregation. ``[derived]``: target
attention per behaviour type, concatenated; queries of each type's own over shared keys and values
(a type's own keys would change nothing that its queries cannot); queries that are keys at birth, as
far as candidates and behaviours have the same lanes, so that what is alike is read first; normed
queries and keys, which bound the scores; the keep weight as a factor of the exponential, and an
empty place of score 0 that is always there:

.. math::  w_i = \frac{m_i e^{s_i}}{1 + \sum_{j \in type} m_j e^{s_j}}

so a behaviour that is dropped is as one that never was, keeping less of everything reads less, and
where nothing is left the answer is exactly zero.

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``K`` types, ``H`` heads, ``d`` width of a
head, ``D`` width.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.towers import situation_fields

__all__ = ["TypedTargetAttention"]


class TypedTargetAttention(nn.Module):
    """A candidate reads the behaviours of each type, one type at a time.

    Args:
        query_dim: Width of a candidate; lanes that a behaviour has too come first, in its order.
        key_dim: Width of a behaviour.
        dim: Width ``D`` of the answer of one type.
        num_types: Number ``K`` of types, 0 for one that is not known included.
        num_heads: Number ``H`` of heads, a divisor of ``dim``.

    Raises:
        ValueError: If a size is less than one or ``num_heads`` is no divisor of ``dim``.

    Example:
        >>> attend = TypedTargetAttention(query_dim=6, key_dim=5, dim=8, num_types=3)
        >>> types, kept = torch.tensor([[1, 2, 1, 1]]), torch.ones(1, 2, 4)
        >>> answer = attend(torch.randn(1, 2, 6), torch.randn(1, 4, 5), types, kept)
        >>> answer.shape, answer[..., :8].any()  # none of type 0
        (torch.Size([1, 2, 24]), tensor(False))
    """

    def __init__(
        self, *, query_dim: int, key_dim: int, dim: int, num_types: int, num_heads: int = 1
    ) -> None:
        super().__init__()
        sizes = {
            "query_dim": query_dim,
            "key_dim": key_dim,
            "dim": dim,
            "num_types": num_types,
            "num_heads": num_heads,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_heads:
            raise ValueError(f"num_heads must divide the width {dim}, got {num_heads}")
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.num_types = num_types
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.out_dim = num_types * dim
        self.query = nn.Linear(query_dim, num_types * dim)
        self.key = nn.Linear(key_dim, dim)
        self.value = nn.Linear(key_dim, dim)
        self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Queries of all types look for what is alike; to be called after that of the layers."""
        common = min(self.query_dim, self.key_dim)
        with torch.no_grad():
            key = self.key.weight[:, :common]
            self.query.weight[:, :common] = key.repeat(self.num_types, 1)

    def forward(self, query: Tensor, keys: Tensor, types: Tensor, kept: Tensor) -> Tensor:
        """Read.

        Args:
            query: Candidates, shape ``[B, C, query_dim]``.
            keys: Behaviours, finite also where they are not kept, shape ``[B, L, key_dim]``.
            types: Type of each, shape ``[B, L]``, int64 or int32; one beyond ``K`` or below 0
                is type 0.
            kept: Keep weights, zero at padding, shape ``[B, C, L]``.

        Returns:
            Answers of all types side by side, shape ``[B, C, K * D]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        query = _check.shape(query, "query", [-1, -1, self.query_dim])
        rows, candidates = query.shape[0], query.shape[1]
        keys = _check.shape(keys, "keys", [rows, -1, self.key_dim])
        length = keys.shape[1]
        types = _check.integer(_check.shape(types, "types", [rows, length]), "types")
        kept = _check.shape(kept, "kept", [rows, candidates, length])
        heads, each = (self.num_heads, self.head_dim), (self.num_types, self.num_heads)
        # [B, H, C * K, d] against [B, H, L, d]
        q = self.query(query).unflatten(2, (*each, self.head_dim)).permute(0, 3, 1, 2, 4)
        q = self.query_norm(q.flatten(2, 3))
        k = self.key_norm(self.key(keys).unflatten(2, heads).transpose(1, 2))
        v = self.value(keys).unflatten(2, heads).transpose(1, 2)
        scores = (q @ k.transpose(2, 3)).float() * self.head_dim**-0.5
        shape = (rows, self.num_heads, candidates, self.num_types, length)
        own = (
            situation_fields.one_hot_types(types, self.num_types)
            .transpose(1, 2)
            .unsqueeze(1)
            .unsqueeze(1)
        )
        weights = _weights(scores.view(shape), own, kept.unsqueeze(1).unsqueeze(3))
        context = weights.flatten(2, 3).to(v.dtype) @ v
        context = context.unflatten(2, (candidates, self.num_types))
        return context.permute(0, 2, 3, 1, 4).flatten(2)


def _weights(scores: Tensor, own: Tensor, kept: Tensor) -> Tensor:
    """Shares ``[B, H, C, K, L]`` that leave the rest to an empty place of score 0."""
    scores = scores.masked_fill(~own, torch.finfo(torch.float32).min)
    # the empty place is a column, so that there is a largest one also without behaviours
    largest = torch.nn.functional.pad(scores.detach(), (0, 1)).amax(dim=4, keepdim=True)
    shares = torch.exp(scores - largest) * kept.float()
    # normed queries and keys keep the empty place far above the smallest number there is
    return shares / (torch.exp(-largest) + shares.sum(dim=4, keepdim=True))
