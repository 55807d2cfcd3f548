"""Each class of DLRM that TorchRec ships, stock and hybrid, scores candidates as it scores rows."""

import pytest
import torch

from sidrank.embeddings import RankingRequests
from sidrank.models import DLRMRanking
from tests.embeddings import hosts
from tests.embeddings.torchrec_hosts import ALL, DLRMS

COUNTS = [3, 0, 5, 1]
BY_NAME = {host.name: host for host in ALL}


def trained(host, hybrid):
    """Away from birth, so that the side of the SIDs counts."""
    collection = host.collection()
    model = host.build(hosts.hybrid(collection) if hybrid else collection)
    host.train(model, torch.optim.Adagrad(model.parameters(), lr=0.1), seeds=range(3))
    return model.eval()


def asked():
    """User and history of the request; what is said of an item, counts too, the candidate's."""
    dense, sparse, _ = hosts.batch(size=sum(COUNTS))
    sides = {True: {}, False: {}}
    for key in sparse.keys():  # noqa: SIM118
        own = not key.startswith(("user", "history"))
        bags = hosts.bags_of(sparse, key)
        sides[own][key] = bags if own else bags[: len(COUNTS)]
    request, candidates = hosts.jagged(sides[False]), hosts.jagged(sides[True])
    return RankingRequests(dense[: len(COUNTS)], request, candidates, torch.tensor(COUNTS))


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("name", list(DLRMS))
def test_candidates_score_as_rows(name, hybrid):
    model, requests = trained(BY_NAME[name], hybrid), asked()
    with torch.no_grad():
        found, expected = DLRMRanking(model).rank(requests), model(*requests.pointwise())
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
