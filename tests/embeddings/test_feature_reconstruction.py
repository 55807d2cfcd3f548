"""Features of requests, stored once and put back."""

import pickle
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.streamable import Pipelineable

from sidrank.embeddings.feature_reconstruction import FeatureReconstruction, stored_once
from sidrank.sharding import verify_pipeline
from tests.embeddings import sharding

KEYS = ["user", "item", "query", "history"]
OF_REQUESTS = ["history", "user", "query"]


def jagged(columns, weighted=False):
    bags = [bag for column in columns.values() for bag in column]
    values = torch.tensor([value for bag in bags for value in bag], dtype=torch.int64)
    return KeyedJaggedTensor(
        list(columns),
        values,
        weights=values.float() / 7 if weighted else None,
        lengths=torch.tensor([len(bag) for bag in bags], dtype=torch.int32),
    )


def log(asked, weighted=False):
    """The log's batch: rows of requests, each with an item of its own."""
    bag = lambda request, shift: [(request * 5 + at + shift) % 50 for at in range(request % 4)]  # noqa: E731
    return jagged(
        {
            "user": [[request] for request in asked],
            "item": [[row % 50] for row in range(len(asked))],
            "query": [bag(request, 1) for request in asked],
            "history": [bag(3 * request, 2) for request in asked],
        },
        weighted,
    )


def parts(features):
    found = {}
    for key in features.keys():  # noqa: SIM118 (it is no dict)
        bag = features[key]
        found[key] = (bag.lengths().tolist(), bag.values().tolist())
        if bag.weights_or_none() is not None:
            found[key] += (bag.weights().tolist(),)
    return features.keys(), found


class TestRoundTrip:
    @pytest.mark.parametrize("weighted", [False, True])
    @given(asked=st.lists(st.integers(0, 9), max_size=12))
    def test_gives_the_very_batch_back(self, weighted, asked):
        features = log(asked, weighted)
        batch = stored_once(features, OF_REQUESTS, torch.tensor(asked, dtype=torch.int64))
        first = list(dict.fromkeys(asked))
        assert batch.requests["user"].values().tolist() == first
        assert batch.request_of.tolist() == [first.index(request) for request in asked]
        again = FeatureReconstruction(keys=KEYS)(*batch)
        assert parts(again) == parts(features)
        assert again.stride() == len(asked)
        assert again.values().dtype == features.values().dtype
        assert again.lengths().dtype == features.lengths().dtype

    def test_embeds_and_learns_the_same(self):
        asked = [3, 3, 5, 3, 7, 7, 7, 1]
        features = log(asked)
        batch = stored_once(features, OF_REQUESTS, torch.tensor(asked))

        def collection():
            torch.manual_seed(0)
            return EmbeddingBagCollection(
                tables=[
                    EmbeddingBagConfig(
                        name=key, embedding_dim=4, num_embeddings=50, feature_names=[key]
                    )
                    for key in KEYS
                ]
            )

        ours, theirs = collection(), collection()
        found = ours(FeatureReconstruction(keys=KEYS)(*batch)).values()
        expected = theirs(features).values()
        assert torch.equal(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)
            assert one.grad.abs().sum() > 0

    @given(asked=st.lists(st.integers(0, 9), min_size=1, max_size=12))
    def test_bytes_are_those_of_the_batches(self, asked):
        features = log(asked)
        batch = stored_once(features, OF_REQUESTS, torch.tensor(asked))
        assert batch.expanded_bytes() == _bytes(features)
        index = 8 * len(asked)
        assert batch.stored_bytes() == _bytes(batch.requests) + _bytes(batch.rows) + index

    def test_saves_what_is_repeated(self):
        asked = [request for request in range(4) for _ in range(100)]
        columns = {
            "history": [[request] * 50 for request in asked],
            "item": [[row] for row in range(400)],
        }
        batch = stored_once(jagged(columns), ["history"], torch.tensor(asked))
        row, request = 8 + 4, 50 * 8 + 4
        assert batch.expanded_bytes() == 400 * (row + request)
        assert batch.stored_bytes() == 400 * (row + 8) + 4 * request


def _bytes(features):
    return features.values().numel() * 8 + features.lengths().numel() * 4


class TestModule:
    def batch(self, asked):
        return stored_once(log(asked), OF_REQUESTS, torch.tensor(asked))

    @pytest.mark.parametrize(
        "way", [torch.fx.symbolic_trace, lambda x: pickle.loads(pickle.dumps(x))]
    )
    def test_traces_and_pickles(self, way):
        module = FeatureReconstruction(keys=KEYS)
        other = way(module)
        for asked in ([1, 2, 2], [5, 5, 5, 5, 9]):
            assert parts(other(*self.batch(asked))) == parts(log(asked))

    def test_compiles_into_one_graph(self):
        torch._dynamo.reset()
        compiled = torch.compile(
            FeatureReconstruction(keys=KEYS), fullgraph=True, backend="aot_eager"
        )
        for asked in ([1, 2, 2, 3], [5, 5, 5, 5, 9]):
            assert parts(compiled(*self.batch(asked))) == parts(log(asked))

    def test_a_batch_goes_to_a_device(self):
        batch = self.batch([1, 2, 2])
        meta = batch.to(torch.device("meta"))
        assert {part.device.type for part in (meta.requests.values(), meta.rows.lengths())} == {
            "meta"
        }
        assert meta.request_of.device.type == "meta"
        assert parts(FeatureReconstruction(keys=KEYS)(*batch.to(torch.device("cpu")))) == parts(
            log([1, 2, 2])
        )

    def test_has_nothing_to_learn_or_save(self):
        module = FeatureReconstruction(keys=KEYS)
        assert list(module.parameters()) == []
        assert dict(module.state_dict()) == {}


