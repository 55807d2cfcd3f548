"""What an item is as a vector: pooled content vectors of a batch, looked up by raw item id.

``ContentVectors`` holds the vectors of a catalogue, made elsewhere from text or pictures, as a
constant of the model: replicated, never trained, and not in the ``state_dict``, which carries a
hash of them instead. ``ContentSource`` pools those of one feature of the batch. An item without
a vector reads a learned one.

Memory per replica: ``4 (D + 1)`` bytes an item beside the ids (see ``SIDLookup``). A catalogue
that is too large for that lets the vectors arrive as dense features, or uses semantic IDs.

Source: ours; R3-VAE, arXiv 2604.11440, compares content vectors and SIDs in place of the item's id.

Shapes: ``n`` ids of a feature in the batch, ``B`` bags, ``V`` items, ``D`` width of the vectors.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor

from sidrank.embeddings.sid_sources import RawIDSource
from sidrank.layers._kept_buffers import KeepsBuffers
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, SIDVersionError

__all__ = ["ContentSource", "ContentVectors"]


class ContentVectors(nn.Module):
    """The content vectors of a catalogue; several sources may share one.

    Args:
        item_ids: Distinct raw item ids, shape ``[V]``, integers.
        vectors: Their vectors, shape ``[V, D]``.
        ancestors: Hashes of earlier catalogues (``content_hash``) whose checkpoints are
            accepted: their items must still have the vectors they had.

    Raises:
        TypeError: If ``item_ids`` are not integers.
        ValueError: If an id occurs twice, there is no item, shapes differ, or a vector is not
            finite.

    Attributes:
        dim: Width ``D``.
        content_hash: SHA-256 of ids and vectors, whatever their order.
    """

    def __init__(
        self,
        item_ids: NDArray[Any] | Sequence[int],
        vectors: NDArray[Any],
        *,
        ancestors: Sequence[str] = (),
    ) -> None:
        super().__init__()
        ids, given = np.asarray(item_ids), np.asarray(vectors, dtype=np.float32)
        if given.ndim != 2 or given.shape[0] != len(ids) or 0 in given.shape:
            raise ValueError(
                "vectors must have one row for each item id and at least one item and column,"
                f" got shape {list(given.shape)} for {len(ids)} ids"
            )
        finite = np.isfinite(given).all(axis=1)
        if not finite.all():
            raise ValueError(f"vectors must be finite, got another in row {int(finite.argmin())}")
        rows = SIDTable(ids, np.arange(len(ids))[:, None], spec=SIDSpec((len(ids),)))
        self.dim: int = given.shape[1]
        self.lookup = _RowLookup(rows)
        # Of the last row, that of unknown items, only the last column is set: it counts them.
        table = np.zeros((len(ids) + 1, self.dim + 1), dtype=np.float32)
        table[:-1, :-1] = given
        table[-1, -1] = 1.0
        self.table = _Table(torch.from_numpy(table))
        digest = hashlib.sha256(rows.item_ids.tobytes())
        digest.update(given[rows.codes[:, 0]].tobytes())
        self.content_hash = digest.hexdigest()
        self._ancestors = tuple(ancestors)

    def get_extra_state(self) -> str:
        """The content hash, which a checkpoint carries."""
        return self.content_hash

    def set_extra_state(self, state: str) -> None:
        """Refuse a checkpoint that was trained with other vectors.

        Args:
            state: What ``get_extra_state`` returned when the checkpoint was written.

        Raises:
            SIDVersionError: If the hashes differ.
        """
        if state != self.content_hash and state not in self._ancestors:
            raise SIDVersionError(
                f"checkpoint must hold the content vectors {self.content_hash}, got {state}"
            )

    def forward(self, rows: Tensor, bag: JaggedTensor) -> Tensor:
        """Sum the vectors of each bag.

        Args:
            rows: Row of each id, shape ``[n]``, -1 where it has none.
            bag: The bags the ids came in.

        Returns:
            Sums, weighted if the bag is, shape ``[B, D + 1]``: the last column counts the
            unknown.
        """
        return _pool(rows.long(), self.table.rows, bag)


class ContentSource(nn.Module):
    """Pool the content vectors of a raw-id feature.

    Args:
        feature: Key of the feature that carries raw item ids, one or more a bag.
        vectors: The catalogue; may be shared by several sources.

    Example:
        >>> vectors = ContentVectors([7, 9], np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["raw"], values=torch.tensor([7, 9, 8]), lengths=torch.tensor([2, 1]))
        >>> ContentSource("raw", vectors)(batch).tolist()
        [[4.0, 6.0], [0.0, 0.0]]
    """

    def __init__(self, feature: str, vectors: ContentVectors) -> None:
        super().__init__()
        self.feature = feature
        self.vectors = vectors
        self.rows = RawIDSource(feature, vectors.lookup)
        self.default = nn.Parameter(torch.zeros(vectors.dim))

    def reset_parameters(self) -> None:
        """Let the vector of unknown items be born again: zero."""
        nn.init.zeros_(self.default)

    def coverage(self) -> float:
        """Share of the ids seen since the last reset that have a vector; NaN before the first.

        Returns:
            A share in ``[0, 1]``. Waits for the device.
        """
        return self.rows.coverage()

    def reset_coverage(self) -> None:
        """Start counting anew."""
        self.rows.reset_coverage()

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """Pool the vectors of each bag.

        Args:
            features: The batch.

        Returns:
            Sums, weighted if the batch is, shape ``[B, D]``.

        Raises:
            ValueError: If the feature is missing, not integer or its batch size varies.
        """
        rows, bag = self.rows(features)
        pooled = self.vectors(rows[:, 0], bag)
        pooled = pooled.to(self.default.dtype)
        return pooled[:, :-1] + pooled[:, -1:] * self.default


class _RowLookup(SIDLookup):
    """Row numbers in place of codes; their version is that of the vectors."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state


class _Table(KeepsBuffers):
    """The vectors."""

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)


@torch.fx.wrap
def _pool(rows: Tensor, table: Tensor, bag: JaggedTensor) -> Tensor:
    last = table.size(0) - 1
    return F.embedding_bag(
        torch.where(rows < 0, last, rows),
        table,
        bag.offsets().long(),
        mode="sum",
        per_sample_weights=bag.weights_or_none(),
        include_last_offset=True,
    )
