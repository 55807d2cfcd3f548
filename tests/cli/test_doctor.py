import json
import os
import re
import subprocess
import sys

import pytest

from sidrank.cli.doctor import pair


def _doctor(*options, first_on_path=None):
    """Exit code and output of `sidrank doctor`, with a folder that hides installed packages."""
    environment = os.environ | ({"PYTHONPATH": str(first_on_path)} if first_on_path else {})
    command = [sys.executable, "-m", "sidrank.cli", "doctor", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def _package(folder, name, code):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


def _metadata(folder, name, version):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


class TestHealthyMachine:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls):
        code, output = _doctor("--json")
        return code, json.loads(output)

    def test_all_doors_are_open(self, found):
        code, diagnosis = found
        assert {name: door["error"] for name, door in diagnosis["doors"].items()} == dict.fromkeys(
            ["torch_only", "evaluation", "torchrec", "planner"]
        )
        assert code == 0

    def test_nothing_to_type(self, found):
        assert found[1]["pairing"]["ok"] is True
        assert found[1]["remedies"] == []

    def test_versions(self, found):
        assert found[1]["versions"]["torch"].startswith("2.13")
        assert set(found[1]) == {
            "python", "platform", "cuda", "gpu", "versions", "pairing", "doors", "remedies",
        }  # fmt: skip


class TestBrokenMachine:
    def test_wrong_fbgemm(self, tmp_path):
        _package(tmp_path, "fbgemm_gpu", "raise OSError('Could not load this library: x.so')")
        _metadata(tmp_path, "fbgemm-gpu-cpu", "1.6.0")
        code, output = _doctor("--json", first_on_path=tmp_path)
        diagnosis = json.loads(output)
        assert code == 1
        assert {name for name, door in diagnosis["doors"].items() if door["open"]} == {
            "torch_only",
            "evaluation",
        }
        assert "OSError: Could not load" in diagnosis["doors"]["torchrec"]["error"]
        assert diagnosis["pairing"]["ok"] is False
        assert diagnosis["remedies"] == [
            "pip install --no-deps --force-reinstall fbgemm-gpu-cpu==1.8.0 torchrec==1.8.0",
            "pip install tensordict torchmetrics==1.0.3 pyre-extensions tqdm",
        ]

    def test_library_that_kills_the_process(self, tmp_path):
        _package(tmp_path, "torch", "import os; os.abort()")
        code, output = _doctor(first_on_path=tmp_path)
        assert code == 1
        assert re.search(r"TorchRec +SHUT  the process ended with code -6", output)

    def test_no_torch_and_no_typer(self, tmp_path):
        for name in ("torch", "typer"):
            _package(tmp_path, name, f"raise ModuleNotFoundError('No module named {name}')")
        code, output = _doctor(first_on_path=tmp_path)
        assert code == 1
        assert output.count("SHUT  ModuleNotFoundError: No module named torch") == 4

    def test_other_commands_say_what_they_need(self, tmp_path):
        _package(tmp_path, "typer", "raise ModuleNotFoundError('No module named typer')")
        command = [sys.executable, "-m", "sidrank.cli", "demo"]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 2
        assert re.fullmatch(r"sidrank's commands need typer .* pip install .*\n", done.stderr)


class TestPair:
    @pytest.mark.parametrize(
        ("installed", "ok", "message"),
        [
            ({"fbgemm-gpu": "1.8.0", "torchrec": "1.8.0"}, True, "has them"),
            ({"fbgemm-gpu": "1.7.0", "torchrec": "1.8.0"}, False, "got FBGEMM 1.7"),
            ({"fbgemm-gpu-cpu": "1.8.0", "torchrec": "1.9.2"}, False, "got .* TorchRec 1.9"),
            ({"fbgemm-gpu-cpu": "1.8.0"}, None, "not installed: TorchRec"),
            ({"torch": None}, None, "not installed: torch, FBGEMM, TorchRec"),
            ({"torch": "2.30.1", "fbgemm-gpu": "1.8", "torchrec": "1.8"}, None, "not torch 2.30"),
            ({"torch": "2.13.0+cpu", "fbgemm-gpu": "1.8.0"}, False, "is a CUDA build"),
            ({"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, False, "keep one"),
        ],
    )
    def test_verdict(self, installed, ok, message):
        pairing = pair({"torch": "2.13.0"} | installed)
        assert pairing.ok is ok
        assert re.search(message, pairing.message)
