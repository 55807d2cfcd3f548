"""Quick versions of the benchmarks of serving and of reading rows."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import candidate_scorer, row_stream
from benchmarks.candidate_rankers import RANKERS
from benchmarks.serving_pages import candidate_scorer as scorer_page
from benchmarks.serving_pages import row_stream as stream_page

SCORER = json.loads(candidate_scorer.RESULTS.read_text())
STREAM = json.loads(row_stream.RESULTS.read_text())


@pytest.mark.parametrize("name", RANKERS)
def test_a_request_is_scored_both_ways(name):
    length = 120 if name in candidate_scorer.COMPRESSED else 12  # the newest 100 stay as they are
    row = candidate_scorer.measure(name, 7, length, rounds=1, whole=True)
    assert row["difference"] < 1e-5
    assert set(row["milliseconds"]) - {"layers"} == {"scorer", "pointwise", "ready"}
    assert row["ratio"] > 0


def test_another_answer_is_seen():
    ranker = RANKERS["TokenFormer"](12)

    def off(dense, features):
        return ranker.rows(dense, features) + 1e-3

    request = ranker.requests(5, 0)
    assert candidate_scorer.largest_difference(ranker, request) < 1e-5
    assert candidate_scorer.largest_difference(ranker._replace(rows=off), request) > 1e-5


def test_clients_ask_until_the_time_is_over(monkeypatch):
    monkeypatch.setattr(candidate_scorer, "CANDIDATES", 3)
    monkeypatch.setattr(candidate_scorer, "LENGTH", 6)
    loop = candidate_scorer.closed_loop("SIDRanker", 0.2)
    assert loop["requests"] >= 2
    assert loop["seconds"] >= 0.2
    assert loop["p99_milliseconds"] >= loop["p50_milliseconds"] > 0


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    row_stream.write(path, 20_000, 1_000)
    return path


class TestRows:
    @pytest.mark.parametrize("shuffled", [False, True])
    def test_come_once_each(self, file, shuffled):
        row_stream.check(file, shuffled)
        assert row_stream.read(file, 2, shuffled) == 20_000

    def test_a_value_of_another_row_is_seen(self, file, monkeypatch):
        whole = row_stream.stream

        def mixed_up(*given):
            for rows in whole(*given):
                rows.dense[:, 3] = rows.dense[:, 3].roll(1)
                yield rows

        monkeypatch.setattr(row_stream, "stream", mixed_up)
        with pytest.raises(AssertionError):
            row_stream.check(file, False)

    def test_are_timed_beside_arrow(self, file):
        rows = row_stream.measure(file, 20_000, 1)
        assert [(row["what"], row["readers"]) for row in rows] == [
            (what, readers) for readers in (1, 2) for what in ("arrow", "in order", "shuffled")
        ]
        assert rows[0]["of_arrow"] == rows[3]["of_arrow"] == 1.0

    def test_the_file_is_as_told(self, file):
        table = pq.read_table(file)
        assert table.schema.field("id_3").type == pa.int64()
        assert table.schema.field("number_3").type == pa.float32()
        assert int(np.asarray(table["id_3"]).max()) < 10**5


class TestCommitted:
    def test_answers_were_equal(self):
        rows = [*SCORER["rows"], *SCORER["by_history"], *SCORER["by_candidates"]]
        assert {row["ranker"] for row in rows} == set(RANKERS)
        assert all(row["difference"] < 1e-5 for row in rows)

    def test_what_encodes_the_history_is_six_times_as_fast(self):
        found = {row["ranker"]: row["ratio"] for row in SCORER["rows"]}
        assert min(found["TokenFormer"], found["SituationCTR"]) > 6
        assert min(found.values()) > 1

    def test_a_core_reads_a_million_rows_a_second(self):
        ours = [row for row in STREAM["rows"] if row["what"] != "arrow"]
        assert len(ours) == 4
        assert all(row["rows_per_cpu_second"] > 1e6 for row in ours)

    def test_the_page_tells_every_ranker_and_way(self):
        text = scorer_page(SCORER)
        for name in RANKERS:
            runs = sum(loop["ranker"] == name for loop in SCORER["loops"])
            grown = 1 if name in candidate_scorer.COMPRESSED else 2
            assert runs > 0
            assert text.count(f"| {name} |") == 1 + runs + grown
        assert stream_page(STREAM).count("`RowStream`, shuffled") == 2
