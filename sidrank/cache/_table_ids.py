"""The features of a batch, and the ids that each table is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

__all__ = ["Feature", "features_by_name", "table_ids"]


@dataclass(frozen=True)
class Feature:
    """The bags of one feature: ``values`` and ``weights`` ``[n]``, ``lengths`` ``[B]``."""

    values: Tensor
    lengths: Tensor
    weights: Tensor | None


def features_by_name(features: KeyedJaggedTensor, *, is_weighted: bool) -> dict[str, Feature]:
    """The batch taken apart; TorchRec's own ``to_dict`` fails on a batch without rows."""
    if features.variable_stride_per_key() or features.inverse_indices_or_none() is not None:
        raise ValueError("features must have one number of rows, got a stride per key")
    names = features.keys()
    sizes = features.length_per_key()
    values = features.values().split(sizes)
    lengths = features.lengths().view(len(names), features.stride())
    weights: Sequence[Tensor | None] = [None] * len(names)
    if is_weighted:
        whole = features.weights_or_none()
        if whole is None:
            raise ValueError(f"features must carry weights, got none for {names}")
        weights = whole.split(sizes)
    parts = map(Feature, values, lengths, weights)
    return dict(zip(names, parts, strict=True))


def table_ids(tables: Sequence[EmbeddingBagConfig], features: dict[str, Feature]) -> list[Tensor]:
    """Each table's ids, checked, in the order of its features."""
    ids: list[Tensor] = []
    for table in tables:
        for name in table.feature_names:
            if name not in features:
                raise ValueError(f"features must hold {name}, got {list(features)}")
        parts = [features[name].values for name in table.feature_names]
        wanted = torch.cat(parts).to("cpu", torch.int64)
        if len(wanted):
            low, high = (int(end) for end in torch.aminmax(wanted))
            if low < 0 or high >= table.num_embeddings:
                _refuse(table, features)
        ids.append(wanted)
    return ids


def _refuse(table: EmbeddingBagConfig, features: dict[str, Feature]) -> None:
    for name in table.feature_names:
        ids = features[name].values
        wrong = ids[(ids < 0) | (ids >= table.num_embeddings)]
        if len(wrong):
            raise ValueError(
                f"ids of {name} must lie within [0, {table.num_embeddings}), the rows of"
                f" {table.name}, got {int(wrong[0])}"
            )
