import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.tokenizations import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def outcomes(folder):
    """What became of the command, killed at every step and before every file operation."""
    script = Path(__file__).with_name("killed_tokenize.py")
    command = [sys.executable, "-W", "ignore", script, folder]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_it_died_everywhere(outcomes):
    assert not any(each["failed"] for each in outcomes)
    stages = {each["stage"] for each in outcomes if each["stage"]}
    assert {"reading ids", "reading vectors", "level 1 of 2", "level 2 of 2"} < stages
    assert {"encoding", "measuring quality", "measuring drift", "writing"} < stages
    for kind in ("fresh", "append"):
        for by in ("step", "operation"):
            mine = [each["killed"] for each in outcomes if (each["kind"], each["by"]) == (kind, by)]
            assert sum(mine) >= 8
            assert mine[-1] is False  # there was no later moment to die at


def test_there_is_a_whole_bundle_or_none_and_the_next_run_goes_through(outcomes):
    for kind in ("fresh", "append"):
        # of the bundle that survived the kill, and of the one of the next run where none did
        assert len({each["hash"] for each in outcomes if each["kind"] == kind}) == 1
    killed = [each["published"] for each in outcomes if each["killed"]]
    assert True in killed  # after the new name, before the end
    assert killed.count(False) > 30


def test_what_is_left_behind_is_hidden_and_unfinished_work_is_no_bundle(outcomes, folder):
    leftovers = [path for path in folder.rglob(".bundle-*") if path.is_dir()]
    assert leftovers
    assert any(each["leftovers"] for each in outcomes)
    unfinished = [path for path in leftovers if not (path / "manifest.json").exists()]
    assert unfinished
    for path in unfinished:
        refused("inspect", path, words=["manifest.json must be a file, got none"])
