"""A FuxiCTR ranker gains SIDs: one module swapped, its checkpoint and predictions kept."""

import numpy as np
import pytest
import torch

from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.semantic_ids.sid_embedding import SIDEmbedding
from tests.semantic_ids import fuxictr_models as fuxi


@pytest.fixture(params=["face", "package"])
def build(request, tmp_path):
    """Builds a host: on classes with FuxiCTR's face, and on FuxiCTR's own where it is whole."""
    if request.param == "face":
        return fuxi.StandIn
    names = ("pytorch.models", "pytorch.layers", "features")
    parts = [pytest.importorskip(f"fuxictr.{name}") for name in names]
    return lambda: fuxi.of_fuxictr(parts, tmp_path)


def add_sids(model):
    """Items 1 to 24 of the vocabulary have SIDs; 0 is padding, the others are new."""
    codes = np.random.default_rng(0).integers(0, 4, (24, 2))
    sids = SIDTable(np.arange(1, 25), codes, spec=SIDSpec((4, 4)))
    layers = model.embedding_layer.embedding_layer.embedding_layers
    layers["item"] = SIDEmbedding(layers["item"], lookup=SIDLookup(sids))
    layers["history"] = layers["item"]  # share_embedding
    model.compile("adam", "binary_crossentropy", 0.01)  # the optimiser learns of the new ones
    return layers["item"]


def scores(model, example):
    model.eval()
    with torch.no_grad():
        found = model(example)["y_pred"]
    model.train()
    return found


def trained(build, path):
    model = build()
    for seed in range(5):
        model.train_step(fuxi.batch(seed=seed))
    model.save_weights(path)
    return model


def test_predictions_stay_and_new_parameters_learn(build, tmp_path):
    host = trained(build, tmp_path / "host.model")
    model = build()
    model.load_weights(tmp_path / "host.model")
    module = add_sids(model)
    example = fuxi.batch(seed=77)
    assert torch.equal(scores(model, example), scores(host, example))
    birth = {name: value.clone() for name, value in module.named_parameters()}
    for seed in range(3):
        model.train_step(fuxi.batch(seed=seed))
    for name, value in module.named_parameters():
        assert not torch.equal(value, birth[name]), name
    assert not torch.equal(scores(model, example), scores(host, example))


def test_padding_of_a_history_is_still_padding(build):
    model = build()
    module = add_sids(model)
    torch.nn.init.normal_(module.weight)
    dictionary = model.embedding_layer.embedding_layer
    one = fuxi.batch(size=1) | {"history": torch.tensor([[5, 0, 0, 0]])}
    pooled = dictionary(model.get_inputs(one))["history"]
    torch.testing.assert_close(pooled, module(torch.tensor([5])))


def test_its_own_checkpoint_comes_back(build, tmp_path):
    model = build()
    add_sids(model)
    for seed in range(3):
        model.train_step(fuxi.batch(seed=seed))
    model.save_weights(tmp_path / "hybrid.model")
    again = build()
    add_sids(again)
    again.load_weights(tmp_path / "hybrid.model")
    assert torch.equal(scores(again, fuxi.batch(seed=7)), scores(model, fuxi.batch(seed=7)))
