"""From item ids to semantic IDs inside a model, on the device, without a data-dependent step.

Compact ids (none negative, the largest below about twice the number of items) index a dense
array: one ``index_select``. Any other ids go through a static perfect hash
(``perfect_hash.py``): one gather of a multiplier, one of the key for the exact comparison, one
of the codes.

The table is a constant of the model and no part of its weights. Its buffers are therefore
not in the ``state_dict``, which carries the table's content hash and version instead; and
whatever re-creates buffers in silence (meta-device construction, ``to_empty``, sharding
wrappers that turn meta buffers into zeros, which are valid codes) finds real ones.

Memory per replica, with ``N`` levels: dense, ``4 N`` bytes per id up to the largest id
(12 to 24 bytes per item for three levels); hashed, ``(8 + 4 N) / 0.75`` bytes per item for keys
and codes and 1.3 to 2.7 for multipliers (28 to 30 bytes per item for three levels). At 100
million items that is 3 GB on every rank: from there on, let the codes arrive as features.

Shapes: ``n`` ids, ``N`` levels, ``V`` items.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.semantic_ids.perfect_hash import build_perfect_hash
from sidrank.semantic_ids.table import SIDTable, SIDVersionError

__all__ = ["SIDLookup"]


class SIDLookup(nn.Module):
    """Codes of a batch of item ids; -1 in every level of an unknown item.

    A checkpoint is accepted if it was written with the same table or with one that this table
    grew from, since published codes never move. TorchScript and FX drop the extra state that
    this needs; record ``content_hash`` beside an exported model.

    Args:
        table: The codes of every known item.

    Attributes:
        spec: Codebook sizes of the table.
        content_hash: Content hash of the table.
        version: Version of the table.

    Example:
        >>> from sidrank.semantic_ids import SIDSpec
        >>> lookup = SIDLookup(SIDTable([7, 5], [[1, 0], [2, 3]], spec=SIDSpec((4, 4))))
        >>> lookup(torch.tensor([5, 6, 7]))
        tensor([[ 2,  3],
                [-1, -1],
                [ 1,  0]], dtype=torch.int32)
    """

    codes: Tensor
    keys: Tensor
    multipliers: Tensor
    offset: Tensor

    def __init__(self, table: SIDTable) -> None:
        super().__init__()
        self.spec = table.spec
        self.content_hash = table.content_hash
        self.version = table.version
        self._ancestors = table.ancestors
        self._dense = _is_dense(table)
        rows, keys, multipliers, self._salt = (
            _dense_rows(table) if self._dense else _hashed_rows(table)
        )
        self._last = len(rows) - 1  # the row of -1
        self._last_bucket = len(multipliers) - 1
        self._bucket_shift = min(63, 64 - self._last_bucket.bit_length())
        # torch.from_numpy ignores an enclosing `with torch.device("meta")`; factories do not
        self.register_buffer("codes", torch.from_numpy(rows), persistent=False)
        self.register_buffer("keys", torch.from_numpy(keys), persistent=False)
        self.register_buffer("multipliers", torch.from_numpy(multipliers), persistent=False)
        offset = torch.from_numpy(np.array(self._last << 31, dtype=np.int64))
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Look the codes up.

        Args:
            ids: Item ids, shape ``[n]``, int64 or int32.

        Returns:
            Codes, shape ``[n, N]``, int32.

        Raises:
            ValueError: If ``ids`` is not an integer vector.
        """
        key = _check.shape(_check.integer(ids, "ids"), "ids", [-1]).long()
        if self._dense:
            # rows 0 and last are -1, so that ids beyond either end need no comparison
            return self.codes.index_select(0, key.clamp(-1, self._last - 1).add_(1))
        mixed = key * self._salt
        mixed = (mixed >> 32).bitwise_and_(0xFFFFFFFF).bitwise_xor_(mixed).mul_(self._salt)
        bucket = (mixed >> self._bucket_shift).bitwise_and_(self._last_bucket)
        multiplier = self.multipliers.gather(0, bucket)
        high = multiplier.mul_(mixed).bitwise_right_shift_(32)
        slot = torch.add(self.offset, high, alpha=self._last).bitwise_right_shift_(32)
        known = self.keys.gather(0, slot) == key
        return self.codes.index_select(0, torch.where(known, slot, self._last))

    def get_extra_state(self) -> str:
        """Return what a checkpoint must remember of the table.

        One string, because ``torch.distributed.checkpoint`` takes a dictionary apart into
        entries of its own and then does not find them again.

        Returns:
            Content hash and version, ``"<hash>:<version>"``.
        """
        return f"{self.content_hash}:{self.version}"

    def set_extra_state(self, state: object) -> None:
        """Check that a checkpoint belongs to this table or to one it grew from.

        Args:
            state: What :meth:`get_extra_state` returned when the checkpoint was written.

        Raises:
            SIDVersionError: If it belongs to another table.
        """
        saved, _, version = str(state).partition(":")
        if saved != self.content_hash and saved not in self._ancestors:
            raise SIDVersionError(
                f"checkpoint must hold the SID table {self.content_hash} (version "
                f"{self.version}) or one it grew from, got {saved} (version {version})"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SIDLookup":
        # `fn` may empty a buffer or drop its values, so it only tells where to go
        probe = fn(torch.from_numpy(np.zeros(1, dtype=np.int32)).to(self.codes.device))
        for name, buffer in self._buffers.items():
            if buffer is None or probe.device.type == "meta":
                continue
            moved = buffer.to(probe.device)
            self._buffers[name] = moved.share_memory_() if probe.is_shared() else moved
        return self


def _is_dense(table: SIDTable) -> bool:
    if len(table) == 0:
        return True
    first, last = int(table.item_ids[0]), int(table.item_ids[-1])
    return first >= 0 and last < 2 * len(table) + 1024


def _dense_rows(table: SIDTable) -> tuple[Any, Any, Any, int]:
    size = int(table.item_ids[-1]) + 1 if len(table) else 0
    rows = np.full((size + 2, table.spec.num_levels), -1, dtype=np.int32)
    rows[table.item_ids + 1] = table.codes
    # of one element, unread: torch.export cannot save an empty buffer
    return rows, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 0


def _hashed_rows(table: SIDTable) -> tuple[Any, Any, Any, int]:
    found = build_perfect_hash(table.item_ids)
    rows = np.full((found.num_slots + 1, table.spec.num_levels), -1, dtype=np.int32)
    rows[found.slots] = table.codes
    # a free slot may hold any key: its codes are -1
    keys = np.zeros(found.num_slots, dtype=np.int64)
    keys[found.slots] = table.item_ids
    return rows, keys, found.multipliers, found.salt
