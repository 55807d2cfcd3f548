"""One changed line in TorchRec's own rankers: predictions, checkpoint, sharding, learning."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import KeyedOptimizerWrapper

from sidrank.embeddings import host_names, load_host_checkpoint, replace_embeddings
from tests.embeddings import hosts, sharding
from tests.embeddings.torchrec_hosts import ALL

each_host = pytest.mark.parametrize("host", ALL, ids=lambda host: host.name)


def adagrad(model):
    parameters = dict(model.named_parameters())
    return KeyedOptimizerWrapper(parameters, lambda params: torch.optim.Adagrad(params, lr=0.1))


def trained(host):
    model = host.build(host.collection(), seed=3)
    optimizer = adagrad(model)
    host.train(model, optimizer, seeds=range(4))
    return model, optimizer


def by_constructor(host):
    return host.build(host.hybrid(host.collection()), seed=8)


def in_place(host):
    model = host.build(host.collection(), seed=8)
    replace_embeddings(model, host.path, host.hybrid)
    return model


@each_host
@pytest.mark.parametrize("change", [by_constructor, in_place])
class TestOneProcess:
    def test_predictions_are_the_hosts_and_so_is_its_next_step(self, host, change):
        before, before_optimizer = trained(host)
        model = change(host)
        optimizer = adagrad(model)
        checkpoint = {"model": before.state_dict(), "optimizer": before_optimizer.state_dict()}
        new = load_host_checkpoint(model, checkpoint, optimizer=optimizer)
        assert new
        assert all(name.startswith(f"{host.path}.") for name in new)
        example = hosts.batch(seed=77)
        before.eval(), model.eval()
        assert torch.equal(host.logits(model, example), host.logits(before, example))
        before.train(), model.train()
        host.train(before, before_optimizer, seeds=[50])
        host.train(model, optimizer, seeds=[50])
        theirs = dict(before.named_parameters())
        names = host_names(model)
        for name, value in model.named_parameters():
            assert name in new or torch.equal(value, theirs[names[name]])

    def test_every_new_parameter_learns(self, host, change):
        model = change(host)
        new = [name for name, old in host_names(model).items() if old is None]
        birth = {name: value.clone() for name, value in model.named_parameters() if name in new}
        host.train(model, adagrad(model), seeds=range(3))
        assert any("gates" in name for name in birth)
        for name, value in model.named_parameters():
            assert name not in new or not torch.equal(value, birth[name]), name


def _sharded(index, folder):
    """A sharded host's checkpoint, in the changed host whose tables were made on meta."""
    host = ALL[index]
    before, before_optimizer = sharding.shard(
        host.build(host.collection(), seed=3), "row_wise", RowWiseAdagrad
    )
    mine = [2 * step + dist.get_rank() for step in range(3)]
    host.train(before, before_optimizer, seeds=mine)
    dcp.save({"model": before.state_dict(), "optimizer": before_optimizer.state_dict()},
             checkpoint_id=folder)  # fmt: skip
    model = host.build(host.collection(device="meta"), seed=8)
    replace_embeddings(model, host.path, host.hybrid)
    sharded, optimizer = sharding.shard(model, "row_wise", RowWiseAdagrad)
    new = load_host_checkpoint(sharded, folder, optimizer=optimizer)
    example = hosts.batch(seed=100 + dist.get_rank())
    before.eval(), sharded.eval()
    equal = torch.equal(host.logits(sharded, example), host.logits(before, example))
    birth = sharding.full_state(sharded)
    sharded.train()
    host.train(sharded, optimizer, seeds=mine)
    after = sharding.full_state(sharded)
    still = [name for name in new if name in after and torch.equal(after[name], birth[name])]
    dense = torch.cat([v.detach().flatten() for n, v in after.items() if "gates" in n])
    return equal, still, dense, sharding.sharded_modules(sharded)


@each_host
def test_two_ranks(ranks, tmp_path, host):
    found = ranks.run(_sharded, ALL.index(host), str(tmp_path / "host"))
    for equal, still, _, sharded in found:
        assert equal
        assert still == []
        assert sharded == [f"_dmp_wrapped_module.module.{host.path}.ebc"]
    assert torch.equal(found[0][2], found[1][2])  # the gates of both ranks went the same way


def test_index_of_candidates_is_built_without_queries():
    """A retrieval model keeps the two towers' collections apart; its entries are renamed."""
    host = ALL[-1]
    both = host.build(host.hybrid(host.collection()))
    host.train(both, torch.optim.SGD(both.parameters(), lr=0.1), seeds=range(3))
    alone = host.hybrid(hosts.host_collection(tables=("item",)))
    state = {
        name.removeprefix("ebc."): value
        for name, value in both.state_dict().items()
        if name.startswith("ebc.") and "t_user" not in name
    }
    alone.load_state_dict(state)
    _, sparse, _ = hosts.batch()
    columns = {name: hosts.bags_of(sparse, name) for name in ("item", "item_raw", "shown")}
    vectors = both.candidate_proj(alone(hosts.jagged(columns)).values())
    torch.testing.assert_close(vectors, both(sparse)[1], rtol=0, atol=0)
