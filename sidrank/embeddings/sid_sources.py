"""Where the SID codes of a batch come from.

``RawIDSource`` looks the raw item ids of one feature up in a replicated ``SIDLookup``.
``CodeFeatureSource`` reads codes that the data loader already put beside the item, one feature
per level: the way for a catalogue whose lookup would not fit beside the model (at three levels
and 10 million items it takes 120 to 240 MB on every device for compact ids and about 300 MB for
arbitrary 64-bit ids, see ``SIDLookup``).

Both return one row of codes per id of the batch, -1 in every level where the item is unknown,
and count on the device, without a sync, how many were.

A production batch often carries its item ids already hashed into table rows. Those cannot be
looked up: name a feature with the *raw* id.

Source: ours; the need is stated by SID-Coord, arXiv 2604.10471, which precomputes SIDs off line.

Shapes: ``n`` ids of the feature in the whole batch, ``N`` levels, ``B`` bags.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor

from sidrank import _check
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDVersionError

__all__ = ["CodeFeatureSource", "RawIDSource"]


class _Source(nn.Module):
    """Codes of one item feature, with a count of the unknown."""

    spec: SIDSpec
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64, device="cpu"), False)

    def coverage(self) -> float:
        """Share of the ids seen since the last reset whose SID is known.

        Reads a counter from the device: call it between steps, not in them. Each rank counts
        its own batches.

        Returns:
            A share in ``[0, 1]``; NaN before the first id.
        """
        seen, unknown = self.counts.tolist()
        return 1.0 - unknown / seen if seen else float("nan")

    def reset_coverage(self) -> None:
        """Start counting anew."""
        self.counts.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # to_empty() fills buffers with whatever was in memory; a count must not be.
        before = self.counts
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        if not self.counts.is_meta:
            if before.is_meta:
                self.counts.zero_()
            elif before.data_ptr() != self.counts.data_ptr():
                self.counts.copy_(before)
        return self


class RawIDSource(_Source):
    """Look up the codes of a raw-id feature.

    Args:
        feature: Key of the feature that carries raw item ids, one or more a bag.
        lookup: The items' codes; may be shared by several sources.

    Example:
        >>> import numpy as np
        >>> from sidrank.semantic_ids import SIDTable
        >>> spec = SIDSpec((4, 4))
        >>> lookup = SIDLookup(SIDTable(np.array([7, 9]), np.array([[0, 1], [2, 3]]), spec=spec))
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item_raw"], values=torch.tensor([9, 8]), lengths=torch.tensor([1, 1]))
        >>> codes, bag = RawIDSource("item_raw", lookup)(batch)
        >>> codes.tolist()
        [[2, 3], [-1, -1]]
    """

    def __init__(self, feature: str, lookup: SIDLookup) -> None:
        super().__init__()
        self.feature = feature
        self.lookup = lookup
        self.spec = lookup.spec

    def forward(self, features: KeyedJaggedTensor) -> tuple[Tensor, JaggedTensor]:
        """Codes of each id of the feature.

        Args:
            features: The batch.

        Returns:
            Codes, int32 ``[n, N]``, -1 where unknown, and the bags the ids came in.

        Raises:
            ValueError: If the feature is missing or its batch size varies by feature.
        """
        bag = _bag(features, self.feature)
        ids = _check.integer(bag.values(), self.feature)
        return _count_unknown(self.lookup(ids), self.counts), bag


class CodeFeatureSource(_Source):
    """Read codes that arrive as features, one per level.

    Args:
        features: Keys of the code features, level by level; their bags have equal lengths. A code
            that is negative or beyond its codebook makes the whole item unknown, and bags of
            unequal length the whole batch (which ``check_coverage`` then reports).
        spec: Codebook sizes of the SIDs.
        content_hash: Hash of the ``SIDTable`` that the loader read the codes from; it goes
            into checkpoints, and a checkpoint with another one is refused. None: unversioned.
        ancestors: Hashes of the tables that it grew from (``SIDTable.ancestors``); their
            checkpoints are accepted, since published codes never move.

    Raises:
        ValueError: If there is not one feature a level.

    Example:
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["c1", "c2"], values=torch.tensor([3, 1, 2, 9]), lengths=torch.ones(4).int())
        >>> codes, bag = CodeFeatureSource(["c1", "c2"], SIDSpec((4, 4)))(batch)
        >>> codes.tolist()
        [[3, 2], [-1, -1]]
    """

    def __init__(
        self,
        features: Sequence[str],
        spec: SIDSpec,
        *,
        content_hash: str | None = None,
        ancestors: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if isinstance(features, str) or len(features) != spec.num_levels:
            raise ValueError(
                f"features must name one code feature for each of {spec.num_levels} levels,"
                f" got {features!r}"
            )
        self.features = list(features)
        self.spec = spec
        self.content_hash = content_hash
        self._ancestors = tuple(ancestors)

    def forward(self, features: KeyedJaggedTensor) -> tuple[Tensor, JaggedTensor]:
        """Codes of each id.

        Args:
            features: The batch.

        Returns:
            Codes, int32 ``[n, N]``, -1 where unknown, and the bags of the first code feature.

        Raises:
            ValueError: If a feature is missing, if the code features differ in their number of
                values, or if the batch size varies by feature.
        """
        bag = _bag(features, self.features[0])
        bags: list[JaggedTensor] = []
        columns: list[Tensor] = []
        for name, size in zip(self.features, self.spec.codebook_sizes, strict=True):
            bags.append(_bag(features, name))
            column = _check.integer(bags[-1].values(), name)
            columns.append(torch.where((column >= 0) & (column < size), column, -1))
        codes = _stack_codes(columns, self.features)
        known = (codes >= 0).all(dim=1, keepdim=True) & _aligned(bags)
        return _count_unknown(torch.where(known, codes, -1), self.counts), bag

    def get_extra_state(self) -> str:
        """The hash of the table that the codes come from, empty if unversioned."""
        return self.content_hash or ""

    def set_extra_state(self, state: str) -> None:
        """Refuse a checkpoint whose codes came from another table.

        Args:
            state: What ``get_extra_state`` returned when the checkpoint was written.

        Raises:
            SIDVersionError: If the hashes differ.
        """
        if state != self.get_extra_state() and state not in self._ancestors:
            raise SIDVersionError(
                f"content_hash must be that of the checkpoint, {state!r},"
                f" got {self.get_extra_state()!r}"
            )


@torch.fx.wrap
def _bag(features: KeyedJaggedTensor, key: str) -> JaggedTensor:
    keys = features.keys()
    if key not in keys:
        raise ValueError(f"features must contain the key {key}, got {keys}")
    if features.variable_stride_per_key():
        raise ValueError(f"features must have one batch size for all keys, got one per key ({key})")
    return features[key]


@torch.fx.wrap
def _stack_codes(columns: list[Tensor], names: list[str]) -> Tensor:
    for column, name in zip(columns, names):  # noqa: B905 (TorchScript has no strict)
        if column.size(0) != columns[0].size(0):
            raise ValueError(
                f"{name} must have as many values as {names[0]}, {columns[0].size(0)},"
                f" got {column.size(0)}"
            )
    return torch.stack(columns, dim=1).to(torch.int32)


@torch.fx.wrap
def _aligned(bags: list[JaggedTensor]) -> Tensor:
    same = bags[0].lengths() == bags[0].lengths()
    for bag in bags:
        same = same & (bag.lengths() == bags[0].lengths())
    return same.all()


@torch.fx.wrap
def _count_unknown(codes: Tensor, counts: Tensor) -> Tensor:
    # It returns the codes because FX removes a call whose result is unused.
    counts[0].add_(codes.size(0))
    counts[1].add_((codes[:, 0] < 0).sum())
    return codes
