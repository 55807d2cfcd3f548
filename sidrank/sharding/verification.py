"""Refuse a sharding plan, or a pipeline, that leaves tables out.

TorchRec finds what to shard by the exact class of a module; whatever it does not recognise it
leaves replicated, without a word. Likewise a train pipeline that cannot trace the way from the
batch to a collection runs it unpipelined and says so in a log. These checks raise instead.

Source: ours; TorchRec 1.8 behaviour as read and run on a CPU.
"""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardedModule, ShardingPlan
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollectionInterface,
    EmbeddingCollectionInterface,
)

__all__ = ["PlanError", "verify_pipeline", "verify_plan"]


class PlanError(RuntimeError):
    """A plan or a pipeline does not cover the model."""


def verify_plan(model: nn.Module, plan: ShardingPlan) -> None:
    """Check that every table of every embedding collection is in the plan.

    Args:
        model: The model, before or after ``DistributedModelParallel``.
        plan: What a planner, or ``construct_module_sharding_plan``, returned.

    Raises:
        PlanError: If a collection or a table is missing from the plan.

    Example:
        >>> from torchrec import EmbeddingBagCollection
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> model = nn.Sequential(EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name="t", embedding_dim=4, num_embeddings=2, feature_names=["f"])]))
        >>> verify_plan(model, ShardingPlan({}))
        Traceback (most recent call last):
            ...
        sidrank.sharding.verification.PlanError: plan must hold every table, got none for 0.t
    """
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


def verify_pipeline(pipeline: Any, model: nn.Module) -> None:
    """Check that a train pipeline really pipelines every sharded module.

    Call it after the first ``pipeline.progress(...)``, which is when TorchRec rewrites the model.

    Args:
        pipeline: A ``TrainPipelineSparseDist`` or one of its kin.
        model: The sharded model that the pipeline trains.

    Raises:
        PlanError: If a sharded module runs unpipelined, or the pipeline is of a kind that
            pipelines nothing.
    """
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
