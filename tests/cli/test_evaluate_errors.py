import os
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from tests.cli.evaluations import evaluate, impressions
from tests.data.row_files import FORMATS, write_rows

GOOD = {"label": np.array([0, 1, 0, 1]), "score": np.array([0.1, 0.2, 0.3, 0.4])}


def refused(path, *words, **options):
    """Exit code 2, one line on standard error that holds the words, nothing else."""
    code, output, errors = evaluate(path, **options)
    assert (code, output) == (2, ""), (code, output, errors)
    assert errors.startswith("sidrank evaluate: ")
    assert errors.count("\n") == 1
    for word in words:
        assert word in errors
    return errors


def with_cell(column, row, value, **more):
    """Good columns with one other cell."""
    columns = {name: list(map(float, each)) for name, each in (GOOD | more).items()}
    columns[column][row] = value
    return {name: np.array(each) for name, each in columns.items()}


class TestFiles:
    def test_missing(self, tmp_path):
        refused(tmp_path / "nowhere.parquet", "No such file", "nowhere.parquet")

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_zero_bytes(self, suffix, tmp_path):
        path = tmp_path / f"log.{suffix}"
        path.touch()
        refused(path, f"log.{suffix} must not be empty, got 0 bytes")

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_zero_rows(self, suffix, tmp_path):
        path = write_rows(
            tmp_path / f"log.{suffix}", {name: each[:0] for name, each in GOOD.items()}
        )
        refused(path, f"log.{suffix} must hold rows, got 0")

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_truncated_anywhere(self, suffix, tmp_path):
        path = write_rows(
            tmp_path / f"log.{suffix}",
            impressions(),
            **({} if suffix == "npz" else {"row_group_size": 100}),
        )
        content = path.read_bytes()
        for length in (
            *range(1, 12),
            *range(12, len(content), len(content) // 9),
            len(content) - 1,
        ):
            path.write_bytes(content[:length])
            refused(path, f"log.{suffix}")

    def test_not_utf_8(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_bytes("label,score,city\n0,0.5,Bonn\n1,0.5,Köln\n".encode("latin-1"))
        refused(path, "log.csv: column 'city' must be UTF-8", "in row 1")

    def test_columns_of_different_length(self, tmp_path):
        path = write_rows(tmp_path / "log.npz", GOOD | {"old": np.ones(3)})
        refused(path, "log.npz: column 'old' must have as many rows", "got 3", compare="old")

    def test_a_row_that_is_too_long(self, tmp_path):
        (tmp_path / "log.csv").write_text("label,score\n0,0.5\n1,0.5,0.5\n")
        refused(tmp_path / "log.csv", "log.csv: rows must have one value per column", "in row 1")


class TestColumns:
    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("role", ["label", "score", "compare", "group", "slice", "weight"])
    def test_missing(self, role, suffix, tmp_path):
        path = write_rows(tmp_path / f"log.{suffix}", GOOD)
        refused(
            path, f"log.{suffix}: column 'nope' must exist, got columns label", **{role: "nope"}
        )

    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("value", [2.0, -1.0, 0.5, np.nan])
    def test_label(self, suffix, value, tmp_path):
        path = write_rows(tmp_path / f"log.{suffix}", with_cell("label", 2, value))
        refused(path, f"log.{suffix}: column 'label' must be 0 or 1, got {value} in row 2")

    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("role", ["score", "compare"])
    def test_score(self, suffix, role, tmp_path):
        path = write_rows(tmp_path / f"log.{suffix}", with_cell("s", 3, np.nan, s=GOOD["score"]))
        words = f"log.{suffix}: column 's' must not be NaN, got nan in row 3"
        refused(path, words, **{role: "s"})

    @pytest.mark.parametrize("value", [-0.5, np.inf, np.nan])
    def test_weight(self, value, tmp_path):
        path = write_rows(tmp_path / "log.parquet", with_cell("w", 1, value, w=np.ones(4)))
        words = f"column 'w' must be finite and not negative, got {value} in row 1"
        refused(path, words, weight="w")

    def test_missing_value(self, tmp_path):
        path = write_rows(tmp_path / "log.parquet", GOOD | {"user": pa.array([1, 2, None, 4])})
        refused(path, "column 'user' must not be missing, got null in row 2", group="user")

    def test_row_is_counted_over_batches(self, tmp_path):
        labels = np.arange(600_000) % 2
        scores = np.full(600_000, 0.5)
        scores[555_555] = np.nan
        path = write_rows(tmp_path / "log.parquet", {"label": labels, "score": scores})
        refused(path, "got nan in row 555555")

    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("label", [0, 1])
    def test_one_class(self, suffix, label, tmp_path):
        path = write_rows(tmp_path / f"log.{suffix}", GOOD | {"label": np.full(4, label)})
        words = f"column 'label' must contain both classes, got {4 * label} positives in 4 rows"
        refused(path, words)

    def test_one_class_of_weight(self, tmp_path):
        path = write_rows(tmp_path / "log.parquet", GOOD | {"w": GOOD["label"]})
        refused(path, "got 2 positives in 2 rows of positive weight", weight="w")

    def test_text_scores(self, tmp_path):
        path = write_rows(tmp_path / "log.parquet", GOOD | {"score": np.array(list("abcd"))})
        refused(path, "column 'score' must hold numbers, got string")

    def test_floats_as_groups(self, tmp_path):
        path = write_rows(tmp_path / "log.parquet", GOOD)
        refused(path, "column 'score' must hold integers or text, got double", group="score")

    def test_too_many_slices(self, tmp_path):
        rows = {"label": np.arange(10_001) % 2, "score": np.ones(10_001), "id": np.arange(10_001)}
        path = write_rows(tmp_path / "log.parquet", rows)
        refused(path, "column 'id' must have at most 10,000 values to slice by", slice="id")


class TestReport:
    @pytest.fixture
    def path(self, tmp_path):
        return write_rows(tmp_path / "log.parquet", GOOD)

    def test_place_is_checked_before_the_file_is_read(self, tmp_path):
        (tmp_path / "broken.parquet").write_bytes(b"PAR1")
        refused(
            tmp_path / "broken.parquet", "report must be a file, got the folder", report=tmp_path
        )
        os.mkfifo(tmp_path / "pipe")
        refused(
            tmp_path / "broken.parquet",
            "report must be a file, got the device or pipe",
            report=tmp_path / "pipe",
        )
        nowhere = tmp_path / "no" / "report.html"
        refused(tmp_path / "broken.parquet", "report must lie in a folder", report=nowhere)

    def test_must_not_replace_the_input(self, path):
        before = path.read_bytes()
        refused(path, "report must not replace the file that is read", report=path)
        assert path.read_bytes() == before

    def test_bad_input_leaves_no_report(self, tmp_path):
        path = write_rows(tmp_path / "log.parquet", with_cell("score", 0, np.nan))
        refused(path, "NaN", report=tmp_path / "report.html")
        assert [each.name for each in tmp_path.iterdir()] == ["log.parquet"]

    def test_full_disk_leaves_the_old_report(self, path, tmp_path):
        report = tmp_path / "report.html"
        report.write_text("old")
        # no file may grow beyond 4 KiB: to the writer the same as a disk that is full
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            errors = refused(path, report=report)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "File too large" in errors
        assert report.read_text() == "old"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["log.parquet", "report.html"]

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's always full device")
    @pytest.mark.parametrize("flags", [[], ["--json"]])
    def test_standard_output_that_takes_no_more(self, path, flags):
        command = [sys.executable, "-m", "sidrank.cli", "evaluate", str(path), *flags]
        command += ["--label", "label", "--score", "score"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 2
        assert done.stderr == "sidrank evaluate: [Errno 28] No space left on device\n"
