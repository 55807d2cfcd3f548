r"""Gates that mix the hash-ID and the semantic-ID embedding of one bag.

A hash ID (HID) memorises what an item did; a semantic ID (SID) says what it is like. How far
the first can be trusted depends on how often the item was seen, so the gate reads exposure
statistics, counts of strictly earlier events, and nothing else:
``g = sigmoid(MLP(log1p(statistics)))``, one number a bag.

Two forms. ``ResidualGate`` adds, ``e = e_hid + (1 - g) * e_sid``: with SID tables at zero it
leaves a trained host bit-equal and learns from the first step. ``ConvexGate`` mixes,
``e = g * e_hid + (1 - g) * e_sid``: the paper's form, for a ranker that trains from scratch.

Source: SID-Coord, arXiv 2604.10471, the target-aware gate (convex form, MLP of two layers).
Differs from the source: the residual form [derived]; which statistics are read is the caller's
choice (the paper: 7-day exposures, clicks, likes, shares, comments); SiLU inside [derived].

Shapes: ``B`` bags, ``D`` embedding width, ``S`` statistics.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidrank import _check

__all__ = ["ConvexGate", "ResidualGate"]


class _ExposureGate(nn.Module):
    """What both forms share: statistics in, one weight a bag out."""

    def __init__(self, *, statistics: Sequence[str], hidden: int = 16) -> None:
        super().__init__()
        if isinstance(statistics, str):
            raise TypeError(
                f"statistics must be a sequence of names, got the string {statistics!r}"
            )
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.statistics: list[str] = list(statistics)
        if self.statistics:
            self.mlp: nn.Module = nn.Sequential(
                nn.Linear(len(self.statistics), hidden), nn.SiLU(), nn.Linear(hidden, 1)
            )
        else:
            self.mlp = _LearnedConstant()

    def weight(self, statistics: Tensor) -> Tensor:
        """Trust in the hash ID.

        Args:
            statistics: Counts before the request, shape ``[B, S]``; a negative count is read
                as 0 (nothing known).

        Returns:
            ``g`` in ``[0, 1]``, shape ``[B, 1]``.

        Raises:
            ValueError: If ``statistics`` does not have shape ``[B, S]``.
        """
        counts = _check.shape(statistics, "statistics", [-1, len(self.statistics)])
        return torch.sigmoid(self.mlp(torch.log1p(counts.float().clamp(min=0.0))))


class ResidualGate(_ExposureGate):
    r"""Add the SID embedding to the hash-ID embedding, less of it the better the item is known.

    .. math::  g = \sigma(\mathrm{MLP}(\log(1 + n))), \qquad e = e_{hid} + (1 - g)\, e_{sid}

    The form for a ranker that is live: while every SID row is zero the output *is* the
    hash-ID embedding, bit for bit, also under autocast. The zero factor is the table, never
    the gate: a gate near one is either inexact or dead.

    Args:
        statistics: Names of the statistics, in the order of the columns of ``[B, S]``. An
            empty sequence makes ``g`` one learned number.
        hidden: Width of the gate's hidden layer.

    Raises:
        TypeError: If ``statistics`` is a single string.
        ValueError: If ``hidden`` is less than one.

    Example:
        >>> gate = ResidualGate(statistics=["impressions"])
        >>> hid, counts, present = torch.ones(2, 4), torch.tensor([[0], [90]]), torch.ones(2).bool()
        >>> gate(hid, torch.zeros(2, 4), counts, present).tolist() == hid.tolist()
        True
    """

    def forward(self, hid: Tensor, sid: Tensor, statistics: Tensor, present: Tensor) -> Tensor:
        """Mix the two embeddings of each bag.

        Args:
            hid: Hash-ID embeddings, shape ``[B, D]``.
            sid: SID embeddings, shape ``[B, D]``.
            statistics: Counts before the request, shape ``[B, S]``.
            present: Whether the bag has a SID at all, shape ``[B]``, bool. A bag without one
                keeps the host's value.

        Returns:
            Mixed embeddings, shape ``[B, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        rows = hid.shape[0]
        sid = _check.shape(sid, "sid", [rows, hid.shape[1]])
        counts = _check.shape(statistics, "statistics", [rows, len(self.statistics)])
        has_sid = _check.shape(present, "present", [rows])
        share = (1.0 - self.weight(counts)) * has_sid.unsqueeze(1)
        return hid + share * sid


class ConvexGate(_ExposureGate):
    r"""Mix hash-ID and SID embedding as a weighted mean, for training from scratch.

    .. math::  g = \sigma(\mathrm{MLP}(\log(1 + n))), \qquad e = g\, e_{hid} + (1 - g)\, e_{sid}

    There is no upgrade path: put in front of a trained host it changes its logits.

    Args:
        statistics: Names of the statistics, in the order of the columns of ``[B, S]``. An
            empty sequence makes ``g`` one learned number.
        hidden: Width of the gate's hidden layer.

    Raises:
        TypeError: If ``statistics`` is a single string.
        ValueError: If ``hidden`` is less than one.

    Example:
        >>> gate = ConvexGate(statistics=["impressions", "likes"])
        >>> counts, present = torch.tensor([[5, 2], [0, 0]]), torch.tensor([True, True])
        >>> gate(torch.ones(2, 4), torch.zeros(2, 4), counts, present).shape
        torch.Size([2, 4])
    """

    def forward(self, hid: Tensor, sid: Tensor, statistics: Tensor, present: Tensor) -> Tensor:
        """Mix the two embeddings of each bag.

        Args:
            hid: Hash-ID embeddings, shape ``[B, D]``.
            sid: SID embeddings, shape ``[B, D]``.
            statistics: Counts before the request, shape ``[B, S]``.
            present: Whether the bag has a SID at all, shape ``[B]``, bool. A bag without one
                keeps the host's value.

        Returns:
            Mixed embeddings, shape ``[B, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        rows = hid.shape[0]
        sid = _check.shape(sid, "sid", [rows, hid.shape[1]])
        counts = _check.shape(statistics, "statistics", [rows, len(self.statistics)])
        has_sid = _check.shape(present, "present", [rows])
        share = (1.0 - self.weight(counts)) * has_sid.unsqueeze(1)
        return (1.0 - share) * hid + share * sid


class _LearnedConstant(nn.Module):
    """One learned logit for every row; the gate that reads no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.logit)

    def forward(self, statistics: Tensor) -> Tensor:
        return self.logit.expand(statistics.shape[0], 1)
