"""Checkpoints of hosts and hybrids on one and two gloo ranks."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.sharding_plan import table_wise
from torchrec.distributed.types import ShardingEnv
from torchrec.optim import RowWiseAdagrad

from sidrank.embeddings import host_checkpoint, load_host_checkpoint
from sidrank.semantic_ids import SIDVersionError
from tests.embeddings import hosts, sharding


def _upgrade(kind, wide):
    """Train a sharded host, upgrade it, and compare with the host that goes on as it was."""
    host, host_optimizer = sharding.shard(hosts.host_dlrm(seed=3), kind, RowWiseAdagrad)
    hosts.train(host, host_optimizer, steps=4)
    checkpoint = {"model": host.state_dict(), "optimizer": host_optimizer.state_dict()}
    upgraded, optimizer = sharding.shard(hosts.hybrid_dlrm(seed=4, wide=wide), kind, RowWiseAdagrad)
    new = load_host_checkpoint(upgraded, checkpoint, optimizer=optimizer)
    dense, sparse, _ = hosts.batch(seed=99)
    with torch.no_grad():
        equal_at_birth = torch.equal(host(dense, sparse), upgraded(dense, sparse))
    birth = sharding.full_state(upgraded)

    hosts.train(host, host_optimizer, steps=1, start=50)
    hosts.train(upgraded, optimizer, steps=1, start=50)
    names = host_checkpoint.host_names(upgraded)
    mine = {names[n]: v for n, v in sharding.full_state(upgraded).items() if names[n] is not None}
    first_update = sharding.difference(mine, sharding.full_state(host))

    hosts.train(upgraded, optimizer, steps=2, start=51)
    after = sharding.full_state(upgraded)
    still = [name for name in new if name in after and torch.equal(after[name], birth[name])]
    return equal_at_birth, first_update, still, len(new)


@pytest.mark.parametrize("wide", [False, True, "bpe", "summary"])
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


def _save_host(folder, optimizer_class):
    host, optimizer = sharding.shard(hosts.host_dlrm(seed=3), "row_wise", optimizer_class)
    hosts.train(host, optimizer, steps=3)
    state = {"model": host.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.save(state, checkpoint_id=folder)
    dense, sparse, _ = hosts.batch(seed=99)
    with torch.no_grad():
        return host(dense, sparse), sharding.full_state(host)


def _load_directory(folder, kind, optimizer_class):
    upgraded, optimizer = sharding.shard(hosts.hybrid_dlrm(seed=8), kind, optimizer_class)
    load_host_checkpoint(upgraded, folder, optimizer=optimizer)
    dense, sparse, _ = hosts.batch(seed=99)
    with torch.no_grad():
        logits = upgraded(dense, sparse)
    names = host_checkpoint.host_names(upgraded)
    state = {names[n]: v for n, v in sharding.full_state(upgraded).items() if names[n] is not None}
    return logits, state


def test_host_checkpoint_reshards_from_two_ranks_to_one(ranks, one_rank, tmp_path):
    folder = str(tmp_path / "checkpoint")
    (logits, state), _ = ranks.run(_save_host, folder, RowWiseAdagrad)
    ((loaded_logits, loaded),) = one_rank.run(_load_directory, folder, "table_wise", RowWiseAdagrad)
    assert sharding.difference(loaded, state) == 0.0
    torch.testing.assert_close(loaded_logits, logits)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_host_directory_loads_on_two_ranks_with_its_optimiser(ranks, tmp_path, kind):
    """Saved row-wise; a rank's fused optimiser then knows only the tables it holds."""
    folder = str(tmp_path / "checkpoint")
    kept = torch.optim.Adagrad if kind == "column_wise" else RowWiseAdagrad
    (_, state), _ = ranks.run(_save_host, folder, kept)
    for _, loaded in ranks.run(_load_directory, folder, kind, kept):
        assert sharding.difference(loaded, state) == 0.0


def _refused_on_one_rank():
    """Tables that moved between ranks fit on one rank and not on the other."""
    host, _ = sharding.shard(hosts.host_dlrm(seed=3), "table_wise")
    model = hosts.hybrid_dlrm(seed=8)
    plan = sharding.make_plan(model, "table_wise")
    (ways,) = plan.plan.values()
    ways["t_history"] = table_wise(rank=1)(
        model.sparse_arch.embedding_bag_collection.ebc.embedding_bags["t_history"].weight,
        2,
        2,
        "cpu",
        sharding.RowWiseToo(),
    )
    upgraded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=plan,
        sharders=[sharding.RowWiseToo()],
    )
    before = sharding.full_state(upgraded)
    try:
        load_host_checkpoint(upgraded, {"model": host.state_dict()})
    except ValueError as error:
        return str(error), sharding.difference(sharding.full_state(upgraded), before)
    return "", 0.0


def test_all_ranks_refuse_together_and_nothing_has_changed(ranks):
    for error, changed in ranks.run(_refused_on_one_rank):
        assert "must be sharded as in the model" in error
        assert changed == 0.0


def _save_hybrid(folder):
    model, optimizer = sharding.shard(hosts.hybrid_dlrm(seed=3, wide=True), "row_wise")
    hosts.train(model, optimizer, steps=3)
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder)
    return sharding.full_state(model)


def _restore_hybrid(folder, kind, seed):
    table = hosts.sid_table(seed=seed)
    model, _ = sharding.shard(hosts.hybrid_dlrm(seed=9, wide=True, table=table), kind)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    try:
        model.load_state_dict(state["model"])
    except SIDVersionError as error:
        return str(error)
    return sharding.full_state(model)


def test_hybrid_checkpoint_reshards_exactly(ranks, one_rank, tmp_path):
    folder = str(tmp_path / "checkpoint")
    state, _ = ranks.run(_save_hybrid, folder)
    (one,) = one_rank.run(_restore_hybrid, folder, "table_wise", 0)
    two, _ = ranks.run(_restore_hybrid, folder, "column_wise", 0)
    assert sharding.difference(one, state) == 0.0
    assert sharding.difference(two, state) == 0.0


def test_checkpoint_of_another_sid_table_is_refused(ranks, one_rank, tmp_path):
    folder = str(tmp_path / "checkpoint")
    ranks.run(_save_hybrid, folder)
    (error,) = one_rank.run(_restore_hybrid, folder, "table_wise", 1)
    assert isinstance(error, str)
    assert hosts.sid_table(seed=0).content_hash[:8] in error
