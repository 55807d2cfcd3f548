"""The hybrid on two gloo ranks: parity, plans, pipelines, checkpoints."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torchrec
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardedModule, ShardingEnv, ShardingPlan
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from sidrank.embeddings import host_checkpoint, load_host_checkpoint
from sidrank.layers import ConvexGate
from sidrank.semantic_ids import SIDVersionError
from sidrank.sharding import PlanError, verify_pipeline, verify_plan
from tests.embeddings import hosts

RATE = 0.1


class _RowWiseToo(EmbeddingBagCollectionSharder):
    """TorchRec's planner is not offered row-wise on a CPU, though it runs there."""

    def sharding_types(self, compute_device_type):
        return [*super().sharding_types(compute_device_type), "row_wise"]


def _plan(model, kind):
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
                sharder=_RowWiseToo(),
                world_size=world,
                local_size=world,
                device_type="cpu",
            )
    return ShardingPlan(plans)


def _shard(model, kind, optimizer=torch.optim.SGD):
    """Shard, with an optimiser fused for the tables and an ordinary one for the rest."""
    ordinary = torch.optim.Adagrad if optimizer is RowWiseAdagrad else optimizer
    if kind != "data_parallel":
        for part in model.modules():
            if type(part) is torchrec.EmbeddingBagCollection:
                apply_optimizer_in_backward(optimizer, part.parameters(), {"lr": RATE})
    plan = _plan(model, kind)
    verify_plan(model, plan)
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=plan,
        sharders=[_RowWiseToo()],
        init_data_parallel=True,
    )
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda parameters: ordinary(parameters, lr=RATE),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def _full_state(sharded):
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


def _load(sharded, state):
    """Put a whole state dict into a sharded model."""
    own = sharded.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                for target, source in host_checkpoint._pairs(name, own[name], value):
                    target.copy_(source)


def _snapshot(model):
    return {n: v.clone() for n, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def _difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def _sharded_modules(model):
    return [path for path, part in model.named_modules() if isinstance(part, ShardedModule)]


def _parity(kind, wide):
    """Train the same weights sharded and whole; return the largest differences."""
    whole = hosts.hybrid_dlrm(wide=wide, gate=ConvexGate)
    birth = _snapshot(whole)
    sharded, optimizer = _shard(hosts.hybrid_dlrm(wide=wide, gate=ConvexGate), kind)
    _load(sharded, birth)
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
    after = _snapshot(whole)
    weights = _difference(_full_state(sharded), after)
    moved = min((after[name] - birth[name]).abs().max().item() for name in after)
    return outputs, weights, moved, len(_sharded_modules(sharded))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "data_parallel"])
def test_parity_with_one_process(ranks, kind, wide):
    for outputs, weights, moved, sharded in ranks.run(_parity, kind, wide):
        assert outputs <= 1e-6
        assert weights <= 1e-6
        assert moved > 1e-5  # else equality would say nothing
        assert sharded == 1 + wide


def _upgrade(kind, wide):
    """Train a sharded host, upgrade it, and compare with the host that goes on as it was."""
    host, host_optimizer = _shard(hosts.host_dlrm(seed=3), kind, RowWiseAdagrad)
    hosts.train(host, host_optimizer, steps=4)
    checkpoint = {"model": host.state_dict(), "optimizer": host_optimizer.state_dict()}
    upgraded, optimizer = _shard(hosts.hybrid_dlrm(seed=4, wide=wide), kind, RowWiseAdagrad)
    new = load_host_checkpoint(upgraded, checkpoint, optimizer=optimizer)
    dense, sparse, _ = hosts.batch(seed=99)
    with torch.no_grad():
        equal_at_birth = torch.equal(host(dense, sparse), upgraded(dense, sparse))
    birth = _full_state(upgraded)

    hosts.train(host, host_optimizer, steps=1, start=50)
    hosts.train(upgraded, optimizer, steps=1, start=50)
    names = host_checkpoint.host_names(upgraded)
    mine = {names[n]: v for n, v in _full_state(upgraded).items() if names[n] is not None}
    first_update = _difference(mine, _full_state(host))

    hosts.train(upgraded, optimizer, steps=2, start=51)
    after = _full_state(upgraded)
    still = [name for name in new if name in after and torch.equal(after[name], birth[name])]
    return equal_at_birth, first_update, still, len(new)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "data_parallel"])
