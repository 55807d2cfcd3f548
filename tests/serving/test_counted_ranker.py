"""Counts beside the weights: joined to candidates, in checkpoints and in deltas."""

import pytest
import torch
from torch import nn

from sidrank.serving.counted_ranker import CountedRanker
from sidrank.serving.delta import apply_delta, delta_between
from sidrank.serving.ranker_version import RankerVersion
from tests.embeddings import hosts
from tests.serving import version_models as models


def counted(ids=range(0, 40, 2)):
    model = CountedRanker(models.hybrid(), item="item_raw", statistics=["shown", "liked"])
    ids = torch.tensor(list(ids), dtype=torch.int64)
    model.set_counts(ids, torch.stack([100 * ids, 3 * ids + 1], dim=1))
    return model.eval()


def without_counts(requests):
    columns = requests.candidates
    kept = [key for key in columns.keys() if key not in ("shown", "liked")]  # noqa: SIM118
    return requests._replace(
        candidates=hosts.jagged({key: hosts.bags_of(columns, key) for key in kept})
    )


def test_equals_a_request_that_brings_its_counts():
    model = counted()
    asked = without_counts(models.hybrid_requests())
    items = asked.candidates["item_raw"].values().tolist()
    assert {item % 2 for item in items} == {0, 1}
    known = {item: item % 2 == 0 and item < 40 for item in items}
    joined = {key: hosts.bags_of(asked.candidates, key) for key in asked.candidates.keys()}  # noqa: SIM118
    joined["shown"] = [[100 * item * known[item]] for item in items]
    joined["liked"] = [[(3 * item + 1) * known[item]] for item in items]
    empty = counted([])
    with torch.no_grad():
        wanted = model.ranker.rank(asked._replace(candidates=hosts.jagged(joined)))
        assert torch.equal(model.rank(asked), wanted)
        assert not torch.equal(empty.rank(asked), wanted)


def test_a_delta_has_the_counts_that_changed():
    model = counted()
    base = RankerVersion.first(model)
    ids = torch.cat([model.item_ids, torch.tensor([100, 101])])
    counts = torch.cat([model.counts, torch.tensor([[1, 0], [2, 1]])])
    counts[[2, 3]] += 1
    model.set_counts(ids, counts)
    delta = delta_between(base, model)
    assert delta.rows["item_ids"].rows.tolist() == [20, 21]
    assert delta.rows["counts"].rows.tolist() == [2, 3, 20, 21]
    asked = without_counts(models.hybrid_requests())
    new = apply_delta(base, delta)
    with torch.no_grad():
        assert torch.equal(new.rank(asked), model.rank(asked))
    assert len(base.model.item_ids) == 20


@pytest.mark.parametrize("ids", [[], [3], range(60)])
def test_a_checkpoint_has_them_all(ids):
    model, other = counted(ids), counted()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.item_ids, model.item_ids)
    assert torch.equal(other.counts, model.counts)


class TestErrors:
    @pytest.mark.parametrize(
        ("ids", "counts", "told"),
        [
            ([1, 1], [[0, 0], [0, 0]], "item_ids must ascend"),
            ([[1]], [[0, 0]], r"item_ids must be an integer vector, got .* \[1, 1\]"),
            ([1.0], [[0, 0]], "item_ids must be an integer vector, got torch.float32"),
            ([1], [[0]], r"counts must be integers of shape \[1, 2\], got .* \[1, 1\]"),
            ([1], [[0.5, 0.0]], r"counts must be integers of shape \[1, 2\], got torch.float32"),
        ],
    )
    def test_counts_that_do_not_fit(self, ids, counts, told):
        with pytest.raises(ValueError, match=told):
            counted().set_counts(torch.tensor(ids), torch.tensor(counts))

    def test_requests_with_counts_of_their_own(self):
        with pytest.raises(ValueError, match=r"not bring statistics, got \['liked', 'shown'\]"):
            counted().rank(models.hybrid_requests())

    def test_a_candidate_of_two_items(self):
        asked = models.numbered_requests(counts=[2])
        two = asked._replace(candidates=hosts.jagged({"item_raw": [[1, 2], [3]]}))
        with pytest.raises(ValueError, match="candidates must have one id each in item_raw"):
            counted().rank(two)

    def test_one_name(self):
        with pytest.raises(TypeError, match="statistics must be a sequence of names, got the str"):
            CountedRanker(models.hybrid(), item="item_raw", statistics="shown")

    def test_no_ranker(self):
        with pytest.raises(TypeError, match="ranker must have a method rank, got Linear"):
            CountedRanker(nn.Linear(1, 1), item="item_raw", statistics=["shown"])
