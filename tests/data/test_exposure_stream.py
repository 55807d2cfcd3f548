"""Rows with counts of their items: what a loop finds, on any ranks, after any stop."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from sidrank.data import ExposureStatistics, RowColumns, RowPlan, RowStream
from sidrank.data.exposure_stream import ExposureStream

ROWS, BATCH, WINDOW, DELAY = 412, 8, 60, 5
COLUMNS = RowColumns(["click", "buy"], dense=["row"], sparse=["item", "user", "time"])


def _columns(rows=ROWS, seed=0):
    draw = np.random.default_rng(seed)
    columns = {name: draw.integers(0, high, rows) for name, high in (("item", 7), ("user", 5))}
    columns["time"] = np.arange(rows) // 3 + draw.integers(0, 30, rows)  # some come late
    columns |= {name: draw.integers(0, 2, rows) for name in ("click", "buy")}
    return columns | {"row": np.arange(rows)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    pq.write_table(pa.table(_columns()), folder / "rows.parquet", row_group_size=50)
    return folder


def _stream(folder, *, seed=0, window=WINDOW, columns=COLUMNS, rank=0, ranks=1, **options):
    rows = RowStream(
        RowPlan(folder, batch_rows=BATCH, lanes=4, seed=seed), columns, rank=rank, world_size=ranks
    )
    statistics = ExposureStatistics(statistics=["bought", "shown"], window=window, delay=DELAY)
    settings = {"item": "item", "timestamp": "time", "labels": {"bought": "buy"}} | options
    return ExposureStream(rows, statistics, **settings)


def _counts(rows):
    return rows.values[-2 * len(rows.labels) :].reshape(2, -1).T.tolist()


def _numbers(rows):
    return rows.dense[:, 0].long().tolist()


def _expected(batches, columns):
    """For each row, those before it in time among all that were read, by a loop."""
    seen, found = [], []
    for batch in batches:
        seen += [row for row in batch if row not in seen]
        for row in batch:
            item, end = columns["item"][row], columns["time"][row] - DELAY
            past = [
                each
                for each in seen
                if columns["item"][each] == item and end - WINDOW <= columns["time"][each] < end
            ]
            found.append([sum(columns["buy"][each] for each in past), len(past)])
    return found


@pytest.mark.parametrize("seed", [None, 0])
def test_equal_to_a_loop_over_two_epochs(folder, seed):
    stream = _stream(folder, seed=seed)
    batches = [*stream, *stream]
    assert len(batches) > 100  # so that some were added to the rest, more than once
    found = [each for rows in batches for each in _counts(rows)]
    assert found == _expected([_numbers(rows) for rows in batches], _columns())
    assert max(shown for _, shown in found) > 20


def test_the_rows_are_those_of_the_stream_with_two_features_more(folder):
    plain = RowStream(RowPlan(folder, batch_rows=BATCH, lanes=4), COLUMNS)
    for rows, expected in zip(_stream(folder), plain, strict=True):
        assert rows.keys == (*COLUMNS.sparse, "bought", "shown")
        assert torch.equal(rows.labels, expected.labels)
        assert torch.equal(rows.dense, expected.dense)
        assert torch.equal(rows.lengths, torch.ones(5 * len(rows.labels), dtype=torch.int32))
        assert torch.equal(rows.values[: len(expected.values)], expected.values)


def test_counts_are_of_every_rank(ranks, folder):
    both = ranks.run(_on_a_rank, str(folder))
    for (one, first), (other, second), rows in zip(*both, _stream(folder), strict=True):
        assert one + other == _numbers(rows)
        assert first + second == _counts(rows)


def _on_a_rank(folder):
    stream = _stream(folder, rank=dist.get_rank(), ranks=dist.get_world_size())
    return [(_numbers(rows), _counts(rows)) for rows in stream]


@pytest.mark.parametrize("step", [0, 1, 15, 31, 32, 33, 50])
def test_goes_on_from_a_step_though_more_was_read(folder, step):
    whole, states = [_counts(rows) for rows in _stream(folder)], []
    for ahead in (0, 1, 2):
        stream = _stream(folder)
        batches = iter(stream)
        for _ in range(min(step + ahead, len(whole))):
            next(batches)
        state = stream.state_dict(step)
        states.append(state["statistics"])
        assert torch.equal(states[0], states[-1])  # whatever was read ahead
        again = _stream(folder)
        again.load_state_dict(state)
        assert again.step == step
        assert torch.equal(again.state_dict()["statistics"], state["statistics"])
        assert [_counts(rows) for rows in again] == whole[step:]
        list(batches)
        ends = [each.state_dict()["statistics"] for each in (stream, again)]
        assert torch.equal(*ends)
        stream.load_state_dict(state)
        assert [_counts(rows) for rows in stream] == whole[step:]


def test_later_rows_change_nothing(folder, tmp_path):
    columns = _columns()
    other = {name: np.where(columns["row"] < 200, values, 1) for name, values in columns.items()}
    other["time"] = np.where(columns["row"] < 200, columns["time"], columns["time"] + 1000)
    other["row"] = columns["row"]
    pq.write_table(pa.table(other), tmp_path / "rows.parquet", row_group_size=50)
    counts = [
        dict(
            pair
            for rows in _stream(each)
            for pair in zip(_numbers(rows), _counts(rows), strict=True)
        )
        for each in (folder, tmp_path)
    ]
    early = {row for row in range(200) if columns["time"][row] < columns["time"][200:].min()}
    assert len(early) > 100
    assert all(counts[0][row] == counts[1][row] for row in early)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": "shop"}, "stream must read 'shop' as sparse"),
        ({"timestamp": "row"}, "stream must read 'row' as sparse"),
        ({"labels": {"sold": "buy"}}, "labels must be of .'bought', 'shown'., got 'sold'"),
        ({"labels": {"bought": "sale"}}, "stream must read the label 'sale'"),
        ({"ranks": 2}, "stream must be of the 1 ranks there are, got one of 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, change, message):
    with pytest.raises(ValueError, match=message):
        _stream(folder, **change)


def test_a_feature_of_that_name_is_refused(tmp_path):
    pq.write_table(pa.table(_columns() | {"shown": np.arange(ROWS)}), tmp_path / "rows.parquet")
    columns = RowColumns(["click", "buy"], dense=["row"], sparse=["item", "time", "shown"])
    with pytest.raises(ValueError, match="stream must not read 'shown' yet"):
        _stream(tmp_path, columns=columns)


def test_several_items_a_row_are_refused(tmp_path):
    several = pa.array([[1]] * 99 + [[1, 2]], pa.list_(pa.int64()))
    pq.write_table(pa.table(_columns(100) | {"item": several}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"item must be one integer a row, got 2 in row \d"):
        list(_stream(tmp_path))


def test_a_step_that_is_not_known_any_more_is_refused(folder):
    stream = _stream(folder)
    list(stream)
    with pytest.raises(ValueError, match="step must be 36 to 52, got 35"):
        stream.state_dict(35)
    with pytest.raises(ValueError, match="step must be 36 to 52, got 53"):
        stream.state_dict(53)


def test_a_state_of_other_rows_or_settings_is_refused(folder):
    stream = _stream(folder)
    state = stream.state_dict()
    with pytest.raises(ValueError, match="state must be of the plan"):
        _stream(folder, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"other must have .*'window': 61.*, got .*'window': 60"):
        _stream(folder, window=61).load_state_dict(state)
    with pytest.raises(ValueError, match="must hold exposure statistics"):
        stream.load_state_dict(state | {"statistics": state["statistics"][:-1]})
