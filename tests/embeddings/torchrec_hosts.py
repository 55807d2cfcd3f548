"""Rankers whose classes are TorchRec's own, and its two-tower example, which no wheel ships.

Source of the two-tower face: torchrec repository, examples/retrieval/modules/two_tower.py: its
constructor asks a collection for exactly two configs, its forward for their features by name.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torchrec import EmbeddingBagCollection
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection
from torchrec.models.experimental.transformerdlrm import DLRM_Transformer
from torchrec.modules.mlp import MLP

from sidrank.embeddings import HybridEmbeddingBagCollection, RawIDSource, SIDExpander
from sidrank.layers import ResidualGate
from sidrank.semantic_ids import SIDLookup
from tests.embeddings import hosts

SIZES = {
    "dense_in_features": hosts.DENSE,
    "dense_arch_layer_sizes": [8, hosts.DIM],
    "over_arch_layer_sizes": [8, 1],
}
WIDE = [2 * hosts.DIM]
DLRMS = {
    "DLRM": (DLRM, {}),
    "DLRM_DCN": (DLRM_DCN, {"dcn_num_layers": 2, "dcn_low_rank_dim": 4}),
    "DLRM_Projection": (
        DLRM_Projection,
        {"interaction_branch1_layer_sizes": WIDE, "interaction_branch2_layer_sizes": WIDE},
    ),
    "DLRM_Transformer": (DLRM_Transformer, {"nhead": 2, "ntransformer_layers": 1}),
}


class TwoTower(nn.Module):
    """A vector of the query and one of the candidate, from one collection."""

    def __init__(self, embedding_bag_collection, layer_sizes):
        super().__init__()
        query, candidate = embedding_bag_collection.embedding_bag_configs()
        self._names = [query.feature_names, candidate.feature_names]
        self.ebc = embedding_bag_collection
        self.query_proj = MLP(query.embedding_dim, layer_sizes)
        self.candidate_proj = MLP(candidate.embedding_dim, layer_sizes)

    def forward(self, kjt):
        pooled = self.ebc(kjt)
        query, candidate = (torch.cat([pooled[n] for n in side], dim=1) for side in self._names)
        return self.query_proj(query), self.candidate_proj(candidate)


@dataclass(frozen=True)
class Host:
    """How to make a ranker around a collection, and where it keeps it."""

    name: str

    @property
    def path(self):
        return "ebc" if self.name == "TwoTower" else "sparse_arch.embedding_bag_collection"

    @property
    def keys(self):
        """Features that gain SIDs: of the two towers only the candidate's."""
        return ["item"] if self.name == "TwoTower" else ["item", "history"]

    def collection(self, device=None):
        tables = ("user", "item") if self.name == "TwoTower" else hosts.TABLES
        return hosts.host_collection(device=device, tables=tables)

    def hybrid(self, collection: EmbeddingBagCollection):
        lookup = SIDLookup(hosts.sid_table())
        expander = SIDExpander({key: RawIDSource(f"{key}_raw", lookup) for key in self.keys})
        return HybridEmbeddingBagCollection(
            collection,
            expander.embedding_bag_configs(embedding_dim=hosts.DIM),
            expander=expander,
            gates={key: ResidualGate(statistics=["shown"]) for key in self.keys},
        )

    def build(self, collection, seed=0):
        torch.manual_seed(seed)
        if self.name == "TwoTower":
            return TwoTower(collection, [16, 16])  # ends in a ReLU: sides must overlap
        if self.name == "SimpleDeepFMNN":
            return SimpleDeepFMNN(hosts.DENSE, collection, 8, 4)
        kind, extra = DLRMS[self.name]
        return kind(collection, **SIZES, **extra)

    def logits(self, model, example):
        """One a row; SimpleDeepFMNN gives probabilities, which serves as well."""
        dense, sparse, _ = example
        if self.name == "TwoTower":
            query, candidate = model(sparse)
            return (query * candidate).sum(1)
        return model(dense, sparse).squeeze(1)

    def train(self, model, optimizer, seeds):
        """A step a seed: a squared error, since the answers of one host are probabilities."""
        for seed in seeds:
            example = hosts.batch(seed=seed)
            torch.manual_seed(seed)  # a transformer has dropout
            optimizer.zero_grad()
            nn.functional.mse_loss(self.logits(model, example), example[2]).backward()
            optimizer.step()


ALL = [Host(name) for name in (*DLRMS, "SimpleDeepFMNN", "TwoTower")]
