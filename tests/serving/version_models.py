"""Rankers whose versions are easy to tell apart, and requests for them."""

import numpy as np
import torch
from torch import nn

from sidrank.embeddings import RankingRequests
from sidrank.models import DLRMRanking
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from tests.embeddings import hosts

COUNTS = [3, 0, 7, 1, 2]
ROWS = 16_384  # of 16 numbers: 1 MiB, so versions share pages


class Numbered(nn.Module):
    """Its weights hold its number thrice: in SIDs, in rows of a table, in a dense layer.

    Item ``k`` has a SID from number ``k`` on.
    """

    def __init__(self, rows=ROWS, width=16):
        super().__init__()
        self.lookup = SIDLookup(numbered_sids(0))
        self.table = nn.EmbeddingBag(rows, width, mode="sum")
        self.dense = nn.Linear(1, 1)
        self.set_to(0, range(rows))

    def set_to(self, number, rows):
        self.lookup = SIDLookup(numbered_sids(number))
        with torch.no_grad():
            self.table.weight[list(rows)] = float(number)
            self.dense.weight.fill_(number)
            self.dense.bias.zero_()

    def rank(self, requests):
        """SID's number, that of each row that was asked for, the dense layer's: ``[N, 3]``."""
        asked = requests.candidates["item"].values()
        known = (self.lookup(torch.arange(1, 200)) >= 0).all(dim=1).sum()
        rows = self.table(asked, torch.arange(len(asked)))[:, 0]
        dense = self.dense(torch.ones(len(asked), 1))[:, 0]
        return torch.stack([known.expand(len(asked)).float(), rows, dense], dim=1)


def numbered_sids(number):
    """The table after ``number`` appends."""
    table = SIDTable([0], [[0, 0]], spec=SIDSpec((4, 4)))
    for item in range(1, number + 1):
        table = table.append([item], [[item % 4, item % 3]])
    return table


def numbered_requests(counts=COUNTS, rows=ROWS, seed=0):
    drawn = np.random.default_rng(seed).integers(0, rows, (sum(counts), 1)).tolist()
    return RankingRequests(
        torch.zeros(len(counts), 0),
        hosts.jagged({"user": [[1]] * len(counts)}),
        hosts.jagged({"item": drawn}),
        torch.tensor(counts),
    )


def hybrid(table=None):
    """A trained hybrid DLRM that ranks, not a version yet."""
    model = DLRMRanking(hosts.hybrid_dlrm(table=table))
    train(model, steps=3)
    return model


def train(model, steps=1, start=0, rate=0.5):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    hosts.train(model, optimizer, steps=steps, start=start)


def grow(model, items=5):
    """Give items 40 and on their SIDs, as a trainer does when its table grew."""
    sids = hosts.sid_table()
    codes = np.random.default_rng(9).integers(0, 4, (items, 3))
    table = sids.append(np.arange(hosts.ITEMS, hosts.ITEMS + items), codes)
    lookup = SIDLookup(table)
    for part in model.modules():
        if hasattr(part, "lookup"):
            part.lookup = lookup
    return table


def hybrid_requests(counts=COUNTS, seed=0):
    dense, sparse, _ = hosts.batch(size=sum(counts), seed=seed)
    sides = {True: {}, False: {}}
    for key in sparse.keys():  # noqa: SIM118
        own = not key.startswith(("user", "history"))
        sides[own][key] = hosts.bags_of(sparse, key)[: sum(counts) if own else len(counts)]
    return RankingRequests(
        dense[: len(counts)],
        hosts.jagged(sides[False]),
        hosts.jagged(sides[True]),
        torch.tensor(counts),
    )
