r"""The past impressions of a user as a sequence that any ranker can read, as one more token.

Stage II of instance-as-token. Each instance of the store becomes

.. math::  x_t = [\sigma(W z_t);\; e(\mathrm{side}_t)]

the request and its candidate are compressed to a query, a sequence model of your choice reads the
one with the other, and what it answers goes to the ranker as a token *before* feature interaction.
The stored vectors are frozen.

Source: IAT, arXiv 2604.08933: widths 64 + 64, a query of 512, ``T`` of 256. Differs from the
source: sides are embedded one by one and added [derived]; the last layer is zero at birth, so that
the token is exactly zero and a trained ranker that adds it is unchanged [derived].

Shapes: ``B`` requests, ``C`` candidates, ``T`` instances, ``S`` sides, ``D`` width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding

__all__ = ["InstanceSequence"]


class InstanceSequence(nn.Module):
    r"""Read a history of instances for each candidate.

    .. math::  o = W_o\, \mathrm{Seq}(W_q q;\; x_1, \dots, x_T)

    Born a no-op: ``W_o`` is zero and nothing else is, so it learns from the first step and the
    rest from the second. The token is zero at birth; add it to a token that the ranker has, or
    give it where a zero token changes nothing (a sum, products with others, a concatenation).

    Args:
        sequence: Reads instances: called with queries ``[B, C, width]``, instances
            ``[B, T, 2 D]`` and a mask ``[B, T]``, it answers ``[B, C, width]``;
            :class:`~sidrank.layers.CrossAttention` is target attention. Candidates must not see
            each other in it.
        query_dim: Width of what is known of the request: its current behaviours and the rest.
        token_dim: Width of the ranker's tokens.
        side_sizes: How many values each side has, one number a side: they are ``0 ... n - 1``, and
            -1 for "not known".
        dim: Width ``D`` of the stored vectors.
        width: Width of the compressed query.

    Raises:
        TypeError: If ``side_sizes`` is a number.
        ValueError: If a size is less than one.

    Example:
        >>> from sidrank.layers import CrossAttention
        >>> reader = InstanceSequence(
        ...     sequence=CrossAttention(dim=32, query_dim=32, key_dim=16, num_heads=2),
        ...     query_dim=10, token_dim=12, side_sizes=[2], dim=8, width=32)
        >>> vectors, sides = torch.rand(2, 5, 8), torch.zeros(2, 5, 1).long()
        >>> reader(torch.randn(2, 3, 10), vectors, sides, torch.ones(2, 5).bool()).abs().sum()
        tensor(0., grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        *,
        sequence: nn.Module,
        query_dim: int,
        token_dim: int,
        side_sizes: Sequence[int],
        dim: int = 64,
        width: int = 512,
    ) -> None:
        super().__init__()
        if isinstance(side_sizes, int):
            raise TypeError(f"side_sizes must be a sequence of numbers, got {side_sizes}")
        sizes = {"query_dim": query_dim, "token_dim": token_dim, "dim": dim, "width": width}
        sizes |= {f"side_sizes[{place}]": size for place, size in enumerate(side_sizes)}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.query_dim = query_dim
        self.token_dim = token_dim
        self.width = width
        self.vector = nn.Linear(dim, dim, bias=False)
        self.sides = nn.ModuleList(nn.Embedding(size + 1, dim) for size in side_sizes)
        self.query = nn.Linear(query_dim, width)
        self.sequence = sequence
        self.out = _BornZero(width, token_dim)

    def instances(self, vectors: Tensor, sides: Tensor, mask: Tensor) -> Tensor:
        """What the sequence model reads.

        Args:
            vectors: Stored vectors, shape ``[B, T, D]``.
            sides: Shape ``[B, T, S]``, integers.
            mask: Which instances are real, shape ``[B, T]``, bool.

        Returns:
            Shape ``[B, T, 2 D]``, zero at padding. No gradient reaches ``vectors``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        vectors = _check.shape(vectors, "vectors", [-1, -1, self.dim]).detach()
        real = _padding.boolean(mask, "mask", [vectors.shape[0], vectors.shape[1]])
        shape = [vectors.shape[0], vectors.shape[1], len(self.sides)]
        sides = _check.integer(_check.shape(sides, "sides", shape), "sides")
        rows = sides.masked_fill(~real.unsqueeze(2), -1) + 1  # row 0: not known
        content = torch.sigmoid(self.vector(_padding.zeroed(vectors, real)))
        told = torch.zeros_like(content)
        for side, table in enumerate(self.sides):
            told = told + table(rows[:, :, side])
        return _padding.zeroed(torch.cat([content, told], dim=2), real)

    def forward(self, query: Tensor, vectors: Tensor, sides: Tensor, mask: Tensor) -> Tensor:
        """Make the token.

        Args:
            query: What is known of the request and each candidate, shape ``[B, C, query_dim]``.
            vectors: Of the instances, as of the request, shape ``[B, T, D]``; see
                :meth:`InstanceStore.as_of <sidrank.sequences.InstanceStore.as_of>`.
            sides: How they went, as far as it was known then, shape ``[B, T, S]``.
            mask: Which instances are real, shape ``[B, T]``, bool.

        Returns:
            One token a candidate, shape ``[B, C, token_dim]``.

        Raises:
            ValueError: If the shapes do not fit, or the sequence model answers in another.
        """
        query = _check.shape(query, "query", [vectors.shape[0], -1, self.query_dim])
        read = self.instances(vectors, sides, mask)
        answer = self.sequence(self.query(query), read, mask)
        shape = [query.shape[0], query.shape[1], self.width]
        return self.out(_check.shape(answer, "the answer of sequence", shape))


class _BornZero(nn.Linear):
    """A linear layer of zeros, also after it was made on the meta device."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
