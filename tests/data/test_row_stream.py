"""Training rows from parquet: each once, the same on every number of ranks, from any step on."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.data import RowColumns, RowPlan, RowStream

COLUMNS = RowColumns(labels=["clicked"], dense=["price", "age"], sparse=["row", "bag", "narrow"])


def table(first, rows):
    at = np.arange(first, first + rows)
    return pa.table(
        {
            "row": at,
            "bag": pa.array([list(range(k, k + k % 4)) for k in at], pa.list_(pa.int64())),
            "narrow": pa.array(at % 100, pa.int16()),
            "price": at / 8,
            "age": pa.array(at % 7, pa.uint8()),
            "clicked": at % 3 == 0,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """233 rows in three files with row groups of 10, 17 and 30."""
    path = tmp_path_factory.mktemp("rows")
    for place, (first, rows, group) in enumerate([(0, 83, 10), (83, 50, 17), (133, 100, 30)]):
        pq.write_table(table(first, rows), path / f"part{place}.parquet", row_group_size=group)
    return path


def plan_of(folder, **changed):
    return RowPlan(folder, **({"batch_rows": 24, "lanes": 6, "mixed": 2} | changed))


def together(batches):
    """Rows of several ranks' batches, one after the other: (labels, dense, ids of each row)."""
    rows = []
    for batch in batches:
        count = len(batch.labels)
        lengths = batch.lengths.view(len(batch.keys), count).tolist()
        ids = iter(batch.values.tolist())
        bags = [[[next(ids) for _ in range(n)] for n in feature] for feature in lengths]
        assert next(ids, None) is None
        rows += zip(batch.labels.tolist(), batch.dense.tolist(), *bags, strict=True)
    return rows


def epoch(plan, *, world_size=1, readers=1, start=0):
    streams = [
        RowStream(plan, COLUMNS, rank=rank, world_size=world_size, readers=readers)
        for rank in range(world_size)
    ]
    for stream in streams:
        stream.seek(start)
    return [together(batches) for batches in zip(*streams, strict=True)]


class TestEveryRowOnce:
    @given(
        st.sampled_from([1, 2, 3, 6, 12]),
        st.integers(1, 9),
        st.integers(1, 5),
        st.sampled_from([None, 0, 7]),
    )
    def test_in_an_epoch(self, folder, lanes, share, mixed, seed):
        plan = plan_of(folder, batch_rows=lanes * share, lanes=lanes, mixed=mixed, seed=seed)
        stream = RowStream(plan, COLUMNS)
        batches = list(stream)
        rows = [row for batch in batches for row in together([batch])]
        assert sorted(row[2][0] for row in rows) == list(range(233))
        assert len(batches) == plan.steps
        for clicked, dense, row, bag, narrow in rows:
            (at,) = row
            assert clicked == [float(at % 3 == 0)]
            assert dense == [at / 8, float(at % 7)]
            assert bag == list(range(at, at + at % 4))
            assert narrow == [at % 100]
        sizes = [len(batch.labels) for batch in batches]
        assert set(sizes[:-1]) <= {lanes * share}
        assert lanes <= sizes[-1] < lanes * (share + 1)

    def test_the_next_epoch_has_another_order_of_the_same_rows(self, folder):
        stream = RowStream(plan_of(folder), COLUMNS)
        first, second = (together(stream) for _ in range(2))
        assert first != second
        assert sorted(first) == sorted(second)
        assert stream.step == 2 * stream.plan.steps

    def test_without_a_seed_lanes_keep_the_order_of_the_files(self, folder):
        plan = plan_of(folder, seed=None, lanes=1, batch_rows=7)
        rows = together(RowStream(plan, COLUMNS))
        assert [row[2][0] for row in rows] == list(range(233))

    def test_rows_are_mixed_beyond_their_row_group(self, folder):
        plan = plan_of(folder, lanes=1, batch_rows=16, mixed=50)
        first = together([next(iter(RowStream(plan, COLUMNS)))])
        files = {int(np.searchsorted([83, 133], row[2][0], side="right")) for row in first}
        assert len(files) == 3


