"""Only what is new learns, bit for bit."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from sidrank.embeddings import host_names
from sidrank.embeddings.alignment_stage import alignment_stage
from sidrank.layers import FrozenRowsEmbedding
from tests.embeddings import hosts, sharding
from tests.layers.test_frozen_rows import OPTIMISERS


def state_of(optimizer, parameters):
    return copy.deepcopy([optimizer.state.get(parameter) for parameter in parameters])


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("name", list(OPTIMISERS))
@pytest.mark.parametrize("wide", ["bpe", "summary"])
def test_the_host_stands_still_and_what_is_new_moves(wide, name, stale):
    model = hosts.hybrid_dlrm(wide=wide)
    optimizer = OPTIMISERS[name](model.parameters())
    if stale:  # momentum, and gradients that nobody took away
        hosts.train(model, optimizer, steps=2)
        hosts.loss(model, hosts.batch(seed=7)).backward()
    born = host_names(model)
    waits = {n: p for n, p in model.named_parameters() if born[n] is not None}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    state = state_of(optimizer, waits.values())
    with alignment_stage(model) as learns:
        for step in range(3):
            optimizer.zero_grad(set_to_none=step % 2 == 1)
            hosts.loss(model, hosts.batch(seed=step)).backward()
            optimizer.step()
    assert sorted(learns) == sorted(set(before) - set(waits))
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert sorted(moved) == sorted(learns)
    for one, other in zip(state_of(optimizer, waits.values()), state, strict=True):
        assert one is other is None or same(one, other)
    hosts.train(model, optimizer, steps=1)
    assert all(not torch.equal(p, before[n]) for n, p in waits.items())


def test_the_host_moves_without_the_stage():
    model = hosts.hybrid_dlrm()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    hosts.train(model, torch.optim.Adam(model.parameters()), steps=3)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_what_did_not_learn_before_does_not_learn_after():
    model = hosts.hybrid_dlrm()
    model.over_arch.model[0].requires_grad_(False)
    inside = model.sparse_arch.embedding_bag_collection
    inside.gates[0].requires_grad_(False)
    asked = {n: p.requires_grad for n, p in model.named_parameters()}
    inner = {}

    def fail():
        with alignment_stage(model) as learns:
            inner.update({name: dict(model.named_parameters())[name] for name in learns})
            assert all(parameter.requires_grad for parameter in inner.values())
            raise KeyError("a step failed")

    with pytest.raises(KeyError, match="a step failed"):
        fail()
    assert inner
    assert not [name for name in inner if ".gates.0." in name]
    assert {n: p.requires_grad for n, p in model.named_parameters()} == asked


def test_running_statistics_of_the_host_are_put_back():
    class Host(nn.Module):
        def __init__(self):
            super().__init__()
            self.old = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
            self.words = FrozenRowsEmbedding(torch.randn(5, 4), num_new=2)

        def forward(self, ids):
            return self.old(self.words(ids))

    model = Host()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with alignment_stage(model) as learns:
        model(torch.arange(7)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(model.old[0].running_mean, before["old.0.running_mean"])
    assert learns == ["words.new"]
    after = model.state_dict()
    assert torch.equal(after["words.weight"][:5], before["words.weight"][:5])
    assert not torch.equal(after["words.weight"][5:], before["words.weight"][5:])
    for name in before.keys() - {"words.weight"}:
        assert torch.equal(after[name], before[name])


class TestErrors:
    def test_nothing_new(self):
        with (
            pytest.raises(ValueError, match="model must have new parameters that may learn, got"),
            alignment_stage(hosts.host_dlrm()),
        ):
            pass

    def test_optimiser_in_the_backward_pass(self):
        collection = hosts.host_collection()
        apply_optimizer_in_backward(torch.optim.SGD, collection.parameters(), {"lr": 0.5})
        model = hosts.dlrm(hosts.hybrid(collection))
        with (
            pytest.raises(ValueError, match=r"optimiser in the backward pass .*t_user\.weight"),
            alignment_stage(model),
        ):
            pass
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_fused_tables(self):
        configs = hosts.host_collection().embedding_bag_configs()
        model = hosts.hybrid_dlrm()
        model.other = FusedEmbeddingBagCollection(configs, torch.optim.SGD, {"lr": 0.1})
        with (
            pytest.raises(ValueError, match="FusedEmbeddingBagCollection at other"),
            alignment_stage(model),
        ):
            pass


def _sharded(kind):
    model, _ = sharding.shard(hosts.hybrid_dlrm(), kind)
    try:
        with alignment_stage(model):
            pass
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["row_wise", "data_parallel"])
def test_a_sharded_model_is_refused_by_name(ranks, kind):
    for error in ranks.run(_sharded, kind):
        assert "DistributedModelParallel at the root" in error
        assert "ShardedEmbeddingBagCollection at " in error
