"""The tables of one width and pooling, as one FBGEMM operator over their slots."""

from collections.abc import Sequence
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    BoundsCheckMode,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

from sidrank.cache._table_ids import Feature
from sidrank.cache.row_optimizer import RowOptimizer

__all__ = ["BagGroup", "grouped"]


def grouped(tables: Sequence[EmbeddingBagConfig]) -> list[list[int]]:
    """The numbers of the tables that one operator can serve."""
    groups: dict[tuple[PoolingType, int], list[int]] = {}
    for number, table in enumerate(tables):
        groups.setdefault((table.pooling, table.embedding_dim), []).append(number)
    return list(groups.values())


class BagGroup:
    """One operator.

    Not a module: FBGEMM's parameters are slots, which are of no use to an optimiser or checkpoint.
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        slots: Sequence[int],
        optimizer: RowOptimizer,
        device: torch.device,
    ) -> None:
        cuda = device.type == "cuda"
        place = EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST
        compute = ComputeDevice.CUDA if cuda else ComputeDevice.CPU
        mean = tables[0].pooling == PoolingType.MEAN
        self.features = [list(table.feature_names) for table in tables]
        self.device = device
        self._operator: Any = SplitTableBatchedEmbeddingBagsCodegen(
            [
                (count, table.embedding_dim, place, compute)
                for table, count in zip(tables, slots, strict=True)
            ],
            feature_table_map=[number for number, names in enumerate(self.features) for _ in names],
            pooling_mode=PoolingMode.MEAN if mean else PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,  # slots are ours
            device=device,
            **optimizer.fbgemm_arguments(),
        )

    def weights(self) -> list[Tensor]:
        """FBGEMM's memory of each table, ``[slots, D]``; writes are not seen by autograd."""
        return [weight.data for weight in self._operator.split_embedding_weights()]

    def states(self) -> list[Tensor]:
        """The optimiser's memory of each table, ``[slots, state]``; likewise."""
        weights = self.weights()
        states = [each[0].data for each in self._operator.split_optimizer_states() if len(each)]
        if not states:
            return [weight.new_zeros(len(weight), 0) for weight in weights]
        return [state.view(len(weight), -1) for state, weight in zip(states, weights, strict=True)]

    def set_learning_rate(self, lr: float) -> None:
        self._operator.set_learning_rate(lr)

    def pool(self, slots: Sequence[Tensor], features: dict[str, Feature]) -> Tensor:
        """Pooled slots, ``[B, D * features]``, in the order of tables and their features."""
        read = [features[name] for names in self.features for name in names]
        lengths = torch.cat([feature.lengths for feature in read])
        ends = lengths.to(torch.int64).cumsum(0)
        weights = [feature.weights for feature in read if feature.weights is not None]
        return self._operator(
            indices=torch.cat(list(slots)).to(self.device),
            offsets=torch.cat([ends.new_zeros(1), ends]).to(self.device),
            per_sample_weights=torch.cat(weights).to(self.device) if weights else None,
        )
