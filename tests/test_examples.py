"""Every example runs, and finds the signal that was planted for it."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]()


def test_upgrade_dlrm(capsys):
    found = run("upgrade_dlrm.py")
    assert "step 0 bit-equal: True" in capsys.readouterr().out
    assert found["upgraded"]["new items"] > found["host"]["new items"] + 0.02


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_is_short_and_has_a_test(path):
    assert len(path.read_text().splitlines()) <= 150
    assert f'run("{path.name}")' in Path(__file__).read_text()
