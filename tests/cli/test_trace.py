import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sidrank.cache.access_trace import AccessTrace
from sidrank.cli.app import app
from tests.cache.traffic import zipf
from tests.data.row_files import write_rows

KEYS = ["batches", "global_batch", "rows_left_out", "sampling", "tables"]


def trace(path, out, *, columns="item,user", batch=50, world=4, **options):
    """Exit code, standard output and standard error; True stands for a flag."""
    arguments = ["trace", str(path), "--columns", columns, "--batch", str(batch)]
    arguments += ["--world-size", str(world), "--out", str(out)]
    for name, value in options.items():
        arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def refused(path, out, *words, **options):
    """Exit code 2, one line on standard error that holds the words, and no file left behind."""
    before = sorted(os.listdir(out.parent)) if out.parent.is_dir() else None
    code, output, errors = trace(path, out, **options)
    assert (code, output) == (2, ""), (code, output, errors)
    assert errors.startswith("sidrank trace: ")
    assert errors.count("\n") == 1
    for word in words:
        assert word in errors
    if before is not None:
        assert sorted(os.listdir(out.parent)) == before


def log(rows=4130):
    return {"item": zipf(300)(rows), "user": zipf(40, seed=1)(rows)}


def expected(columns, tables, size):
    found = AccessTrace(tables)
    for start in range(0, len(next(iter(columns.values()))) - size + 1, size):
        found.observe({name: each[start : start + size] for name, each in columns.items()})
    return found


def same(one, other):
    halves = other.halves()
    for name, pair in one.halves().items():
        for first, second in zip(pair, halves[name], strict=True):
            assert first.misses.tolist() == second.misses.tolist()
    curves = other.curves()
    for name, curve in one.curves().items():
        assert curve.misses.tolist() == curves[name].misses.tolist()
    return (one.rows, one.batches, one.sampling) == (other.rows, other.batches, other.sampling)


