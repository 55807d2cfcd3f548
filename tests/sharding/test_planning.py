"""Plans for GPUs that are not there: they fit, they hold what was sized, they use what there is."""

import math

import pytest
import torch
from torch import nn
from torchrec import EmbeddingCollection
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingConfig

from sidrank.cache.sizes import TableShape
from sidrank.sharding import PlanError, verify_plan
from sidrank.sharding.fitting import cache_sharders, cuda_topology
from sidrank.sharding.load_factors import cache_groups
from sidrank.sharding.planning import plan_caches
from tests.sharding import traffic

ROWS = {"user": 2_000_000, "item": 500_000, "page": 3_000, "tag": 40}
BYTES = sum(sum(TableShape(name, rows, 64).full_bytes().values()) for name, rows in ROWS.items())


def curves(rows=ROWS):
    return {name: traffic.curve(count) for name, count in rows.items()}


def cluster(ranks, share, *, ddr=traffic.GIB):
    """GPUs that hold a share of the tables together."""
    return cuda_topology(ranks, hbm_bytes=int(BYTES * share / ranks), ddr_bytes=ddr)


def plan(topology, **options):
    options.setdefault("batch_size", 64)
    return plan_caches(traffic.collection(ROWS), curves(), topology, **options)


@pytest.mark.parametrize("share", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("ranks", [1, 2, 12])
def test_fits_and_says_the_truth(ranks, share):
    topology = cluster(ranks, share)
    found = plan(topology)
    assert [table.name for table in found.tables] == list(ROWS)
    assert len(found.ranks) == ranks
    for rank, device in zip(found.ranks, topology.devices, strict=True):
        assert 0 <= rank.hbm_bytes <= device.storage.hbm
        assert rank.ddr_bytes <= device.storage.ddr
    assert sum(r.hbm_bytes for r in found.ranks) == sum(t.hbm_bytes for t in found.tables)
    assert sum(r.ddr_bytes for r in found.ranks) == sum(t.ddr_bytes for t in found.tables)
    assert 0 < found.step_ms < math.inf
    for table in found.tables:
        held = found.plan.plan["sparse"][table.name]
        assert (held.sharding_type, held.compute_kernel) == (table.sharding, table.kernel)
        assert tuple(sorted(set(held.ranks))) == table.ranks
        if table.kernel == "fused_uvm_caching":
            assert 0 < table.load_factor < 1
            assert held.cache_params.load_factor == table.load_factor
            assert table.predicted_miss == curves()[table.name].miss_rate(table.load_factor)
            assert table.ddr_bytes > 0
        else:
            assert table.kernel in ("fused", "dense")
            assert (table.load_factor, table.predicted_miss, table.ddr_bytes) == (1.0, 0.0, 0)


def test_every_cache_holds_what_was_sized():
    """The grouping of TorchRec's own, on every rank."""
    model = traffic.collection(ROWS, dim={"user": 64, "item": 32, "page": 64, "tag": 16})
    found = plan_caches(model, curves(), cluster(4, 0.1), batch_size=64)
    asked = {f"sparse.{t.name}": t.load_factor for t in found.tables}
    groups = cache_groups(model, found.plan, sharders=cache_sharders())
    assert groups
    for group in groups:
        ((table, share),) = group.requested.items()
        assert share == asked[table] == group.effective


def test_sharders_that_share_caches_are_refused():
    used = [EmbeddingBagCollectionSharder()]
    two = dict.fromkeys(("one", "two"), 400_000)
    model = traffic.collection(two)
    uneven = {"one": traffic.curve(400_000), "two": traffic.curve(400_000, lookups=20_000)}
    topology = cuda_topology(1, hbm_bytes=20_000_000)
    with pytest.raises(PlanError, match="load factor of sparse"):
        plan_caches(model, uneven, topology, batch_size=8, sharders=used)
    alone = plan_caches(model, uneven, topology, batch_size=8)
    verify_plan(model, alone.plan, sharders=cache_sharders())


def test_uses_the_hbm_there_is():
    """Nothing is left idle while a table has rows outside."""
    topology = cluster(1, 0.3)
    found = plan(topology)
    assert any(table.kernel == "fused_uvm_caching" for table in found.tables)
    (rank,) = found.ranks
    assert rank.hbm_bytes >= 0.95 * topology.devices[0].storage.hbm


def test_more_hbm_never_predicts_more_misses():
    missed = []
    for share in (0.05, 0.1, 0.3, 0.6, 1.5):
        found = plan(cluster(2, share))
        lookups = {name: curve.unique_per_batch for name, curve in curves().items()}
        missed.append(sum(lookups[t.name] * t.predicted_miss for t in found.tables))
    assert missed == sorted(missed, reverse=True)
    assert missed[-1] == 0


def test_a_table_whose_cache_would_be_larger_lies_in_hbm():
    """Forty rows: two sets of slots with tags and a map are more than the table."""
    tag = next(table for table in plan(cluster(2, 0.05)).tables if table.name == "tag")
    assert tag.kernel in ("fused", "dense")


def test_equal_tables_get_equal_load_factors():
    rows = dict.fromkeys(("a", "b", "c"), 300_000)
    same = {name: traffic.curve(300_000, points=1000) for name in rows}
    topology = cuda_topology(2, hbm_bytes=20_000_000)
    found = plan_caches(traffic.collection(rows), same, topology, batch_size=8)
    shares = [table.load_factor for table in found.tables]
    assert max(shares) <= 1.02 * min(shares)


def test_sequence_tables_and_pooling_factors():
    table = EmbeddingConfig(name="t", embedding_dim=64, num_embeddings=100_000, feature_names=["f"])
    model = nn.ModuleDict({"s": EmbeddingCollection(tables=[table], device=torch.device("meta"))})
    costs = []
    for factor in (1.0, 30.0):
        base = {"t": ParameterConstraints(pooling_factors=[factor])}
        found = plan_caches(
            model,
            {"t": traffic.curve(100_000)},
            cuda_topology(2, hbm_bytes=traffic.GIB),
            batch_size=64,
            base=base,
        )
        costs.append(found.step_ms)
    assert costs[1] > costs[0]


def test_a_thousand_ranks():
    topology = cuda_topology(1024, hbm_bytes=40_000_000, ddr_bytes=traffic.GIB)
    found = plan(topology, batch_size=4)
    assert len(found.ranks) == 1024
    assert max(rank.hbm_bytes for rank in found.ranks) <= 40_000_000


class TestNoPlan:
    def test_names_the_table_and_what_is_scarce(self):
        with pytest.raises(
            PlanError, match=r"tables must fit into 2 GPUs .* HBM is scarce, and user alone takes"
        ):
            plan(cluster(2, 0.001))
        with pytest.raises(PlanError, match="host memory is scarce, and user alone"):
            plan(cluster(2, 0.05, ddr=1000))

    def test_a_trace_of_other_tables(self):
        with pytest.raises(ValueError, match="trace must hold the tables of the model"):
            plan_caches(traffic.collection(ROWS), curves({"user": 9}), cluster(1, 1.0))

    def test_a_batch_of_nothing(self):
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            plan(cluster(1, 1.0), batch_size=0)


class TestTopology:
    @pytest.mark.parametrize(("ranks", "host"), [(1, 1), (8, 8), (12, 6), (13, 1), (1024, 8)])
    def test_hosts_are_whole(self, ranks, host):
        topology = cuda_topology(ranks, hbm_bytes=7, ddr_bytes=9)
        assert (topology.world_size, topology.local_world_size) == (ranks, host)
        assert {(d.storage.hbm, d.storage.ddr) for d in topology.devices} == {(7, 9)}

    @pytest.mark.parametrize("name", ["world_size", "hbm_bytes", "ddr_bytes", "local_world_size"])
    def test_nothing_of_something(self, name):
        options = {"world_size": 2, "hbm_bytes": 1, "ddr_bytes": 1, "local_world_size": 8}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            cuda_topology(**{**options, name: 0})
