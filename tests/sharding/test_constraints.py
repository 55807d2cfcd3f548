"""The planner learns how many rows a sample reads: from batches, behind the model's expanders."""

import numpy as np
import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig

from sidrank.embeddings import MemorizationBranch, RawIDSource, SIDExpander
from sidrank.embeddings.content_summary import ContentSummaryHash
from sidrank.embeddings.keyword_bag import KeywordBag
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.unit_usage import unit_usage
from sidrank.sharding import constraints_for, verify_plan
from tests.embeddings import hosts


def factors(model, *batches):
    found = constraints_for(model, batches)
    return {name: constraint.pooling_factors for name, constraint in found.items()}


def mean_length(batch, name):
    return batch[name].lengths().sum().item() / batch.stride()


class TestFactors:
    def test_equal_the_mean_lengths_behind_the_expander(self):
        model = hosts.hybrid_dlrm(wide="bpe")
        _, sparse, _ = hosts.batch(size=32)
        units = model.branch.expander(sparse)
        history = mean_length(sparse, "history")
        assert factors(model, sparse) == {
            "t_user": [1.0],
            "t_item": [1.0],
            "t_history": [history],
            **{f"sid_{name}": [1.0, history] for name in ("1", "2", "3", "1_2", "2_3")},
            "memory_units": [
                mean_length(units, "item_sid_units"),
                mean_length(units, "history_sid_units"),
            ],
            **{f"generalization_{level}": [1.0, history] for level in (1, 2, 3)},
        }
        assert mean_length(units, "item_sid_units") > 1.2

    def test_are_the_mean_over_all_rows_of_all_batches(self):
        model = nn.Sequential(hosts.host_collection(tables=["history"]))
        one = hosts.jagged({"history": [[1, 2, 3]]})
        other = hosts.jagged({"history": [[], [], [4]]})
        assert factors(model, one, other) == {"t_history": [1.0]}

    def test_of_byte_pair_units_are_the_units_per_exposure(self):
        table = hosts.sid_table()
        shown = np.random.default_rng(0).integers(0, 9, hosts.ITEMS)
        bpe = SIDBPE.train(table, shown, max_units=12 + 24)
        source = RawIDSource("raw", SIDLookup(table))
        model = MemorizationBranch(SIDExpander({"item": source}, mode=bpe))
        batch = hosts.jagged({"raw": [[item] for item in np.repeat(np.arange(40), shown).tolist()]})
        (found,) = factors(model, batch)["memory_units"]
        assert found == pytest.approx(unit_usage(bpe, table, shown).units_per_exposure)
        assert 1.2 < found < 2.8

    def test_of_the_same_feature_name_come_from_the_nearest_expander(self):
        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.expander = hosts.expander("bpe")
                self.inner = MemorizationBranch(
                    SIDExpander(
                        {
                            "item": RawIDSource("history_raw", self.lookup()),
                            "history": RawIDSource("item_raw", self.lookup()),
                        },
                        mode=hosts.bpe(),
                    )
                )

            def lookup(self):
                return SIDLookup(hosts.sid_table())

        model = Both()
        _, sparse, _ = hosts.batch(size=16)
        inner = model.inner.expander(sparse)
        outer = model.expander(sparse)
        names = ("item_sid_units", "history_sid_units")
        expected = [mean_length(inner, name) for name in names]
        assert expected != [mean_length(outer, name) for name in names]
        assert factors(model, sparse)["memory_units"] == expected

    def test_of_sequence_tables_count_too(self):
        config = EmbeddingConfig(name="t", embedding_dim=4, num_embeddings=8, feature_names=["f"])
        model = nn.ModuleDict({"seq": EmbeddingCollection(tables=[config])})
        assert factors(model, hosts.jagged({"f": [[1, 2], [3, 4]]})) == {"t": [2.0]}

    def test_of_a_feature_that_never_occurs_are_small_and_not_zero(self):
        model = nn.Sequential(hosts.host_collection(tables=["history"]))
        batch = hosts.jagged({"history": [[], [], [], []]})
        assert factors(model, batch) == {"t_history": [0.25]}

    @pytest.mark.parametrize("kind", ["crosses", "keywords"])
    def test_behind_what_stands_in_an_expanders_place(self, kind):
        expander = hosts.expander("level")
        if kind == "crosses":
            adds = ContentSummaryHash(expander, pairs=[((1,), (2,))], num_hashes=2, rows=9)
        else:
            adds = KeywordBag(expander, keywords={"item": "liked"}, rows=9)
        model = MemorizationBranch(adds, adds.embedding_bag_configs(embedding_dim=4))
        _, sparse, _ = hosts.batch(size=32)
        batch = adds(sparse)
        expected = {
            table.name: [max(mean_length(batch, name), 1 / 32) for name in table.feature_names]
            for table in model.ebc.embedding_bag_configs()
        }
        assert len(expected) == 4
        assert factors(model, sparse) == expected

    def test_need_no_table(self):
        with torch.device("meta"):
            model = hosts.hybrid_dlrm(wide="bpe")
        _, sparse, _ = hosts.batch(size=32)
        assert factors(model, sparse) == factors(hosts.hybrid_dlrm(wide="bpe"), sparse)

    def test_leave_coverage_alone(self):
        model = hosts.hybrid_dlrm()
        expander = model.sparse_arch.embedding_bag_collection.expander
        _, sparse, _ = hosts.batch()
        model(torch.rand(6, hosts.DENSE), sparse)
        before = expander.coverage()
        factors(model, hosts.batch(seed=3)[1])
        assert expander.coverage() == before

    def test_join_what_is_constrained_already(self):
        model = nn.Sequential(hosts.host_collection(tables=["history"]))
        base = {
            "t_history": ParameterConstraints(compute_kernels=["fused"], pooling_factors=[7.0]),
            "elsewhere": ParameterConstraints(min_partition=4),
        }
        batch = hosts.jagged({"history": [[1, 2], [3]]})
        found = constraints_for(model, [batch], base=base)
        assert found["t_history"] == ParameterConstraints(
            compute_kernels=["fused"], pooling_factors=[1.5]
        )
        assert found["elsewhere"] == base["elsewhere"]
        assert base["t_history"].pooling_factors == [7.0]


