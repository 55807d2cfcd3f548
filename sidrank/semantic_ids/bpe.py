"""Byte-pair units over semantic IDs: frequent items become one unit, rare ones stay in pieces.

A semantic ID is a word of ``N`` symbols, one a level (code 5 of level 1 is not code 5 of level 2).
Training weighs each item's word by its exposure and merges the heaviest pair of neighbours again
and again. Popular stretches of codes, up to whole SIDs, earn a unit and with it a row of a memory
table; what nobody sees shares the rows of its parts. The number of units caps the table.

Units are dense ids: first the base symbols, level by level (those that no item has, too: the next
version of a table may use them), then one unit a merge in the order learned. Each unit is a
distinct stretch of codes. A word's units say which codes it has, so decoding is exact.

What it cannot do is tell items with the same SID apart: they have the same units by construction,
and ``unit_usage`` says how many there are.

Source: "Farewell to Item IDs" (TRM), arXiv 2601.22694, mem-tokens; Sennrich et al., arXiv
1508.07909, byte-pair encoding.
Differs from the source: ties are broken by unit id, so that a training can be repeated [derived].
Why an own trainer: Hugging Face's takes no weights and knows symbols as characters.

Shapes: ``V`` items, ``N`` levels, ``M`` merges, ``U`` units.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._bpe_merges import exposure_weights, learn_merges
from sidrank.semantic_ids._integers import as_integers
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable
from sidrank.semantic_ids.unit_encoder import SIDUnitEncoder

__all__ = ["SIDBPE"]

_LARGEST_UNIT = 2**31 - 2  # with a row for the unknown item, rows fit an int32 batch
_BLOCK = 2**16  # items spelled at a time: what they take stays in the cache


class SIDBPE:
    """Merges of adjacent units, in the order learned.

    It applies to every table of its spec: merges learned on one version of a table serve the
    next ones. ``table_hash`` and ``table_version`` say where it comes from and forbid nothing.

    Args:
        merges: Left and right unit of each merge, shape ``[M, 2]``.
        spec: Codebook sizes of the SIDs.
        table_hash: Content hash of the table it was trained on.
        table_version: Version of that table.

    Raises:
        TypeError: If ``merges`` are not integers.
        ValueError: If a merge uses a unit that does not exist before it, joins units that are
            not neighbours or repeats another one, or there are too many units.

    Example:
        >>> spec = SIDSpec((4, 4, 4))
        >>> table = SIDTable([1, 2, 3], [[0, 1, 2], [0, 1, 3], [2, 1, 2]], spec=spec)
        >>> bpe = SIDBPE.train(table, [90, 5, 9], max_units=14)
        >>> bpe.encode(table.codes).tolist()
        [[13, -1, -1], [0, 5, 11], [2, 12, -1]]
    """

    def __init__(
        self,
        merges: NDArray[Any] | Tensor | Sequence[Sequence[int]],
        *,
        spec: SIDSpec,
        table_hash: str | None = None,
        table_version: int | None = None,
    ) -> None:
        pairs = as_integers(merges, "merges")
        pairs = pairs.reshape(0, 2) if pairs.size == 0 else pairs
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"merges must have shape [M, 2], got {list(pairs.shape)}")
        self.spec = spec
        self.table_hash = table_hash
        self.table_version = table_version
        self.num_base = sum(spec.codebook_sizes)
        self.num_units = self.num_base + len(pairs)
        if self.num_units > _LARGEST_UNIT:
            raise ValueError(f"units must number at most {_LARGEST_UNIT}, got {self.num_units}")
        self._starts, self._ends = _spans(pairs, spec)
        self.merges: NDArray[np.int32] = pairs.astype("<i4")
        self.merges.setflags(write=False)
        header = json.dumps({"codebook_sizes": spec.codebook_sizes})
        self.content_hash = hashlib.sha256(header.encode() + self.merges.tobytes()).hexdigest()

    @classmethod
    def train(
        cls,
        table: SIDTable,
        exposures: NDArray[Any] | Tensor | Sequence[int] | None = None,
        *,
        max_units: int,
        min_weight: int = 1,
    ) -> "SIDBPE":
        """Learn merges from a table and how often its items were shown.

        The heaviest pair goes first; among pairs of one weight the one with the smaller left
        unit, then the smaller right unit. Neither the order of the items nor how exposures are
        divided among items of one SID matters.

        Args:
            table: The items' codes.
            exposures: How often each item was shown, in the order of ``table.item_ids``, shape
                ``[V]``, integers (so that sums are exact: scale and round what is not); one each
                if None. Count what lies before the log that the ranker trains on.
            max_units: Largest number of units, base symbols included.
            min_weight: Least weight of a pair worth a unit.

        Returns:
            The merges.

        Raises:
            TypeError: If ``exposures`` are not integers.
            ValueError: If ``exposures`` has another shape, a negative entry or a sum beyond
                int64, if ``max_units`` does not hold the base symbols or row ids of 32 bits, or
                if ``min_weight`` is below 1.
        """
        sizes = table.spec.codebook_sizes
        if not sum(sizes) <= max_units <= _LARGEST_UNIT:
            raise ValueError(
                f"max_units must be in [{sum(sizes)}, {_LARGEST_UNIT}], the first being one unit"
                f" for each code, got {max_units}"
            )
        if min_weight < 1:
            raise ValueError(f"min_weight must be at least 1, got {min_weight}")
        weights = exposure_weights(exposures, len(table))
        seen = weights > 0
        words, inverse = np.unique(table.codes[seen].astype(np.int64), axis=0, return_inverse=True)
        totals = np.zeros(len(words), dtype=np.int64)
        np.add.at(totals, inverse.ravel(), weights[seen])
        first = np.cumsum([0, *sizes[:-1]])
        merges = learn_merges(
            words + first,
            totals,
            sizes=sizes,
            max_merges=max_units - sum(sizes),
            min_weight=min_weight,
        )
        return cls(
            merges,
            spec=table.spec,
            table_hash=table.content_hash,
            table_version=table.version,
        )

    def __repr__(self) -> str:
        return (
            f"SIDBPE(codebook_sizes={self.spec.codebook_sizes}, units={self.num_units},"
            f" content_hash={self.content_hash[:12]}…)"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SIDBPE) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def first(self, num_units: int) -> "SIDBPE":
        """Keep only the first units: what training with that cap would have learned.

        Args:
            num_units: Number of units, base symbols included.

        Returns:
            The shorter list of merges.

        Raises:
            ValueError: If there are fewer units, or more base symbols.
        """
        if not self.num_base <= num_units <= self.num_units:
            raise ValueError(
                f"num_units must be in [{self.num_base}, {self.num_units}], got {num_units}"
            )
        return SIDBPE(
            self.merges[: num_units - self.num_base],
            spec=self.spec,
            table_hash=self.table_hash,
            table_version=self.table_version,
        )

    @overload
    def encode(self, codes: Tensor) -> Tensor: ...
    @overload
    def encode(self, codes: NDArray[Any]) -> NDArray[np.int32]: ...
    def encode(self, codes: NDArray[Any] | Tensor) -> NDArray[np.int32] | Tensor:
        """Spell SIDs in units.

        Args:
            codes: Codes, shape ``[n, N]``; a row of -1 is an unknown item.

        Returns:
            Units from the first level to the last, left-aligned and filled up with -1: shape
            ``[n, N]``, int32; an array for an array, a tensor on the same device for a tensor.

        Raises:
            TypeError: If ``codes`` are not integers.
            ValueError: If the shape differs or a code is outside its codebook.
        """
        rows = as_integers(codes, "codes")
        _check_rows(rows, self.spec)
        units = np.empty(rows.shape, dtype=np.int32)
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            units[block] = self._encoder(torch.from_numpy(rows[block])).numpy()
        return torch.from_numpy(units).to(codes.device) if isinstance(codes, Tensor) else units

    def decode(self, units: NDArray[Any] | Tensor) -> NDArray[np.int32]:
        """Give back the codes that units stand for.

        Args:
            units: What :meth:`encode` returns, shape ``[n, N]``.

        Returns:
            Codes, shape ``[n, N]``, int32; a row of -1 for a row of -1.

        Raises:
            TypeError: If ``units`` are not integers.
            ValueError: If a row does not spell a SID: a unit does not exist, or does not start
                where the one before it ends.
        """
        rows = as_integers(units, "units")
        levels = self.spec.num_levels
        if rows.ndim != 2 or rows.shape[1] != levels:
            raise ValueError(f"units must have shape [n, {levels}], got {list(rows.shape)}")
        at = np.zeros(len(rows), dtype=np.int64)
        good, ended = np.ones(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
        codes = np.full(rows.shape, -1, dtype=np.int32)
        for column in rows.T:
            there = column >= 0
            ended |= ~there
            good &= (column < self.num_units) & ~(there & ended)
            unit = np.where(there & good, column, 0)
            good &= ~there | (self._starts[unit] == at)
            picked = np.flatnonzero(there & good)
            codes[picked] = np.maximum(codes[picked], self._codes[unit[picked]])
            at[picked] = self._ends[unit[picked]]
        good &= (at == levels) | (rows < 0).all(axis=1)
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise ValueError(
                f"units must spell a SID of {levels} levels, got {rows[row]} (row {row})"
            )
        return codes

    def check_spec(self, spec: SIDSpec) -> None:
        """Refuse SIDs of another shape.

        Args:
            spec: Codebook sizes of the SIDs at hand.

        Raises:
            ValueError: If they differ from those that the merges were learned on.
        """
        if spec != self.spec:
            raise ValueError(f"spec must be that of the SIDBPE, {self.spec}, got {spec}")

    @cached_property
    def _encoder(self) -> SIDUnitEncoder:
        return SIDUnitEncoder(self)

    @cached_property
    def _codes(self) -> NDArray[np.int32]:
        """Codes of each unit, -1 in the levels that it does not cover, ``[U, N]``."""
        sizes = self.spec.codebook_sizes
        codes = np.full((self.num_units, len(sizes)), -1, dtype=np.int32)
        level = np.repeat(np.arange(len(sizes)), sizes)
        codes[np.arange(self.num_base), level] = np.concatenate([np.arange(k) for k in sizes])
        lengths = (self._ends - self._starts)[self.num_base :]
        for length in range(2, len(sizes) + 1):  # parts are shorter than the whole
            which = np.flatnonzero(lengths == length)
            left, right = self.merges[which].T
            codes[self.num_base + which] = np.maximum(codes[left], codes[right])
        return codes


def _spans(pairs: NDArray[np.int64], spec: SIDSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First level of each unit and the level behind its last."""
    level = np.repeat(np.arange(spec.num_levels), spec.codebook_sizes)
    unresolved = np.full(len(pairs), -1)
    starts, ends = np.r_[level, unresolved], np.r_[level + 1, unresolved]
    units = len(level) + np.arange(len(pairs))
    early = (pairs < 0) | (pairs >= units[:, None])
    if early.any():
        row = int(np.flatnonzero(early.any(axis=1))[0])
        raise ValueError(
            f"merges must join units that exist before, got {pairs[row].tolist()} for unit"
            f" {units[row]}"
        )
    for _ in range(spec.num_levels - 1):
        starts[units], ends[units] = starts[pairs[:, 0]], ends[pairs[:, 1]]
    apart = ends[pairs[:, 0]] != starts[pairs[:, 1]]
    apart |= (starts[units] < 0) | (ends[units] < 0)
    if apart.any():
        row = int(np.flatnonzero(apart)[0])
        raise ValueError(f"merges must join neighbours, got {pairs[row].tolist()}")
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    if len(distinct) < len(pairs):
        raise ValueError(f"merges must be distinct, got {distinct[counts > 1][0].tolist()} twice")
    return starts, ends


def _check_rows(rows: NDArray[np.int64], spec: SIDSpec) -> None:
    levels = spec.num_levels
    if rows.ndim != 2 or rows.shape[1] != levels:
        raise ValueError(f"codes must have shape [n, {levels}], got {list(rows.shape)}")
    outside = (rows < 0) | (rows >= np.array(spec.codebook_sizes, dtype=np.int64))
    outside &= ~(rows == -1).all(axis=1, keepdims=True)
    if outside.any():
        row, level = (int(index[0]) for index in np.nonzero(outside))
        raise ValueError(
            f"codes of level {level} must be within [0, {spec.codebook_sizes[level]}), got"
            f" {rows[row, level]} (row {row})"
        )
