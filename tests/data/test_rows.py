import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.data import Text, TextIndex, open_rows
from tests.data.row_files import FORMATS, write_rows

COLUMNS = {
    "score": np.array([0.5, -1.25, 3.0]),
    "user": np.array([7, 8, 7]),
    "country": np.array(["de", "", "fr"]),
}
NUMBERS = st.floats(allow_nan=False, width=64)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=4)


def read(path, *, numbers=(), keys=(), batch_rows=1 << 18):
    """All rows: lists by column, text decoded."""
    found = {name: [] for name in (*numbers, *keys)}
    for batch in open_rows(path).batches(numbers=numbers, keys=keys, batch_rows=batch_rows):
        for name in numbers:
            found[name] += batch.numbers[name].tolist()
        for name in keys:
            column = batch.keys[name]
            if isinstance(column, Text):
                found[name] += [column.names[code] for code in column.codes]
            else:
                found[name] += column.tolist()
    return found


class TestEachFormat:
    @pytest.mark.parametrize("suffix", FORMATS)
    @given(rows=st.lists(st.tuples(NUMBERS, NAMES, st.integers(-(2**62), 2**62)), min_size=1))
    def test_gives_back_what_was_written(self, suffix, rows):
        scores, names, users = (list(column) for column in zip(*rows, strict=True))
        columns = {"score": np.array(scores), "name": np.array(names), "user": np.array(users)}
        with tempfile.TemporaryDirectory() as folder:
            path = write_rows(Path(folder) / f"rows.{suffix}", columns)
            for batch_rows in (1, 1 << 18):
                found = read(path, numbers=["score"], keys=["name", "user"], batch_rows=batch_rows)
                assert found["score"] == scores
                assert found["name"] == names
                assert [int(user) for user in found["user"]] == users

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_says_what_is_there_before_reading(self, suffix, tmp_path):
        columns = {"b": np.arange(5), "a": np.zeros(5)}
        rows = open_rows(write_rows(tmp_path / f"rows.{suffix}", columns))
        assert list(rows.columns) == ["b", "a"]
        assert rows.num_rows == (None if suffix == "csv" else 5)

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_a_column_may_be_number_and_key(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": np.array([3, 4])})
        batch = next(open_rows(path).batches(numbers=["a"], keys=["a"]))
        assert batch.numbers["a"].tolist() == [3, 4]
        assert len(batch.keys) == 1

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_no_rows(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": np.zeros(0)})
        assert list(open_rows(path).batches(numbers=["a"])) == []

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_batches_tell_their_place(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": np.arange(7)})
        batches = list(open_rows(path).batches(numbers=["a"], batch_rows=3))
        assert [(batch.start, len(batch.numbers["a"])) for batch in batches] == [
            (0, 3), (3, 3), (6, 1),
        ]  # fmt: skip

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    @pytest.mark.parametrize(
        "kind",
        ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "uint64", "bool"],
    )
    def test_numbers_keep_their_type(self, suffix, kind, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": np.array([0, 1, 1], kind)})
        column = next(open_rows(path).batches(numbers=["a"])).numbers["a"]
        assert column.dtype == kind
        assert column.tolist() == np.array([0, 1, 1], kind).tolist()


class TestParquet:
    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_row_groups_do_not_matter(self, size, tmp_path):
        columns = {"a": list(range(7)), "name": list("abcabca")}
        path = write_rows(tmp_path / "rows.parquet", columns, row_group_size=size)
        assert read(path, numbers=["a"], keys=["name"], batch_rows=3) == columns

    def test_other_columns_are_not_read(self, tmp_path):
        path = write_rows(tmp_path / "rows.parquet", {"a": [1.0], "nested": [[1, 2]]})
        batch = next(open_rows(path).batches(numbers=["a"]))
        assert list(batch.numbers) == ["a"]

    def test_text_in_every_form(self, tmp_path):
        words = ["b", "a", "b"]
        columns = {
            "dictionary": pa.array(words).dictionary_encode(),
            "large": pa.array(words, pa.large_string()),
            "view": pa.array(words, pa.string_view()),
            "bytes": pa.array([word.encode() for word in words]),
        }
        found = read(write_rows(tmp_path / "rows.parquet", columns), keys=list(columns))
        assert found == dict.fromkeys(columns, words)

    def test_days_are_text(self, tmp_path):
        path = write_rows(tmp_path / "rows.parquet", {"day": pa.array([0, 31], pa.date32())})
        assert read(path, keys=["day"]) == {"day": ["1970-01-01", "1970-02-01"]}

    def test_a_folder_is_read_by_name(self, tmp_path):
        for name, values in {"b": [3], "a": [1, 2], "_c": [9]}.items():
            write_rows(tmp_path / f"{name}.parquet", {"x": values})
        (tmp_path / "_SUCCESS").touch()
        rows = open_rows(tmp_path)
        assert rows.num_rows == 3
        places = [(batch.path.name, batch.start) for batch in rows.batches(numbers=["x"])]
        assert places == [("a.parquet", 0), ("b.parquet", 0)]
        assert read(tmp_path, numbers=["x"]) == {"x": [1, 2, 3]}


class TestCSV:
    def test_quotes_blank_lines_and_byte_order_mark(self, tmp_path):
        path = tmp_path / "rows.csv"
        path.write_bytes(b'\xef\xbb\xbfa,name\r\n1,"x, ""y""\r\nz"\r\n\r\n 2.5,NA\r\n')
        assert read(path, numbers=["a"], keys=["name"]) == {
            "a": [1.0, 2.5], "name": ['x, "y"\r\nz', "NA"],
        }  # fmt: skip

    def test_lines_inside_values_at_any_place(self, tmp_path):
        names = ["line\n" * 60 + str(row) for row in range(30_000)]  # more than one block
        write_rows(tmp_path / "rows.csv", {"name": names})
        assert read(tmp_path / "rows.csv", keys=["name"]) == {"name": names}

    def test_truth_values_are_numbers(self, tmp_path):
        (tmp_path / "rows.csv").write_text("a\nTrue\nfalse\n")
        assert read(tmp_path / "rows.csv", numbers=["a"]) == {"a": [True, False]}

    def test_gzip(self, tmp_path):
        (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"a\n1\n2\n"))
        assert read(tmp_path / "rows.csv.gz", numbers=["a"]) == {"a": [1.0, 2.0]}

    def test_late_rows_may_look_different(self, tmp_path):
        users = ["1"] * 600_000 + ["ann"]  # more than one block
        (tmp_path / "rows.csv").write_text(
            "user,n\n" + "".join(f"{user},12345\n" for user in users)
        )
        assert read(tmp_path / "rows.csv", keys=["user"]) == {"user": users}


class TestNPZ:
    def test_needs_no_pyarrow(self, tmp_path):
        path = write_rows(tmp_path / "rows.npz", COLUMNS)
        code = (
            "import sys; sys.modules['pyarrow'] = None\n"
            "from sidrank.data import open_rows\n"
            f"batch = next(open_rows({str(path)!r}).batches(numbers=['score'], keys=['user']))\n"
            "print(batch.numbers['score'].tolist(), batch.keys['user'].tolist())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "[0.5, -1.25, 3.0] [7, 8, 7]\n", done.stderr

    def test_bytes_and_foreign_byte_order(self, tmp_path):
        columns = {"a": np.array([1, 2], ">i4"), "name": np.array([b"x", b"y"])}
        path = write_rows(tmp_path / "rows.npz", columns)
        assert read(path, numbers=["a"], keys=["name"]) == {"a": [1, 2], "name": ["x", "y"]}

    def test_compressed(self, tmp_path):
        np.savez_compressed(tmp_path / "rows.npz", a=np.arange(1000))
        assert read(tmp_path / "rows.npz", numbers=["a"]) == {"a": list(range(1000))}


class TestTextIndex:
    @given(st.lists(st.lists(NAMES, min_size=1), max_size=5))
    def test_equals_a_dictionary(self, batches):
        index, known = TextIndex(), {}
        for batch in batches:
            names = sorted(set(batch))
            codes = np.array([names.index(name) for name in batch], np.int32)
            expected = [known.setdefault(name, len(known)) for name in names]
            got = index.codes(Text(codes, names))
            assert got.tolist() == [expected[code] for code in codes]
        assert index.names == list(known)
        assert len(index) == len(known)
