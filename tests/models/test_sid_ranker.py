"""The assembled ranker: DLRM's signature, every part alive, rows apart, traced, sharded."""

import pytest
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from sidrank.layers import SoftDiscretization
from sidrank.models import SIDRanker
from sidrank.sequences import InterestAlignment
from tests.embeddings import hosts
from tests.models import rankers
from tests.models.rankers import ranker, trained
from tests.models.ways import WAYS


def rows_of(sparse, rows):
    features = {key: [hosts.bags_of(sparse, key)[row] for row in rows] for key in sparse.keys()}  # noqa: SIM118
    return hosts.jagged(features)


def test_logits_of_a_dlrm():
    dense, sparse, _ = hosts.batch()
    assert ranker()(dense, sparse).shape == (6, 1)
    assert ranker(branch=None)(dense, sparse).shape == (6, 1)


def test_every_parameter_has_moved_after_three_steps():
    model = ranker()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hosts.train(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=3, size=64)
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_the_branch_adds_nothing_at_birth():
    dense, sparse, _ = hosts.batch()
    model = ranker()
    logits = model(dense, sparse)
    model.branch = None
    assert torch.equal(model(dense, sparse), logits)


@pytest.mark.parametrize("part", ["user", "item", "item_raw", "history", "history_raw", "shown"])
def test_reads_each_feature(part):
    model = trained()
    dense, sparse, _ = hosts.batch(size=32)
    before = model(dense, sparse)
    values = sparse[part].values()
    values.copy_((values + 1) % 24)
    assert not torch.equal(model(dense, sparse), before)


def test_rows_do_not_see_each_other():
    model = trained()
    dense, sparse, _ = hosts.batch(size=8)
    together = model(dense, sparse)
    for row in range(8):
        alone = model(dense[row : row + 1], rows_of(sparse, [row]))
        torch.testing.assert_close(alone, together[row : row + 1])


def test_padding_changes_nothing():
    """More room in the history than it needs, and behaviours beyond the room."""
    short, long = trained(), ranker(max_length=11).eval()
    long.load_state_dict(short.state_dict())
    dense, sparse, _ = hosts.batch(size=16)
    torch.testing.assert_close(long(dense, sparse), short(dense, sparse))


def test_an_empty_history_and_an_unknown_item_are_scored():
    model = trained()
    features = {"user": [[1]], "item": [[2]], "item_raw": [[10**12]]}
    features |= {"history": [[]], "history_raw": [[]], "shown": [[]], "liked": [[]]}
    assert model(torch.rand(1, hosts.DENSE), hosts.jagged(features)).isfinite().all()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_same_logits_at_any_batch_size(way):
    model = trained()
    other = way(model)
    for size in (4, 9):
        dense, sparse, _ = hosts.batch(size=size, seed=size)
        with torch.no_grad():
            torch.testing.assert_close(other(dense, sparse), model(dense, sparse))


def test_bfloat16_autocast():
    model = trained()
    dense, sparse, _ = hosts.batch(size=9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(dense, sparse)
    with torch.no_grad():
        exact = model(dense, sparse)
    scale = exact.abs().max().item() + 1.0
    torch.testing.assert_close(rounded.float(), exact, atol=0.05 * scale, rtol=0.0)


def test_meta_device_birth_then_load():
    with torch.device("meta"):
        model = ranker()
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    expected = trained()
    model.load_state_dict(expected.state_dict())
    dense, sparse, _ = hosts.batch()
    assert torch.equal(model.eval()(dense, sparse), expected(dense, sparse))


class TestErrors:
    @pytest.mark.parametrize("name", ["dense_in_features", "hidden"])
    def test_sizes(self, name):
        sizes = {"dense_in_features": 3, "hidden": 8, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SIDRanker(
                hosts.hybrid(hosts.host_collection()),
                rankers.behaviours(),
                alignment=InterestAlignment(discretization=SoftDiscretization(dim=4)),
                **sizes,
            )

    def test_widths(self):
        class TwoWidths(nn.Module):
            def embedding_bag_configs(self):
                configs = hosts.host_collection().embedding_bag_configs()
                configs[0].embedding_dim = 8
                return configs

        with pytest.raises(ValueError, match=r"embeddings must have one width, got \[8, 16\]"):
            SIDRanker(
                TwoWidths(),
                rankers.behaviours(),
                alignment=InterestAlignment(discretization=SoftDiscretization(dim=4)),
                dense_in_features=3,
            )

    def test_a_branch_that_returns_no_logit(self):
        class Wide(nn.Module):
            def forward(self, features: KeyedJaggedTensor):
                return torch.zeros(features.stride(), 2)

        model = ranker(branch=None)
        model.branch = Wide()
        dense, sparse, _ = hosts.batch()
        with pytest.raises(ValueError, match=r"branch logits must have shape \[\*, 1\]"):
            model(dense, sparse)

    def test_an_empty_batch(self):
        with pytest.raises(ValueError, match="features must have at least one row"):
            ranker()(torch.zeros(0, hosts.DENSE), hosts.empty_batch())
