"""Exact mean of the AUCs inside groups (GAUC) of rows that arrive in batches.

A group's rows may be anywhere in the stream, so they are kept: 9 bytes a row where scores and
groups have 32 bits, up to 25 where both have 64 and there are weights; of string groups each
name once and 4 bytes a row. The value equals :func:`sidrank.metrics.grouped_auc` of all rows bit
for bit, whatever the batches, the shards and the order in which states were merged.

Source and definition: as :mod:`sidrank.metrics.grouped_auc`.
Differs from the source: rows come in batches.

Shapes: ``[n]`` rows of a batch, ``[G]`` groups.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sidrank.metrics._batches import Batch, checked_batches
from sidrank.metrics._columns import Column
from sidrank.metrics._group_names import GroupNames
from sidrank.metrics._row_store import RowStore, scores_of
from sidrank.metrics._wire import gathered, read_columns, signed, unsigned
from sidrank.metrics.auc import auc
from sidrank.metrics.grouped_auc import GroupAUCs, group_aucs

__all__ = ["StreamingGroupedAUC"]

_BITS = (torch.int32, torch.int64)
_BYTES = (torch.uint8,)
_DTYPES = {
    "keys": _BITS,
    "labels": (torch.bool,),
    "groups": _BITS,
    "weights": (torch.float64,),
    "group_kind": _BYTES,
    "name_bytes": _BYTES,
    "name_ends": (torch.int64,),
}


class StreamingGroupedAUC:
    """Mean of the exact AUCs inside groups, of all rows seen so far.

    Example:
        >>> stream = StreamingGroupedAUC()
        >>> stream.update([1, 0, 1], [0.9, 0.1, 0.2], ["ann", "ann", "bob"])
        >>> stream.update([0, 0, 1], [0.8, 0.3, 0.7], ["bob", "bob", "cid"])
        >>> stream.compute()
        0.4
        >>> stream.compute(weighting="unweighted", single_class="half")
        0.5
    """

    def __init__(self) -> None:
        self._rows = RowStore()
        self._names = GroupNames()

    @property
    def rows(self) -> int:
        """Rows seen so far, those of weight zero too."""
        return self._rows.total

    @property
    def positives(self) -> int:
        """Positive rows seen so far, those of weight zero too."""
        return self._rows.positives

    def update(
        self, labels: Column, scores: Column, groups: Column, weights: Column | None = None
    ) -> None:
        """Add rows. A batch that is refused changes nothing.

        Args:
            labels: Booleans or numbers in {0, 1}, shape ``[n]``.
            scores: Floats of any dtype, or integers of at most ``2**53`` in size, shape ``[n]``.
            groups: Integers or strings, the same in every batch, shape ``[n]``.
            weights: Row weights, finite and not negative, shape ``[n]``; None counts each row
                once, also beside weighted batches.

        Raises:
            ValueError: If :func:`sidrank.metrics.grouped_auc` would refuse a column, an integer
                score is too large, or the groups are of another kind than before.
        """
        batches = list(checked_batches(labels, scores, weights=weights, groups=groups))
        self._names.admit([batch.groups for batch in batches if batch.groups is not None])
        while batches:
            self._add(batches.pop(0))

    def merge(self, other: "StreamingGroupedAUC") -> None:
        """Add the rows of another state, in place.

        Args:
            other: A state with groups of the same kind, with the same rows afterwards.

        Raises:
            ValueError: If the groups are of different kinds.
        """
        self._names.join(other._names)
        if not other.rows:
            return
        if other._names.kind not in ("U", "S"):
            self._rows.merge(other._rows)
            return
        number = self._names.number_names(other._names.names())
        rows = other._rows.rows()
        self._rows.add(rows._replace(groups=number[rows.groups]))

    def compute(
        self,
        *,
        weighting: Literal["impressions", "unweighted", "positives"] = "impressions",
        single_class: Literal["skip", "half", "raise"] = "skip",
    ) -> float:
        """Weighted mean of the exact AUC inside each group.

        Args:
            weighting: As for :func:`sidrank.metrics.grouped_auc`.
            single_class: As for :func:`sidrank.metrics.grouped_auc`.

        Returns:
            The value :func:`sidrank.metrics.grouped_auc` gives for all rows at once.

        Raises:
            ValueError: If there is no row, no group counts, or a group has one class under
                ``"raise"``.
        """
        return self.group_aucs().mean(weighting=weighting, single_class=single_class)

    def group_aucs(self) -> GroupAUCs:
        """AUC, rows and positives of every group.

        Returns:
            The table :func:`sidrank.metrics.group_aucs` gives for all rows at once.

        Raises:
            ValueError: If there is no row.
        """
        if not self.rows:
            raise ValueError("labels must not be empty, got 0 rows")
        rows, names = self._rows.rows(), None
        groups: Any = rows.groups
        if self._names.kind in ("U", "S"):
            names, places = self._names.sorted()
            groups = places[groups]
        table = group_aucs(rows.positive, scores_of(rows.keys), groups, weights=rows.weights)
        return table if names is None else table._replace(group=names[table.group])

    def auc(self) -> float:
        """AUC of all rows, whatever their group.

        Returns:
            The value :func:`sidrank.metrics.auc` gives for all rows at once.

        Raises:
            ValueError: If only one class has been seen (or only one has weight).
        """
        if not 0 < self.positives < self.rows:
            raise ValueError(
                f"labels must contain both classes, got {self.positives} positives "
                f"in {self.rows} rows"
            )
        rows = self._rows.rows()
        return auc(rows.positive, scores_of(rows.keys), rows.weights)

    def all_reduce(self, process_group: dist.ProcessGroup | None = None) -> None:
        """Add the rows of all other ranks, in place: every rank ends with all rows.

        Every rank of the group must call it; a rank without rows does, too. Calling it again
        would count every row once per rank.

        Args:
            process_group: Ranks to add up, on a backend that moves CPU tensors (gloo); None
                for the default group.

        Raises:
            ValueError: If there is no process group or this rank is not in it, or, on all ranks
                together, if their groups are of different kinds.
        """
        total = StreamingGroupedAUC()
        for tensors in gathered(self.state_dict(), "grouped AUC", process_group):
            other = StreamingGroupedAUC()
            other.load_state_dict(tensors)
            total.merge(other)
        self._rows, self._names = total._rows, total._names

    def reset(self) -> None:
        """Forget all rows."""
        self._rows, self._names = RowStore(), GroupNames()

    def state_dict(self) -> dict[str, Tensor]:
        """State as tensors, to save with ``torch.save`` or safetensors.

        Returns:
            Vectors by name. They share memory with the state: copy them before changing them.
        """
        nothing = np.empty(0, np.uint32)
        rows = self._rows.rows() if self.rows else Batch(nothing == 0, nothing, None, nothing)
        names = [_encoded(name) for name in self._names.names()]
        columns: dict[str, Any] = {
            "keys": signed(rows.keys),
            "labels": rows.positive,
            "groups": signed(nothing if rows.groups is None else rows.groups),
            "weights": np.empty(0) if rows.weights is None else rows.weights,
            "group_kind": np.frombuffer(self._names.kind.encode(), np.uint8).copy(),
            "name_bytes": np.frombuffer(bytearray(b"".join(names)), np.uint8),
            "name_ends": np.cumsum([len(name) for name in names], dtype=np.int64),
        }
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace all rows by saved ones.

        Args:
            state: What :meth:`state_dict` gave; its tensors are copied.

        Raises:
            ValueError: If it is anything else.
        """
        columns = read_columns(state, _DTYPES)
        keys, labels, groups = unsigned(columns["keys"]), columns["labels"], columns["groups"]
        weights = columns["weights"] if len(columns["weights"]) else None
        lengths = {len(keys), len(labels), len(groups), len(keys if weights is None else weights)}
        kind = columns["group_kind"].tobytes().decode("latin1")
        names = _names(columns["name_bytes"].tobytes(), columns["name_ends"], kind)
        fits = kind in ("i", "u", "U", "S") if len(keys) else kind == ""
        fits = fits and (kind != "u" or groups.dtype == np.int64)
        if kind in ("U", "S") and len(groups):
            fits = fits and int(groups.min()) >= 0 and int(groups.max()) < len(set(names))
        if len(lengths) > 1 or not fits or len(set(names)) < len(names):
            raise ValueError(
                "state must have as many keys as labels and groups, and a name for each number, "
                f"got {len(keys)} keys, {len(labels)} labels, {len(groups)} groups of kind "
                f"{kind!r} and {len(names)} names"
            )
        rows, found = RowStore(), GroupNames()
        if len(keys):
            groups = groups.view(np.uint64) if kind == "u" else groups
            if kind in ("i", "u"):
                found.admit([groups])
            found.kind = kind
            found.number_names(names)
            rows.add(Batch(labels, keys, weights, groups))
        self._rows, self._names = rows, found

    def _add(self, batch: Batch) -> None:
        groups = None if batch.groups is None else self._names.numbers(batch.groups)
        self._rows.add(batch._replace(groups=groups))


def _encoded(name: str | bytes) -> bytes:
    return name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name


def _names(data: bytes, ends: Any, kind: str) -> list[Any]:
    names: list[Any] = []
    start = 0
    for end in ends.tolist():
        name = data[start:end]
        names.append(name if kind == "S" else name.decode("utf-8", "surrogatepass"))
        start = end
    return names
