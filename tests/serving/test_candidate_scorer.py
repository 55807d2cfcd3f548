"""Candidates of requests: as one row each, and padded, cut and put together without a trace."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec import KeyedJaggedTensor
from torchrec.models.deepfm import SimpleDeepFMNN

from sidrank.embeddings import RankingRequests
from sidrank.models import DLRMRanking
from sidrank.serving import CandidateScorer
from tests.embeddings import hosts
from tests.models import rankers, situation_models, token_formers

COUNTS = [3, 0, 7, 1, 2]


def asked(batch, dense, own, counts=COUNTS, seed=0):
    """Requests whose sides are features of a batch of rows: those in ``own`` are candidates'."""
    sides = {True: {}, False: {}}
    for key in batch.keys():  # noqa: SIM118
        rows = sum(counts) if key in own else len(counts)
        sides[key in own][key] = hosts.bags_of(batch, key)[:rows]
    return RankingRequests(
        dense[: len(counts)],
        hosts.jagged(sides[False]),
        hosts.jagged(sides[True]),
        torch.tensor(counts),
    )


def dlrm(wide=False):
    model = hosts.hybrid_dlrm(wide=wide)
    hosts.train(model, torch.optim.Adagrad(model.parameters(), lr=0.5), steps=3)
    return model.eval()


def of_dlrm(wide):
    model = dlrm(wide)
    dense, sparse, _ = hosts.batch(size=sum(COUNTS))
    own = {key for key in sparse.keys() if not key.startswith(("user", "history"))}  # noqa: SIM118
    return DLRMRanking(model).eval(), model, asked(sparse, dense, own)


def of_sid_ranker():
    model = rankers.trained()
    dense, sparse, _ = hosts.batch(size=sum(COUNTS))
    own = {key for key in sparse.keys() if not key.startswith(("user", "history"))}  # noqa: SIM118
    return model, model, asked(sparse, dense, own)


def of_token_former():
    model = token_formers.trained().eval()
    dense, sparse, _ = token_formers.batch(size=sum(COUNTS))
    return model, model, asked(sparse, dense, {"item", "kind"})


def of_situation_ctr():
    model = situation_models.trained()
    sparse, _ = situation_models.batch(size=sum(COUNTS))

    def rows(dense, features):
        return model(features)[0].squeeze(1)

    return model, rows, asked(sparse, torch.zeros(len(COUNTS), 0), {"item"})


RANKERS = {
    "dlrm": lambda: of_dlrm(wide=False),
    "wide": lambda: of_dlrm(wide="bpe"),
    "summary": lambda: of_dlrm(wide="summary"),
    "replacement": lambda: of_dlrm(wide="replacement"),
    "sid_ranker": of_sid_ranker,
    "token_former": of_token_former,
    "situation_ctr": of_situation_ctr,
}


