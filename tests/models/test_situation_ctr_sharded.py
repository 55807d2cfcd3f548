"""SituationCTR on two gloo ranks: parity, plan, pipeline."""

import pytest
import torch
import torch.distributed as dist
import torchrec
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from sidrank.sharding import verify_plan
from tests.embeddings import sharding
from tests.embeddings.sharding import RATE
from tests.models import situation_models
from tests.models.situation_models import batch, loss, ranker


def _shard(model, kind):
    world = dist.get_world_size()
    plan = sharding.make_plan(model, kind)
    for path, part in model.named_modules():
        sequences = type(part) is torchrec.EmbeddingCollection
        if sequences or type(part) is torchrec.EmbeddingBagCollection:
            apply_optimizer_in_backward(torch.optim.SGD, part.parameters(), {"lr": RATE})
        if sequences:
            ways = {
                config.name: {
                    "table_wise": table_wise(rank=index % world),
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
        plan=plan,
        sharders=[sharding.RowWiseToo(), EmbeddingCollectionSharder()],
    )
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda parameters: torch.optim.SGD(parameters, lr=RATE),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def _parity(kind):
    """Train the same weights sharded and whole; return the largest differences."""
    whole = situation_models.trained()
    birth = sharding.snapshot(whole)
    sharded, optimizer = _shard(ranker(), kind)
    sharding.load(sharded, birth)
    plain = torch.optim.SGD(whole.parameters(), lr=RATE)
    rank, world = dist.get_rank(), dist.get_world_size()
    outputs = 0.0
    for step in range(3):
        features, _ = mine = batch(12, seed=10 * step + rank)
        with torch.no_grad():
            pairs = zip(sharded(features), whole(features), strict=True)
            outputs = max(outputs, *((one - other).abs().max().item() for one, other in pairs))
        optimizer.zero_grad()
        loss(sharded, mine).backward()
        optimizer.step()
        plain.zero_grad()
        for other in range(world):
            (loss(whole, batch(12, seed=10 * step + other)) / world).backward()
        plain.step()
    after = sharding.snapshot(whole)
    weights = sharding.difference(sharding.full_state(sharded), after)
    moved = min((after[name] - birth[name]).abs().max().item() for name in after)
    return outputs, weights, moved, len(sharding.sharded_modules(sharded))


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_parity_with_one_process(ranks, kind):
    for outputs, weights, moved, sharded in ranks.run(_parity, kind):
        assert outputs <= 1e-6
        assert weights <= 1e-6
        assert moved > 0.0  # else equality would say nothing
        assert sharded == 3  # fields, items, situations
