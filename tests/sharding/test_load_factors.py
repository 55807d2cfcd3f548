"""What caches really get once TorchRec has grouped tables: by hand, and refused where it is off."""

import pytest
import torch
from torch import nn
from torchrec import EmbeddingCollection
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams
from torchrec.modules.embedding_configs import EmbeddingConfig

from sidrank.sharding import PlanError, verify_plan
from sidrank.sharding.fitting import cuda_topology
from sidrank.sharding.load_factors import cache_groups
from tests.sharding import traffic

ASKED = {"a": 0.1, "b": 0.2, "c": 0.4}
ROWS = {"a": 10_000, "b": 20_000, "c": 1_000}


def sharders(**fused_params):
    return [
        EmbeddingBagCollectionSharder(fused_params=dict(fused_params)),
        EmbeddingCollectionSharder(fused_params=dict(fused_params)),
    ]


def planned(model, asked, used, *, ranks=1, types=None, prefetch=None):
    constraints = {
        name: ParameterConstraints(
            sharding_types=[(types or {}).get(name, "table_wise")],
            compute_kernels=["fused_uvm_caching" if share else "fused"],
            cache_params=CacheParams(load_factor=share, prefetch_pipeline=prefetch)
            if share
            else None,
        )
        for name, share in asked.items()
    }
    planner = EmbeddingShardingPlanner(
        topology=cuda_topology(ranks, hbm_bytes=traffic.GIB),
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        stats=[],
        debug=False,
    )
    return planner.plan(model, used)


def by_tables(groups):
    return {tuple(sorted(group.requested)): group for group in groups}


class TestGroups:
    def test_share_one_cache_of_the_mean_by_rows(self):
        model = traffic.collection(ROWS, dim={"a": 16, "b": 64, "c": 16})
        plan = planned(model, ASKED, sharders())
        (group,) = cache_groups(model, plan, sharders=sharders())
        mean = (0.1 * 10_000 + 0.2 * 20_000 + 0.4 * 1_000) / 31_000
        assert group.effective == pytest.approx(mean)
        assert group.requested == {f"sparse.{name}": share for name, share in ASKED.items()}
        assert (group.rank, group.rows, group.width) == (0, 31_000, 64)
        assert group.slots == -(-int(31_000 * mean) // 32) * 32
        assert group.furthest == ("sparse.a", pytest.approx(mean / 0.1 - 1))

    def test_one_for_each_table_hold_what_was_asked(self):
        model, used = traffic.collection(ROWS), sharders(use_one_tbe_per_table=True)
        found = by_tables(cache_groups(model, planned(model, ASKED, used), sharders=used))
        assert {key[0]: group.effective for key, group in found.items()} == {
            f"sparse.{name}": share for name, share in ASKED.items()
        }

    def test_of_other_sharding_types_and_kernels_are_others(self):
        model = traffic.collection(ROWS)
        asked = {"a": 0.1, "b": 0.2, "c": None}
        plan = planned(model, asked, sharders(), ranks=2, types={"b": "row_wise"})
        found = cache_groups(model, plan, sharders=sharders())
        assert sorted((tuple(g.requested), g.rows) for g in found) == [
            (("sparse.a",), 10_000),
            (("sparse.b",), 10_000),  # half of its rows on either rank
            (("sparse.b",), 10_000),
        ]
        assert {group.rank for group in found if "sparse.b" in group.requested} == {0, 1}

    def test_of_tables_fetched_ahead_are_split_by_width(self):
        model = traffic.collection(ROWS, dim={"a": 16, "b": 16, "c": 32})
        plan = planned(model, ASKED, sharders(), prefetch=True)
        found = by_tables(cache_groups(model, plan, sharders=sharders()))
        assert set(found) == {("sparse.a", "sparse.b"), ("sparse.c",)}

    def test_of_other_optimizers_are_others(self):
        model = traffic.collection({"a": 100, "b": 100}, optimizer=None)
        from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

        for rate, weight in zip((0.1, 0.2), model.parameters(), strict=True):
            apply_optimizer_in_backward(torch.optim.SGD, [weight], {"lr": rate})
        plan = planned(model, {"a": 0.1, "b": 0.2}, sharders())
        found = cache_groups(model, plan, sharders=sharders())
        assert set(by_tables(found)) == {("sparse.a",), ("sparse.b",)}

    def test_of_sequence_tables_too(self):
        tables = [
            EmbeddingConfig(
                name=name, embedding_dim=16, num_embeddings=rows, feature_names=[f"f_{name}"]
            )
            for name, rows in ROWS.items()
        ]
        model = nn.ModuleDict(
            {"seq": EmbeddingCollection(tables=tables, device=torch.device("meta"))}
        )
        found = cache_groups(model, planned(model, ASKED, sharders()), sharders=sharders())
        assert set(by_tables(found)) == {("seq.a", "seq.b", "seq.c")}

    def test_slots_come_in_sets(self):
        model, used = traffic.collection({"a": 1000}), sharders()
        plan = planned(model, {"a": 0.0101}, used)
        (group,) = cache_groups(model, plan, sharders=used)
        assert group.slots == 32


class TestVerification:
    def test_a_plan_whose_caches_hold_passes(self):
        model, used = traffic.collection(ROWS), sharders(use_one_tbe_per_table=True)
        verify_plan(model, planned(model, ASKED, used), sharders=used)

    def test_a_plan_whose_caches_are_shared_is_refused(self):
        model = traffic.collection(ROWS)
        plan = planned(model, ASKED, sharders())
        with pytest.raises(
            PlanError,
            match=r"load factor of sparse\.a must be within 5% of 0\.1 on rank 0, got 0\.1742: it"
            r" shares a cache with sparse\.b, sparse\.c; give the sharder .*one_tbe_per_table",
        ):
            verify_plan(model, plan)

    def test_equal_load_factors_may_be_shared(self):
        model = traffic.collection(ROWS)
        verify_plan(model, planned(model, dict.fromkeys(ROWS, 0.2), sharders()))

    @pytest.mark.parametrize(("other", "passes"), [(0.204, True), (0.23, False)])
    def test_within_the_tolerance(self, other, passes):
        model = traffic.collection({"a": 1000, "b": 1000})
        plan = planned(model, {"a": 0.2, "b": other}, sharders())
        if passes:
            verify_plan(model, plan)
        else:
            with pytest.raises(PlanError, match="load factor of sparse"):
                verify_plan(model, plan)
            verify_plan(model, plan, tolerance=0.1)

    def test_a_tolerance_below_zero(self):
        model = traffic.collection({"a": 1000})
        plan = planned(model, {"a": 0.2}, sharders())
        with pytest.raises(ValueError, match=r"tolerance must be at least 0, got -0\.1"):
            verify_plan(model, plan, tolerance=-0.1)
