"""The hybrid on two gloo ranks: parity, plans, pipelines, bad batches."""

import pytest
import torch
import torch.distributed as dist
from torchrec.datasets.utils import Batch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan

from sidrank.layers import ConvexGate
from sidrank.sharding import PlanError, verify_pipeline, verify_plan
from tests.embeddings import hosts, sharding
from tests.embeddings.sharding import RATE


def _parity(kind, wide):
    """Train the same weights sharded and whole; return the largest differences."""
    whole = hosts.hybrid_dlrm(wide=wide, gate=ConvexGate)
    if wide == "bpe":  # zero at birth, it would let little move in three steps
        torch.nn.init.normal_(whole.branch.deep.mlp[2].weight)
    birth = sharding.snapshot(whole)
    sharded, optimizer = sharding.shard(hosts.hybrid_dlrm(wide=wide, gate=ConvexGate), kind)
    sharding.load(sharded, birth)
    plain = torch.optim.SGD(whole.parameters(), lr=RATE)
    rank, world = dist.get_rank(), dist.get_world_size()
    outputs = 0.0
    for step in range(3):
        dense, sparse, _ = mine = hosts.batch(seed=10 * step + rank)
        with torch.no_grad():
            gap = (sharded(dense, sparse) - whole(dense, sparse)).abs().max().item()
        outputs = max(outputs, gap)
        optimizer.zero_grad()
        hosts.loss(sharded, mine).backward()
        optimizer.step()
        plain.zero_grad()
        for other in range(world):
            (hosts.loss(whole, hosts.batch(seed=10 * step + other)) / world).backward()
        plain.step()
    after = sharding.snapshot(whole)
    weights = sharding.difference(sharding.full_state(sharded), after)
    moved = min((after[name] - birth[name]).abs().max().item() for name in after)
    return outputs, weights, moved, len(sharding.sharded_modules(sharded))


@pytest.mark.parametrize("wide", [False, True, "bpe", "summary", "replacement"])
@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "data_parallel"])
def test_parity_with_one_process(ranks, kind, wide):
    for outputs, weights, moved, sharded in ranks.run(_parity, kind, wide):
        assert outputs <= 1e-6
        assert weights <= 1e-6
        assert moved > 3e-6  # else equality would say nothing
        assert sharded == {True: 2, "bpe": 3}.get(wide, 1)


class _Train(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        logits = self.model(batch.dense_features, batch.sparse_features).squeeze(-1)
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        return value, logits


def _pipeline(postproc, wide):
    """Train the same weights through a pipeline and in a plain loop; compare their logits."""
    sharded, optimizer = sharding.shard(_Train(hosts.hybrid_dlrm(wide=wide)), "row_wise")
    plain, plain_optimizer = sharding.shard(_Train(hosts.hybrid_dlrm(wide=wide)), "row_wise")
    sharding.load(plain, sharding.full_state(sharded))
    pipeline = TrainPipelineSparseDist(
        sharded, optimizer, torch.device("cpu"), pipeline_postproc=postproc
    )
    examples = [Batch(*hosts.batch(seed=10 * step + dist.get_rank())) for step in range(4)]
    batches = iter(examples)
    gap = 0.0
    for example in examples:
        logits = pipeline.progress(batches)
        plain_optimizer.zero_grad()
        loss, expected = plain(example)
        loss.backward()
        plain_optimizer.step()
        gap = max(gap, (logits - expected).abs().max().item())
    try:
        verify_pipeline(pipeline, sharded)
    except PlanError as error:
        return gap, len(pipeline._pipelined_modules), str(error)
    return gap, len(pipeline._pipelined_modules), ""


@pytest.mark.parametrize(
    ("wide", "modules"), [(True, 2), ("bpe", 3), ("summary", 1), ("replacement", 1)]
)
def test_hybrid_and_branch_are_pipelined_and_train_as_a_plain_loop_does(ranks, wide, modules):
    for gap, pipelined, error in ranks.run(_pipeline, True, wide):
        assert pipelined == modules
        assert error == ""
        assert gap <= 1e-6


def test_a_pipeline_that_does_not_pipeline_is_refused(ranks):
    for _, pipelined, error in ranks.run(_pipeline, False, True):
        assert pipelined == 0
        assert "pipeline must pipeline every sharded module" in error
        assert "pipeline_postproc=True" in error


def _out_of_range():
    sharded, _ = sharding.shard(hosts.hybrid_dlrm(), "row_wise")
    dense, sparse, _ = hosts.batch()
    ids = sparse["item_raw"].values()
    with torch.no_grad():
        ids[0], ids[1] = 2**40, -7  # views of the batch
        expanded = sharded.module.sparse_arch.embedding_bag_collection.expander(sparse)
        logits = sharded(dense, sparse)
    rows = [expanded[f"item_sid_{name}"].values()[:2].tolist() for name in ("1", "1_2")]
    return rows, bool(torch.isfinite(logits).all())


def test_raw_ids_out_of_range_go_to_the_learned_row_when_sharded(ranks):
    for rows, finite in ranks.run(_out_of_range):
        assert rows == [[0, 0], [0, 0]]
        assert finite


def _empty_batch(kind, wide):
    sharded, _ = sharding.shard(hosts.hybrid_dlrm(wide=wide), kind)
    return list(sharded(torch.zeros(0, hosts.DENSE), hosts.empty_batch()).shape)


@pytest.mark.parametrize("wide", [True, "bpe", "summary", "replacement"])
@pytest.mark.parametrize("kind", ["table_wise", "row_wise"])
def test_an_empty_batch_is_served_when_sharded(ranks, kind, wide):
    assert ranks.run(_empty_batch, kind, wide) == [[0, 1], [0, 1]]


def test_every_table_must_be_in_the_plan():
    model = hosts.hybrid_dlrm(wide=True)
    with pytest.raises(PlanError, match=r"got none for host\.sparse_arch.*sid_1"):
        verify_plan(model, ShardingPlan({}))


def _meta_birth(wide):
    """A host on the meta device: what DMP makes of the tables and layers it draws itself."""
    with torch.device("meta"):
        model = hosts.hybrid_dlrm(wide=wide)
    assert all(parameter.is_meta for parameter in model.parameters())
    lookups = [buffer for name, buffer in model.named_buffers() if "sources" in name]
    assert lookups
    assert not any(buffer.is_meta for buffer in lookups)
    sharded, _ = sharding.shard(model, "table_wise")
    state = sharding.full_state(sharded)
    dense, sparse, _ = hosts.batch()
    host = sharded.module.host if wide else sharded.module
    expander = host.sparse_arch.embedding_bag_collection.expander
    with torch.no_grad():
        finite = bool(torch.isfinite(sharded(dense, sparse)).all())
        born = sharded.module.branch(sparse).abs().max().item() if wide else 0.0
    tables = {name: value.abs().max().item() for name, value in state.items() if "_bags." in name}
    return tables, finite, born, expander.coverage()


@pytest.mark.parametrize("wide", [False, "bpe"])
def test_meta_device_birth_keeps_codes_and_zero_tables(ranks, wide):
    for tables, finite, born, coverage in ranks.run(_meta_birth, wide):
        assert finite
        assert born == 0.0
        for name, largest in tables.items():
            assert (largest == 0.0) == (".sid_" in name or ".memory_" in name)
        assert 0.5 < coverage["item"] <= 1.0
