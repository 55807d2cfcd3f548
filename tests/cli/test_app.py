import inspect
import os
import subprocess
import sys

import pytest

from sidrank import demo


def _sidrank(*arguments, path=""):
    command = [sys.executable, "-W", "ignore", "-m", "sidrank.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_help_loads_no_torch():
    code = (
        "import sys\n"
        "from sidrank.cli import main\n"
        "sys.argv = ['sidrank', '--help']\n"
        "try: main()\n"
        "except SystemExit: print('loaded:', 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "doctor" in done.stdout
    assert "demo" in done.stdout
    assert done.stdout.endswith("loaded: False\n")


def test_demo_room_takes_what_the_command_gives():
    parameters = inspect.signature(demo.run).parameters
    assert set(parameters) == {"out", "seeds", "data", "full"}


class TestUserErrors:
    def test_missing_data_is_one_line(self, tmp_path):
        done = _sidrank("demo", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("sidrank demo: ")
        assert "nowhere" in done.stderr
        assert not (tmp_path / "out" / "report.json").exists()

    def test_broken_torchrec_sends_to_the_doctor(self, tmp_path):
        (tmp_path / "torchrec").mkdir()
        (tmp_path / "torchrec/__init__.py").write_text("raise OSError('cannot load x.so')")
        done = _sidrank("demo", path=tmp_path)
        assert done.returncode == 2
        assert done.stderr == (
            "sidrank demo: cannot load x.so; `sidrank doctor` says what to install\n"
        )

    @pytest.mark.parametrize("arguments", [["demo", "--seeds", "0"], ["demo", "--nope"], ["nope"]])
    def test_wrong_arguments(self, arguments):
        done = _sidrank(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
