"""The rows that a global batch reads: out of arrays, out of a KeyedJaggedTensor, over ranks.

Shapes: ``[n]`` ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from sidrank.cache._last_use import distinct

__all__ = ["JaggedFeatures", "TableConfig", "checked", "features_of", "gathered", "table_ids"]

Ids = Mapping[str, NDArray[np.int64]]


class JaggedFeatures(Protocol):
    """What is asked of a TorchRec ``KeyedJaggedTensor``."""

    def keys(self) -> list[str]:
        """Names of the features."""
        ...

    def values(self) -> Tensor:
        """Ids of all features, one feature after the other."""
        ...

    def offset_per_key(self) -> list[int]:
        """Where the ids of each feature begin, and where the last ones end."""
        ...


class TableConfig(Protocol):
    """What is asked of a TorchRec ``EmbeddingBagConfig`` or ``EmbeddingConfig``."""

    name: str
    feature_names: list[str]


def checked(ids: object, table: str, rows: int) -> NDArray[np.int64]:
    """Ids as a flat column.

    Args:
        ids: A tensor or an array of integers, of any shape and on any device.
        table: Name of their table, for the message.
        rows: Rows of the table.

    Returns:
        The ids, shape ``[n]``.

    Raises:
        ValueError: If they are no integers, or one lies outside the table.
    """
    column = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if column.dtype.kind not in "iu" and column.size:
        raise ValueError(f"ids must be integers, got {column.dtype} for table {table}")
    if column.size:
        low, high = int(column.min()), int(column.max())
        if low < 0 or high >= rows:
            got = low if low < 0 else high
            raise ValueError(f"ids must lie in [0, {rows}) for table {table}, got {got}")
    return column.ravel().astype(np.int64, copy=False)


def features_of(
    tables: Sequence[TableConfig] | Mapping[str, Sequence[str]],
) -> dict[str, Sequence[str]]:
    """The features that read each table.

    Args:
        tables: TorchRec's configs, or names of features by name of the table.

    Returns:
        Names of features by name of the table.
    """
    if isinstance(tables, Mapping):
        return dict(tables)
    return {config.name: config.feature_names for config in tables}


def table_ids(features: JaggedFeatures, tables: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """The ids that each table gets.

    Args:
        features: A sparse batch.
        tables: Names of features by name of the table.

    Returns:
        Ids by name of the table.

    Raises:
        ValueError: If a feature is not in the batch.
    """
    keys, offsets, values = features.keys(), features.offset_per_key(), features.values()
    places = {key: slice(*offsets[place : place + 2]) for place, key in enumerate(keys)}
    found: dict[str, Tensor] = {}
    for table, names in tables.items():
        for name in names:
            if name not in places:
                raise ValueError(
                    f"features must contain the feature {name} of the table {table}, got {keys}"
                )
        parts = [values[places[name]] for name in names]
        found[table] = torch.cat(parts) if parts else values[:0]
    return found


def gathered(ids: Ids, group: Any) -> dict[str, NDArray[np.int64]]:
    """The ids of all ranks: two collectives for all tables together.

    Args:
        ids: Those of this rank's part of the batch, by table; the same tables on every rank.
        group: A process group whose backend works on the CPU.

    Returns:
        Those of the global batch, the same on every rank.
    """
    own = [distinct(column) for column in ids.values()]
    world = dist.get_world_size(group)
    sizes = torch.tensor([len(column) for column in own])
    all_sizes = [torch.empty_like(sizes) for _ in range(world)]
    dist.all_gather(all_sizes, sizes, group=group)
    longest = max(int(each.sum()) for each in all_sizes)
    padded = torch.zeros(longest, dtype=torch.int64)
    padded[: int(sizes.sum())] = torch.from_numpy(np.concatenate([*own, np.empty(0, np.int64)]))
    everything = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(everything, padded, group=group)
    parts = [
        each[: int(lengths.sum())].split(lengths.tolist())
        for each, lengths in zip(everything, all_sizes, strict=True)
    ]
    return {
        table: torch.cat([part[place] for part in parts]).numpy() for place, table in enumerate(ids)
    }
