"""Kills by the system, of real processes; `benchmarks/kill_drill.py` does all of them."""

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.cache import crash_job

COMMIT = 8  # the step whose commit is hit
KILLED = (-signal.SIGKILL, None)


@pytest.fixture
def folder():
    """In memory if that is to be had: what a kill leaves does not depend on the disk."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run ends with, and what its commit asks of the system."""
    code, answer = crash_job.start(tmp_path_factory.mktemp("whole"), within=COMMIT)
    assert code == 0
    assert answer.evictions > 50
    return answer.digest, answer.operations


def nth(operations, name, number):
    """The place of an operation, counted from 1."""
    places = [place for place, other in enumerate(operations, 1) if other == name]
    return places[number]


def step(folder):
    return json.loads((folder / "checkpoint/manifest.json").read_text())["step"]


def finish(folder):
    code, answer = crash_job.start(folder)
    assert code == 0
    return answer.digest


class TestKilledInACommit:
    @pytest.mark.parametrize(
        ("name", "number", "committed"),
        [
            ("pwrite", 0, 4),  # a record of the journal, not yet counted
            ("rows", 0, 4),
            ("replace", 1, 4),  # state and journal of the next commit are there
            ("replace", 2, 8),  # the manifest
            ("unlink", 0, 8),
        ],
    )
    def test_ends_as_if_there_had_been_none(self, whole, folder, name, number, committed):
        digest, operations = whole
        at = nth(operations, name, number)
        assert crash_job.start(folder, within=COMMIT, at=at) == KILLED
        assert step(folder) == committed
        assert finish(folder) == digest

    @pytest.mark.parametrize("place", [0, 2], ids=["half of a record", "half of the rows"])
    def test_in_the_midst_of_a_write(self, whole, folder, place):
        digest, operations = whole
        assert operations[place] == ("pwrite", "rows")[place // 2]
        assert crash_job.start(folder, within=COMMIT, at=place, torn=True) == KILLED
        assert step(folder) == COMMIT - crash_job.EVERY
        assert finish(folder) == digest


class TestKilledInTheRecovery:
    def test_ends_as_if_there_had_been_none(self, whole, folder):
        digest, operations = whole
        kill = {"within": COMMIT, "at": nth(operations, "rows", 1)}
        assert crash_job.start(folder, **kill) == KILLED
        # killed again while going back, at first with half of a table's rows
        assert crash_job.start(folder, within="recovery", at=5, torn=True) == KILLED
        for at in (6, 15):
            assert crash_job.start(folder, within="recovery", at=at) == KILLED
            assert step(folder) == COMMIT - crash_job.EVERY
        assert finish(folder) == digest


def test_a_process_that_is_not_killed_is_not_said_to_be(folder):
    code, answer = crash_job.start(folder, within=COMMIT, at=10_000)
    assert code == 0
    assert len(answer.operations) < 100
