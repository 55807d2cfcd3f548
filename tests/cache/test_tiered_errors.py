import pytest
import torch
from torchrec import KeyedJaggedTensor
from torchrec.modules.embedding_configs import DataType

from sidrank.cache.slow_tier import MemoryTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection
from tests.cache import tiered_runs as runs
from tests.cache.tiered_small import SGD, asked, small, table


@pytest.mark.parametrize("wrong", [-1, 20, 1 << 40])
def test_ids_of_no_row(wrong):
    with pytest.raises(ValueError, match=rf"ids of f must lie within \[0, 20\), .* t, got {wrong}"):
        small()(asked(3, wrong))


def test_a_missing_feature():
    with pytest.raises(ValueError, match=r"features must hold z, got \['x', 'y'\]"):
        runs.tiered()(runs.batch({"x": [[1]], "y": [[1]]}))


def test_missing_weights():
    collection = runs.tiered(weighted=True)
    with pytest.raises(ValueError, match="features must carry weights, got none for"):
        collection(runs.batches(1)[0])


def test_a_number_of_rows_for_each_feature():
    features = KeyedJaggedTensor(
        ["f", "g"],
        torch.tensor([1, 2, 3]),
        lengths=torch.tensor([1, 1, 1]),
        stride_per_key_per_rank=[[1], [2]],
    )
    with pytest.raises(ValueError, match="features must have one number of rows, got a stride"):
        small()(features)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tables": []}, r"tables must have names of their own, got \[\]"),
        (
            {"tables": [table(), table()]},
            r"tables must have names of their own, got \['t', 't'\]",
        ),
        ({"tables": [table(data_type=DataType.FP16)]}, "tables must be float32, got .* for t"),
        ({"tables": [table(dim=6)]}, "tables must have a width that is a multiple of 4, got 6"),
        ({"slots": {"u": 3}}, r"slots must be given for \['t'\], got \['u'\]"),
        ({"slots": 0}, "slots must be at least 1, got 0 for t"),
        (
            {"tiers": {"u": MemoryTier(rows=1, width=1)}},
            r"tiers must be of tables among \['t'\]",
        ),
        (
            {"tiers": {"t": MemoryTier(rows=20, width=5)}},
            "tiers must be 20 by 4 for t, got 20 by 5",
        ),
        ({"device": torch.device("meta")}, "device must be cpu or cuda, got meta"),
    ],
)
def test_arguments(arguments, message):
    given = {"tables": [table()], "slots": 3, "optimizer": SGD, **arguments}
    with pytest.raises(ValueError, match=message):
        TieredEmbeddingBagCollection(given.pop("tables"), **given)


def test_one_tier_for_two_tables():
    tier = MemoryTier(rows=20, width=4)
    with pytest.raises(ValueError, match="tiers must serve one table each"):
        TieredEmbeddingBagCollection(
            [table("t"), table("u")], slots=3, optimizer=SGD, tiers={"t": tier, "u": tier}
        )
