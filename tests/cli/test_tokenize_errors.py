import os
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from sidrank.semantic_ids import load_bundle
from tests.cli import tokenizations
from tests.cli.tokenizations import KMEANS, catalogue, tokenize, write
from tests.data.row_files import FORMATS

IDS = np.array([30, -7, 2**62, 5])
GOOD = {"item": IDS, "vector": np.arange(12, dtype=np.float64).reshape(4, 3)}


def refused(path, *words, **options):
    """As of the command, and neither a bundle nor a page nor anything else is left."""
    folder = path.parent
    before = sorted(os.listdir(folder))
    options = {"id": "item", "out": folder / "b"} | KMEANS | options
    given = {name: value for name, value in options.items() if value is not None}
    errors = tokenizations.refused("tokenize", path, words=words, **given)
    assert sorted(os.listdir(folder)) == before
    return errors


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "items.parquet", GOOD)


class TestFiles:
    def test_missing(self, tmp_path):
        refused(tmp_path / "nowhere.parquet", "No such file", "nowhere.parquet")

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_zero_bytes_and_zero_rows(self, suffix, tmp_path):
        path = tmp_path / f"items.{suffix}"
        path.touch()
        refused(path, f"items.{suffix} must not be empty, got 0 bytes")
        write(path, {name: each[:0] for name, each in (GOOD | {"vector": np.ones(4)}).items()})
        refused(path, f"items.{suffix} must hold rows, got 0")

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_truncated_anywhere(self, suffix, tmp_path):
        path = write(tmp_path / f"items.{suffix}", catalogue())
        content = path.read_bytes()
        for length in (1, 5, *range(12, len(content), len(content) // 7), len(content) - 1):
            path.write_bytes(content[:length])
            refused(path, f"items.{suffix}")


class TestIds:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_twice(self, suffix, tmp_path):
        path = write(tmp_path / f"items.{suffix}", GOOD | {"item": np.array([5, 9, -7, 5])})
        words = f"items.{suffix}: column 'item' must hold distinct ids, got 5"
        refused(path, words, "which is in row 0 already, in row 3")

    def test_twice_in_two_files(self, tmp_path):
        folder = tmp_path / "parts"
        folder.mkdir()
        write(folder / "a.parquet", GOOD)
        write(folder / "b.parquet", GOOD | {"item": np.array([1, 2, 3, -7])})
        words = ("b.parquet: column 'item'", "got -7, which is in row 1 of ", "a.parquet already")
        refused(folder, *words, "in row 3")

    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("wrong", ["x1", "1.5", "1_0", "9223372036854775808", "٣"])
    def test_no_integers(self, suffix, wrong, tmp_path):
        path = write(
            tmp_path / f"items.{suffix}", GOOD | {"item": np.array(["1", "2", wrong, "4"])}
        )
        words = f"items.{suffix}: column 'item' must hold 64-bit integers, got '{wrong}' in row 2"
        refused(path, words)

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_beyond_64_bits(self, suffix, tmp_path):
        ids = np.array([1, 2**63, 3, 4], dtype=np.uint64)
        path = write(tmp_path / f"items.{suffix}", GOOD | {"item": ids})
        refused(path, "must hold 64-bit integers, got 9223372036854775808 in row 1")

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    def test_floats_and_booleans(self, suffix, tmp_path):
        path = tmp_path / f"items.{suffix}"
        refused(write(path, GOOD | {"item": np.ones(4)}), "must hold integers or text")
        refused(write(path, GOOD | {"item": np.ones(4, bool)}), "must hold 64-bit integers")


class TestVectors:
    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e38])
    def test_not_finite(self, suffix, wrong, tmp_path):
        vectors = GOOD["vector"].copy()
        vectors[1, 2] = wrong
        path = write(tmp_path / f"items.{suffix}", GOOD | {"vector": vectors})
        rule = "must be finite and within ±1e37"
        words = f"items.{suffix}: column 'vector' {rule}, got {wrong} for item -7 in row 1"
        refused(path, words)

    def test_not_finite_in_half_precision(self, tmp_path):
        vectors = np.array([[1, np.inf]] * 4, dtype=np.float16)
        refused(
            write(tmp_path / "a.npz", GOOD | {"vector": vectors}), "got inf for item 30 in row 0"
        )

    def test_row_is_counted_over_batches_and_files(self, tmp_path):
        folder = tmp_path / "parts"
        folder.mkdir()
        vectors = np.zeros((40_000, 2), dtype=np.float32)
        write(folder / "a.parquet", {"item": np.arange(40_000), "vector": vectors})
        vectors[30_000, 1] = np.nan
        write(folder / "b.parquet", {"item": np.arange(50_000, 90_000), "vector": vectors})
        refused(folder, "b.parquet: column 'vector'", "got nan for item 80000 in row 30000")

    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_ragged(self, suffix, tmp_path):
        path = write(
            tmp_path / f"items.{suffix}", GOOD | {"vector": [[1.0, 2], [3, 4], [5], [6, 7]]}
        )
        words = "column 'vector' must hold vectors of one width (2), got 1 in row 2"
        refused(path, words)

    def test_ragged_between_batches(self, tmp_path):
        vectors = [[1.0, 2.0]] * (1 << 14) + [[1.0]] * 5
        path = write(
            tmp_path / "items.parquet", {"item": np.arange(len(vectors)), "vector": vectors}
        )
        refused(path, "must hold vectors of one width (2), got 1 in row 16384")

    @pytest.mark.parametrize(
        ("column", "words"),
        [
            (pa.array([[1.0], None, [2.0], [3.0]]), "must not be missing, got null in row 1"),
            (pa.array([[1.0, 2], [3, 4], [5, None], [6, 7]]), "missing numbers, got null in row 2"),
            (pa.array([[], [], [], []], pa.list_(pa.float32())), "must hold vectors, got an empty"),
            (pa.array(["a", "b", "c", "d"]), "must hold lists of numbers, got string"),
            (pa.array([["a"]] * 4), "must hold lists of numbers, got list<"),
        ],
    )
    def test_no_vectors(self, column, words, tmp_path):
        refused(write(tmp_path / "items.parquet", GOOD | {"vector": column}), words)

    @pytest.mark.parametrize(
        ("cell", "words"),
        [
            ("1 x 3", "must hold vectors of numbers, got '1 x 3' in row 1"),
            ("[]", "must hold vectors of numbers, got '[]' in row 1"),
            ("", "must not be missing, got null in row 1"),
        ],
    )
    def test_no_vectors_in_csv(self, cell, words, tmp_path):
        cells = ["[1, 2, 3]", cell, "1;2;3", "1 2 3"]
        refused(write(tmp_path / "items.csv", GOOD | {"vector": cells}), words)

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_missing_columns(self, suffix, tmp_path):
        path = write(tmp_path / f"items.{suffix}", GOOD)
        refused(path, "column 'nope' must exist, got columns item, vector", embedding="nope")
        refused(path, "column 'nope' must exist", id="nope")
        refused(path, "columns 'nope*' must exist", embedding="nope*")

    def test_flat_matrix(self, tmp_path):
        path = write(tmp_path / "items.npz", GOOD | {"vector": np.ones(4)})
        refused(path, "column 'vector' must have shape [n, D], got [4]")