def test_upgrade_of_a_trained_host_on_two_ranks(ranks, kind, wide):
    for equal_at_birth, first_update, still, new in ranks.run(_upgrade, kind, wide):
        assert equal_at_birth
        assert first_update == 0.0
        assert still == []
        assert new > 5


def test_upgrade_of_a_trained_host_on_one_rank(one_rank):
    ((equal_at_birth, first_update, still, _),) = one_rank.run(_upgrade, "table_wise", True)
    assert (equal_at_birth, first_update, still) == (True, 0.0, [])


def _pipeline(postproc):
    sharded, optimizer = _shard(hosts.hybrid_dlrm(wide=True), "row_wise")
    model = _Train(sharded.module)
    pipeline = TrainPipelineSparseDist(
        model, optimizer, torch.device("cpu"), pipeline_postproc=postproc
    )
    batches = iter([Batch(*hosts.batch(seed=step)) for step in range(4)])
    losses = [pipeline.progress(batches)[0].item() for _ in range(4)]
    try:
        verify_pipeline(pipeline, model)
    except PlanError as error:
        return losses, len(pipeline._pipelined_modules), str(error)
    return losses, len(pipeline._pipelined_modules), ""


class _Train(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        logits = self.model(batch.dense_features, batch.sparse_features).squeeze(-1)
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        return value, logits


def test_hybrid_and_wide_branch_are_pipelined(ranks):
    for losses, pipelined, error in ranks.run(_pipeline, True):
        assert pipelined == 2
        assert error == ""
        assert len(set(losses)) == 4


def test_a_pipeline_that_does_not_pipeline_is_refused(ranks):
    for _, pipelined, error in ranks.run(_pipeline, False):
        assert pipelined == 0
        assert "pipeline must pipeline every sharded module" in error
        assert "pipeline_postproc=True" in error


def _save_host(folder, optimizer_class):
    host, optimizer = _shard(hosts.host_dlrm(seed=3), "row_wise", optimizer_class)
    hosts.train(host, optimizer, steps=3)
    state = {"model": host.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.save(state, checkpoint_id=folder)
    dense, sparse, _ = hosts.batch(seed=99)
    with torch.no_grad():
        return host(dense, sparse), _full_state(host)


def _load_directory(folder, kind, optimizer_class):
    upgraded, optimizer = _shard(hosts.hybrid_dlrm(seed=8), kind, optimizer_class)
    load_host_checkpoint(upgraded, folder, optimizer=optimizer)
    dense, sparse, _ = hosts.batch(seed=99)
    with torch.no_grad():
        logits = upgraded(dense, sparse)
    names = host_checkpoint.host_names(upgraded)
    state = {names[n]: v for n, v in _full_state(upgraded).items() if names[n] is not None}
    return logits, state


def test_host_checkpoint_reshards_from_two_ranks_to_one(ranks, one_rank, tmp_path):
    folder = str(tmp_path / "checkpoint")
    (logits, state), _ = ranks.run(_save_host, folder, RowWiseAdagrad)
    ((loaded_logits, loaded),) = one_rank.run(_load_directory, folder, "table_wise", RowWiseAdagrad)
    assert _difference(loaded, state) == 0.0
    torch.testing.assert_close(loaded_logits, logits)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_host_directory_loads_on_two_ranks_with_its_optimiser(ranks, tmp_path, kind):
    """Saved row-wise; a rank's fused optimiser then knows only the tables it holds."""
    folder = str(tmp_path / "checkpoint")
    kept = torch.optim.Adagrad if kind == "column_wise" else RowWiseAdagrad
    (_, state), _ = ranks.run(_save_host, folder, kept)
    for _, loaded in ranks.run(_load_directory, folder, kind, kept):
        assert _difference(loaded, state) == 0.0


def _refused_on_one_rank():
    """Tables that moved between ranks fit on one rank and not on the other."""
    host, _ = _shard(hosts.host_dlrm(seed=3), "table_wise")
    model = hosts.hybrid_dlrm(seed=8)
    plan = _plan(model, "table_wise")
    (ways,) = plan.plan.values()
    ways["t_history"] = table_wise(rank=1)(
        model.sparse_arch.embedding_bag_collection.ebc.embedding_bags["t_history"].weight,
        2,
        2,
        "cpu",
        _RowWiseToo(),
    )
    upgraded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=plan,
        sharders=[_RowWiseToo()],
    )
    before = _full_state(upgraded)
    try:
        load_host_checkpoint(upgraded, {"model": host.state_dict()})
    except ValueError as error:
        return str(error), _difference(_full_state(upgraded), before)
    return "", 0.0


def test_all_ranks_refuse_together_and_nothing_has_changed(ranks):
    for error, changed in ranks.run(_refused_on_one_rank):
        assert "must be sharded as in the model" in error
        assert changed == 0.0


def _save_hybrid(folder):
    model, optimizer = _shard(hosts.hybrid_dlrm(seed=3, wide=True), "row_wise")
    hosts.train(model, optimizer, steps=3)
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder)
    return _full_state(model)


