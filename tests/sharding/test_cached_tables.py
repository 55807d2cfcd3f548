"""Constraints from traffic and a budget: who lies in HBM, who keeps a cache, what base may ask."""

import numpy as np
import pytest
import torch
import torchrec.optim
from torch import nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.proposers import EmbeddingOffloadScaleupProposer, GreedyProposer
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheAlgorithm, CacheParams

from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.sizes import cache_sizes
from sidrank.sharding import PlanError, constraints_for
from sidrank.sharding.cached_tables import table_shapes
from sidrank.sharding.errors import UpstreamHazardWarning
from sidrank.sharding.fitting import cuda_topology
from tests.sharding import traffic

ROWS = {"big": 1_000_000, "middle": 100_000, "tiny": 50}


def curves(**changed):
    return {name: traffic.curve(rows) for name, rows in {**ROWS, **changed}.items()}


def full(model, *names):
    shapes = table_shapes(model)
    return sum(sum(shapes[name].full_bytes().values()) for name in names or shapes)


class TestSizes:
    def test_are_the_sizers(self):
        model = traffic.collection(ROWS)
        budget = full(model) // 10
        found = constraints_for(model, trace=curves(), budget_bytes=budget)
        sizes = cache_sizes(table_shapes(model).values(), curves(), budget)
        kernels = {name: table.kernel for name, table in sizes.tables.items()}
        assert set(kernels.values()) == {"fused", "fused_uvm_caching"}
        for name, constraint in found.items():
            if kernels[name] == "fused":
                assert constraint.compute_kernels == ["fused", "dense"]
                assert constraint.cache_params is None
            else:
                assert constraint.compute_kernels == ["fused_uvm_caching"]
                assert constraint.cache_params.load_factor == sizes.tables[name].load_factor
                assert constraint.cache_params.algorithm is CacheAlgorithm.LRU
                rate = constraint.cache_params.stats.expected_miss_rate(0.3)
                assert rate == curves()[name].miss_rate(0.3)

    def test_come_from_a_trace_as_well(self):
        model = traffic.collection({"t": 1000})
        trace = AccessTrace({"t": 1000})
        rng = np.random.default_rng(0)
        for _ in range(20):
            trace.observe({"t": rng.integers(0, 1000, 50)})
        budget = full(model) // 2
        assert (
            constraints_for(model, trace=trace, budget_bytes=budget)
            == constraints_for(model, trace=trace.curves(), budget_bytes=budget)
            or constraints_for(model, trace=trace, budget_bytes=budget)[
                "t"
            ].cache_params.load_factor
        )

    def test_a_large_budget_needs_no_cache(self):
        model = traffic.collection(ROWS)
        found = constraints_for(model, trace=curves(), budget_bytes=2 * full(model))
        assert all(each.compute_kernels == ["fused", "dense"] for each in found.values())

    def test_count_state_of_the_optimizer(self):
        """Element-wise state stays in host memory with a cache: less of it, more rows cached."""
        budget = 20_000_000
        shares = []
        for optimizer in (torchrec.optim.RowWiseAdagrad, torch.optim.SGD):
            model = traffic.collection({"big": 1_000_000}, optimizer=optimizer)
            one = {"big": traffic.curve(1_000_000)}
            found = constraints_for(model, trace=one, budget_bytes=budget)
            shares.append(found["big"].cache_params.load_factor)
        assert shares[0] < shares[1]

    def test_join_pooling_factors(self):
        model = traffic.collection({"t": 1000})
        batch = KeyedJaggedTensor.from_lengths_sync(
            keys=["f_t"], values=torch.arange(6), lengths=torch.tensor([2, 4])
        )
        one = {"t": traffic.curve(1000)}
        found = constraints_for(model, [batch], trace=one, budget_bytes=full(model) // 2)["t"]
        assert found.pooling_factors == [3.0]
        assert found.compute_kernels == ["fused_uvm_caching"]

    def test_equal_tables_get_equal_load_factors(self):
        rows = dict.fromkeys("abcd", 100_000)
        model = traffic.collection(rows)
        same = {name: traffic.curve(100_000, points=1000) for name in rows}
        found = constraints_for(model, trace=same, budget_bytes=full(model) // 5)
        shares = [each.cache_params.load_factor for each in found.values()]
        assert max(shares) <= 1.02 * min(shares) + 32 / 100_000

    @pytest.mark.parametrize("share", [50, 20, 5, 2])
    def test_a_hotter_table_never_gets_fewer_rows(self, share):
        rows = {"hot": 100_000, "cold": 100_000}
        model = traffic.collection(rows)
        tables = {"hot": traffic.curve(100_000, lookups=10_000, cold=0.02), "cold": None}
        tables["cold"] = traffic.curve(100_000, lookups=1000, cold=0.02)
        budget = full(model) // share + 2 * 800_000
        found = constraints_for(model, trace=tables, budget_bytes=budget)
        slots = {
            name: 1.0 if each.cache_params is None else each.cache_params.load_factor
            for name, each in found.items()
        }
        assert slots["hot"] >= slots["cold"]


class TestBase:
    def test_is_kept(self):
        model = traffic.collection(ROWS)
        base = {
            "big": ParameterConstraints(min_partition=32, sharding_types=["row_wise"]),
            "elsewhere": ParameterConstraints(min_partition=4),
        }
        found = constraints_for(model, trace=curves(), budget_bytes=full(model) // 9, base=base)
        assert (found["big"].min_partition, found["big"].sharding_types) == (32, ["row_wise"])
        assert found["elsewhere"] == base["elsewhere"]
        assert base["big"].cache_params is None

    def test_a_table_that_must_lie_in_hbm_is_paid_first(self):
        model = traffic.collection(ROWS)
        base = {"middle": ParameterConstraints(compute_kernels=["fused"])}
        budget = full(model, "middle") + full(model, "big") // 10
        found = constraints_for(model, trace=curves(), budget_bytes=budget, base=base)
        assert found["middle"] == base["middle"]
        others = [shape for name, shape in table_shapes(model).items() if name != "middle"]
        left = {name: curve for name, curve in curves().items() if name != "middle"}
        sizes = cache_sizes(others, left, budget - full(model, "middle"))
        assert found["big"].cache_params.load_factor == sizes.tables["big"].load_factor
        with pytest.raises(PlanError, match=r"budget_bytes must be at least .*middle alone takes"):
            constraints_for(model, trace=curves(), budget_bytes=1000, base=base)

    def test_a_table_that_must_be_cached_is(self):
        model = traffic.collection(ROWS)
        base = {"tiny": ParameterConstraints(compute_kernels=["fused_uvm_caching"])}
        found = constraints_for(model, trace=curves(), budget_bytes=2 * full(model), base=base)
        assert found["tiny"].compute_kernels == ["fused_uvm_caching"]
        assert 0.9 < found["tiny"].cache_params.load_factor < 1

    def test_fetching_ahead_takes_locks(self):
        model = traffic.collection({"big": 1_000_000})
        one = {"big": traffic.curve(1_000_000)}
        without = constraints_for(model, trace=one, budget_bytes=20_000_000)["big"]
        with pytest.warns(UpstreamHazardWarning):
            with_locks = constraints_for(model, trace=one, budget_bytes=20_000_000, prefetch=True)[
                "big"
            ]
        assert with_locks.cache_params.prefetch_pipeline is True
        assert without.cache_params.prefetch_pipeline is None
        assert with_locks.cache_params.load_factor < without.cache_params.load_factor

    def test_lfu_that_fetches_ahead_is_refused(self):
        model = traffic.collection(ROWS)
        params = CacheParams(algorithm=CacheAlgorithm.LFU, prefetch_pipeline=True)
        base = {"big": ParameterConstraints(cache_params=params)}
        with pytest.raises(PlanError, match="prefetch_pipeline must be off for big"):
            constraints_for(model, trace=curves(), budget_bytes=full(model), base=base)
        base["big"].cache_params.prefetch_pipeline = None
        with pytest.raises(PlanError, match="prefetch_pipeline must be off for big"):
            constraints_for(
                model, trace=curves(), budget_bytes=full(model), base=base, prefetch=True
            )


def test_without_a_budget_torchrecs_own_proposer_takes_over():
    """It dies of an empty AssertionError unless every caching option has cache parameters."""
    model = traffic.collection(ROWS)
    found = constraints_for(model, trace=curves())
    found = {
        name: ParameterConstraints(
            sharding_types=["table_wise"],
            compute_kernels=each.compute_kernels,
            cache_params=each.cache_params,
        )
        for name, each in found.items()
    }
    planner = EmbeddingShardingPlanner(
        topology=cuda_topology(1, hbm_bytes=full(model) // 2),
        constraints=found,
        proposer=[GreedyProposer(), EmbeddingOffloadScaleupProposer()],
        storage_reservation=FixedPercentageStorageReservation(0.0),
        stats=[],
        debug=False,
    )
    planner.plan(model, [EmbeddingBagCollectionSharder()])
    options = {option.name: option for option in planner._best_plan}
    assert options["tiny"].compute_kernel == "fused"
    assert sum(each.total_storage.hbm for each in options.values()) <= full(model) // 2


class TestErrors:
    def test_trace_of_other_tables(self):
        model = traffic.collection(ROWS)
        some = curves(other=7)
        some.pop("tiny")
        with pytest.raises(ValueError, match=r"trace must hold .* got tiny missing and other too"):
            constraints_for(model, trace=some, budget_bytes=10**9)

    def test_ids_beyond_the_table(self):
        with pytest.raises(ValueError, match=r"at most 50 rows for the table tiny, got 51"):
            constraints_for(traffic.collection(ROWS), trace=curves(tiny=51), budget_bytes=10**9)

    def test_rows_that_never_came_are_rows_all_the_same(self):
        model = traffic.collection({"t": 1000})
        short = {"t": traffic.curve(600)}
        found = constraints_for(model, trace=short, budget_bytes=full(model) // 2)["t"]
        assert found.cache_params.stats.curve.rows == 1000

    def test_an_empty_trace(self):
        with pytest.raises(ValueError, match="trace must hold at least 1 batch, got none"):
            constraints_for(
                traffic.collection({"t": 9}), trace=AccessTrace({"t": 9}), budget_bytes=100
            )

    @pytest.mark.parametrize("budget", [0, -1])
    def test_no_budget(self, budget):
        with pytest.raises(ValueError, match=f"budget_bytes must be above 0, got {budget}"):
            constraints_for(traffic.collection(ROWS), trace=curves(), budget_bytes=budget)

    def test_neither_batches_nor_trace(self):
        with pytest.raises(ValueError, match="batches must be given where trace is not"):
            constraints_for(traffic.collection(ROWS))

    def test_a_budget_without_a_trace(self):
        with pytest.raises(ValueError, match="budget_bytes must be None without a trace, got 7"):
            constraints_for(traffic.collection(ROWS), [], budget_bytes=7)

    def test_two_tables_of_one_name(self):
        twice = nn.ModuleList([traffic.collection({"t": 9}), traffic.collection({"t": 9})])
        with pytest.raises(
            ValueError, match="model must hold one table of a name, got two named t"
        ):
            constraints_for(twice, trace={"t": traffic.curve(9)}, budget_bytes=10**6)

    def test_no_table(self):
        with pytest.raises(ValueError, match="model must hold an unsharded embedding collection"):
            constraints_for(nn.Linear(1, 1), trace={}, budget_bytes=7)


def test_the_warning_of_a_race_reaches_the_caller():
    model = traffic.collection({"t": 1000})
    params = CacheParams(algorithm=CacheAlgorithm.LRU, prefetch_pipeline=True)
    base = {"t": ParameterConstraints(cache_params=params)}
    with pytest.warns(UpstreamHazardWarning):
        constraints_for(
            model, trace={"t": traffic.curve(1000)}, budget_bytes=full(model) // 2, base=base
        )