class TestPlan:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"tokenizer": "magic"}, "tokenizer must be one of rq-kmeans, rq-kmeans-fsq, rq-vae"),
            ({"tokenizer": None}, "tokenizer must be given unless append-to is"),
            ({"levels": None}, "levels must be given unless append-to is"),
            ({"levels": "8,x"}, "levels must be whole numbers of at least 1"),
            ({"levels": "8,0"}, "levels must be whole numbers of at least 1"),
            ({"levels": ""}, "levels must be whole numbers of at least 1"),
            ({"collisions": "magic"}, "collisions must be one of keep, next-nearest, suffix"),
            ({"embedding": None}, "embedding or text must be given, got neither"),
            ({"text": "title"}, "embedding or text must be given, got both"),
            ({"tokenizer": "rq-vae", "weight": "w"}, "weight must come with rq-kmeans or capacity"),
            (
                {"tokenizer": "capacity-rq", "sample": 2},
                "sample must not be given with capacity-rq",
            ),
            ({"tokenizer": "rq-kmeans-fsq", "levels": "4,3"}, "levels must end in a power of two"),
        ],
    )
    def test_refused(self, good, options, words):
        refused(good, words, **options)

    @pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
    def test_weights(self, value, tmp_path):
        path = write(tmp_path / "a.parquet", GOOD | {"w": np.array([1, value, 2, 3])})
        words = f"column 'w' must be finite and not negative, got {value} for item -7 in row 1"
        refused(path, words, weight="w")

    def test_weights_of_zero(self, tmp_path):
        path = write(tmp_path / "a.parquet", GOOD | {"w": np.zeros(4)})
        refused(path, "column 'w' must not be zero for every item", weight="w")

    def test_text_without_words(self, tmp_path):
        path = write(tmp_path / "a.parquet", GOOD | {"t": ["", " ", "", ""]})
        refused(path, "words must hold a word", text="t", embedding=None)


class TestPlaces:
    def test_out_is_checked_before_the_file_is_read(self, tmp_path):
        broken = tmp_path / "broken.parquet"
        broken.write_bytes(b"PAR1")
        taken = tmp_path / "taken"
        taken.mkdir()
        refused(broken, "out must not exist yet", out=taken)
        (tmp_path / "link").symlink_to("nowhere")
        refused(broken, "out must not exist yet", out=tmp_path / "link")
        refused(broken, "out must lie in a folder that exists", out=tmp_path / "no" / "b")
        refused(broken, "report must be a file, got the folder", report=taken)
        refused(broken, "report must be another place than out", report=tmp_path / "b")

    def test_report_must_not_replace_the_input(self, good):
        before = good.read_bytes()
        refused(good, "report must not replace the file that is read", report=good)
        assert good.read_bytes() == before

    @pytest.mark.parametrize("limit", [0, 500, 2400])
    def test_a_full_disk_leaves_no_bundle(self, good, limit):
        # no file may grow beyond the limit: to the writer the same as a disk that is full
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            errors = refused(good, levels="64,64,64")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "File too large" in errors

    def test_a_page_that_finds_no_room_leaves_a_whole_bundle(self, tmp_path):
        path = write(tmp_path / "items.parquet", GOOD)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            options = {"id": "item", "out": tmp_path / "b", "report": tmp_path / "r.html"} | KMEANS
            tokenizations.refused("tokenize", path, words=["File too large"], **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sorted(os.listdir(tmp_path)) == ["b", "items.parquet"]
        assert len(load_bundle(tmp_path / "b").table) == 4

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's always full device")
    @pytest.mark.parametrize("command", ["tokenize", "inspect"])
    def test_standard_output_that_takes_no_more(self, good, tmp_path, command):
        arguments = [str(tmp_path / "a")]
        tokenize(good, tmp_path / "a")
        if command == "tokenize":
            arguments = [str(good), "--id", "item", "--out", str(tmp_path / "b")]
            arguments += [part for name, value in KMEANS.items() for part in (f"--{name}", value)]
        command = [sys.executable, "-W", "ignore", "-m", "sidrank.cli", command, *arguments]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 2
        assert done.stderr.endswith(": [Errno 28] No space left on device\n")
        assert done.stderr.count("\n") == 1
