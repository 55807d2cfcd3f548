"""`sidrank plan`: from files to figures, and one line for what is wrong with a file."""

import json

import numpy as np
import pytest

from sidrank.cache.access_trace import AccessTrace
from sidrank.sharding.plan_file import load_constraints
from tests.cli.tokenizations import figures, refused, sidrank

PROMISED = ["fits", "tables", "ranks", "remedies"]
OF_A_TABLE = ["name", "sharding", "kernel", "load_factor", "predicted_miss", "hbm_bytes"]
ROWS = {"user": 200_000, "item": 20_000, "tag": 50}
GPUS = {"world_size": 2, "hbm_gib": 0.02, "ddr_gib": 1, "batch": 64}


def tables():
    return [
        {
            "name": name,
            "rows": rows,
            "dim": 64,
            "features": [name],
            "pooling": "sum",
            "dtype": "fp32",
            "optimizer": "rowwise_adagrad",
        }
        for name, rows in ROWS.items()
    ]


def listed(folder, found):
    path = folder / "tables.json"
    path.write_text(json.dumps(found))
    return path


def traced(folder, rows=ROWS, batches=10):
    rng = np.random.default_rng(0)
    trace = AccessTrace(rows)
    for _ in range(batches):
        trace.observe(
            {name: (count * rng.random(1000) ** 4).astype(int) for name, count in rows.items()}
        )
    path = folder / "traffic.trace"
    if batches:
        trace.save(path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A list of tables and a trace of them, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    return listed(folder, tables()), traced(folder)


def changed(folder, made, place=0, *, drop=(), **changes):
    """The list with one table otherwise, and the trace."""
    found = tables()
    found[place] = {key: v for key, v in {**found[place], **changes}.items() if key not in drop}
    return listed(folder, found), made[1]


def plan(made, **options):
    path, trace = made
    return figures("plan", path, trace=trace, **{**GPUS, **options})


class TestJSON:
    def test_holds_what_is_promised(self, made):
        found = plan(made)
        assert list(found)[: len(PROMISED)] == PROMISED
        assert found["fits"] is True
        assert [list(table)[: len(OF_A_TABLE)] for table in found["tables"]] == [OF_A_TABLE] * 3
        assert [table["name"] for table in found["tables"]] == list(ROWS)
        assert [list(rank) for rank in found["ranks"]] == [["hbm_bytes", "ddr_bytes"]] * 2
        assert found["remedies"] == []
        assert all(rank["hbm_bytes"] <= 0.02 * 2**30 for rank in found["ranks"])
        user, item, tag = found["tables"]
        assert user["kernel"] == "fused_uvm_caching"
        assert 0 < user["load_factor"] < 1
        assert 0 < user["predicted_miss"] < 1
        for whole in (item, tag):
            assert whole["kernel"] in ("fused", "dense")
            assert (whole["load_factor"], whole["predicted_miss"]) == (1.0, 0.0)

    def test_is_the_same_every_time(self, made):
        assert plan(made) == plan(made)

    @pytest.mark.parametrize("ranks", [1, 3, 1024])
    def test_of_any_number_of_gpus(self, made, ranks):
        found = plan(made, world_size=ranks, hbm_gib=0.5, batch=4)
        assert found["fits"]
        assert len(found["ranks"]) == ranks

    def test_binds_a_real_planner(self, made, tmp_path):
        found = plan(made)
        (tmp_path / "plan.json").write_text(json.dumps(found))
        constraints = load_constraints(tmp_path / "plan.json")
        for table in found["tables"]:
            own = constraints[table["name"]]
            assert own.sharding_types == [table["sharding"]]
            assert own.compute_kernels == [table["kernel"]]
            if table["kernel"] == "fused_uvm_caching":
                assert own.cache_params.load_factor == table["load_factor"]


class TestTables:
    def test_need_no_more_than_name_rows_and_dim(self, made, tmp_path):
        short = [{key: each[key] for key in ("name", "rows", "dim")} for each in tables()]
        assert plan((listed(tmp_path, short), made[1])) == plan(made)

    def test_may_be_named_by_other_words(self, made, tmp_path):
        words = [
            {**each, "dtype": "FLOAT32", "optimizer": "EXACT_ROWWISE_ADAGRAD", "pooling": "SUM"}
            for each in tables()
        ]
        assert plan((listed(tmp_path, words), made[1])) == plan(made)

    def test_may_say_how_many_values_a_sample_has(self, made, tmp_path):
        busy = plan(changed(tmp_path, made, pooling=40))
        assert busy["tables"][0]["pooling_factors"] == [40.0]
        assert busy["step_ms"] > plan(made)["step_ms"]

    def test_may_be_traced_by_column(self, made, tmp_path):
        renamed = [{**each, "name": f"table_{each['name']}"} for each in tables()]
        found = plan((listed(tmp_path, renamed), made[1]))
        assert [table["name"] for table in found["tables"]] == [f"table_{name}" for name in ROWS]

    def test_may_have_rows_that_never_came(self, made, tmp_path):
        assert plan(changed(tmp_path, made, rows=300_000))["fits"]

    def test_may_be_sequences(self, made, tmp_path):
        assert plan(changed(tmp_path, made, pooling="none"))["fits"]


class TestNoPlan:
    def test_names_the_table_and_changes_that_help(self, made, tmp_path):
        path, trace = changed(tmp_path, made, rows=80_000_000)
        words = {"trace": trace, "json": True, **GPUS}
        code, output, errors = sidrank("plan", path, **words)
        assert (code, errors) == (1, "")
        found = json.loads(output)
        assert (found["fits"], found["tables"], found["ranks"]) == (False, [], [])
        assert found["shortage"]["table"] == "user"
        assert {"world_size", "hbm_gib"} & {each["change"] for each in found["remedies"]}
        for remedy in found["remedies"]:
            assert list(remedy) == ["table", "change", "from", "to", "text"]
            change = {remedy["change"]: remedy["to"]}
            if remedy["table"] is None:
                again = sidrank("plan", path, **{**words, **change})
            else:
                changes = {"rows": 80_000_000, **change}
                moved = changed(tmp_path, made, **changes)
                if remedy["change"] == "rows":
                    continue  # asks for another trace, and says so
                again = sidrank("plan", moved[0], **words)
                path, _ = changed(tmp_path, made, rows=80_000_000)
            assert again[0] == 0, remedy

    def test_in_words(self, made, tmp_path):
        path, trace = changed(tmp_path, made, rows=80_000_000)
        code, output, errors = sidrank("plan", path, trace=trace, **GPUS)
        assert (code, errors) == (1, "")
        words = " ".join(output.split())
        assert "does not fit into 2 GPUs" in words
        assert "user alone takes" in words
        assert "Any one of these makes it fit: -" in words


class TestWords:
    def test_say_the_same(self, made):
        found = plan(made)
        code, output, errors = sidrank("plan", made[0], trace=made[1], **GPUS)
        assert (code, errors) == (0, "")
        words = " ".join(output.split())
        assert "fits into 2 GPUs with 0.02 GiB of HBM" in words
        user = found["tables"][0]
        for text in (f"{user['load_factor']:.2%}", f"{user['predicted_miss']:.2%}", "an estimate"):
            assert text in words


class TestErrors:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"rows": 0}, ["tables.json: table 1: rows must be at least 1, got 0"]),
            ({"rows": 1.5}, ["table 1: rows must be an integer, got '1.5'"]),
            ({"rows": True}, ["table 1: rows must be an integer"]),
            ({"dim": 6}, ["table 1: dim must be a multiple of 4, got 6"]),
            ({"name": 3}, ["table 1: name must be text, got 3"]),
            ({"name": "user"}, ["table 1: name must be its own, got user again"]),
            ({"features": "item"}, ["table 1: features must be text, got item"]),
            ({"features": []}, ["table 1: features must be one or more"]),
            ({"pooling": "max"}, ["table 1: pooling must be one of sum, mean, none, got max"]),
            ({"pooling": [1, 2]}, ["table 1: pooling_factors must be 1 numbers above 0"]),
            ({"pooling": ["a"]}, ["table 1: pooling_factors must be numbers"]),
            ({"pooling": 3, "pooling_factors": 3}, ["pooling must be a word where"]),
            ({"dtype": "int3"}, ["table 1: dtype must be one of", "got int3"]),
            ({"optimizer": "magic"}, ["table 1: optimizer must be one of", "got magic"]),
            ({"size": 3}, ["table 1: keys must be among name,", "got size"]),
        ],
    )
    def test_a_table(self, made, tmp_path, changes, words):
        path, trace = changed(tmp_path, made, place=1, **changes)
        refused("plan", path, words=words, trace=trace, **GPUS)

    @pytest.mark.parametrize("key", ["name", "rows", "dim"])
    def test_a_table_without(self, made, tmp_path, key):
        path, trace = changed(tmp_path, made, drop=[key])
        refused("plan", path, words=[f"table 0: {key} must be given"], trace=trace, **GPUS)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", "must hold JSON"),
            ('[{"name"', "must hold JSON"),
            ("[]", "must hold a list of tables, got []"),
            ("{}", "must hold a list of tables, got {}"),
            ("[7]", "table 0: must be an object, got 7"),
        ],
    )
    def test_no_list(self, made, tmp_path, content, words):
        (tmp_path / "tables.json").write_text(content)
        refused("plan", tmp_path / "tables.json", words=[words], trace=made[1], **GPUS)

    def test_a_trace_of_other_tables(self, made, tmp_path):
        other = traced(tmp_path, {"user": 9, "page": 9})
        words = ["trace must hold the tables item, tag, user", "item, tag missing", "page too many"]
        refused("plan", made[0], words=words, trace=other, **GPUS)

    def test_a_trace_of_ids_beyond_the_table(self, made, tmp_path):
        path, trace = changed(tmp_path, made, rows=100)
        refused("plan", path, words=["at most 100 rows for the table user"], trace=trace, **GPUS)

    def test_no_trace(self, made, tmp_path):
        refused("plan", made[0], words=["none.trace"], trace=tmp_path / "none.trace", **GPUS)
        (tmp_path / "broken").write_bytes(made[1].read_bytes()[:-5])
        refused("plan", made[0], words=["broken"], trace=tmp_path / "broken", **GPUS)
        (tmp_path / "empty").write_bytes(b"")
        refused("plan", made[0], words=["empty"], trace=tmp_path / "empty", **GPUS)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"world_size": 0}, "world_size must lie in [1, 1024], got 0"),
            ({"world_size": 2000}, "world_size must lie in [1, 1024], got 2000"),
            ({"hbm_gib": 0}, "hbm_gib must be above 0"),
            ({"ddr_gib": "nan"}, "ddr_gib must be above 0"),
            ({"batch": 0}, "batch_size must be at least 1, got 0"),
        ],
    )
    def test_a_cluster(self, made, change, words):
        refused("plan", made[0], words=[words], trace=made[1], **{**GPUS, **change})
