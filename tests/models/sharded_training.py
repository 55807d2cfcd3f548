"""Whole rankers on two gloo ranks: sharded, trained beside one process, and pipelined."""

import torch
import torch.distributed as dist
import torchrec
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torch.utils._pytree import tree_leaves
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from sidrank.sharding import verify_pipeline, verify_plan
from tests.embeddings import sharding
from tests.embeddings.sharding import RATE


def shard(model, kind):
    """As the hybrid's tests do, with the sequence tables too.

    Those cannot be data-parallel on a CPU: there they stay whole, on one rank each.
    """
    world = dist.get_world_size()
    plan = sharding.make_plan(model, kind)
    for path, part in model.named_modules():
        sequences = type(part) is torchrec.EmbeddingCollection
        if sequences or (type(part) is torchrec.EmbeddingBagCollection and kind != "data_parallel"):
            apply_optimizer_in_backward(torch.optim.SGD, part.parameters(), {"lr": RATE})
        if sequences:
            ways = {
                config.name: {
                    "table_wise": table_wise(rank=index % world),
                    "data_parallel": table_wise(rank=index % world),
                    "row_wise": row_wise(),
                    "column_wise": column_wise(ranks=list(range(world))),
                }[kind]
                for index, config in enumerate(part.embedding_configs())
            }
            plan.plan[path] = construct_module_sharding_plan(
                part,
                ways,
                sharder=EmbeddingCollectionSharder(),
                world_size=world,
                local_size=world,
                device_type="cpu",
            )
    verify_plan(model, plan)
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan(plan.plan),
        sharders=[sharding.RowWiseToo(), EmbeddingCollectionSharder()],
    )
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda parameters: torch.optim.SGD(parameters, lr=RATE),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def parity(whole, other, kind, batch, loss):
    """Train the same weights sharded and whole; return the largest differences.

    ``batch(seed)`` ends with the labels, ``loss(model, batch)`` is a mean over its rows.
    """
    birth = sharding.snapshot(whole)
    sharded, optimizer = shard(other, kind)
    sharding.load(sharded, birth)
    plain = torch.optim.SGD(whole.parameters(), lr=RATE)
    rank, world = dist.get_rank(), dist.get_world_size()
    outputs = 0.0
    for step in range(3):
        mine = batch(10 * step + rank)
        with torch.no_grad():
            answers = tree_leaves(sharded(*mine[:-1])), tree_leaves(whole(*mine[:-1]))
        gaps = [(one - two).abs().max().item() for one, two in zip(*answers, strict=True)]
        outputs = max(outputs, *gaps)
        optimizer.zero_grad()
        loss(sharded, mine).backward()
        optimizer.step()
        plain.zero_grad()
        for other_rank in range(world):
            (loss(whole, batch(10 * step + other_rank)) / world).backward()
        plain.step()
    after = sharding.snapshot(whole)
    weights = sharding.difference(sharding.full_state(sharded), after)
    moved = min((after[name] - birth[name]).abs().max().item() for name in after)
    return outputs, weights, moved, len(sharding.sharded_modules(sharded))


def assert_parity(found, num_sharded):
    """What ``parity`` returned on each rank."""
    for outputs, weights, moved, sharded in found:
        assert outputs <= 1e-6
        assert weights <= 1e-6
        assert moved > 0.0  # else equality would say nothing
        assert sharded == num_sharded


class _Train(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        logits = self.model(batch.dense_features, batch.sparse_features).squeeze(-1)
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        return value, logits


def pipelined(make, batch, **options):
    """Train the same weights through a pipeline and in a plain loop; compare their logits."""
    sharded, optimizer = shard(_Train(make()), "row_wise")
    plain, plain_optimizer = shard(_Train(make()), "row_wise")
    sharding.load(plain, sharding.full_state(sharded))
    pipeline = TrainPipelineSparseDist(sharded, optimizer, torch.device("cpu"), **options)
    examples = [Batch(*batch(10 * step + dist.get_rank())) for step in range(4)]
    batches = iter(examples)
    gap = 0.0
    for example in examples:
        logits = pipeline.progress(batches)
        plain_optimizer.zero_grad()
        value, expected = plain(example)
        value.backward()
        plain_optimizer.step()
        gap = max(gap, (logits - expected).abs().max().item())
    verify_pipeline(pipeline, sharded)
    return gap, len(pipeline._pipelined_modules)
