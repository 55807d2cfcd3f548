"""What `sidrank plan` printed binds a real planner to the same numbers."""

import json

import pytest
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation

from sidrank.sharding import verify_plan
from sidrank.sharding.fitting import cache_sharders, cuda_topology
from sidrank.sharding.plan_file import load_constraints
from sidrank.sharding.table_specs import TableSpec, model_of
from tests.sharding import traffic

CACHED = {
    "name": "user",
    "sharding": "row_wise",
    "kernel": "fused_uvm_caching",
    "load_factor": 0.25,
    "predicted_miss": 0.3,
    "hbm_bytes": 1,
    "rows": 100_000,
    "lookups": 512.0,
    "pooling_factors": [2.0],
}
WHOLE = {
    **CACHED,
    "name": "item",
    "sharding": "table_wise",
    "kernel": "fused",
    "load_factor": 1.0,
    "predicted_miss": 0.0,
    "rows": 5000,
}


def written(folder, tables=(CACHED, WHOLE), **more):
    path = folder / "plan.json"
    path.write_text(json.dumps({"fits": True, "tables": list(tables), **more}))
    return path


def test_a_real_planner_does_as_it_says(tmp_path):
    found = load_constraints(written(tmp_path))
    specs = [
        TableSpec("user", 100_000, 64, ("u",), pooling_factors=(2.0,)),
        TableSpec("item", 5000, 64, ("i",), pooling_factors=(2.0,)),
    ]
    model, sharders = model_of(specs), cache_sharders()
    planner = EmbeddingShardingPlanner(
        topology=cuda_topology(2, hbm_bytes=traffic.GIB),
        constraints=found,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        stats=[],
        debug=False,
    )
    plan = planner.plan(model, sharders)
    held = plan.plan["bags"]
    assert (held["user"].sharding_type, held["user"].compute_kernel) == (
        "row_wise",
        "fused_uvm_caching",
    )
    assert held["user"].cache_params.load_factor == 0.25
    assert (held["item"].sharding_type, held["item"].compute_kernel) == ("table_wise", "fused")
    assert held["item"].cache_params is None
    verify_plan(model, plan, sharders=sharders)


def test_statistics_go_with_it(tmp_path):
    found = load_constraints(written(tmp_path))
    stats = found["user"].cache_params.stats
    assert stats.expected_lookups == 512
    assert stats.expected_miss_rate(0.25) == pytest.approx(0.3)
    assert found["user"].pooling_factors == [2.0]


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "plan.json must hold JSON"),
            ("[1]", r"plan.json must hold a plan of sidrank plan --json, got \[1\]"),
            ('{"a": 1}', "must hold a plan of sidrank plan --json"),
            ('{"fits": false, "tables": []}', "must hold a plan that fits, got one that does not"),
            ('{"fits": true, "tables": []}', "must hold a plan that fits"),
            ('{"fits": true, "tables": [3]}', r"plan.json: table 0 is not whole"),
        ],
    )
    def test_no_plan(self, tmp_path, text, words):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            load_constraints(tmp_path / "plan.json")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"name": ""}, "name must be a word, got ''"),
            ({"sharding": "sideways"}, "sharding must be one of TorchRec's, got sideways"),
            ({"kernel": "popcorn"}, "kernel must be one of TorchRec's, got popcorn"),
            ({"load_factor": 1.0}, r"load_factor of a cache must lie in \(0, 1\), got 1\.0"),
            ({"predicted_miss": 2}, r"predicted_miss must lie in \[0, 1\], got 2"),
            ({"rows": 0}, "rows must be at least 1, got 0"),
            ({"pooling_factors": None}, "table 1 is not whole"),
        ],
    )
    def test_a_table_that_is_broken(self, tmp_path, change, words):
        with pytest.raises(ValueError, match=words):
            load_constraints(written(tmp_path, [WHOLE, {**CACHED, **change}]))

    def test_a_key_that_is_missing(self, tmp_path):
        broken = {key: value for key, value in CACHED.items() if key != "lookups"}
        with pytest.raises(ValueError, match="table 0 is not whole: 'lookups'"):
            load_constraints(written(tmp_path, [broken]))

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_constraints(tmp_path / "none.json")
