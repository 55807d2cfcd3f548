"""What a kill, a full disk, damage and a second process do to stores on disk."""

import contextlib
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sidrank.sequences.instance_rows import InstanceSpec
from tests.sequences.instance_stores import FILES, SPEC, columns, log_of, make, part, told

ROOT = Path(__file__).parents[2]
HEADER, COMMIT = 4096, 2048
WRITER = """
import sys
from pathlib import Path
from tests.sequences.instance_stores import make, log_of, part
store, log = make(sys.argv[1], Path(sys.argv[2])), log_of(users=1000, each=200)
for start in range(0, 200_000, 500):
    store.put(**part(log, slice(start, start + 500)))
    print(len(store), flush=True)
"""


@pytest.fixture(params=FILES)
def kind(request):
    return request.param


@contextlib.contextmanager
def opened(kind, directory, **options):
    with contextlib.closing(make(kind, directory, **options)) as store:
        yield store


@contextlib.contextmanager
def no_file_beyond(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(store, users=50):
    return told(store.as_of(np.arange(users), [2**62] * users, 300, model_version="7"))


def held(directory):
    return b"".join(path.read_bytes() for path in directory.iterdir())


def rows(count, start=0):
    return [(1, i, i, (i, i), (0, 1), (i, 0.5, 7.0)) for i in range(start, start + count)]


def test_a_killed_writer_leaves_whole_puts(kind, tmp_path):
    """SIGKILL while it writes, twice on one file; what it told of is there, and nothing by half."""
    log = log_of(users=1000, each=200)
    for acknowledged in (4, 9):
        command = [sys.executable, "-W", "ignore", "-c", WRITER, kind, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as writer:
            seen = [int(writer.stdout.readline()) for _ in range(acknowledged)]
            writer.send_signal(signal.SIGKILL)
            seen += [int(line) for line in writer.stdout.read().split()]
        assert writer.returncode == -signal.SIGKILL
        with opened(kind, tmp_path) as store:
            assert len(store) % 500 == 0
            assert seen[-1] <= len(store) < 200_000
            users = np.arange(1000)
            found = store.as_of(users, [2**62] * 1000, 200, model_version="7")
            whole = part(log, np.arange(len(store)))
    (tmp_path / "other").mkdir()
    with opened("memory", tmp_path) as memory:
        memory.put(**whole)
        expected = memory.as_of(users, [2**62] * 1000, 200, model_version="7")
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


class TestFullDisk:
    def test_loses_nothing_and_the_store_goes_on(self, kind, tmp_path):
        with opened(kind, tmp_path) as store:
            store.put(**columns(rows(30)))
            before = everything(store)
            log = log_of(users=40, each=100)
            log["users"] += 5
            largest = max(path.stat().st_size for path in tmp_path.iterdir())
            with no_file_beyond(largest + 1000), pytest.raises(OSError, match=r"large|full|I/O"):
                store.put(**log)
            assert everything(store) == before
            store.put(**columns(rows(5, start=100)))
            after = everything(store)
            assert len(store) == 35
        with opened(kind, tmp_path) as store:
            assert everything(store) == after

    def test_at_every_byte_of_a_put(self, tmp_path):
        """The write stops there, as if the process had died; opening finds the earlier puts."""
        with opened("mapped", tmp_path) as store:
            store.put(**columns(rows(2)))
            before = everything(store)
        file = tmp_path / "store"
        content = file.read_bytes()
        with opened("mapped", tmp_path) as store:
            store.put(**columns(rows(2, start=50)))
        record_bytes = (file.stat().st_size - len(content)) // 2
        for more in range(0, 2 * record_bytes, 3):
            file.write_bytes(content)
            with opened("mapped", tmp_path) as store:
                with no_file_beyond(len(content) + more), pytest.raises(OSError, match="too large"):
                    store.put(**columns(rows(2, start=50)))
                assert len(store) == 2
            assert file.stat().st_size == len(content) + more  # so much of it was written
            with opened("mapped", tmp_path) as store:
                assert everything(store) == before
                store.put(**columns(rows(1, start=70)))
            with opened("mapped", tmp_path) as store:
                assert everything(store)[1][:2] == before[1]
                assert len(store) == 3

    def test_when_users_are_forgotten(self, kind, tmp_path):
        """The mapped file is copied: the old one stays until the new one is whole."""
        with opened(kind, tmp_path) as store:
            store.put(**log_of(users=40, each=100))
            before = everything(store)
            with no_file_beyond(6000), pytest.raises(OSError, match=r"large|full|I/O"):
                store.forget([3])
            assert everything(store) == before
            assert store.forget([3]) == 100
            assert not everything(store)[3]
        assert [path.name for path in tmp_path.iterdir()] == ["store"]


class TestDamage:
    def test_a_file_cut_anywhere(self, kind, tmp_path):
        with opened(kind, tmp_path) as store:
            store.put(**columns(rows(40)))
        file = tmp_path / "store"
        content = file.read_bytes()
        for size in [*range(0, len(content), 211), len(content) - 1]:
            file.write_bytes(content[:size])
            with pytest.raises(ValueError, match=f"path must .*, got {file}"):
                make(kind, tmp_path)
            assert file.read_bytes() == content[:size]  # nothing was mended in silence

    def test_any_byte_of_a_mapped_file(self, tmp_path):
        with opened("mapped", tmp_path) as store:
            store.put(**columns(rows(3)))
        file = tmp_path / "store"
        content = file.read_bytes()
        places = [*range(300), *range(2000, 2100, 3), *range(4000, len(content))]
        for place in places:
            wrong = bytearray(content)
            wrong[place] ^= 1 << place % 8
            file.write_bytes(wrong)
            with pytest.raises(ValueError, match=rf"path must .*, got {file}"):
                make("mapped", tmp_path)

    def test_a_record_in_a_database(self, tmp_path):
        with opened("sqlite", tmp_path) as store:
            store.put(**columns([(1, 5, 5, (6, 6), (0, 1), (0.1, 0.2, 0.3))]))
        file = tmp_path / "store"
        wrong = bytearray(file.read_bytes())
        place = wrong.index(np.array([0.1, 0.2, 0.3], dtype="<f4").tobytes())
        wrong[place] ^= 4
        file.write_bytes(wrong)
        with (
            opened("sqlite", tmp_path) as store,
            pytest.raises(ValueError, match="where instance 5 of user 1 is damaged"),
        ):
            store.as_of([1], [9], 1, model_version="7")

    @pytest.mark.parametrize("content", [b"", b"\0" * 9000, b"user,instance\n1,2\n" * 900])
    def test_a_file_of_something_else(self, kind, tmp_path, content):
        (tmp_path / "store").write_bytes(content)
        with pytest.raises(ValueError, match=r"path must be an instance store, got .*store"):
            make(kind, tmp_path)
        assert (tmp_path / "store").read_bytes() == content

    def test_the_file_of_the_other_kind(self, kind, tmp_path):
        (other,) = FILES.keys() - {kind}
        make(other, tmp_path).close()
        with pytest.raises(ValueError, match="path must be an instance store"):
            make(kind, tmp_path)

    def test_a_record_that_is_too_short(self, tmp_path):
        with opened("sqlite", tmp_path) as store:
            store.put(**columns(rows(1)))
            store._database.execute("UPDATE instances SET record = x'00'")
            with pytest.raises(ValueError, match="path must hold whole records"):
                store.as_of([1], [9], 1, model_version="7")

    def test_no_such_directory(self, kind, tmp_path):
        with pytest.raises(OSError, match=r"No such file|unable to open"):
            make(kind, tmp_path / "nowhere")


class TestForgotten:
    def test_bytes_are_in_no_file(self, kind, tmp_path):
        """Also those of older versions of a row, and while the store stays open."""
        spec = InstanceSpec(model_version="7", dim=8, num_sides=1)
        with opened(kind, tmp_path, spec=spec) as store:
            log = log_of(users=20, each=30, spec=spec)
            store.put(**log)
            own = np.flatnonzero(log["users"] == 4)
            again = part(log, own)
            store.put(**{**again, "vectors": again["vectors"] + 1})
            marks = [v.tobytes() for v in np.r_[again["vectors"], again["vectors"] + 1]]
            marks += [np.int64(i).tobytes() for i in again["event_times"]]
            assert all(mark in held(tmp_path) for mark in marks[30:60])
            others = everything(store, 4)
            assert store.forget([4]) == 30
            assert not [mark for mark in marks[:60] if mark in held(tmp_path)]
            assert everything(store, 4) == others
        assert not [mark for mark in marks[:60] if mark in held(tmp_path)]

    def test_expired_ones_too(self, kind, tmp_path):
        with opened(kind, tmp_path, time_to_live=50) as store:
            log = log_of(users=20, each=30)
            store.put(**log)
            old = log["event_times"] <= 250 - 50
            assert store.expire(250) == old.sum() > 0
            assert not [v for v in log["vectors"][old] if v.tobytes() in held(tmp_path)]
            assert all(v.tobytes() in held(tmp_path) for v in log["vectors"][~old])

    def test_what_a_killed_writer_left_goes_when_it_is_opened(self, tmp_path):
        make("mapped", tmp_path).close()
        names = [".store.0123456789abcdef.tmp", ".store.tmp", ".other.0123456789abcdef.tmp"]
        for name in names:
            (tmp_path / name).write_bytes(b"rows")
        make("mapped", tmp_path).close()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"store", *names[1:]}

    def test_a_reader_elsewhere_keeps_the_log(self, tmp_path):
        with opened("sqlite", tmp_path) as store:
            store._database.execute("PRAGMA busy_timeout = 0")
            store.put(**columns(rows(5)))
            with contextlib.closing(sqlite3.connect(tmp_path / "store")) as other:
                other.execute("BEGIN")
                other.execute("SELECT * FROM instances").fetchall()
                with pytest.raises(OSError, match="is read elsewhere: its log still holds"):
                    store.forget([1])
            assert len(store) == 0


class TestMapped:
    def test_one_process_at_a_time(self, tmp_path):
        with (
            opened("mapped", tmp_path),
            pytest.raises(ValueError, match="path must not be open already"),
        ):
            make("mapped", tmp_path)

    def test_compaction(self, tmp_path):
        with opened("mapped", tmp_path) as store:
            log = log_of(users=5, each=20)
            for _ in range(3):
                store.put(**log)
            before, size = everything(store), (tmp_path / "store").stat().st_size
            store.compact()
            assert everything(store) == before
            assert (size - HEADER) == 3 * ((tmp_path / "store").stat().st_size - HEADER)
        with opened("mapped", tmp_path) as store:
            assert everything(store) == before

    def test_closed(self, tmp_path):
        store = make("mapped", tmp_path)
        store.close()
        store.close()
        uses = (
            lambda: store.put(**columns(rows(1))),
            lambda: store.as_of([1], [9], 1, model_version="7"),
            lambda: store.forget([1]),
            store.compact,
        )
        for use in uses:
            with pytest.raises(ValueError, match=r"path must be of an open store, got .*closed"):
                use()

    def test_record_is_what_the_module_says(self, tmp_path):
        """Whoever reads the file without us finds the fields where they are said to be."""
        with opened("mapped", tmp_path) as store:
            store.put(**columns([(-5, 2**62, -9, (11, 12), (3, -1), (0.5, 1.5, 2.5))]))
        content = (tmp_path / "store").read_bytes()
        assert np.frombuffer(content[COMMIT : COMMIT + 16], "<u8").tolist() == [1, 2**64 - 2]
        assert np.frombuffer(content[HEADER:], "<i8", 5).tolist() == [-5, 2**62, -9, 11, 12]
        assert np.frombuffer(content[HEADER + 40 :], "<i4", 2).tolist() == [3, -1]
        assert np.frombuffer(content[HEADER + 48 :], "<f4", 3).tolist() == [0.5, 1.5, 2.5]
        assert len(content) == HEADER + 48 + 12 + 4 + 8
        assert SPEC.model_version in content[:200].decode()
