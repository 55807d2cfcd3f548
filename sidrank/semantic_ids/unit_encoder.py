"""From codes to byte-pair units inside a model: a fixed number of rounds, no data-dependent step.

A word of ``N`` symbols can be merged ``N - 1`` times at most, so that many rounds are made of every
word: look up which merge each adjacent pair belongs to (``SIDLookup`` over pairs, a static perfect
hash), apply the earliest, close the gap. A merge makes a unit that only later merges use, so the
earliest merge first is the order in which they were learned.

Shapes: ``n`` items, ``N`` levels, ``M`` merges.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.semantic_ids.lookup import SIDLookup
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable, SIDVersionError

if TYPE_CHECKING:
    from sidrank.semantic_ids.bpe import SIDBPE

__all__ = ["SIDUnitEncoder"]


class SIDUnitEncoder(nn.Module):
    """Units of each item, left-aligned, -1 behind the last.

    Where the items are known beforehand, a table of their units is faster (``SIDBPE.encode``);
    this is for codes that arrive with the batch. A checkpoint remembers the content hash of the
    merges.

    Args:
        bpe: The merges.

    Example:
        >>> from sidrank.semantic_ids.bpe import SIDBPE
        >>> encode = SIDUnitEncoder(SIDBPE([[0, 5]], spec=SIDSpec((4, 4))))
        >>> encode(torch.tensor([[0, 1], [0, 2], [-1, -1]]))
        tensor([[ 8, -1],
                [ 0,  6],
                [-1, -1]], dtype=torch.int32)
    """

    def __init__(self, bpe: "SIDBPE") -> None:
        super().__init__()
        sizes = bpe.spec.codebook_sizes
        self.content_hash = bpe.content_hash
        self.num_levels = len(sizes)
        self._first = [sum(sizes[:level]) for level in range(len(sizes))]
        self._num_base = sum(sizes)
        self._num_units = bpe.num_units
        self._num_merges = len(bpe.merges)
        pairs = bpe.merges[:, 0].astype(np.int64) * bpe.num_units + bpe.merges[:, 1]
        ranks = np.arange(len(pairs))[:, None]
        self.pairs = SIDLookup(SIDTable(pairs, ranks, spec=SIDSpec((max(1, len(pairs)),))))

    def forward(self, codes: Tensor) -> Tensor:
        """Merge the codes of each item.

        Args:
            codes: Codes within their codebooks, shape ``[n, N]``, int32 or int64; an item whose
                first code is negative is unknown.

        Returns:
            Units, shape ``[n, N]``, int32; -1 throughout for an unknown item.

        Raises:
            ValueError: If ``codes`` is not an integer matrix of ``N`` columns.
        """
        rows = _check.shape(_check.integer(codes, "codes"), "codes", [-1, self.num_levels])
        base = [rows[:, level] + first for level, first in enumerate(self._first)]
        units = torch.where(rows[:, :1] < 0, -1, torch.stack(base, dim=1)).long()
        if self._num_merges:
            place = torch.arange(self.num_levels, device=units.device)
            for _ in range(self.num_levels - 1):
                units = self._merge_earliest(units, place)
        return units.int()

    def _merge_earliest(self, units: Tensor, place: Tensor) -> Tensor:
        # With nothing (-1) on the right it reads as a pair with the last unit, which no merge has.
        pairs = units[:, :-1] * self._num_units + units[:, 1:]
        rank = self.pairs(pairs.flatten()).view(-1, self.num_levels - 1)
        rank = torch.where(rank < 0, self._num_merges, rank)
        earliest, at = rank.min(dim=1, keepdim=True)
        merges = earliest < self._num_merges
        closed = torch.nn.functional.pad(units, (0, 1), value=-1.0).gather(
            1, place + (merges & (place > at)).long()
        )
        return torch.where(merges & (place == at), earliest + self._num_base, closed)

    def get_extra_state(self) -> str:
        """Return what a checkpoint must remember: the content hash of the merges."""
        return self.content_hash

    def set_extra_state(self, state: object) -> None:
        """Refuse a checkpoint whose rows belong to other units.

        Args:
            state: What :meth:`get_extra_state` returned when the checkpoint was written.

        Raises:
            SIDVersionError: If the merges were others.
        """
        if state != self.content_hash:
            raise SIDVersionError(
                f"checkpoint must hold units of the SIDBPE {self.content_hash}, got {state}"
            )
