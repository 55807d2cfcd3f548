"""The load factor that each cache will really have, once TorchRec has grouped tables.

A load factor is asked for by table and lived by group: on each rank TorchRec puts tables of like
kind into one table-batched embedding (TBE), and the group's load factor becomes the mean of its
tables' weighted by rows. All of them then share one cache, padded to the widest row among them.
What was sized for one table is eaten by another, unless each has a TBE to itself
(``use_one_tbe_per_table`` among the fused parameters of the sharder).

The grouping is TorchRec's own, called on what the plan says; nothing is built and no GPU needed.

Source: ours; TorchRec 1.8, ``group_tables`` and ``create_grouped_sharding_infos``;
FBGEMM 1.8 for the sets of 32 slots.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embedding_sharding import EmbeddingShardingInfo, group_tables
from torchrec.distributed.embedding_types import EmbeddingComputeKernel, ShardedEmbeddingTable
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.sharding_plan import get_default_sharders
from torchrec.distributed.types import (
    EnumerableShardingSpec,
    ModuleSharder,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollectionInterface,
    EmbeddingCollectionInterface,
)

__all__ = ["CacheGroup", "cache_groups"]

_SET = 32
_DEFAULT = 0.2  # FBGEMM's load factor where none is given


@dataclass(frozen=True)
class CacheGroup:
    """One cache on one rank."""

    rank: int
    """The rank."""
    requested: Mapping[str, float]
    """Load factors that the plan asks for, by path of the table."""
    effective: float
    """The load factor that the group gets."""
    rows: int
    """Rows on this rank of all its tables."""
    width: int
    """Columns of a slot, which are those of the widest table."""

    @property
    def slots(self) -> int:
        """Slots that FBGEMM allocates, in sets of 32."""
        return max(1, -(-int(self.rows * self.effective) // _SET)) * _SET

    @property
    def furthest(self) -> tuple[str, float]:
        """The table that gets something else most of all, and by what share of its request."""
        apart = {
            table: self.effective / asked - 1 if asked else float("inf")
            for table, asked in self.requested.items()
        }
        table = max(apart, key=lambda name: abs(apart[name]))
        return table, apart[table]


def cache_groups(
    model: nn.Module,
    plan: ShardingPlan,
    *,
    sharders: Sequence[ModuleSharder[nn.Module]] | None = None,
) -> list[CacheGroup]:
    """The caches that a plan leads to, on every rank.

    Args:
        model: The model before ``DistributedModelParallel``; the meta device will do.
        plan: The plan; it must hold all tables.
        sharders: The sharders that the model will be sharded with, whose fused parameters decide
            about groups; TorchRec's default ones if None.

    Returns:
        A group for each table-batched embedding that has a cache, by rank.
    """
    fused = {
        sharder.module_type: dict(getattr(sharder, "fused_params", None) or {})
        for sharder in (get_default_sharders() if sharders is None else sharders)
    }
    found: list[CacheGroup] = []
    for path, part, whole, ways in _planned(model, plan):
        for infos in _infos(part, ways, fused.get(type(whole), {})).values():
            # Ranks that hold shards of the same sizes are grouped alike; most ranks do.
            alike: dict[Any, list[CacheGroup]] = {}
            for rank, held in _by_rank(infos).items():
                key = tuple((id(info), *shard.shard_sizes) for info, shard in held)
                if key not in alike:
                    alike[key] = list(_groups(path, [_table(*each) for each in held]))
                found += [replace(group, rank=rank) for group in alike[key]]
    return sorted(found, key=lambda group: (group.rank, tuple(group.requested)))


def _groups(path: str, tables: list[ShardedEmbeddingTable]) -> Iterator[CacheGroup]:
    for group in group_tables([tables])[0]:
        cached = [
            table
            for table in group.embedding_tables
            if table.compute_kernel is EmbeddingComputeKernel.FUSED_UVM_CACHING
        ]
        if cached:
            yield CacheGroup(
                rank=0,
                requested={
                    f"{path}.{table.name}" if path else table.name: (table.fused_params or {}).get(
                        "cache_load_factor", _DEFAULT
                    )
                    for table in cached
                },
                effective=(group.fused_params or {}).get("cache_load_factor", _DEFAULT),
                rows=sum(table.local_rows for table in cached),
                width=max(table.local_cols for table in cached),
            )


def _planned(
    model: nn.Module, plan: ShardingPlan
) -> Iterator[tuple[str, nn.Module, nn.Module, dict[str, ParameterSharding]]]:
    """Each collection, what is planned as a whole around it, and how its tables are sharded."""
    for path, part in model.named_modules():
        if not isinstance(part, EmbeddingBagCollectionInterface | EmbeddingCollectionInterface):
            continue
        for planned, ways in plan.plan.items():
            if f"{path}.".startswith(f"{planned}." if planned else ""):
                held = cast(Mapping[str, ParameterSharding], ways)
                names = {config.name for config in _configs(part)}
                if names <= held.keys():
                    whole = model.get_submodule(planned)
                    yield path, part, whole, {name: held[name] for name in names}
                    break


def _configs(part: nn.Module) -> Iterable[Any]:
    if isinstance(part, EmbeddingBagCollectionInterface):
        return part.embedding_bag_configs()
    return cast(EmbeddingCollectionInterface, part).embedding_configs()


def _infos(
    part: nn.Module, ways: dict[str, ParameterSharding], fused_params: dict[str, Any]
) -> Mapping[Any, list[EmbeddingShardingInfo]]:
    """What TorchRec shards with: by sharding type, each with its fused parameters."""
    given = copy.deepcopy(fused_params)  # TorchRec writes into it
    if isinstance(part, EmbeddingBagCollectionInterface):
        return ShardedEmbeddingBagCollection.create_grouped_sharding_infos(
            part, ways, "embedding_bags.", given
        )
    return ShardedEmbeddingCollection.create_grouped_sharding_infos(cast(Any, part), ways, given)


def _by_rank(
    infos: Iterable[EmbeddingShardingInfo],
) -> dict[int, list[tuple[EmbeddingShardingInfo, ShardMetadata]]]:
    """The shards that lie on each rank."""
    found: dict[int, list[tuple[EmbeddingShardingInfo, ShardMetadata]]] = defaultdict(list)
    for info in infos:
        spec = cast(EnumerableShardingSpec | None, info.param_sharding.sharding_spec)
        for shard in [] if spec is None else spec.shards:  # None: replicated, not cached
            if all(shard.shard_sizes):
                found[cast(Any, shard.placement).rank()].append((info, shard))
    return found


def _table(info: EmbeddingShardingInfo, shard: ShardMetadata) -> ShardedEmbeddingTable:
    """A shard as TorchRec describes it to itself."""
    config = info.embedding_config
    return ShardedEmbeddingTable(
        num_embeddings=config.num_embeddings,
        embedding_dim=config.embedding_dim,
        name=config.name,
        embedding_names=config.embedding_names,
        data_type=config.data_type,
        feature_names=config.feature_names,
        pooling=config.pooling,
        is_weighted=config.is_weighted,
        has_feature_processor=config.has_feature_processor,
        local_rows=shard.shard_sizes[0],
        local_cols=shard.shard_sizes[1],
        compute_kernel=EmbeddingComputeKernel(info.param_sharding.compute_kernel),
        local_metadata=shard,
        fused_params=info.fused_params,
    )