class TestTrace:
    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_equal_to_a_trace_by_hand(self, suffix, tmp_path):
        columns = log()
        path = write_rows(tmp_path / f"log.{suffix}", columns)
        code, output, errors = trace(path, tmp_path / "out", json=True)
        assert (code, errors) == (0, "")
        rows = {name: int(each.max()) + 1 for name, each in columns.items()}
        loaded = AccessTrace.load(tmp_path / "out")
        assert same(loaded, expected(columns, rows, 200))
        found = json.loads(output)
        assert list(found) == KEYS
        assert (found["batches"], found["global_batch"], found["rows_left_out"]) == (20, 200, 130)
        item, curve = found["tables"]["item"], loaded.curves()["item"]
        assert item["rows"] == rows["item"]
        assert item["unique_per_batch"] == curve.unique_per_batch
        assert item["misses"]["0.05"] == curve.miss_rate(0.05)
        assert item["first_accesses"] == curve.cold / curve.accesses

    def test_batches_that_cross_what_is_read_at_once(self, tmp_path):
        columns = {"item": zipf(100_000)((1 << 18) + 40_000)}
        path = write_rows(tmp_path / "log.npz", columns)
        assert trace(path, tmp_path / "out", columns="item", batch=10_007, world=3)[0] == 0
        loaded = AccessTrace.load(tmp_path / "out")
        assert same(loaded, expected(columns, {"item": int(columns["item"].max()) + 1}, 30_021))

    def test_tables_that_share_a_column(self, tmp_path):
        columns = log()
        columns["seen"] = zipf(300, seed=2)(4130)
        path = write_rows(tmp_path / "log.parquet", columns)
        tables = [
            {"name": "t_item", "rows": 1000, "dim": 64, "features": ["item", "seen"]},
            {"name": "t_user", "rows": 40, "dim": 16, "features": ["user"]},
        ]
        (tmp_path / "tables.json").write_text(json.dumps(tables))
        code, output, _ = trace(
            path, tmp_path / "out", columns="user,item,seen", tables=tmp_path / "tables.json"
        )
        assert code == 0
        by_hand = AccessTrace({"t_item": 1000, "t_user": 40})
        for start in range(0, 4000, 200):
            cut = {name: each[start : start + 200] for name, each in columns.items()}
            by_hand.observe({"t_item": np.append(cut["seen"], cut["item"]), "t_user": cut["user"]})
        assert same(AccessTrace.load(tmp_path / "out"), by_hand)
        assert "t_item" in output

    def test_a_table_is_its_own_feature_unless_told(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", log())
        (tmp_path / "t.json").write_text('[{"name": "item", "rows": 999}]')
        assert trace(path, tmp_path / "out", columns="item", tables=tmp_path / "t.json")[0] == 0
        assert AccessTrace.load(tmp_path / "out").rows == {"item": 999}

    def test_sampling(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", log())
        assert trace(path, tmp_path / "out", sampling=0.5)[0] == 0
        assert AccessTrace.load(tmp_path / "out").sampling == 0.5

    def test_says_what_it_found(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", log())
        code, output, errors = trace(path, tmp_path / "out")
        assert (code, errors) == (0, "")
        assert "20 global batches of 200 rows, 130 rows at the end left out" in output
        for word in ("item", "300", "missed"):
            assert word in output

    def test_drift_is_told(self, tmp_path):
        columns = {"item": np.append(zipf(3000, alpha=1.6)(4000), zipf(3000, alpha=0.1)(4000))}
        path = write_rows(tmp_path / "log.npz", columns)
        code, output, errors = trace(path, tmp_path / "out", columns="item", json=True)
        assert code == 0
        assert errors.startswith("sidrank trace: traffic drifts: ")
        assert json.loads(output)["tables"]["item"]["drift"] > 0.05

    def test_one_batch_has_no_halves(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", log(200))
        code, output, errors = trace(path, tmp_path / "out", json=True)
        assert (code, errors) == (0, "")
        assert json.loads(output)["tables"]["item"]["drift"] is None

    def test_replaces_an_older_trace(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", log())
        (tmp_path / "out").write_text("old")
        assert trace(path, tmp_path / "out")[0] == 0
        assert AccessTrace.load(tmp_path / "out").batches == 20
        assert sorted(os.listdir(tmp_path)) == ["log.npz", "out"]


class TestRefused:
    def test_missing_file_and_column(self, tmp_path):
        refused(tmp_path / "nowhere.npz", tmp_path / "out", "No such file", "nowhere.npz")
        path = write_rows(tmp_path / "log.npz", log())
        refused(path, tmp_path / "out", "log.npz: column 'itm' must exist", columns="itm")

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_truncated(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"log.{suffix}", log())
        content = path.read_bytes()
        for length in (0, 3, 100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            refused(path, tmp_path / "out", f"log.{suffix}")

    @pytest.mark.parametrize(
        ("column", "words"),
        [
            ([1, 2, -3, 4], ["column 'item' must hold ids in [0, ", "got -3 in row 2"]),
            ([0.5, 1, 2, 3], ["column 'item' must hold integers"]),
            (["a", "b", "c", "d"], ["column 'item' must hold integers, got text"]),
        ],
    )
    def test_no_ids(self, column, words, tmp_path):
        path = write_rows(tmp_path / "log.npz", {"item": np.array(column)})
        refused(path, tmp_path / "out", *words, columns="item", batch=1, world=1)

    def test_missing_id(self, tmp_path):
        pq.write_table(pa.table({"item": [1, None, 3]}), tmp_path / "log.parquet")
        refused(
            tmp_path / "log.parquet", tmp_path / "out", "column 'item'", "row 1", columns="item"
        )

    def test_ids_beyond_the_table(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", {"item": np.arange(400)})
        (tmp_path / "t.json").write_text('[{"name": "t", "rows": 300, "features": ["item"]}]')
        refused(
            path,
            tmp_path / "out",
            "log.npz: column 'item' must hold ids in [0, 300), got 300 in row 300",
            columns="item",
            tables=tmp_path / "t.json",
        )

    def test_too_few_rows(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", log(199))
        refused(path, tmp_path / "out", "must hold at least one global batch of 200 rows, got 199")
        path = write_rows(tmp_path / "log.npz", log(0))
        refused(path, tmp_path / "out", "log.npz must hold rows, got 0")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("{", ["must hold JSON, got"]),
            ("{}", ["must hold a list of tables, got {}"]),
            ("[]", ["must hold a list of tables, got []"]),
            ('[{"name": "t"}]', ["table 0 must have a name of its own, a number of rows"]),
            ('[{"name": "t", "rows": 0, "features": ["item"]}]', ["table 0 must have"]),
            ('[{"name": "t", "rows": 9, "features": ["item"]}]', ["columns must be the features"]),
        ],
    )
    def test_tables(self, content, words, tmp_path):
        path = write_rows(tmp_path / "log.npz", log())
        (tmp_path / "t.json").write_text(content)
        refused(path, tmp_path / "out", *words, tables=tmp_path / "t.json")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"batch": 0}, "batch must be at least 1, got 0"),
            ({"world": 0}, "world-size must be at least 1, got 0"),
            ({"columns": "item,item"}, "columns must be names, each once, got 'item,item'"),
            ({"columns": ""}, "columns must be names, each once, got ''"),
            ({"sampling": 0}, "sampling must lie in (0, 1], got 0.0"),
            ({"sampling": 1e-9}, "sampling must leave some of the rows that occur"),
        ],
    )
    def test_numbers(self, options, words, tmp_path):
        path = write_rows(tmp_path / "log.npz", log())
        refused(path, tmp_path / "out", words, **options)

    def test_places_that_cannot_take_the_trace(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", log())
        refused(path, tmp_path / "no" / "out", "out must lie in a folder that exists, got")
        refused(path, tmp_path, "out must be a file, got")
        refused(path, path, "out must not replace the log that is read, got")
        assert sorted(os.listdir(tmp_path)) == ["log.npz"]
