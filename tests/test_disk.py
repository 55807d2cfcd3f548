"""Files that are whole, whoever is killed or refused while they are written."""

import os

import pytest

from sidrank._disk import lock, publish, remove_leftovers, scratch_path, write_all


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "table"
    publish(path, [b"old ", memoryview(b"content")])

    def refused(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match="no space left"):
        publish(path, [b"new"])
    assert path.read_bytes() == b"old content"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    publish(path, [b"new"])
    assert path.read_bytes() == b"new"


def test_who_may_read_it_is_for_the_system_to_say(tmp_path):
    before = os.umask(0o027)
    try:
        publish(tmp_path / "delta", [b"content"])
    finally:
        os.umask(before)
    assert (tmp_path / "delta").stat().st_mode & 0o777 == 0o640


def test_a_system_that_writes_a_little_at_a_time(tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, rest, at: whole(file, rest[:3], at))
    with (tmp_path / "table").open("wb") as file:
        write_all(file.fileno(), b"ten bytes.", 2)
    assert (tmp_path / "table").read_bytes() == b"\0\0ten bytes."


def test_only_leftovers_of_the_file_are_removed(tmp_path):
    path, other = tmp_path / "table", tmp_path / "table-2"
    kept = [path, other, scratch_path(other), tmp_path / ".table.mine.tmp"]
    for each in [*kept, scratch_path(path), scratch_path(path)]:
        each.touch()
    remove_leftovers(path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_file_is_open_once(tmp_path):
    path = tmp_path / "table"
    with path.open("wb") as first, path.open("rb") as second:
        lock(first.fileno(), path, "path")
        with pytest.raises(ValueError, match=r"path must not be open already, got .*table"):
            lock(second.fileno(), path, "path")