@pytest.mark.parametrize("name", RANKERS)
class TestEveryRanker:
    def test_equals_a_row_a_candidate(self, name):
        model, rows, requests = RANKERS[name]()
        with torch.no_grad():
            wanted = rows(*requests.pointwise())
        assert wanted.std() > 1e-3
        torch.testing.assert_close(model.rank(requests), wanted, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("most", [1, 2, 5, 100])
    def test_in_batches_of_any_size(self, name, most):
        model, rows, requests = RANKERS[name]()
        with torch.no_grad():
            wanted = rows(*requests.pointwise()).split(COUNTS)
        found = CandidateScorer(model, most_candidates=most).score(requests)
        assert [len(logits) for logits in found] == COUNTS
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


class Recorder:
    """Scores a candidate by its id and its request's, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def rank(self, requests):
        self.asked.append(requests.counts.tolist())
        user = requests.features["user"].values()[requests.owner()]
        return (100.0 * user + requests.candidates["item"].values()).unsqueeze(1)


def plain(counts):
    rows, number = len(counts), sum(counts)
    return RankingRequests(
        torch.zeros(rows, 2),
        hosts.jagged({"user": [[k] for k in range(rows)]}),
        hosts.jagged({"item": [[k] for k in range(number)]}),
        torch.tensor(counts),
    )


class TestBatches:
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 12))
    def test_hold_every_candidate_once_and_no_more_than_they_may(self, counts, most):
        model = Recorder()
        found = CandidateScorer(model, most_candidates=most).score(plain(counts))
        item = iter(range(sum(counts)))
        for user, (count, logits) in enumerate(zip(counts, found, strict=True)):
            assert logits.flatten().tolist() == [100.0 * user + next(item) for _ in range(count)]
        assert all(max(sizes) * len(sizes) <= most for sizes in model.asked)

    def test_put_requests_of_like_numbers_together(self):
        model = Recorder()
        CandidateScorer(model, most_candidates=40).score(plain([1, 20, 1, 19, 1, 2]))
        assert sorted(map(sorted, model.asked)) == [[1, 1, 1, 2], [19, 20]]


class TestReadings:
    @given(
        st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4),
        st.data(),
    )
    def test_pointwise_repeats_the_bags_of_the_request(self, bags, data):
        counts = data.draw(st.lists(st.integers(0, 3), min_size=len(bags), max_size=len(bags)))
        counts[0] = max(counts[0], 1)
        number = sum(counts)
        items = data.draw(
            st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=number, max_size=number)
        )
        requests = RankingRequests(
            torch.arange(len(bags)).float().unsqueeze(1),
            hosts.jagged({"seen": bags, "again": bags[::-1]}),
            hosts.jagged({"words": items}),
            torch.tensor(counts),
        )
        dense, rows = requests.pointwise()
        owner = [place for place, count in enumerate(counts) for _ in range(count)]
        assert dense.flatten().tolist() == owner
        assert hosts.bags_of(rows, "seen") == [bags[place] for place in owner]
        assert hosts.bags_of(rows, "again") == [bags[::-1][place] for place in owner]
        assert hosts.bags_of(rows, "words") == items

    def test_a_side_alone_has_the_other_as_empty_bags(self):
        requests = plain([2, 1])
        assert hosts.bags_of(requests.request_rows(), "item") == [[], []]
        assert hosts.bags_of(requests.request_rows(), "user") == [[0], [1]]
        assert hosts.bags_of(requests.candidate_rows(), "user") == [[], [], []]
        assert hosts.bags_of(requests.candidate_rows(), "item") == [[0], [1], [2]]


class TestErrors:
    @pytest.mark.parametrize("way", ["pointwise", "request_rows", "candidate_rows"])
    @pytest.mark.parametrize("side", ["features", "candidates"])
    def test_weights_are_not_dropped(self, way, side):
        requests = plain([2, 1])
        bags = {"features": {"user": [[1], [2]]}, "candidates": {"item": [[1], [2], [3]]}}[side]
        weighted = hosts.jagged(bags, weights=torch.ones(len(*bags.values())))
        with pytest.raises(ValueError, match="requests must have no weights, got some of"):
            getattr(requests._replace(**{side: weighted}), way)()

    @pytest.mark.parametrize("name", ["wide", "sid_ranker"])
    def test_a_branch_that_gives_no_column(self, name):
        """Added to a column, its logits would make a square of the candidates."""
        model, _, requests = RANKERS[name]()
        part = model.host if name == "wide" else model
        branch = part.branch
        part.branch = None
        del part.branch
        part.branch = lambda rows: branch(rows).squeeze(1)
        with pytest.raises(ValueError, match="branch logits must have shape"):
            model.rank(requests)

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"counts": torch.tensor([2])}, r"counts must have shape \[2\], got \[1\]"),
            ({"counts": torch.tensor([2, 2])}, "counts must add up to the 3 rows .*, got 4"),
            ({"counts": torch.tensor([4, -1])}, "counts must not be negative, got -1"),
            ({"dense": torch.zeros(3, 2)}, r"dense must have shape \[2, D\], got \[3, 2\]"),
            (
                {"candidates": hosts.jagged({"user": [[1], [2], [3]]})},
                r"candidates must not repeat features of the request, got \['user'\]",
            ),
        ],
    )
    def test_parts_that_do_not_fit(self, changed, told):
        with pytest.raises(ValueError, match=told):
            CandidateScorer(Recorder()).score(plain([2, 1])._replace(**changed))

    def test_a_model_that_drops_a_candidate(self):
        class Short(Recorder):
            def rank(self, requests):
                return super().rank(requests)[1:]

        with pytest.raises(ValueError, match=r"model must give logits of shape \[3, M\], got \[2,"):
            CandidateScorer(Short()).score(plain([2, 1]))

    def test_a_model_that_trains(self):
        with pytest.raises(ValueError, match="model must be in evaluation mode"):
            CandidateScorer(token_formers.former())

    def test_no_room(self):
        with pytest.raises(ValueError, match="most_candidates must be at least 1, got 0"):
            CandidateScorer(Recorder(), most_candidates=0)

    def test_a_field_of_both_sides(self):
        """The statistics of an item's gate came with the request: an empty bag would read 0."""
        model = DLRMRanking(dlrm()).eval()
        dense, sparse, _ = hosts.batch(size=sum(COUNTS))
        requests = asked(sparse, dense, {"item", "item_raw"})
        with pytest.raises(ValueError, match=r"candidates must hold all features of item, \['item"):
            model.rank(requests)

    def test_a_field_of_candidates_in_a_stream(self):
        model, _, requests = of_token_former()
        item = hosts.jagged({"user": [[1]] * sum(COUNTS)})
        with pytest.raises(ValueError, match="fields must be of the request, got user of the"):
            model.rank(requests._replace(candidates=item))

    def test_a_candidate_with_two_ids_and_one_with_none(self):
        model, _, requests = of_token_former()
        bags = [[1]] * sum(COUNTS)
        bags[:2] = [[1, 2], []]
        items = hosts.jagged({"item": bags, "kind": [[1]] * sum(COUNTS)})
        with pytest.raises(
            ValueError, match="candidates must have one id each in item, got 0 to 2"
        ):
            model.rank(requests._replace(candidates=items))

    def test_not_a_dlrm(self):
        with pytest.raises(TypeError, match="host must be a DLRM, got Linear"):
            DLRMRanking(torch.nn.Linear(2, 1))

    def test_a_host_with_the_names_of_a_dlrm(self):
        host = SimpleDeepFMNN(2, hosts.host_collection(), 8, 4)
        with pytest.raises(TypeError, match="host must be a DLRM, got SimpleDeepFMNN"):
            DLRMRanking(host)


def test_requests_without_any_candidate():
    requests = plain([0, 0])._replace(
        candidates=KeyedJaggedTensor(["item"], torch.zeros(0).long(), lengths=torch.zeros(0).int())
    )
    assert [len(logits) for logits in CandidateScorer(Recorder()).score(requests)] == [0, 0]
