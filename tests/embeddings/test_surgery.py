"""A collection swapped inside a model whose constructor is not ours."""

import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM_DCN

from sidrank.embeddings import HybridEmbeddingBagCollection, replace_embeddings
from tests.embeddings import hosts

PATH = "sparse_arch.embedding_bag_collection"


class Foreign(nn.Module):
    """Holds one collection under two names."""

    def __init__(self):
        super().__init__()
        self.first = hosts.host_collection()
        self.second = nn.ModuleDict({"inner": self.first})

    def forward(self, features):
        return self.first(features).values() + self.second["inner"](features).values()


def test_the_model_goes_on_with_the_same_predictions():
    model = DLRM_DCN(
        hosts.host_collection(),
        dense_in_features=hosts.DENSE,
        dense_arch_layer_sizes=[8, hosts.DIM],
        over_arch_layer_sizes=[8, 1],
        dcn_num_layers=2,
        dcn_low_rank_dim=4,
    )
    dense, sparse, _ = hosts.batch()
    before = model(dense, sparse)
    replacement = replace_embeddings(model, PATH, hosts.hybrid)
    assert isinstance(replacement, HybridEmbeddingBagCollection)
    assert model.sparse_arch.embedding_bag_collection is replacement
    assert torch.equal(model(dense, sparse), before)


def test_every_name_of_the_collection_is_replaced():
    model = Foreign()
    _, sparse, _ = hosts.batch()
    before = model(sparse)
    replacement = replace_embeddings(model, "second.inner", hosts.hybrid)
    assert model.first is replacement
    assert model.second["inner"] is replacement
    assert torch.equal(model(sparse), before)


@pytest.mark.parametrize("path", ["", "sparse_arch.nothing", "nowhere"])
def test_path_that_leads_nowhere(path):
    with pytest.raises(ValueError, match=r"path must be one of \['sparse_arch\.embedding_bag_"):
        replace_embeddings(hosts.host_dlrm(), path, hosts.hybrid)


def test_path_to_something_else():
    with pytest.raises(TypeError, match="path must lead to exactly an EmbeddingBagCollection"):
        replace_embeddings(hosts.host_dlrm(), "dense_arch", hosts.hybrid)


def test_a_hybrid_is_not_wrapped_twice():
    model = hosts.hybrid_dlrm()
    with pytest.raises(TypeError, match="got HybridEmbeddingBagCollection"):
        replace_embeddings(model, PATH, hosts.hybrid)


def test_model_without_a_collection():
    with pytest.raises(ValueError, match=r"model must hold an EmbeddingBagCollection, got none"):
        replace_embeddings(nn.Linear(1, 1), "ebc", hosts.hybrid)
