"""What a tiered collection is given, checked and completed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig

from sidrank.cache.row_optimizer import RowOptimizer, weight_rows
from sidrank.cache.slow_tier import MemoryTier, SlowTier

__all__ = ["slots_by_table", "tiers_by_table"]


def slots_by_table(
    tables: Sequence[EmbeddingBagConfig], slots: int | Mapping[str, int]
) -> dict[str, int]:
    """No table gets more slots than it has rows."""
    names = [table.name for table in tables]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"tables must have names of their own, got {names}")
    for table in tables:
        if table.data_type != DataType.FP32:
            raise ValueError(f"tables must be float32, got {table.data_type} for {table.name}")
        if table.embedding_dim % 4:
            raise ValueError(
                f"tables must have a width that is a multiple of 4, got {table.embedding_dim} for"
                f" {table.name}"
            )
    by_table = dict.fromkeys(names, slots) if isinstance(slots, int) else dict(slots)
    if by_table.keys() != set(names):
        raise ValueError(f"slots must be given for {sorted(names)}, got {sorted(by_table)}")
    for name, count in by_table.items():
        if count < 1:
            raise ValueError(f"slots must be at least 1, got {count} for {name}")
    return {table.name: min(by_table[table.name], table.num_embeddings) for table in tables}


def tiers_by_table(
    tables: Sequence[EmbeddingBagConfig], optimizer: RowOptimizer, given: Mapping[str, SlowTier]
) -> dict[str, SlowTier]:
    names = [table.name for table in tables]
    if not given.keys() <= set(names):
        raise ValueError(f"tiers must be of tables among {names}, got {sorted(given)}")
    if len({id(tier) for tier in given.values()}) < len(given):
        raise ValueError(f"tiers must serve one table each, got one for several of {list(given)}")
    tiers: dict[str, SlowTier] = {}
    for table in tables:
        rows, width = table.num_embeddings, optimizer.row_width(table.embedding_dim)
        if table.name not in given:
            weight = torch.empty(rows, table.embedding_dim, device="cpu")
            with torch.no_grad():
                cast(Callable[[Tensor], Any], table.init_fn)(weight)
            fill = weight_rows(weight, optimizer)
            tiers[table.name] = MemoryTier(rows=rows, width=width, fill=fill)
            continue
        tier = given[table.name]
        if (tier.rows, tier.width) != (rows, width):
            raise ValueError(
                f"tiers must be {rows} by {width} for {table.name}, got {tier.rows} by {tier.width}"
            )
        tiers[table.name] = tier
    return tiers