def _restore_hybrid(folder, kind, seed):
    table = hosts.sid_table(seed=seed)
    model, _ = _shard(hosts.hybrid_dlrm(seed=9, wide=True, table=table), kind)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    try:
        model.load_state_dict(state["model"])
    except SIDVersionError as error:
        return str(error)
    return _full_state(model)


def test_hybrid_checkpoint_reshards_exactly(ranks, one_rank, tmp_path):
    folder = str(tmp_path / "checkpoint")
    state, _ = ranks.run(_save_hybrid, folder)
    (one,) = one_rank.run(_restore_hybrid, folder, "table_wise", 0)
    two, _ = ranks.run(_restore_hybrid, folder, "column_wise", 0)
    assert _difference(one, state) == 0.0
    assert _difference(two, state) == 0.0


def test_checkpoint_of_another_sid_table_is_refused(ranks, one_rank, tmp_path):
    folder = str(tmp_path / "checkpoint")
    ranks.run(_save_hybrid, folder)
    (error,) = one_rank.run(_restore_hybrid, folder, "table_wise", 1)
    assert isinstance(error, str)
    assert hosts.sid_table(seed=0).content_hash[:8] in error


def _out_of_range():
    sharded, _ = _shard(hosts.hybrid_dlrm(), "row_wise")
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


def _empty_batch(kind):
    sharded, _ = _shard(hosts.hybrid_dlrm(wide=True), kind)
    return list(sharded(torch.zeros(0, hosts.DENSE), hosts.empty_batch()).shape)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise"])
def test_an_empty_batch_is_served_when_sharded(ranks, kind):
    assert ranks.run(_empty_batch, kind) == [[0, 1], [0, 1]]


def test_every_table_must_be_in_the_plan():
    model = hosts.hybrid_dlrm(wide=True)
    with pytest.raises(PlanError, match=r"got none for host\.sparse_arch.*sid_1"):
        verify_plan(model, ShardingPlan({}))


def _meta_birth():
    """A host on the meta device: what DMP makes of the tables it draws itself."""
    with torch.device("meta"):
        collection = hosts.host_collection(device=torch.device("meta"))
        model = hosts.dlrm(hosts.hybrid(collection))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.sparse_arch.buffers())
    sharded, _ = _shard(model, "table_wise")
    state = _full_state(sharded)
    dense, sparse, _ = hosts.batch()
    expander = sharded.module.sparse_arch.embedding_bag_collection.expander
    with torch.no_grad():
        finite = bool(torch.isfinite(sharded(dense, sparse)).all())
    tables = {name: value.abs().max().item() for name, value in state.items() if "_bags." in name}
    return tables, finite, expander.coverage()


def test_meta_device_birth_keeps_codes_and_zero_tables(ranks):
    for tables, finite, coverage in ranks.run(_meta_birth):
        assert finite
        for name, largest in tables.items():
            assert (largest == 0.0) == (".sid_" in name)
        assert 0.5 < coverage["item"] <= 1.0