class TestRanks:
    @pytest.mark.parametrize("world_size", [2, 3, 6])
    @pytest.mark.parametrize("readers", [1, 3])
    def test_read_the_global_batches_of_one_rank(self, folder, world_size, readers):
        plan = plan_of(folder)
        alone = epoch(plan)
        assert epoch(plan, world_size=world_size, readers=readers) == alone
        assert all(alone)

    def test_every_rank_has_rows_in_every_step(self, folder):
        for rows in range(6, 80):
            plan = plan_of(folder)
            plan.rows = rows
            for step in range(plan.steps):
                spans = [plan.lane_span(lane, step) for lane in range(plan.lanes)]
                assert all(start < stop for start, stop in spans)

    def test_open_the_row_groups_of_their_own_lanes_alone(self, folder):
        plan = plan_of(folder)
        halves = [
            {(s.path, s.group) for lane in lanes for b in plan.blocks(0, lane) for s in b.segments}
            for lanes in (range(3), range(3, 6))
        ]
        assert len(halves[0] & halves[1]) <= 1  # the one that both share


class TestPosition:
    def test_two_hundred_stops_lose_and_repeat_nothing(self, folder):
        """What is read after a stop is what would have been read without it."""
        plan = plan_of(folder)
        whole = [batch for start in (0, plan.steps) for batch in epoch(plan, start=start)]
        draws = np.random.default_rng(3)
        for place, stop in enumerate(draws.integers(0, 2 * plan.steps, 200).tolist()):
            ranks, readers = int(draws.choice([1, 2, 3, 6])), int(draws.integers(1, 4))
            state = RowStream(plan, COLUMNS).state_dict(stop)
            streams = [
                RowStream(plan, COLUMNS, rank=k, world_size=ranks, readers=readers)
                for k in range(ranks)
            ]
            for stream in streams:
                stream.load_state_dict(state)
            to_the_end = place % 20 == 0
            while streams[0].step < 2 * plan.steps:
                batches = zip(*streams, strict=True)
                for rows in map(together, batches):
                    assert rows == whole[streams[0].step - 1]
                    if not to_the_end:
                        break
                if not to_the_end:
                    break
            assert streams[0].step == (2 * plan.steps if to_the_end else stop + 1)

    def test_of_the_step_that_was_trained_last(self, folder):
        stream = RowStream(plan_of(folder), COLUMNS)
        batches = iter(stream)
        read = [together([next(batches)]) for _ in range(5)]
        other = RowStream(plan_of(folder), COLUMNS)
        other.load_state_dict(stream.state_dict(3))
        assert together([next(iter(other))]) == read[3]

    @pytest.mark.parametrize(
        "changed", [{"seed": 1}, {"lanes": 3}, {"batch_rows": 12}, {"mixed": 3}]
    )
    def test_of_another_order_is_refused(self, folder, changed):
        state = RowStream(plan_of(folder), COLUMNS).state_dict()
        with pytest.raises(ValueError, match=r"state must be of the plan \w+ \(files, .*got one"):
            RowStream(plan_of(folder, **changed), COLUMNS).load_state_dict(state)

    def test_of_other_files_is_refused(self, folder, tmp_path):
        state = RowStream(plan_of(folder), COLUMNS).state_dict()
        pq.write_table(table(0, 233), tmp_path / "part0.parquet", row_group_size=10)
        with pytest.raises(ValueError, match="state must be of the plan"):
            RowStream(plan_of(tmp_path), COLUMNS).load_state_dict(state)

    def test_before_the_first(self, folder):
        with pytest.raises(ValueError, match="step must not be negative, got -1"):
            RowStream(plan_of(folder), COLUMNS).seek(-1)


