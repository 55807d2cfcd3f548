"""Estimates: TorchRec's where it knows, FBGEMM's bytes where it does not."""

import pytest
import torch
import torchrec.optim
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams
from torchrec.modules.embedding_configs import DataType

from sidrank.cache.sizes import TableShape
from sidrank.sharding.cache_statistics import TraceCacheStatistics
from sidrank.sharding.estimators import estimators_for, shape_of
from sidrank.sharding.fitting import cuda_topology
from tests.sharding import traffic

ROWS = {"big": 1_000_003, "small": 40}


def both(model, topology, constraints=None, fused_params=None):
    """The same options, estimated by TorchRec and by us."""
    found = []
    for estimator in (None, estimators_for(topology, constraints)):
        enumerator = EmbeddingEnumerator(
            topology=topology, batch_size=64, constraints=constraints, estimator=estimator
        )
        sharder = EmbeddingBagCollectionSharder(fused_params=fused_params)
        options = enumerator.enumerate(model, [sharder])
        found.append({(o.name, o.sharding_type, o.compute_kernel): o for o in options})
    assert found[0].keys() == found[1].keys()
    return [(found[0][key], found[1][key]) for key in found[0]]


@pytest.mark.parametrize("ranks", [1, 6, 16])
def test_time_is_torchrecs(ranks):
    topology = cuda_topology(ranks, hbm_bytes=traffic.GIB)
    stats = {
        name: ParameterConstraints(
            pooling_factors=[3.0],
            cache_params=CacheParams(
                load_factor=0.1, stats=TraceCacheStatistics(traffic.curve(rows))
            ),
        )
        for name, rows in ROWS.items()
    }
    for constraints in (None, stats):
        pairs = both(traffic.collection(ROWS, dim=256), topology, constraints)
        assert {theirs.sharding_type for theirs, _ in pairs} >= {"row_wise", "column_wise"}
        for theirs, ours in pairs:
            assert [each.perf for each in ours.shards] == [each.perf for each in theirs.shards]
            assert ours.is_weighted == theirs.is_weighted


@pytest.mark.parametrize("optimizer", [None, torchrec.optim.RowWiseAdagrad, torch.optim.Adam])
def test_storage_outside_fbgemms_tables_is_torchrecs(optimizer):
    topology = cuda_topology(4, hbm_bytes=traffic.GIB)
    compared = 0
    for theirs, ours in both(traffic.collection(ROWS, optimizer=optimizer), topology):
        if ours.compute_kernel not in ("fused", "fused_uvm_caching"):
            compared += 1
            assert [s.storage for s in ours.shards] == [s.storage for s in theirs.shards]
    assert compared > 4


def test_storage_of_whole_tables_is_torchrecs_where_it_counts_right():
    """Without state nothing is left to differ about."""
    topology = cuda_topology(4, hbm_bytes=traffic.GIB)
    for theirs, ours in both(traffic.collection(ROWS, optimizer=torch.optim.SGD), topology):
        if ours.compute_kernel == "fused":
            for mine, other in zip(ours.shards, theirs.shards, strict=True):
                assert mine.storage.hbm == pytest.approx(other.storage.hbm, abs=2)
                assert mine.storage.ddr == other.storage.ddr == 0


@pytest.mark.parametrize("load_factor", [0.001, 0.25])
@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        (torchrec.optim.RowWiseAdagrad, (1, 0)),
        (torch.optim.Adagrad, (0, 1)),
        (torchrec.optim.PartialRowWiseAdam, (1, 1)),
    ],
)
def test_a_cache_takes_what_fbgemm_allocates(optimizer, states, load_factor):
    rows, dim = 100_000, 64
    model = traffic.collection({"t": rows}, dim=dim, optimizer=optimizer)
    params = CacheParams(load_factor=load_factor)
    constraints = {
        "t": ParameterConstraints(
            sharding_types=["table_wise"],
            compute_kernels=["fused_uvm", "fused_uvm_caching"],
            cache_params=params,
        )
    }
    pairs = both(model, cuda_topology(1, hbm_bytes=traffic.GIB), constraints)
    by_kernel = {ours.compute_kernel: ours.shards[0].storage for _, ours in pairs}
    slots = -(-int(rows * load_factor) // 32) * 32
    cache = slots * (dim * 4 + 8 + 8) + rows * 4  # rows, tags and recency; the map of all rows
    of_rows = states[0] * rows * 4  # in HBM, cached or not
    io = by_kernel["fused_uvm"].hbm
    assert by_kernel["fused_uvm_caching"].hbm - io == cache + of_rows
    assert by_kernel["fused_uvm_caching"].ddr == rows * dim * 4 * (1 + states[1])


def test_every_column_shard_has_state_and_a_map_of_its_own():
    model = traffic.collection({"t": 1000}, dim=512)
    params = CacheParams(load_factor=0.1)
    constraints = {
        "t": ParameterConstraints(
            sharding_types=["column_wise"],
            compute_kernels=["fused_uvm", "fused_uvm_caching"],
            cache_params=params,
            min_partition=128,
        )
    }
    found = {
        ours.compute_kernel: ours.shards
        for _, ours in both(model, cuda_topology(4, hbm_bytes=traffic.GIB), constraints)
    }
    shape = TableShape(name="t", rows=1000, dim=128)
    for cached, outside in zip(found["fused_uvm_caching"], found["fused_uvm"], strict=True):
        own = cached.storage.hbm - outside.storage.hbm
        assert own == sum(shape.cached_bytes(128).values())


class TestShape:
    def weight(self, optimizer=None, dtype=DataType.FP32):
        model = traffic.collection({"t": 10}, optimizer=optimizer, dtype=dtype)
        return next(model.parameters())

    def test_from_weight_and_optimizer(self):
        weight = self.weight(torch.optim.Adam, DataType.FP16)
        assert shape_of("t", weight) == TableShape("t", 10, 64, 2, 0, 2)

    def test_from_fused_parameters(self):
        from fbgemm_gpu.split_embedding_configs import EmbOptimType

        weight = self.weight()
        assert shape_of("t", weight).rowwise_states == 0  # FBGEMM's default is plain SGD
        fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD}
        assert shape_of("t", weight, fused_params=fused).rowwise_states == 1

    def test_of_an_optimizer_that_is_not_known(self):
        weight = nn.Parameter(torch.empty(3, 4))
        weight._optimizer_classes = [torch.optim.Rprop]
        with pytest.raises(
            ValueError, match=r"optimizer of t must be one whose state is known.*Rp"
        ):
            shape_of("t", weight)
