"""Refuse a sharding plan, or a pipeline, that is not what it seems.

TorchRec finds what to shard by the exact class of a module; whatever it does not recognise it
leaves replicated, without a word. A cache's load factor becomes that of whatever group its table
ends up in. Likewise a train pipeline that cannot trace the way from the batch to a collection runs
it unpipelined and says so in a log. These checks raise instead.

Source: ours; TorchRec 1.8 behaviour as read and run on a CPU.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ModuleSharder, ParameterSharding, ShardedModule, ShardingPlan
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollectionInterface,
    EmbeddingCollectionInterface,
)

from sidrank.sharding.errors import PlanError
from sidrank.sharding.hazards import check_caches, check_prefetch_pipeline
from sidrank.sharding.load_factors import cache_groups

__all__ = ["PlanError", "verify_pipeline", "verify_plan"]


def verify_plan(
    model: nn.Module,
    plan: ShardingPlan,
    *,
    sharders: Sequence[ModuleSharder[nn.Module]] | None = None,
    tolerance: float = 0.05,
) -> None:
    """Check that every table is in the plan, and every cache will be as large as it asks for.

    What a cache gets is known once TorchRec has grouped tables; this calls its grouping on the
    plan. Tables that are sharded already are taken as they are.

    Args:
        model: The model, before or after ``DistributedModelParallel``.
        plan: What a planner, or ``construct_module_sharding_plan``, returned.
        sharders: What the model is going to be sharded with, since their fused parameters decide
            about groups; TorchRec's default ones if None.
        tolerance: Share of its load factor by which a table may get more or less.

    Raises:
        PlanError: If a collection or a table is missing from the plan, a cache gets another load
            factor than its table asks for, or rows are to be fetched ahead into an LFU cache.
        ValueError: If ``tolerance`` is negative.

    Warns:
        UpstreamHazardWarning: If rows are to be fetched ahead with a TorchRec whose prefetch
            pipeline has an open race.

    Example:
        >>> from torchrec import EmbeddingBagCollection
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> model = nn.Sequential(EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name="t", embedding_dim=4, num_embeddings=2, feature_names=["f"])]))
        >>> verify_plan(model, ShardingPlan({}))
        Traceback (most recent call last):
            ...
        sidrank.sharding.errors.PlanError: plan must hold every table, got none for 0.t
    """
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    module = model.module if isinstance(model, DistributedModelParallel) else model
    missing: list[str] = []
    for path, part in module.named_modules():
        if isinstance(part, ShardedModule):
            continue
        if isinstance(part, EmbeddingBagCollectionInterface):
            tables = [config.name for config in part.embedding_bag_configs()]
        elif isinstance(part, EmbeddingCollectionInterface):
            tables = [config.name for config in part.embedding_configs()]
        else:
            continue
        # A module that holds collections, such as a feature-processed one, is planned as a whole.
        covered = {
            table
            for planned, ways in plan.plan.items()
            if f"{path}.".startswith(f"{planned}." if planned else "")
            for table in cast(Mapping[str, Any], ways)
        }
        missing += [f"{path}.{table}" for table in tables if table not in covered]
    if missing:
        raise PlanError(f"plan must hold every table, got none for {', '.join(missing)}")
    check_caches(
        {
            table: way.cache_params
            for ways in plan.plan.values()
            for table, way in cast(Mapping[str, ParameterSharding], ways).items()
        },
        [getattr(sharder, "fused_params", None) for sharder in sharders or ()],
    )
    for group in cache_groups(module, plan, sharders=sharders):
        table, apart = group.furthest
        if abs(apart) > tolerance:
            others = sorted(set(group.requested) - {table})
            raise PlanError(
                f"load factor of {table} must be within {tolerance:.0%} of"
                f" {group.requested[table]:.4g} on rank {group.rank}, got {group.effective:.4g}:"
                f" it shares a cache with {', '.join(others[:4])}"
                f"{f' and {len(others) - 4} more' if len(others) > 4 else ''}; give the sharder"
                ' fused_params={"use_one_tbe_per_table": True}, or all of them one load factor'
            )


def verify_pipeline(pipeline: Any, model: nn.Module) -> None:
    """Check that a train pipeline really pipelines every sharded module.

    Call it after the first ``pipeline.progress(...)``, which is when TorchRec rewrites the model.

    Args:
        pipeline: A ``TrainPipelineSparseDist`` or one of its kin.
        model: The sharded model that the pipeline trains.

    Raises:
        PlanError: If a sharded module runs unpipelined, the pipeline is of a kind that pipelines
            nothing, or it fetches ahead for a model in evaluation.

    Warns:
        UpstreamHazardWarning: If the pipeline is TorchRec's prefetch pipeline with its open race.
    """
    check_prefetch_pipeline(pipeline, model)
    if not hasattr(pipeline, "_pipelined_modules"):
        raise PlanError(
            f"pipeline must be one that pipelines sharded modules, got {type(pipeline).__name__}"
        )
    pipelined = {id(module) for module in pipeline._pipelined_modules}
    # What a pipelined module holds inside is pipelined with it.
    inside = [path for path, part in model.named_modules() if id(part) in pipelined]
    above = tuple(f"{path}." if path else "" for path in inside)
    left = [
        path
        for path, part in model.named_modules()
        if isinstance(part, ShardedModule) and path not in inside and not path.startswith(above)
    ]
    if left:
        raise PlanError(
            f"pipeline must pipeline every sharded module, got none for {', '.join(left)}: has it"
            " run once, and does a module that changes the batch first have pipeline_postproc=True?"
        )
