r"""A whole long history as one token: how alike it is to each code of the first level.

For each prototype (one a code) the cosines of all behaviours are counted in tiers on [-1, 1]: a
table of ``K`` by ``J`` counts, whatever the length of the history. It is a sum over behaviours, so
a new one adds one count to each row and an old one takes it away again: the table can be cached
and the cost of an update does not grow with the history.

Source: GLASS, arXiv 2602.05663, SID-Tier. Prototypes are the codebook of the first level, or the
mean vector of the items of each code (``bucket_means``); the source has been read both ways.
Differs from the source: counts are divided by the length of the history, or ``log1p`` of them is
taken [derived]; soft tiers, whose counts have a gradient [derived]; cosines in float64, rounded
to nine decimals, so that adding events one by one equals counting them all [derived].

Shapes: ``B`` rows, ``L`` behaviours, ``K`` prototypes, ``J`` tiers, ``D`` width, ``V`` items.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers._kept_buffers import KeepsBuffers
from sidrank.layers.cosine import unit

__all__ = ["SIDTierToken", "TierHistogram", "bucket_means"]


class TierHistogram(KeepsBuffers):
    r"""Counts behaviours by how alike they are to each prototype.

    .. math::  t_{a j} = \#\{l : \lfloor \tfrac{J}{2} (\cos(p_a, h_l) + 1) \rfloor = j\}

    A cosine of 1 belongs to the last tier. A zero vector has cosine 0 with everything.

    Args:
        prototypes: One vector a code, shape ``[K, D]``.
        num_tiers: Number ``J`` of tiers.

    Raises:
        ValueError: If the prototypes are no matrix of finite numbers or ``num_tiers`` is less
            than one.

    Example:
        >>> tiers = TierHistogram(prototypes=torch.eye(2), num_tiers=2)
        >>> history = torch.tensor([[[1.0, -1.0], [2.0, 1.0]]])
        >>> counts = tiers(history, torch.ones(1, 2).bool())
        >>> counts.tolist()
        [[[0.0, 2.0], [1.0, 1.0]]]
        >>> torch.equal(tiers.remove(tiers.add(counts, history[:, 0]), history[:, 0]), counts)
        True
    """

    prototypes: Tensor

    def __init__(self, *, prototypes: Tensor, num_tiers: int) -> None:
        super().__init__()
        if (
            prototypes.dim() != 2
            or prototypes.is_meta
            or not bool(torch.isfinite(prototypes).all())
        ):
            got = "a meta tensor" if prototypes.is_meta else f"shape {list(prototypes.shape)}"
            raise ValueError(f"prototypes must be a [K, D] matrix of finite numbers, got {got}")
        if num_tiers < 1:
            raise ValueError(f"num_tiers must be at least 1, got {num_tiers}")
        self.num_prototypes, self.dim = prototypes.shape
        self.num_tiers = num_tiers
        self.register_buffer("prototypes", prototypes.detach().float().clone())

    def forward(self, history: Tensor, mask: Tensor) -> Tensor:
        """Count the behaviours of each row.

        Args:
            history: Vectors of the behaviours, shape ``[B, L, D]``.
            mask: Which are real, shape ``[B, L]``, bool.

        Returns:
            Whole counts, shape ``[B, K, J]``, float32. The sum of a row's is ``K`` times its
            number of behaviours. No gradient.

        Raises:
            ValueError: If the shapes do not fit.
        """
        history = _check.shape(history, "history", [-1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [history.shape[0], history.shape[1]])
        vectors = _padding.zeroed(history.detach(), real)
        cosines = unit(vectors.double()) @ unit(self.prototypes.double()).t()
        tier = ((torch.round(cosines, decimals=9) + 1.0) * (self.num_tiers / 2)).floor()
        tier = tier.clamp(0, self.num_tiers - 1).long()
        return self._summed(tier, real.unsqueeze(2).expand_as(tier).float())

    def soft(self, history: Tensor, mask: Tensor) -> Tensor:
        """Count with soft tiers: a behaviour is shared between the two tiers nearest to it.

        Args:
            history: As in :meth:`forward`.
            mask: As in :meth:`forward`.

        Returns:
            Counts of the same sum, shape ``[B, K, J]``, with a gradient to ``history``, except
            in the outer half of the first and the last tier.

        Raises:
            ValueError: If the shapes do not fit.
        """
        history = _check.shape(history, "history", [-1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [history.shape[0], history.shape[1]])
        cosines = unit(_padding.zeroed(history, real)) @ unit(self.prototypes).t()
        place = (cosines.float() + 1.0) * (self.num_tiers / 2) - 0.5
        place = place.clamp(0.0, self.num_tiers - 1.0)
        lower = place.detach().floor()
        upper_share = (place - lower) * real.unsqueeze(2)
        lower_share = (1.0 - (place - lower)) * real.unsqueeze(2)
        upper = (lower + 1.0).clamp(max=self.num_tiers - 1.0)
        return self._summed(lower.long(), lower_share) + self._summed(upper.long(), upper_share)

    def add(self, counts: Tensor, event: Tensor) -> Tensor:
        """Add one behaviour to each row, at a cost that its history has no part in.

        Args:
            counts: Whole counts, shape ``[B, K, J]``.
            event: Its vector, shape ``[B, D]``.

        Returns:
            New counts, equal to counting the longer history, shape ``[B, K, J]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self._moved(counts, event, 1.0)

    def remove(self, counts: Tensor, event: Tensor) -> Tensor:
        """Take one behaviour of each row away again.

        Args:
            counts: Whole counts, shape ``[B, K, J]``.
            event: Its vector, shape ``[B, D]``.

        Returns:
            New counts, equal to counting the shorter history, shape ``[B, K, J]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self._moved(counts, event, -1.0)

    def _summed(self, tier: Tensor, share: Tensor) -> Tensor:
        shape = (tier.shape[0], self.num_prototypes, self.num_tiers)
        nothing = share.new_zeros(shape)
        return nothing.scatter_add(2, tier.transpose(1, 2), share.transpose(1, 2))

    def _moved(self, counts: Tensor, event: Tensor, step: float) -> Tensor:
        event = _check.shape(event, "event", [-1, self.dim])
        shape = [event.shape[0], self.num_prototypes, self.num_tiers]
        counts = _check.shape(counts, "counts", shape)
        one = event.unsqueeze(1)
        return counts + step * self.forward(one, torch.ones_like(one[:, :, 0], dtype=torch.bool))


class SIDTierToken(nn.Module):
    r"""One token for a history of any length.

    .. math::  h = \mathrm{MLP}(\mathrm{vec}(t / L)) \quad \text{or} \quad
        \mathrm{MLP}(\mathrm{vec}(\log(1 + t)))

    Args:
        histogram: Counts the behaviours.
        dim: Width of the token.
        hidden: Width of the hidden layer.
        scale: ``"length"`` divides the counts by the length of the history, ``"log1p"`` keeps
            it visible.
        soft: Whether to count in soft tiers, so that the vectors of the behaviours learn.

    Raises:
        ValueError: If a size is less than one or ``scale`` is another word.

    Example:
        >>> tiers = TierHistogram(prototypes=torch.randn(8, 4), num_tiers=5)
        >>> token = SIDTierToken(histogram=tiers, dim=16)
        >>> token(torch.randn(2, 1000, 4), torch.ones(2, 1000).bool()).shape
        torch.Size([2, 1, 16])
    """

    def __init__(
        self,
        *,
        histogram: TierHistogram,
        dim: int,
        hidden: int = 64,
        scale: Literal["length", "log1p"] = "length",
        soft: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if scale not in ("length", "log1p"):
            raise ValueError(f"scale must be 'length' or 'log1p', got {scale!r}")
        self.histogram = histogram
        self.scale = scale
        self.soft = soft
        cells = histogram.num_prototypes * histogram.num_tiers
        self.mlp = nn.Sequential(nn.Linear(cells, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, history: Tensor, mask: Tensor) -> Tensor:
        """Count the behaviours and make the token.

        Args:
            history: Vectors of the behaviours, shape ``[B, L, D]``.
            mask: Which are real, shape ``[B, L]``, bool; only such as were known when the
                request came.

        Returns:
            Tokens, shape ``[B, 1, dim]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if self.soft:
            return self.from_counts(self.histogram.soft(history, mask))
        return self.from_counts(self.histogram(history, mask))

    def from_counts(self, counts: Tensor) -> Tensor:
        """Make the token of cached counts.

        Args:
            counts: Shape ``[B, K, J]``, of :class:`TierHistogram`.

        Returns:
            Tokens, shape ``[B, 1, dim]``; that of an empty history is learned.

        Raises:
            ValueError: If the shape does not fit.
        """
        shape = [-1, self.histogram.num_prototypes, self.histogram.num_tiers]
        counts = _check.shape(counts, "counts", shape)
        if self.scale == "length":
            # each prototype counts every behaviour once
            scaled = counts / counts.sum(dim=2, keepdim=True).clamp(min=1.0)
        else:
            scaled = torch.log1p(counts)
        return self.mlp(scaled.flatten(1)).unsqueeze(1)


