"""A small SIDRanker, and the hosts' batches scored by it."""

import torch

from sidrank.layers import ConvexGate, SoftDiscretization
from sidrank.models import SIDBehaviours, SIDRanker
from sidrank.sequences import InterestAlignment
from tests.embeddings import hosts

LENGTH = 4


def behaviours(max_length=LENGTH, table=None):
    return SIDBehaviours(
        hosts.expander("level", table), num_ids=24, embedding_dim=8, max_length=max_length
    )


def ranker(seed=1, branch="bpe", max_length=LENGTH):
    torch.manual_seed(seed)
    return SIDRanker(
        hosts.hybrid(hosts.host_collection(), ConvexGate),
        behaviours(max_length),
        alignment=InterestAlignment(discretization=SoftDiscretization(dim=4)),
        branch=hosts.branch(mode=branch) if branch else None,
        dense_in_features=hosts.DENSE,
        hidden=8,
    )


def trained(**options):
    """Away from birth, where a dropped part would not be missed."""
    model = ranker(**options)
    hosts.train(model, torch.optim.Adagrad(model.parameters(), lr=0.5), steps=3)
    return model.eval()
