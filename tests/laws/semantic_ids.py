"""Semantic IDs as modules of a ranker."""

import torch

from sidrank.semantic_ids import SIDEmbedding, SIDLookup, SIDSpec, SIDTable
from tests.laws.case import Case, D, L

LOOKUP = SIDLookup(SIDTable([1, 2, 4], [[0, 1], [1, 1], [2, 0]], spec=SIDSpec((3, 2))))


def sid_embedding():
    return SIDEmbedding(torch.nn.Embedding(6, D, padding_idx=0), lookup=LOOKUP)


CASES = [
    Case(
        sid_embedding,
        lambda rows: {"ids": torch.randint(0, 6, (rows, L))},
        "host.weight weight lookup._extra_state gate.mlp.logit fusion.query fusion.own.weight"
        " fusion.own.bias fusion.mean.weight",
    ),
]
