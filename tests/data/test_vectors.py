import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sidrank.data import open_rows
from tests.data.row_files import FORMATS, write_rows

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
MATRICES = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=NUMBERS
)


def read(path, *, batch_rows=1 << 18, **columns):
    return list(open_rows(path).batches(vectors=["v"], batch_rows=batch_rows, **columns))


def matrix(path, **options):
    return np.concatenate([batch.vectors["v"] for batch in read(path, **options)])


def as_lists(x, suffix):
    return x if suffix == "npz" else x.tolist()


class TestEachFormat:
    @pytest.mark.parametrize("suffix", FORMATS)
    @given(x=MATRICES)
    def test_gives_back_what_was_written(self, suffix, x):
        with tempfile.TemporaryDirectory() as folder:
            path = write_rows(Path(folder) / f"rows.{suffix}", {"v": as_lists(x, suffix)})
            for batch_rows in (1, 4, 1 << 18):
                assert np.array_equal(matrix(path, batch_rows=batch_rows), x)

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_beside_other_columns(self, suffix, tmp_path):
        x = np.arange(6.0).reshape(3, 2)
        columns = {"id": np.array([5, 6, 7]), "v": as_lists(x, suffix), "w": np.array([0.5, 1, 2])}
        path = write_rows(tmp_path / f"rows.{suffix}", columns)
        (batch,) = read(path, keys=["id"], numbers=["w"])
        assert np.array_equal(batch.vectors["v"], x)
        assert batch.numbers["w"].tolist() == [0.5, 1, 2]


class TestParquet:
    @pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64(), pa.int8()])
    @pytest.mark.parametrize("of", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3)])
    def test_any_list_of_numbers(self, number, of, tmp_path):
        x = np.arange(12).reshape(4, 3)
        kind = number.to_pandas_dtype()
        column = pa.array([row.astype(kind) for row in x], type=of(number))
        pq.write_table(pa.table({"v": column}), tmp_path / "rows.parquet", row_group_size=3)
        found = matrix(tmp_path / "rows.parquet", batch_rows=2)
        assert found.dtype == kind
        assert np.array_equal(found, x)


class TestCSV:
    @pytest.mark.parametrize(
        "cell",
        ["1 -2.5 3e2", "[1, -2.5, 3e2]", "1,-2.5,3e2", "[1;-2.5;300]", "  [ 1\n -2.5 300. ]"],
    )
    def test_as_people_write_them(self, cell, tmp_path):
        path = write_rows(tmp_path / "rows.csv", {"id": [1, 2], "v": [cell, "0 0 0"]})
        assert matrix(path).tolist() == [[1, -2.5, 300], [0, 0, 0]]

    def test_as_numpy_prints_them(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(3, 40))
        with np.printoptions(precision=17, threshold=100, linewidth=70):
            path = write_rows(
                tmp_path / "rows.csv", {"id": [1, 2, 3], "v": [str(row) for row in x]}
            )
        np.testing.assert_allclose(matrix(path), x, atol=1e-15)


class TestNPZ:
    @pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", ">i4"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_any_order_of_numbers_and_bytes(self, dtype, order, tmp_path):
        x = np.arange(12).reshape(4, 3).astype(dtype)
        np.savez(tmp_path / "rows.npz", v=np.asarray(x, order=order), id=np.arange(4))
        rows = open_rows(tmp_path / "rows.npz")
        assert rows.num_rows == 4
        found = matrix(tmp_path / "rows.npz", batch_rows=3)
        assert found.dtype.isnative
        assert np.array_equal(found, x)

    def test_no_numbers(self, tmp_path):
        np.savez(tmp_path / "rows.npz", v=np.array([["a", "b"]]))
        with pytest.raises(ValueError, match="column 'v' must hold vectors of numbers, got <U1"):
            read(tmp_path / "rows.npz")

    def test_other_length(self, tmp_path):
        np.savez(tmp_path / "rows.npz", id=np.arange(3), v=np.ones((4, 2)))
        with pytest.raises(ValueError, match=r"column 'v' must have as many rows .* got 4"):
            read(tmp_path / "rows.npz", keys=["id"])
