r"""Attention over the resolutions of one semantic ID.

An item has a SID embedding per resolution (one level, or a pair of levels); which of them
says most differs by item. A small attention weighs them:
``alpha_k = softmax_k(w_k . tanh(W [e_k; mean_k e]))`` and ``e = sum_k alpha_k e_k``.

Source: SID-Coord, arXiv 2604.10471, multi-resolution fusion.
Differs from the source: the query is not stated there; scoring each resolution against the mean
of all, with one vector ``w_k`` a resolution, is ours [derived].

Shapes: ``B`` bags, ``R`` resolutions, ``D`` embedding width.
"""

import torch
from torch import Tensor, nn

from sidrank import _check

__all__ = ["ResolutionAttention"]


class ResolutionAttention(nn.Module):
    r"""Fuse the SID embeddings of several resolutions into one.

    .. math::  \alpha = \mathrm{softmax}_k\big(w_k^\top \tanh(W [e_k; \bar e])\big),
        \qquad e = \sum_k \alpha_k e_k

    All-zero inputs give an all-zero output with a live gradient to each of them.

    Args:
        dim: Embedding width ``D``.
        num_resolutions: Number of resolutions ``R``.
        hidden: Width of the scoring layer.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> fuse = ResolutionAttention(dim=8, num_resolutions=5)
        >>> fuse(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 8])
    """

    def __init__(self, *, dim: int, num_resolutions: int, hidden: int = 16) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("num_resolutions", num_resolutions), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.num_resolutions = num_resolutions
        self.own = nn.Linear(dim, hidden)
        self.mean = nn.Linear(dim, hidden, bias=False)
        self.query = nn.Parameter(torch.empty(num_resolutions, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the scoring vectors ``w_k`` anew; the linear layers have their own."""
        nn.init.normal_(self.query, std=self.query.shape[1] ** -0.5)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Fuse the resolutions of each bag.

        Args:
            embeddings: SID embeddings, shape ``[B, R, D]``.

        Returns:
            Fused embeddings, shape ``[B, D]``.

        Raises:
            ValueError: If the input does not have shape ``[B, R, D]``.
        """
        e = _check.shape(embeddings, "embeddings", [-1, self.num_resolutions, self.dim])
        # The mean of the projections is the projection of the mean, over fewer numbers.
        hidden = torch.tanh(self.own(e) + self.mean(e).mean(dim=1, keepdim=True))
        alpha = torch.softmax((hidden * self.query).sum(dim=2), dim=1)
        return (alpha.unsqueeze(2) * e).sum(dim=1)  # for so few, faster than a product by batches
