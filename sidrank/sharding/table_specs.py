"""A model's tables as a list on paper, and the model that stands for it before one is built.

Whoever plans a cluster has a list of tables and not always the code of the model. A list is enough:
the planner reads sizes, features and optimizers, and never a weight.

Source: ours; TorchRec 1.8, ``EmbeddingBagCollection`` and ``EmbeddingCollection`` on meta.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec import optim as row_optim
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import (
    DataType,
    EmbeddingBagConfig,
    EmbeddingConfig,
    PoolingType,
)
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

__all__ = ["DTYPES", "OPTIMIZERS", "POOLINGS", "TableSpec", "model_of", "pooling_constraints"]

DTYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "bf16": DataType.BF16}
OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "rowwise_adagrad": row_optim.RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "partial_rowwise_adam": row_optim.PartialRowWiseAdam,
    "lamb": row_optim.LAMB,
}
POOLINGS = ("sum", "mean", "none")


@dataclass(frozen=True)
class TableSpec:
    """One table.

    Args:
        name: Its name.
        rows: Its rows.
        dim: Width of a row, a multiple of 4, as FBGEMM has it.
        features: Features that read it.
        pooling: ``sum``, ``mean``, or ``none`` for a sequence table.
        pooling_factors: Values of a sample, on average, one for each feature; 1 of each if empty.
        dtype: ``fp32``, ``fp16`` or ``bf16``.
        optimizer: One of ``OPTIMIZERS``.

    Raises:
        ValueError: If one of them is not as it must be.
    """

    name: str
    rows: int
    dim: int
    features: tuple[str, ...]
    pooling: str = "sum"
    pooling_factors: tuple[float, ...] = ()
    dtype: str = "fp32"
    optimizer: str = "rowwise_adagrad"

    def __post_init__(self) -> None:
        """Check what the planner would stumble over."""
        if not self.name or "." in self.name:
            raise ValueError(f"name must not be empty or hold a dot, got {self.name!r}")
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        if self.dim < 4 or self.dim % 4:
            raise ValueError(f"dim must be a multiple of 4, got {self.dim}")
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"features must be one or more, each once, got {self.features}")
        factors = self.pooling_factors or (1.0,) * len(self.features)
        if len(factors) != len(self.features) or not all(0 < f < float("inf") for f in factors):
            raise ValueError(
                f"pooling_factors must be {len(self.features)} numbers above 0, got {factors}"
            )
        object.__setattr__(self, "pooling_factors", factors)
        for what, value, known in (
            ("pooling", self.pooling, POOLINGS),
            ("dtype", self.dtype, DTYPES),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value}")


def model_of(specs: Sequence[TableSpec]) -> nn.Module:
    """The tables as TorchRec's own collections, on the meta device.

    Args:
        specs: The tables.

    Returns:
        A module that holds a collection of pooled tables, one of sequence tables, or both; each
        table with its optimizer.

    Raises:
        ValueError: If there is no table, or two have one name.
    """
    names = [spec.name for spec in specs]
    twice = {name for name in names if names.count(name) > 1}
    if not specs or twice:
        raise ValueError(
            f"specs must be of one table or more, each once, got {sorted(twice) or 'none'}"
        )
    meta = torch.device("meta")
    parts: dict[str, nn.Module] = {}
    pooled = [spec for spec in specs if spec.pooling != "none"]
    if pooled:
        parts["bags"] = EmbeddingBagCollection(
            device=meta,
            tables=[
                EmbeddingBagConfig(
                    **_config(spec),
                    pooling=PoolingType.MEAN if spec.pooling == "mean" else PoolingType.SUM,
                )
                for spec in pooled
            ],
        )
    sequences = [spec for spec in specs if spec.pooling == "none"]
    # A collection of sequences holds tables of one width only.
    for dim in sorted({spec.dim for spec in sequences}):
        own = [EmbeddingConfig(**_config(spec)) for spec in sequences if spec.dim == dim]
        parts[f"sequences_{dim}"] = EmbeddingCollection(device=meta, tables=own)
    model = nn.ModuleDict(parts)
    by_name = {path.split(".")[-2]: weight for path, weight in model.named_parameters()}
    for spec in specs:
        chosen = OPTIMIZERS[spec.optimizer]
        apply_optimizer_in_backward(chosen, [by_name[spec.name]], {"lr": 0.1})
    return model


def pooling_constraints(specs: Sequence[TableSpec]) -> dict[str, ParameterConstraints]:
    """What the planner is told of each table's features.

    Args:
        specs: The tables.

    Returns:
        Constraints with pooling factors, by name of the table.
    """
    return {
        spec.name: ParameterConstraints(pooling_factors=list(spec.pooling_factors))
        for spec in specs
    }


def changed(specs: Sequence[TableSpec], table: str, **change: Any) -> list[TableSpec]:
    """The same list with one table otherwise.

    Args:
        specs: The tables.
        table: The one to change.
        **change: Fields and their new values.

    Returns:
        A new list.
    """
    return [replace(spec, **change) if spec.name == table else spec for spec in specs]


def _config(spec: TableSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "num_embeddings": spec.rows,
        "embedding_dim": spec.dim,
        "feature_names": list(spec.features),
        "data_type": DTYPES[spec.dtype],
    }