def bucket_means(vectors: Tensor, codes: Tensor, num_codes: int) -> Tensor:
    """Mean vector of the items of each first-level code.

    Args:
        vectors: Item vectors, shape ``[V, D]``.
        codes: First code of each item, shape ``[V]``; items with -1 are left out.
        num_codes: Number ``K`` of codes.

    Returns:
        Prototypes, shape ``[K, D]``, float32; zero for a code that no item has.

    Raises:
        ValueError: If the shapes do not fit or a code is outside ``[-1, num_codes)``.

    Example:
        >>> bucket_means(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([1, 1, -1]), 2).tolist()
        [[0.0], [2.0]]
    """
    vectors = _check.shape(vectors, "vectors", [-1, -1])
    codes = _check.integer(_check.shape(codes, "codes", [vectors.shape[0]]), "codes").long()
    if bool(((codes < -1) | (codes >= num_codes)).any()):
        wrong = codes[(codes < -1) | (codes >= num_codes)][0]
        raise ValueError(f"codes must be in [-1, {num_codes}), got {int(wrong)}")
    held = codes >= 0
    members = torch.bincount(codes[held], minlength=num_codes).unsqueeze(1)
    sums = torch.zeros(num_codes, vectors.shape[1], dtype=torch.float64, device=vectors.device)
    sums.index_add_(0, codes[held], vectors[held].double())
    return (sums / members.clamp(min=1)).float()
