import numpy as np
import pytest

from sidrank.cli.evaluation_columns import Names, read_columns
from sidrank.data import open_rows
from tests.data.row_files import write_rows

NAMES = Names(label="label", score="score", compare="old", group="user")


def read(path, rows, names=NAMES):
    count = len(rows["user"])
    columns = {"label": np.arange(count) % 2, "score": np.ones(count), "old": np.ones(count)}
    return read_columns(open_rows(write_rows(path, columns | rows)), names, lambda _: None)


def same_groups(codes, ids):
    """Whether codes tell rows apart exactly as ids do."""
    _, first, number = np.unique(ids, return_index=True, return_inverse=True)
    return len(np.unique(codes)) == len(first) and np.array_equal(codes, codes[first][number])


class TestTypes:
    def test_are_the_smallest_that_change_nothing(self, tmp_path):
        scores = np.array([0.1, 0.2, 0.3, 0.4], np.float32).astype(np.float64)
        rows = {"score": scores, "old": scores + 1e-12, "user": np.arange(4)}
        columns = read(tmp_path / "rows.parquet", rows)
        assert columns.labels.dtype == np.bool_
        assert columns.scores.dtype == np.float32
        assert columns.compare.dtype == np.float64
        assert columns.groups.dtype == np.int32
        assert columns.scores.tolist() == scores.tolist()
        assert columns.compare.tolist() == (scores + 1e-12).tolist()

    @pytest.mark.parametrize("suffix", ["npz", "csv"])
    def test_widen_where_a_later_row_needs_it(self, suffix, tmp_path):
        scores = np.full(600_000, 0.5)
        scores[-1] = 0.1
        columns = read(tmp_path / f"rows.{suffix}", {"score": scores, "user": np.arange(600_000)})
        assert columns.scores.dtype == np.float64
        assert np.array_equal(columns.scores, scores)


class TestGroups:
    @pytest.mark.parametrize("kind", [np.int64, np.uint64])
    def test_of_64_bits(self, kind, tmp_path):
        # equal in their low 32 bits, small ones first, more rows than a block holds
        ids = (np.arange(1_100_000) // 3).astype(kind)
        ids[500_000:] |= kind(1) << kind(62)
        columns = read(tmp_path / "rows.npz", {"user": ids})
        assert columns.groups.dtype == np.int32
        assert same_groups(columns.groups, ids)

    @pytest.mark.parametrize("kind", [np.int8, np.uint32, np.int64, np.bool_])
    def test_of_less(self, kind, tmp_path):
        ids = np.array([0, 1, 1, 100]).astype(kind)
        columns = read(tmp_path / "rows.parquet", {"user": ids})
        assert columns.groups.dtype.itemsize <= 4
        assert columns.groups.tolist() == ids.tolist()

    def test_of_text(self, tmp_path):
        ids = np.array([f"user {row % 1000}" for row in range(300_000)])
        columns = read(tmp_path / "rows.npz", {"user": ids})
        assert columns.groups.dtype == np.int32
        assert same_groups(columns.groups, ids)


class TestSlices:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [([10, 9, -1, 10], ["-1", "9", "10"]), (["b", "10", "9", "b"], ["10", "9", "b"])],
    )
    def test_order(self, values, expected, tmp_path):
        names = Names(label="label", score="score", slices="user")
        slices = read(tmp_path / "rows.parquet", {"user": np.array(values)}, names).slices
        assert slices.names == expected
        assert [slices.names[code] for code in slices.codes] == [str(value) for value in values]
