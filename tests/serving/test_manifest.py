"""A folder appears whole or not at all, whenever its writer dies."""

import os
import resource
import signal
import sys

import pytest

from sidrank._disk import new_folder
from sidrank.serving.manifest import MANIFEST, read_manifest, write_manifest

OPERATIONS = {"open", "os.mkdir", "os.rename"}


def write(path):
    with new_folder(path, "folder") as folder:
        (folder / "weights").write_bytes(b"w" * 3000)
        (folder / "test").write_bytes(b"t" * 50)
        write_manifest(folder, {"tasks": ["click"]})


def dies(path, *, operation=None, size=None):
    """Whether a writer is killed before the n-th file operation, or at a size of a file."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seen = 0

        def hook(event, _arguments):
            nonlocal seen
            if event in OPERATIONS:
                seen += 1
                if seen == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        if size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        write(path)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_killed_writer_leaves_nothing_that_loads(tmp_path):
    number, killed = 1, 0
    while dies(tmp_path / f"at-{number}", operation=number):
        killed += not (tmp_path / f"at-{number}").exists()
        if (tmp_path / f"at-{number}").exists():  # renamed, and killed before the last flush
            assert read_manifest(tmp_path / f"at-{number}")["tasks"] == ["click"]
        number += 1
    for size in (0, 40, 1000, 2999):
        assert dies(tmp_path / f"size-{size}", size=size)
        assert not (tmp_path / f"size-{size}").exists()
    assert killed > 8
    left = [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    assert len(left) >= killed
    whole = 0
    for path in left:
        if (path / MANIFEST).exists() and (path / MANIFEST).read_bytes().endswith(b"}\n"):
            whole += 1  # all was written and only the new name was missing
        else:
            with pytest.raises(ValueError, match="must be"):
                read_manifest(path)
    assert whole < killed


def test_a_writer_that_fails_cleans_up(tmp_path):
    def fails():
        with new_folder(tmp_path / "ranker", "folder") as folder:
            (folder / "weights").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_the_place_is_taken_meanwhile(tmp_path):
    def late():
        with new_folder(tmp_path / "ranker", "folder"):
            (tmp_path / "ranker").mkdir()
            (tmp_path / "ranker" / "others").touch()

    with pytest.raises(ValueError, match="folder must not exist yet, got"):
        late()
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]


def test_a_manifest_that_says_the_same_in_other_bytes(tmp_path):
    write(tmp_path / "ranker")
    place = tmp_path / "ranker" / MANIFEST
    place.write_bytes(place.read_bytes() + b"\n")
    with pytest.raises(ValueError, match="must be unaltered, got another checksum"):
        read_manifest(tmp_path / "ranker")


def test_a_manifest_that_says_something_else(tmp_path):
    write(tmp_path / "ranker")
    place = tmp_path / "ranker" / MANIFEST
    place.write_bytes(place.read_bytes().replace(b"click", b"clack"))
    with pytest.raises(ValueError, match="must be unaltered, got another checksum"):
        read_manifest(tmp_path / "ranker")