class TestErrors:
    def test_a_model_without_tables(self):
        with pytest.raises(ValueError, match="model must hold an unsharded embedding collection"):
            constraints_for(nn.Linear(1, 1), [])

    @pytest.mark.parametrize("batches", [[], [hosts.empty_batch()]])
    def test_no_rows(self, batches):
        model = nn.Sequential(hosts.host_collection())
        with pytest.raises(ValueError, match="batches must have at least one row, got none"):
            constraints_for(model, batches)

    def test_a_batch_of_another_kind(self):
        model = nn.Sequential(hosts.host_collection())
        with pytest.raises(TypeError, match="batches must be KeyedJaggedTensor each, got tuple"):
            constraints_for(model, [hosts.batch()])

    def test_a_feature_that_is_nowhere(self):
        model = nn.Sequential(hosts.host_collection(tables=["page"]))
        with pytest.raises(ValueError, match="batches must contain the feature page of the table"):
            constraints_for(model, [hosts.batch()[1]])

    def test_two_tables_of_one_name_that_differ(self):
        def reading(feature):
            config = EmbeddingBagConfig(
                name="t", embedding_dim=4, num_embeddings=50, feature_names=[feature]
            )
            return EmbeddingBagCollection(tables=[config])

        batch = hosts.batch(size=16)[1]
        alike = nn.ModuleList([reading("item"), reading("user")])
        assert factors(alike, batch) == {"t": [1.0]}
        with pytest.raises(ValueError, match=r"read all tables of one name alike.* for t"):
            constraints_for(nn.ModuleList([reading("item"), reading("history")]), [batch])


LEVELS, ITEMS, BATCH, WORLD = 5, 4000, 512, 2


def ranker():
    """Three tables of one size: two read one id a row, the units' reads a history of 20 items."""
    rng = np.random.default_rng(0)
    table = SIDTable(
        np.arange(ITEMS), rng.integers(0, 64, (ITEMS, LEVELS)), spec=SIDSpec((64,) * LEVELS)
    )
    bpe = SIDBPE.train(table, max_units=64 * LEVELS + 100)
    expander = SIDExpander({"history": RawIDSource("history_raw", SIDLookup(table))}, mode=bpe)
    with torch.device("meta"):
        one = EmbeddingBagConfig(
            name="one", embedding_dim=64, num_embeddings=bpe.num_units + 1, feature_names=["one"]
        )
        two = EmbeddingBagConfig(
            name="two", embedding_dim=64, num_embeddings=bpe.num_units + 1, feature_names=["two"]
        )
        model = nn.ModuleDict(
            {
                "branch": MemorizationBranch(
                    expander, expander.embedding_bag_configs(embedding_dim=64, name="memory")
                ),
                "host": EmbeddingBagCollection(tables=[one, two]),
            }
        )
    lengths = torch.cat([torch.ones(2 * BATCH), torch.full((BATCH,), 20.0)]).int()
    batch = KeyedJaggedTensor.from_lengths_sync(
        keys=["one", "two", "history_raw"],
        values=torch.randint(0, 400, (int(lengths.sum()),)),
        lengths=lengths,
    )
    return model, batch


def planned(model, given):
    """A plan for two simulated GPUs, and what each of its tables is estimated to cost."""
    topology = Topology(world_size=WORLD, compute_device="cuda", local_world_size=WORLD)
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=BATCH, constraints=given)
    plan = planner.plan(model, [EmbeddingBagCollectionSharder()])
    verify_plan(model, plan)
    return plan, {option.name: option for option in planner._best_plan}


def ranks_of(plan):
    return {table: tuple(way.ranks) for ways in plan.plan.values() for table, way in ways.items()}


def test_the_plan_and_its_costs_change_as_they_should():
    model, batch = ranker()
    names = ("memory_units", "one", "two")
    fused = {
        name: ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
        for name in names
    }
    default, costs = planned(model, fused)
    given = constraints_for(model, [batch], base=fused)
    (units,) = given["memory_units"].pooling_factors
    assert units > 20 * 4  # most items are four units or five
    true, true_costs = planned(model, given)

    # untold, the three tables are alike to the planner
    assert costs["memory_units"].total_perf == pytest.approx(costs["one"].total_perf)
    # told, the units cost what they read; the others cost what they did
    for other in ("one", "two"):
        assert true_costs[other].total_perf == pytest.approx(costs[other].total_perf)
    before, after = (found["memory_units"].shards[0] for found in (costs, true_costs))
    assert after.perf.fwd_compute > 10 * before.perf.fwd_compute
    assert after.perf.input_dist_comms == pytest.approx(units * before.perf.input_dist_comms)
    # and hold the ids they are sent: 8 bytes each, of every rank's batch
    more = after.storage.hbm - before.storage.hbm
    assert more >= 8 * BATCH * WORLD * (units - 1) * 0.99
    # so the busy table gets a rank of its own, which chance gave to one of the others
    assert ranks_of(true)["one"] == ranks_of(true)["two"] != ranks_of(true)["memory_units"]
    assert ranks_of(default) != ranks_of(true)
