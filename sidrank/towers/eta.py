r"""Search a long history by locality-sensitive hashes of the embeddings that learn.

A search by inner product over embeddings that change at every step cannot be indexed. ETA keeps
``m`` bits of each embedding, the signs of ``m`` random projections (SimHash): two vectors at an
angle :math:`\theta` differ in :math:`m \theta / \pi` bits on average. Signatures of items can be
kept, 8 bytes for 64 bits, and made anew when a model is published.

Source: ETA, Chen et al., arXiv 2108.04468; SimHash after Charikar, STOC 2002. Differs from the
source: one signature of ``m`` bits instead of several rounds side by side, which is the same;
ties go to the newer behaviour and what was found is in the order of time, as in every search here
[derived].

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``T`` found ones, ``D`` width, ``m`` bits.
"""

import torch
from torch import Tensor

from sidrank import _check
from sidrank.layers._kept_buffers import KeepsBuffers
from sidrank.sequences import selection

__all__ = ["LSHSearch"]


class LSHSearch(KeepsBuffers):
    r"""The ``k`` behaviours whose signature differs from the candidate's in the fewest bits.

    .. math::  \mathrm{top}_k\; -\sum_{j=1}^m \big[\mathrm{sign}\langle r_j, x_{target}\rangle
        \neq \mathrm{sign}\langle r_j, x_l\rangle\big]

    It takes and gives what :class:`GSUSearch` does, so :class:`SearchAttention` runs on either.
    Without parameters and without a gradient; projections are made in float64.

    Args:
        dim: Width ``D`` of the vectors.
        k: The most behaviours to find.
        bits: Length ``m`` of a signature.
        seed: Of the random projections; searches with the same seed have the same signatures.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> search = LSHSearch(dim=2, k=1)
        >>> target, history = torch.tensor([[[1.0, 0.1]]]), torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
        >>> times, now = torch.tensor([[1, 2]]), torch.tensor([3])
        >>> search(target, history, torch.ones(1, 2).bool(), times, now)[0].tolist()
        [[[0]]]
    """

    projections: Tensor

    def __init__(self, *, dim: int, k: int, bits: int = 64, seed: int = 0) -> None:
        super().__init__()
        for name, size in {"dim": dim, "k": k, "bits": bits}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.dim = dim
        self.k = k
        chance = torch.Generator().manual_seed(seed)
        drawn = torch.randn(dim, bits, generator=chance, dtype=torch.float64, device="cpu")
        self.register_buffer("projections", drawn)

    def signatures(self, vectors: Tensor) -> Tensor:
        """Signs of the projections.

        Args:
            vectors: Shape ``[..., D]``.

        Returns:
            Shape ``[..., m]``, bool.
        """
        return vectors.detach().double() @ self.projections >= 0

    def forward(
        self, target: Tensor, history: Tensor, mask: Tensor, times: Tensor, now: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find behaviours.

        Args:
            target: Vectors of the candidates, shape ``[B, C, D]``.
            history: Vectors of the behaviours, shape ``[B, L, D]``; padding may hold anything.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, in any integer unit, shape ``[B, L]``.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours are
                found.

        Returns:
            Places in the history, oldest first, shape ``[B, C, T]`` with ``T = min(k, L)``, and
            which of them are real.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        target = _check.shape(target, "target", [-1, -1, self.dim])
        history = _check.shape(history, "history", [target.shape[0], -1, self.dim])
        known = selection.earlier(mask, times, now)
        known = _check.shape(known, "mask", [history.shape[0], history.shape[1]])
        # agreements minus differences; small integers, exact in any order of summing
        own, theirs = _signs(self.signatures(target)), _signs(self.signatures(history))
        scores = own @ theirs.transpose(1, 2)
        chosen = known.unsqueeze(1).expand_as(scores)
        return selection.best_by_time(scores, chosen, times, self.k)


def _signs(signatures: Tensor) -> Tensor:
    return signatures.double() * 2.0 - 1.0
