import numpy as np
import pytest
import torch

from sidrank.demo.arms import ARMS, DEFAULT_ARMS, build_arm, gate_of, make_host, shuffled, upgrade
from sidrank.demo.settings import Recipe
from sidrank.layers import ConvexGate, ResidualGate

RECIPE = Recipe(width=4, hidden=8)


def build(arm, fold, recipe=RECIPE):
    return build_arm(
        arm, features=fold.features, table=fold.table, vectors=fold.vectors, recipe=recipe, seed=0
    )


def logits(model, fold, rows):
    dense, sparse, _ = fold.batches.cut(torch.as_tensor(rows))
    return model(dense, sparse)


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("arm", ARMS[1:])
def test_every_parameter_of_every_arm_learns(arm, fold):
    model = build(arm, fold)
    rows = np.arange(256)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        out = logits(model, fold, rows)
        assert out.shape == (256, 1)
        (out.squeeze(1) - 1).square().mean().backward()
        optimizer.step()
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert not still


@pytest.mark.parametrize("arm", ["hybrid", "hybrid_shuffled", "hybrid_memorization"])
def test_the_residual_arms_start_as_the_host(arm, fold):
    rows = np.arange(300)
    assert torch.equal(
        logits(build(arm, fold), fold, rows), logits(build("host", fold), fold, rows)
    )


def test_the_matched_host_is_no_smaller_than_the_hybrid(fold):
    matched, hybrid = size(build("host_matched", fold)), size(build("hybrid", fold))
    assert size(build("host", fold)) < hybrid <= matched <= 1.5 * hybrid


def test_sid_only_does_not_read_the_hash_id(fold):
    rows, twins = np.arange(50), np.arange(50) + len(fold.features.rows)
    model = build("sid_only", fold)
    one, two = fold.batches.cut(torch.tensor(rows)), fold.batches.cut(torch.tensor(twins))
    sids = model.sparse_arch.embedding_bag_collection
    keys = sids(one[1]).keys()
    assert "item" not in keys
    assert "history" in keys
    same = [key for key in keys if "item_sid" in key]
    assert len(same) == len(fold.table.spec.codebook_sizes) * 2 - 1
    for key in same:
        assert torch.equal(sids(one[1])[key], sids(two[1])[key])


@pytest.mark.parametrize(("arm", "width"), [("host_vector", None), ("host_scalars", 2)])
def test_the_controls_see_the_vector(arm, width, fold):
    vectors = fold.vectors.vectors if width is None else fold.vectors.scalars
    module = build(arm, fold).sparse_arch.embedding_bag_collection
    _, sparse, _ = fold.batches.cut(torch.arange(40))
    places = np.searchsorted(fold.table.item_ids, sparse["item_raw"].values().numpy())
    expected = module.project(torch.from_numpy(vectors[places]))
    torch.testing.assert_close(module(sparse)["vector"], expected)


def test_shuffled_codes_are_the_same_codes_on_other_items(fold):
    other = shuffled(fold.table, 0)
    assert sorted(map(tuple, other.codes)) == sorted(map(tuple, fold.table.codes))
    assert (other.codes != fold.table.codes).any(axis=1).mean() > 0.5


def test_gates(fold):
    assert isinstance(gate_of(build("hybrid", fold)), ResidualGate)
    assert isinstance(gate_of(build("hybrid_convex", fold)), ConvexGate)
    with pytest.raises(ValueError, match="model must hold a gate, got DLRM without one"):
        gate_of(build("host", fold))


def test_upgrade_returns_the_same_model(fold):
    host = make_host(fold.features, RECIPE)
    assert upgrade(host, fold.table, RECIPE) is host


def test_unknown_arm(fold):
    with pytest.raises(ValueError, match=r"arm must be one of .*, got 'best'"):
        build("best", fold)


def test_default_arms_are_arms():
    assert set(DEFAULT_ARMS) < set(ARMS)
