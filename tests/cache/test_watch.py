"""Batches as TorchRec has them, counted on their way to a model."""

from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.distributed.train_pipeline import TrainPipelineBase
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.streamable import Pipelineable

from sidrank.cache.access_trace import AccessTrace

TABLES = [
    EmbeddingBagConfig(
        name="item", embedding_dim=4, num_embeddings=50, feature_names=["clicked", "shown"]
    ),
    EmbeddingBagConfig(name="user", embedding_dim=4, num_embeddings=9, feature_names=["user"]),
]


@dataclass
class Batch(Pipelineable):
    sparse_features: KeyedJaggedTensor
    label: torch.Tensor

    def to(self, device, non_blocking=False):
        return Batch(self.sparse_features.to(device), self.label.to(device))

    def record_stream(self, stream):
        pass


def batch(seed):
    """Bags of clicked items, one item shown and one user in each of 5 rows."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.cat(
        [torch.randint(0, 4, (5,), generator=generator), torch.ones(10, dtype=torch.long)]
    )
    items = torch.randint(0, 50, (int(lengths[:10].sum()),), generator=generator)
    users = torch.randint(0, 9, (5,), generator=generator)
    features = KeyedJaggedTensor.from_lengths_sync(
        keys=["clicked", "shown", "user"], values=torch.cat([items, users]), lengths=lengths
    )
    return Batch(features, torch.ones(5))


def by_hand(batches):
    trace = AccessTrace({"item": 50, "user": 9})
    for each in batches:
        parts = each.sparse_features.to_dict()
        items = torch.cat([parts["shown"].values(), parts["clicked"].values()])
        trace.observe({"user": parts["user"].values(), "item": items})
    return answers(trace)


def answers(trace):
    return {name: curve.misses.tolist() for name, curve in trace.curves().items()}


class TestObserveFeatures:
    @pytest.mark.parametrize(
        "tables",
        [TABLES, {"item": ["clicked", "shown"], "user": ("user",)}],
        ids=["configs", "map"],
    )
    def test_equal_to_ids_by_hand(self, tables):
        trace = AccessTrace({"item": 50, "user": 9})
        for seed in range(10):
            trace.observe_features(batch(seed).sparse_features, tables=tables)
        assert answers(trace) == by_hand(map(batch, range(10)))

    def test_a_feature_that_is_not_there(self):
        trace = AccessTrace({"item": 50})
        with pytest.raises(
            ValueError, match=r"features must contain the feature sold of the table item, got \["
        ):
            trace.observe_features(batch(0).sparse_features, tables={"item": ["sold"]})

    def test_a_table_that_is_not_traced(self):
        with pytest.raises(ValueError, match=r"ids must hold the tables \['item'\], got \['item'"):
            AccessTrace({"item": 50}).observe_features(batch(0).sparse_features, tables=TABLES)

    def test_a_table_that_no_feature_reads(self):
        trace = AccessTrace({"item": 50})
        trace.observe_features(batch(0).sparse_features, tables={"item": []})
        assert trace.curves()["item"].accesses == 0


class TestWatch:
    def test_hands_on_what_it_counts(self):
        trace, batches = AccessTrace({"item": 50, "user": 9}), [batch(seed) for seed in range(10)]
        handed = list(trace.watch(batches, tables=TABLES))
        assert all(one is other for one, other in zip(handed, batches, strict=True))
        assert answers(trace) == by_hand(batches)

    def test_counts_no_batch_before_it_is_asked_for(self):
        trace = AccessTrace({"item": 50, "user": 9})
        watched = trace.watch(map(batch, range(10)), tables=TABLES)
        next(watched), next(watched)
        assert trace.batches == 2

    def test_finds_the_features(self):
        trace = AccessTrace({"user": 9})
        pairs = [(None, batch(seed).sparse_features) for seed in range(4)]
        list(trace.watch(pairs, tables={"user": ["user"]}, features=lambda pair: pair[1]))
        assert trace.batches == 4

    def test_in_a_pipeline_the_model_learns_the_same(self):
        trace = AccessTrace({"item": 50, "user": 9})
        batches = [batch(seed) for seed in range(6)]
        watched = trace.watch(iter(batches), tables=TABLES)
        assert torch.equal(trained(watched), trained(iter(batches)))
        assert answers(trace) == by_hand(batches)


class Clicks(nn.Module):
    def __init__(self):
        super().__init__()
        self.ebc = EmbeddingBagCollection(tables=TABLES)

    def forward(self, given):
        pooled = self.ebc(given.sparse_features).values()
        return ((pooled.sum(dim=1) - given.label) ** 2).mean(), pooled


def trained(batches):
    torch.manual_seed(0)
    model = Clicks()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pipeline = TrainPipelineBase(model, optimizer, torch.device("cpu"))
    with suppress(StopIteration):
        while True:
            pipeline.progress(batches)
    return model.ebc.embedding_bags["item"].weight.detach()
