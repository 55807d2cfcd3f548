"""Which semantic ID each item has: an immutable, versioned table from item id to codes.

Embedding rows are trained for the codes that an item had, so a published code never moves:
a table only grows, by :meth:`SIDTable.append`, and every growth is a new version that
remembers the content hashes of all tables it grew from. A checkpoint can therefore tell its
own table and an ancestor of it (safe) from any other table (refused).

Shapes: ``V`` items, ``N`` levels.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_code_rows, as_integers
from sidrank.semantic_ids.spec import SIDSpec

__all__ = ["SIDTable", "SIDVersionError"]

_HASH = re.compile("[0-9a-f]{64}")


class SIDVersionError(ValueError):
    """The codes at hand are not the codes that were promised: other content or version."""


class SIDTable:
    """Codes of every known item, sorted by item id.

    The content hash covers the spec, the ids and the codes, and neither the version nor the
    order in which the items were given. The arrays cannot be written to.

    Args:
        item_ids: Distinct item ids in any order, shape ``[V]``, any integer dtype, int64 range.
        codes: One code per level, shape ``[V, N]``, any integer dtype, in the order of
            ``item_ids``.
        spec: Codebook sizes, one per level.
        version: Version number, 1 for a table that grew from no other.
        ancestors: Content hashes of the tables it grew from, oldest first.

    Raises:
        TypeError: If ``item_ids`` or ``codes`` are not integers.
        ValueError: If shapes disagree, an id occurs twice, a code is outside its codebook,
            or ``version`` and ``ancestors`` contradict each other.

    Example:
        >>> table = SIDTable([30, 10], [[1, 2], [3, 0]], spec=SIDSpec((4, 4)))
        >>> table.item_ids.tolist(), table.codes.tolist()
        ([10, 30], [[3, 0], [1, 2]])
        >>> table.lookup(np.array([30, 20])).tolist()
        [[1, 2], [-1, -1]]
        >>> table.append([20], [[0, 0]]).parent == table.content_hash
        True
    """

    def __init__(
        self,
        item_ids: NDArray[Any] | Tensor | Sequence[int],
        codes: NDArray[Any] | Tensor | Sequence[Sequence[int]],
        *,
        spec: SIDSpec,
        version: int = 1,
        ancestors: Sequence[str] = (),
    ) -> None:
        ids, rows = _checked(item_ids, codes, spec)
        self._spec = spec
        self._version, self._ancestors = _checked_lineage(version, ancestors)
        order = np.argsort(ids, kind="stable")
        # bytes own no write flag that a caller could set, unlike a read-only array
        id_bytes, code_bytes = ids[order].tobytes(), rows[order].tobytes()
        self._item_ids: NDArray[np.int64] = np.frombuffer(id_bytes, dtype="<i8")
        self._codes: NDArray[np.int32] = np.frombuffer(code_bytes, dtype="<i4").reshape(rows.shape)
        header = json.dumps({"codebook_sizes": spec.codebook_sizes})
        digest = hashlib.sha256(header.encode())
        digest.update(id_bytes)
        digest.update(code_bytes)
        self._content_hash = digest.hexdigest()

    @property
    def item_ids(self) -> NDArray[np.int64]:
        """Sorted item ids, shape ``[V]``, read-only."""
        return self._item_ids

    @property
    def codes(self) -> NDArray[np.int32]:
        """Codes in the order of ``item_ids``, shape ``[V, N]``, read-only."""
        return self._codes

    @property
    def spec(self) -> SIDSpec:
        """Codebook sizes."""
        return self._spec

    @property
    def version(self) -> int:
        """Version number; :meth:`append` adds one."""
        return self._version

    @property
    def content_hash(self) -> str:
        """SHA-256 of spec, ids and codes, as 64 hexadecimal digits."""
        return self._content_hash

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Content hashes of the tables this one grew from, oldest first."""
        return self._ancestors

    @property
    def parent(self) -> str | None:
        """Content hash of the table this one was appended to, if any."""
        return self._ancestors[-1] if self._ancestors else None

    def __reduce__(self) -> tuple[Any, ...]:
        # unpickled arrays would be writable; the constructor checks and freezes them
        make = partial(SIDTable, spec=self._spec, version=self._version, ancestors=self._ancestors)
        return make, (self._item_ids, self._codes)

    def __len__(self) -> int:
        return len(self._item_ids)

    def __repr__(self) -> str:
        return (
            f"SIDTable(items={len(self)}, codebook_sizes={self._spec.codebook_sizes}, "
            f"version={self._version}, content_hash={self._content_hash[:12]}…)"
        )

    @overload
    def lookup(self, ids: Tensor) -> Tensor: ...
    @overload
    def lookup(self, ids: NDArray[Any]) -> NDArray[np.int32]: ...
    def lookup(self, ids: NDArray[Any] | Tensor) -> NDArray[np.int32] | Tensor:
        """Codes of the given items, by binary search on the CPU.

        Inside a model use :class:`~sidrank.semantic_ids.SIDLookup`, which stays on the device.

        Args:
            ids: Item ids, shape ``[n]``, int64 range.

        Returns:
            Codes, shape ``[n, N]``, int32, -1 in every level of an unknown item; an array
            for an array, a tensor on the same device for a tensor.

        Raises:
            TypeError: If ``ids`` are not integers.
            ValueError: If ``ids`` is not a vector.
        """
        wanted = as_integers(ids, "ids")
        if wanted.ndim != 1:
            raise ValueError(f"ids must have shape [n], got {list(wanted.shape)}")
        found, rows = self._find(wanted)
        out = np.full((len(wanted), self._spec.num_levels), -1, dtype=np.int32)
        out[found] = self._codes[rows[found]]
        return torch.from_numpy(out).to(ids.device) if isinstance(ids, Tensor) else out

    def append(
        self,
        item_ids: NDArray[Any] | Tensor | Sequence[int],
        codes: NDArray[Any] | Tensor | Sequence[Sequence[int]],
    ) -> "SIDTable":
        """Return the next version of this table, with new items added.

        An item that is already present with the same codes is accepted and changes nothing,
        so that a whole re-encoded catalogue can be appended; if no item is new, the table
        itself is returned and the version stays.

        Args:
            item_ids: Distinct item ids, shape ``[n]``.
            codes: Their codes, shape ``[n, N]``.

        Returns:
            A table of the next version whose parent is this one, or this one.

        Raises:
            TypeError: If ``item_ids`` or ``codes`` are not integers.
            ValueError: If shapes disagree, an id is given twice or a code is outside its
                codebook.
            SIDVersionError: If an item is already present with other codes.
        """
        ids, rows = _checked(item_ids, codes, self._spec)
        present, at = self._find(ids)
        moved = present.copy()
        moved[present] = (rows[present] != self._codes[at[present]]).any(axis=1)
        if moved.any():
            first = int(np.flatnonzero(moved)[0])
            raise SIDVersionError(
                f"codes of item {ids[first]} must stay {self._codes[at[first]].tolist()} "
                f"as published in version {self._version}, got {rows[first].tolist()}"
            )
        if present.all():
            return self
        return SIDTable(
            np.concatenate([self._item_ids, ids[~present]]),
            np.concatenate([self._codes, rows[~present]]),
            spec=self._spec,
            version=self._version + 1,
            ancestors=(*self._ancestors, self._content_hash),
        )

    def _find(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        rows = np.searchsorted(self._item_ids, ids)
        found = rows < len(self)
        found[found] = self._item_ids[rows[found]] == ids[found]
        return found, rows


def _checked(
    item_ids: NDArray[Any] | Tensor | Sequence[int],
    codes: NDArray[Any] | Tensor | Sequence[Sequence[int]],
    spec: SIDSpec,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    ids = as_integers(item_ids, "item_ids")
    if ids.ndim != 1:
        raise ValueError(f"item_ids must have shape [V], got {list(ids.shape)}")
    rows = as_code_rows(codes, ids, spec)
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(f"item_ids must be distinct, got {twice[0]} more than once")
    return ids.astype("<i8"), rows.astype("<i4")


def _checked_lineage(version: int, ancestors: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    if type(version) is not int:
        raise TypeError(f"version must be an integer, got {version!r}")
    for ancestor in ancestors:
        if not isinstance(ancestor, str) or not _HASH.fullmatch(ancestor):
            raise ValueError(f"ancestors must be 64 hexadecimal digits each, got {ancestor!r}")
    if version <= len(ancestors):
        raise ValueError(f"version must exceed the {len(ancestors)} ancestors, got {version}")
    return version, tuple(ancestors)