class TestTypes:
    def test_shapes_and_dtypes(self, folder):
        batch = next(iter(RowStream(plan_of(folder), COLUMNS)))
        assert (batch.labels.shape, batch.labels.dtype) == ((24, 1), torch.float32)
        assert (batch.dense.shape, batch.dense.dtype) == ((24, 2), torch.float32)
        assert (batch.lengths.shape, batch.lengths.dtype) == ((72,), torch.int32)
        assert (batch.keys, batch.values.dtype) == (("row", "bag", "narrow"), torch.int64)

    def test_narrow_ids_stay_narrow(self, folder):
        columns = RowColumns(labels=["clicked"], sparse=["narrow"])
        batch = next(iter(RowStream(plan_of(folder), columns)))
        assert batch.values.dtype == torch.int32
        assert batch.dense.shape == (24, 0)

    def test_no_sparse_features(self, folder):
        batch = next(iter(RowStream(plan_of(folder), RowColumns(labels=["clicked"]))))
        assert (batch.keys, len(batch.lengths), len(batch.values)) == ((), 0, 0)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("price", float("nan"), r"'price' must hold finite float32 numbers, got nan in row 7"),
            ("price", 1e39, r"'price' must hold finite float32 numbers, got inf in row 7"),
            ("price", None, r"'price'.*in row 7"),
            ("row", -1, r"'row' must hold ids from 0 to 2\*\*63 - 1, got -1 in row 7"),
            ("row", 1 << 63, r"'row' must hold ids from 0 to .*got 9223372036854775808 in row 7"),
            ("row", None, r"'row'.*in row 7"),
            ("bag", [1, -2], r"'bag' must hold ids from 0 to 2\*\*63 - 1, got -2 in row 7"),
            ("bag", [1, None], r"'bag' must not hold missing ids, got null in row 7"),
            ("bag", None, r"'bag'.*in row 7"),
        ],
    )
    def test_values(self, tmp_path, name, value, told):
        rows = table(0, 12)
        column = rows.column(name).to_pylist()
        column[7] = value
        kind = rows.schema.field(name).type
        if value == 1 << 63:
            kind = pa.uint64()
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, name, pa.array(column, kind))
        pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=12)
        stream = RowStream(plan_of(tmp_path, batch_rows=2, lanes=2, seed=None), COLUMNS)
        with pytest.raises(ValueError, match=told):
            list(stream)

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"labels": ["click"]}, "'click' must exist.*did you mean 'clicked'"),
            ({"dense": ["bag"], "sparse": []}, "'bag' must hold numbers, got list"),
            (
                {"dense": [], "sparse": ["price"]},
                "'price' must hold integers or lists of them, got double",
            ),
        ],
    )
    def test_columns(self, folder, changed, told):
        with pytest.raises(ValueError, match=told):
            RowStream(plan_of(folder), replace(COLUMNS, **changed))

    def test_a_column_named_twice(self):
        with pytest.raises(ValueError, match="columns must be named once each, got 'a' twice"):
            RowColumns(labels=["a"], sparse=["a"])

    def test_types_that_differ_between_files(self, tmp_path):
        for place, kind in enumerate([pa.int64(), pa.int32()]):
            rows = pa.table({"id": pa.array([1, 2, 3], kind), "y": [0, 1, 0]})
            pq.write_table(rows, tmp_path / f"part{place}.parquet")
        plan = RowPlan(tmp_path, batch_rows=2, lanes=1)
        with pytest.raises(ValueError, match=r"part1.*'id' must have the same type in every file"):
            RowStream(plan, RowColumns(labels=["y"], sparse=["id"]))

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"batch_rows": 25}, r"batch_rows must be a multiple of lanes \(6\), got 25"),
            ({"batch_rows": 0}, "batch_rows must be at least 1, got 0"),
            ({"lanes": 0}, "lanes must be at least 1, got 0"),
            ({"mixed": 0}, "mixed must be at least 1, got 0"),
            ({"lanes": 240, "batch_rows": 240}, "must hold a row for each of 240 lanes, got 233"),
        ],
    )
    def test_plans(self, folder, changed, told):
        with pytest.raises(ValueError, match=told):
            plan_of(folder, **changed)

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"world_size": 4}, "world_size must divide the 6 lanes of the plan, got 4"),
            ({"world_size": 0}, "world_size must divide the 6 lanes of the plan, got 0"),
            ({"world_size": 2, "rank": 2}, "rank must be from 0 to 1, got 2"),
            ({"readers": 0}, "readers must be at least 1, got 0"),
        ],
    )
    def test_ranks(self, folder, changed, told):
        with pytest.raises(ValueError, match=told):
            RowStream(plan_of(folder), COLUMNS, **changed)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"must hold \.parquet files if it is a folder"):
            RowPlan(tmp_path, batch_rows=2, lanes=1)

    def test_a_file_that_is_cut_while_it_is_read(self, folder, tmp_path):
        whole = (folder / "part0.parquet").read_bytes()
        (tmp_path / "part0.parquet").write_bytes(whole)
        stream = RowStream(plan_of(tmp_path), COLUMNS)
        (tmp_path / "part0.parquet").write_bytes(whole[:-100])
        with pytest.raises(ValueError, match="must be a whole parquet file"):
            list(stream)
