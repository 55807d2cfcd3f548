import gzip
import io
import re
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidrank.data import open_rows
from tests.data.row_files import FORMATS, write_rows


def read(path, *, numbers=(), keys=()):
    for _ in open_rows(path).batches(numbers=numbers, keys=keys):
        pass


def refused(path, *words, **columns):
    """Reading fails with a message that holds the words, the file first."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read(path, **columns)
    for word in words:
        assert word in str(caught.value)


def text(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


class TestFiles:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_missing(self, suffix, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            open_rows(tmp_path / f"nowhere.{suffix}")

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_empty(self, suffix, tmp_path):
        (tmp_path / f"rows.{suffix}").touch()
        refused(tmp_path / f"rows.{suffix}", "must not be empty, got 0 bytes")

    def test_folder_without_parquet(self, tmp_path):
        refused(tmp_path, "must hold .parquet files if it is a folder, got none")

    def test_folder_with_an_empty_part(self, tmp_path):
        write_rows(tmp_path / "a.parquet", {"a": [1]})
        (tmp_path / "b.parquet").touch()
        with pytest.raises(ValueError, match=r"b\.parquet must not be empty"):
            open_rows(tmp_path)

    @pytest.mark.parametrize("true", FORMATS)
    @pytest.mark.parametrize("named", FORMATS)
    def test_not_what_its_name_says(self, true, named, tmp_path):
        content = write_rows(tmp_path / f"true.{true}", {"a": np.ones(3)}).read_bytes()
        path = tmp_path / f"rows.{named}"
        path.write_bytes(content)
        if true == named:
            read(path, numbers=["a"])
        else:
            kind = {"csv": "CSV", "npz": "NPZ"}.get(named, named)
            refused(path, f"must be {kind} as its name says, got")

    def test_something_else(self, tmp_path):
        (tmp_path / "rows.bin").write_bytes(b"\x7fELF\0\0\0")
        refused(tmp_path / "rows.bin", "must be parquet, CSV (UTF-8) or NPZ")

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    def test_truncated(self, suffix, share, tmp_path):
        rng = np.random.default_rng(0)
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": rng.random(5000), "b": np.ones(5000)})
        content = path.read_bytes()
        path.write_bytes(content[: 4 + int(share * (len(content) - 4))])
        refused(path, "must be a whole", numbers=["a"])

    @pytest.mark.parametrize("length", [1, 2, 3])
    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_truncated_to_less_than_its_first_word(self, suffix, length, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": [1.0]})
        path.write_bytes(path.read_bytes()[:length])
        refused(path, "as its name says, got a file that begins with")

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_damaged_in_the_middle(self, suffix, tmp_path):
        path = tmp_path / f"rows.{suffix}"
        values = np.random.default_rng(0).random(5000)
        if suffix == "parquet":
            table = pa.table({"a": values})
            pq.write_table(table, path, write_page_checksum=True)
        else:
            np.savez(path, a=values)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
        refused(path, "must be a whole", numbers=["a"])

    def test_fewer_rows_than_announced(self, tmp_path):
        array = io.BytesIO()
        np.save(array, np.arange(100))
        with zipfile.ZipFile(tmp_path / "rows.npz", "w") as archive:
            archive.writestr("a.npy", array.getvalue()[:-8])
        refused(
            tmp_path / "rows.npz",
            "must be a whole NPZ file, got the end of column 'a'",
            numbers=["a"],
        )

    def test_truncated_gzip(self, tmp_path):
        path = tmp_path / "rows.csv.gz"
        path.write_bytes(gzip.compress(b"a\n" + b"1\n" * 1000)[:-9])
        refused(path, "must be a whole CSV file", numbers=["a"])


class TestColumns:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_missing(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"label": [0, 1], "score": [0.5, 1.0]})
        refused(
            path,
            "column 'scores' must exist, got columns label, score; did you mean 'score'?",
            numbers=["scores"],
        )

    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_twice(self, suffix, tmp_path):
        path = tmp_path / f"rows.{suffix}"
        if suffix == "csv":
            text(path, "a,a\n1,2\n")
        else:
            columns = [pa.array([1]), pa.array([2])]
            pq.write_table(pa.table(columns, names=["a", "a"]), path)
        refused(path, "column 'a' must exist once, got 2", numbers=["a"])

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_text_for_numbers(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": np.array(["1", "2", "x"])})
        words = ["got 'x' in row 2"] if suffix == "csv" else []
        refused(path, "column 'a' must hold numbers", *words, numbers=["a"])

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_floats_for_keys(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": np.array([1.0, 2.0])})
        refused(path, "column 'a' must hold integers or text", keys=["a"])

    def test_nested(self, tmp_path):
        path = write_rows(tmp_path / "rows.parquet", {"a": [[1, 2], [3]]})
        refused(path, "column 'a' must hold numbers, got list", numbers=["a"])
        refused(path, "column 'a' must hold integers or text, got list", keys=["a"])

    def test_types_that_differ_between_parts(self, tmp_path):
        write_rows(tmp_path / "a.parquet", {"user": [7]})
        write_rows(tmp_path / "b.parquet", {"user": ["7"]})
        with pytest.raises(ValueError, match=r"b\.parquet: column 'user' must have the same type"):
            read(tmp_path, keys=["user"])

    def test_arrays_of_other_shapes(self, tmp_path):
        path = write_rows(tmp_path / "rows.npz", {"a": np.ones((3, 2)), "b": np.ones(3)})
        refused(path, "column 'a' must have shape [n], got [3, 2]", numbers=["a"])

    def test_arrays_of_other_lengths(self, tmp_path):
        path = write_rows(tmp_path / "rows.npz", {"a": np.ones(3), "b": np.ones(2)})
        refused(
            path, "column 'b' must have as many rows as column 'a' (3), got 2", numbers=["a", "b"]
        )

    def test_pickled_objects(self, tmp_path):
        path = write_rows(tmp_path / "rows.npz", {"a": np.array(["x", None], object)})
        refused(path, "column 'a' must not hold pickled objects", keys=["a"])


class TestCells:
    @pytest.mark.parametrize("role", ["numbers", "keys"])
    def test_null(self, role, tmp_path):
        path = tmp_path / "rows.parquet"
        write_rows(path, {"a": [1, 2, 3, None, 5, None]}, row_group_size=2)
        refused(path, "column 'a' must not be missing, got null in row 3", **{role: ["a"]})

    def test_null_in_a_later_batch(self, tmp_path):
        column = pa.array(np.ones(300_000), mask=np.arange(300_000) == 299_999)
        path = write_rows(tmp_path / "rows.parquet", {"a": column})
        refused(path, "got null in row 299999", numbers=["a"])

    def test_null_in_a_dictionary(self, tmp_path):
        column = pa.array(["x", None, "x"]).dictionary_encode()
        path = write_rows(tmp_path / "rows.parquet", {"a": column})
        refused(path, "column 'a' must not be missing, got null in row 1", keys=["a"])

    @pytest.mark.parametrize("role", ["numbers", "keys"])
    @pytest.mark.parametrize("empty", ["", '""'])
    def test_empty_cell(self, role, empty, tmp_path):
        path = text(tmp_path / "rows.csv", f"a,b\n1,2\n{empty},2\n")
        refused(path, "column 'a' must not be missing, got null in row 1", **{role: ["a"]})

    def test_row_of_another_length(self, tmp_path):
        path = text(tmp_path / "rows.csv", "a,b\n1,2\n\n1,2,3\n")
        refused(path, "rows must have one value per column (2), got 3 in row 1", numbers=["a"])

    def test_late_row(self, tmp_path):
        path = text(tmp_path / "rows.csv", "a,b\n" + "1,12345678\n" * 500_000 + "x,2\n")
        refused(path, "column 'a' must hold numbers, got 'x' in row 500000", numbers=["a"])

    def test_latin_1(self, tmp_path):
        path = text(tmp_path / "rows.csv", "a,city\n1,Bonn\n0,Köln\n", "latin-1")
        refused(path, "column 'city' must be UTF-8, got b'K\\xf6ln' in row 1", numbers=["a"])

    def test_latin_1_header(self, tmp_path):
        path = text(tmp_path / "rows.csv", "a,größe\n1,2\n", "latin-1")
        refused(path, "header must be UTF-8", numbers=["a"])

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
    def test_wide_encodings(self, encoding, tmp_path):
        refused(text(tmp_path / "rows.csv", "a,b\n1,2\n", encoding), "UTF-8", numbers=["a"])

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_bytes_that_are_no_text(self, suffix, tmp_path):
        path = write_rows(tmp_path / f"rows.{suffix}", {"a": np.array([b"x", b"\xff"])})
        refused(path, "column 'a' must be UTF-8, got b'\\xff' in row 1", keys=["a"])
