"""Models sharded over the ranks of a test, and their whole state back."""

import torch
import torch.distributed as dist
import torchrec
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardedModule, ShardingEnv, ShardingPlan
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from sidrank.embeddings import host_checkpoint
from sidrank.sharding import verify_plan

RATE = 0.1


class RowWiseToo(EmbeddingBagCollectionSharder):
    """TorchRec's planner is not offered row-wise on a CPU, though it runs there."""

    def sharding_types(self, compute_device_type):
        return [*super().sharding_types(compute_device_type), "row_wise"]


def make_plan(model, kind):
    world = dist.get_world_size()
    plans = {}
    for path, part in model.named_modules():
        if type(part) is torchrec.EmbeddingBagCollection:
            ways = {}
            for index, config in enumerate(part.embedding_bag_configs()):
                narrow = config.embedding_dim < 4 * world
                ways[config.name] = {
                    "table_wise": table_wise(rank=index % world),
                    "row_wise": row_wise(),
                    "column_wise": table_wise(rank=0)
                    if narrow
                    else column_wise(ranks=list(range(world))),
                    "data_parallel": data_parallel(),
                }[kind]
            plans[path] = construct_module_sharding_plan(
                part,
                ways,
                sharder=RowWiseToo(),
                world_size=world,
                local_size=world,
                device_type="cpu",
            )
    return ShardingPlan(plans)


def shard(model, kind, optimizer=torch.optim.SGD):
    """Shard, with an optimiser fused for the tables and an ordinary one for the rest."""
    ordinary = torch.optim.Adagrad if optimizer is RowWiseAdagrad else optimizer
    if kind != "data_parallel":
        for part in model.modules():
            if type(part) is torchrec.EmbeddingBagCollection:
                apply_optimizer_in_backward(optimizer, part.parameters(), {"lr": RATE})
    plan = make_plan(model, kind)
    verify_plan(model, plan)
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=plan,
        sharders=[RowWiseToo()],
        init_data_parallel=True,
    )
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda parameters: ordinary(parameters, lr=RATE),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def full_state(sharded):
    """The whole state dict, gathered on every rank."""
    full = {}
    for name, value in sharded.state_dict().items():
        if hasattr(value, "local_shards"):
            whole = torch.zeros(value.size())
            for shard in value.local_shards():
                rows, columns = shard.metadata.shard_offsets
                height, width = shard.tensor.shape
                whole[rows : rows + height, columns : columns + width] = shard.tensor.detach()
            dist.all_reduce(whole)
            full[name] = whole
        elif isinstance(value, torch.Tensor):
            full[name] = value.detach().clone()
    return full


def load(sharded, state):
    """Put a whole state dict into a sharded model."""
    own = sharded.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                for target, source in host_checkpoint._pairs(name, own[name], value):
                    target.copy_(source)


def snapshot(model):
    return {n: v.clone() for n, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def sharded_modules(model):
    return [path for path, part in model.named_modules() if isinstance(part, ShardedModule)]
