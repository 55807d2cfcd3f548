r"""Read real numbers as trees do: by where they fall among boundaries, and how far.

A number that is multiplied into a layer says the same thing along its whole range, whereas a tree
puts a boundary wherever the data has one. Here every number becomes ``T`` numbers, one for each
piece of its range: 1 for a piece that it has passed, 0 for one that it has not reached, and how far
it has come in the piece where it is. A linear layer behind it is any curve that is straight within
the pieces, and nothing is lost as it is between the borders of a bucket.

Source: Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS
2022, arXiv 2203.05556, section 3.2, equation 1 and quantiles as boundaries; a linear layer for each
number behind it, section 3.4. Differs from the source: a number beyond the outermost boundary goes
on for the length of one piece and stops there, the source lets it go on for ever [derived]; the
layer has no bias, which the layer behind it has, and is born normal with deviation 0.1 [derived].

Shapes: ``B`` rows, ``F`` numbers, ``T`` pieces of the one that has most, ``D`` width.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers._kept_buffers import KeepsBuffers

__all__ = ["PiecewiseLinearEmbedding", "PiecewiseLinearEncoding"]


class PiecewiseLinearEncoding(KeepsBuffers):
    r"""Real numbers in, how far each has come in every piece of its range out.

    .. math::  e_t = \mathrm{clip}\Big(\frac{x - b_{t-1}}{b_t - b_{t-1}},\ 0,\ 1\Big), \qquad
        \text{below to } -1 \text{ in the first piece, above to } 2 \text{ in the last}

    Args:
        boundaries: Of each number ``b_0 < b_1 < ...``, at least two. Numbers may have different
            counts of them: pieces that one does not have are zeros.

    Raises:
        ValueError: If there is no number, or the boundaries of one are not at least two finite
            numbers in ascending order.

    Example:
        >>> encode = PiecewiseLinearEncoding(boundaries=[[0.0, 1.0, 3.0]])
        >>> encode(torch.tensor([[0.5], [2.0], [-9.0]])).tolist()
        [[[0.5, 0.0]], [[1.0, 0.5]], [[-1.0, 0.0]]]
    """

    boundaries: Tensor

    def __init__(self, *, boundaries: Sequence[Sequence[float]]) -> None:
        super().__init__()
        if not boundaries:
            raise ValueError("boundaries must hold at least one number's, got none")
        pieces = max(len(each) for each in boundaries) - 1
        rows: list[Tensor] = []
        for number, each in enumerate(boundaries):
            row = torch.tensor(list(each), dtype=torch.float32, device="cpu")
            if len(row) < 2 or not bool(row.isfinite().all()) or bool((row.diff() <= 0).any()):
                raise ValueError(
                    "boundaries must be at least two finite numbers in ascending order"
                    f" (float32), got {list(each)} for number {number}"
                )
            rows.append(torch.cat([row, row[-1:].expand(pieces + 1 - len(row))]))
        self.num_numbers = len(rows)
        self.num_pieces = pieces
        # a piece of no length is none
        self.register_buffer("boundaries", torch.stack(rows))

    @classmethod
    def of(cls, values: Tensor, *, pieces: int = 12) -> Self:
        """Boundaries at the quantiles of data to learn from.

        Quantiles that coincide are one boundary; a column of one value has one piece, of length 1.

        Args:
            values: Finite numbers, shape ``[N, F]`` with at least one row.
            pieces: Most pieces of a number.

        Returns:
            The encoding.

        Raises:
            ValueError: If ``values`` is not a matrix with a row, or holds NaN or infinity, or
                ``pieces`` is less than one.
        """
        if values.dim() != 2 or len(values) < 1 or not bool(values.isfinite().all()):
            raise ValueError(
                "values must be a matrix of finite numbers with at least one row,"
                f" got shape {list(values.shape)}, {int((~values.isfinite()).sum())} not finite"
            )
        if pieces < 1:
            raise ValueError(f"pieces must be at least 1, got {pieces}")
        ordered = values.detach().cpu().float().sort(dim=0).values
        place = torch.linspace(0, len(ordered) - 1, pieces + 1, dtype=torch.float64).round().long()
        found = [torch.unique(column).tolist() for column in ordered[place].t()]
        return cls(boundaries=[x if len(x) > 1 else [x[0], x[0] + 1] for x in found])

    def forward(self, values: Tensor) -> Tensor:
        """Encode numbers.

        Args:
            values: Finite numbers, shape ``[B, F]``; a number that is not known needs an id of its
                own beside this.

        Returns:
            float32, shape ``[B, F, T]``.

        Raises:
            ValueError: If the shape does not fit.
        """
        values = _check.shape(values, "values", [-1, self.num_numbers])
        low, high = self.boundaries[:, :-1], self.boundaries[:, 1:]
        length = high - low
        real = length > 0
        # the first piece goes on below; the last one, behind which there is none, above
        below = torch.where(low == self.boundaries[:, :1], -1.0, 0.0)
        above = torch.where(high == self.boundaries[:, -1:], 2.0, 1.0)
        gone = (values.float().unsqueeze(-1) - low) / torch.where(real, length, 1.0)
        return torch.where(real, torch.minimum(torch.maximum(gone, below), above), 0.0)


class PiecewiseLinearEmbedding(nn.Module):
    r"""Real numbers in, a vector each out, along a path with a corner at every boundary.

    .. math::  v_f = \sum_t e_{ft}\, W_{ft}

    Args:
        encoding: Where the boundaries are.
        dim: Width ``D`` of a vector.

    Raises:
        ValueError: If ``dim`` is less than one.

    Example:
        >>> encoding = PiecewiseLinearEncoding.of(torch.randn(100, 3), pieces=4)
        >>> PiecewiseLinearEmbedding(encoding=encoding, dim=8)(torch.randn(5, 3)).shape
        torch.Size([5, 3, 8])
    """

    def __init__(self, *, encoding: PiecewiseLinearEncoding, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.encoding = encoding
        self.weight = nn.Parameter(torch.empty(encoding.num_numbers, encoding.num_pieces, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        nn.init.normal_(self.weight, std=0.1)

    def forward(self, values: Tensor) -> Tensor:
        """Embed numbers.

        Args:
            values: Finite numbers, shape ``[B, F]``.

        Returns:
            Vectors, shape ``[B, F, D]``.

        Raises:
            ValueError: If the shape does not fit.
        """
        encoded = self.encoding(values)
        return torch.einsum("bft,ftd->bfd", encoded, self.weight)
