"""Fields on two sides, and rows without padding."""

import pytest
import torch
from torchrec import EmbeddingBagCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import RankingRequests
from sidrank.models import _candidate_fields
from tests.embeddings import hosts


def requests(counts, own="item"):
    return RankingRequests(
        torch.zeros(len(counts), 1),
        hosts.jagged({"user": [[place] for place in range(len(counts))]}),
        hosts.jagged({own: [[place] for place in range(sum(counts))]}),
        torch.tensor(counts),
    )


def stock():
    """Two tables read the user."""
    names = {"t1": ["user", "item"], "t2": ["user"]}
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name=name, embedding_dim=4, num_embeddings=9, feature_names=read)
            for name, read in names.items()
        ]
    )


@pytest.mark.parametrize("counts", [[0], [3], [2, 0, 3]])
def test_rows_without_padding(counts):
    padded = torch.arange(len(counts) * max(*counts, 1)).view(len(counts), -1, 1)
    found = _candidate_fields.unpadded(padded, requests(counts)).flatten().tolist()
    assert found == [
        int(padded[row, place]) for row, count in enumerate(counts) for place in range(count)
    ]


def test_all_fields_in_the_order_of_the_collection():
    collection, asked = stock(), requests([2, 1])
    sides = _candidate_fields.sides(collection, asked, 4)
    assert sides.own == [False, True, False]
    whole = collection(asked.pointwise()[1]).values().reshape(3, 3, 4)
    assert torch.equal(sides.rows(asked.owner()), whole)


def test_a_field_of_several_tables_is_refused_by_its_feature():
    with pytest.raises(ValueError, match="fields must be of the request, got user of the cand"):
        _candidate_fields.refuse(stock(), requests([2], own="user"))


def test_what_a_field_is_made_of_is_refused_too():
    hybrid = hosts.hybrid(hosts.host_collection())
    with pytest.raises(ValueError, match="fields must be of the request, got item_raw of the can"):
        _candidate_fields.refuse(hybrid, requests([2], own="item_raw"))