@dataclass
class Batch(Pipelineable):
    """What a loader would hand to a pipeline."""

    log: KeyedJaggedTensor
    requests: KeyedJaggedTensor
    rows: KeyedJaggedTensor
    request_of: torch.Tensor

    def to(self, device, non_blocking=False):
        parts = (self.log, self.requests, self.rows, self.request_of)
        return Batch(*(part.to(device, non_blocking=non_blocking) for part in parts))

    def record_stream(self, stream):
        pass


class Ranker(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.reconstruction = FeatureReconstruction(keys=KEYS)
        self.head = torch.nn.Linear(32, 1)
        self.embeddings = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=key, embedding_dim=8, num_embeddings=50, feature_names=[key]
                )
                for key in KEYS
            ],
        )

    def forward(self, batch):
        features = self.reconstruction(batch.requests, batch.rows, batch.request_of)
        logits = self.head(self.embeddings(features).values())
        return (logits - 1).square().mean(), logits


class RankerOfTheLog(Ranker):
    def forward(self, batch):
        logits = self.head(self.embeddings(batch.log).values())
        return (logits - 1).square().mean(), logits


def _pipelined():
    """Through a pipeline, against a plain loop over the batches of the log."""
    sharded, optimizer = sharding.shard(Ranker(), "row_wise")
    plain, plain_optimizer = sharding.shard(RankerOfTheLog(), "row_wise")
    sharding.load(plain, sharding.full_state(sharded))
    pipeline = TrainPipelineSparseDist(
        sharded, optimizer, torch.device("cpu"), pipeline_postproc=True
    )
    examples = []
    for step in range(4):
        asked = [dist.get_rank(), 7, 7, step, 7]
        examples.append(
            Batch(log(asked), *stored_once(log(asked), OF_REQUESTS, torch.tensor(asked)))
        )
    batches, equal = iter(examples), True
    for example in examples:
        logits = pipeline.progress(batches)
        plain_optimizer.zero_grad()
        loss, expected = plain(example)
        loss.backward()
        plain_optimizer.step()
        equal &= torch.equal(logits, expected)
    verify_pipeline(pipeline, sharded)
    return equal, len(pipeline._pipelined_modules), logits.unique().numel()


def test_is_pipelined_in_front_of_sharded_tables(ranks):
    for equal, modules, different in ranks.run(_pipelined):
        assert equal
        assert modules == 1
        assert different > 1


class TestRefuses:
    def test_keys_that_are_none(self):
        for keys in ([], ["user", "user"]):
            with pytest.raises(ValueError, match="keys must be features, each once, got"):
                FeatureReconstruction(keys=keys)
        for keys in ([], ["user", "age"]):
            with pytest.raises(ValueError, match=r"keys must be features of the batch, \['user'"):
                stored_once(log([1]), keys, torch.tensor([1]))
        with pytest.raises(ValueError, match=r"keys must leave features to the rows, got all of"):
            stored_once(log([1]), KEYS, torch.tensor([1]))

    def test_other_keys_than_the_batch_has(self):
        batch = stored_once(log([1, 1]), OF_REQUESTS, torch.tensor([1, 1]))
        with pytest.raises(ValueError, match=r"keys must be those of requests and rows, .*, got"):
            FeatureReconstruction(keys=["user", "item"])(*batch)
        with pytest.raises(ValueError, match=r"keys must be those of requests and rows, .*, got"):
            FeatureReconstruction(keys=KEYS)(batch.requests, log([1, 1]), batch.request_of)

    def test_rows_of_a_request_that_differ(self):
        features = jagged({"user": [[1], [2]], "item": [[3], [4]]})
        with pytest.raises(ValueError, match="same in all rows of a request, got 'user', which"):
            stored_once(features, ["user"], torch.tensor([9, 9]))
        stored_once(features, ["user"], torch.tensor([9, 8]))

    def test_weights_that_differ(self):
        features = jagged({"user": [[1], [1]], "item": [[3], [4]]}, weighted=True)
        features.weights()[0] = 2.0
        with pytest.raises(ValueError, match="same in all rows of a request, got 'user', which"):
            stored_once(features, ["user"], torch.tensor([9, 9]))

    def test_an_index_of_another_shape(self):
        with pytest.raises(ValueError, match=r"request must have shape \[2\], got \[3\]"):
            stored_once(log([1, 1]), OF_REQUESTS, torch.tensor([1, 1, 1]))
        batch = stored_once(log([1, 1]), OF_REQUESTS, torch.tensor([1, 1]))
        with pytest.raises(ValueError, match=r"request_of must have shape \[2\], got \[1\]"):
            FeatureReconstruction(keys=KEYS)(batch.requests, batch.rows, batch.request_of[:1])

    def test_weights_on_one_side(self):
        weighted = stored_once(log([1, 1], weighted=True), OF_REQUESTS, torch.tensor([1, 1]))
        plain = stored_once(log([1, 1]), OF_REQUESTS, torch.tensor([1, 1]))
        with pytest.raises(ValueError, match="rows must have weights if requests have, got only"):
            FeatureReconstruction(keys=KEYS)(weighted.requests, plain.rows, plain.request_of)
