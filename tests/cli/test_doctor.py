import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from sidrank.cli import doctor
from sidrank.cli.compiler import Compiler
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
        diagnosis = found[1]
        assert diagnosis["pairing"]["ok"] is True
        assert len(diagnosis["remedies"]) == (diagnosis["compiler"]["error"] is not None)

    def test_versions(self, found):
        assert found[1]["versions"]["torch"].startswith("2.13")
        assert set(found[1]) == {
            "python", "platform", "cuda", "gpu", "versions", "pairing", "compiler", "doors",
            "remedies",
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
        assert diagnosis["remedies"][:2] == [
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
            ({"torch": "2.11.0", "fbgemm-gpu": "1.6.0", "torchrec": "1.6.1"}, True, "needs torch"),
            ({"torch": "2.12.0", "fbgemm-gpu": "1.8.0", "torchrec": "1.7.0"}, False, "got FBGEMM"),
            ({"torch": "2.14.1", "fbgemm-gpu": "1.9.0", "torchrec": "1.9.2"}, True, "them$"),
            ({"torch": "2.13.0+cpu", "fbgemm-gpu": "1.8.0"}, False, "is a CUDA build"),
            ({"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, False, "keep one"),
        ],
    )
    def test_verdict(self, installed, ok, message):
        pairing = pair({"torch": "2.13.0"} | installed)
        assert pairing.ok is ok
        assert re.search(message, pairing.message)


class TestPairsOfReleases:
    def test_fbgemm_says_the_same(self):
        """The installed wheel carries a table of its own."""
        table = importlib.import_module("fbgemm_gpu")._fbgemm_torch_compat_table
        ours = {doctor._minor(fbgemm): torch for torch, (fbgemm, _) in doctor.RELEASE_TRAIN.items()}
        shared = set(ours) & set(table)
        assert {f"1.{minor}" for minor in range(3, 9)} <= shared
        assert {name: ours[name] for name in shared} == {name: table[name] for name in shared}

    def test_torchrec_is_of_the_same_train(self):
        for fbgemm, torchrec in doctor.RELEASE_TRAIN.values():
            assert doctor._minor(fbgemm) == doctor._minor(torchrec)


def _diagnosis(**given):
    versions = dict.fromkeys(doctor.DISTRIBUTIONS) | {"torch": "2.13.0"}
    versions |= given.pop("versions", {})
    doors = {name: doctor.Door(True, 1.0, None) for name in doctor.NAMES}
    facts = {"cuda": None, "gpu": None, "compiler": Compiler("/g++", "g++ 12", None)} | given
    return doctor.Diagnosis(
        python="3.11.7", platform="Linux x86_64", versions=versions,
        pairing=pair(versions), doors=doors, remedies=facts.pop("remedies", []), **facts,
    )  # fmt: skip


class TestText:
    @pytest.mark.parametrize(
        ("facts", "said"),
        [
            ({}, r"torch for CPUs, whose FBGEMM is fbgemm-gpu-cpu \(extra `cpu`\)"),
            ({"cuda": "13.0"}, r"torch for CUDA 13\.0, which sees no GPU: the extra `cpu` serves"),
            ({"cuda": "13.0", "gpu": "H100"}, r"torch for CUDA 13\.0, .* \(extra `cuda`\)"),
            ({"versions": {"torch": None}}, "unknown: torch does not load"),
        ],
    )
    def test_build(self, facts, said):
        assert re.search(rf"^build +{said}", doctor.render(_diagnosis(**facts)), re.MULTILINE)

    def test_compiler(self):
        assert "compiler  g++ 12\n" in doctor.render(_diagnosis())
        broken = doctor.render(_diagnosis(compiler=Compiler(None, None, "none found")))
        assert "compiler  MISSING  none found; torch.compile and AOTInductor need it" in broken

    def test_all_there_is_to_type_is_one_line(self):
        text = doctor.render(_diagnosis(remedies=["pip install a", "pip install b"]))
        assert text.endswith("type\n  pip install a && pip install b")


@pytest.mark.parametrize(
    ("facts", "installed", "wheel"),
    [
        ({"cuda": None}, {}, "fbgemm-gpu-cpu==1.8.0"),
        ({"cuda": "13.0"}, {}, "fbgemm-gpu-cpu==1.8.0"),
        ({"cuda": "13.0"}, {"fbgemm-gpu": "1.7.0"}, "fbgemm-gpu==1.8.0"),
        ({"cuda": "13.0", "gpu": "H100"}, {}, "fbgemm-gpu==1.8.0"),
        ({"cuda": None}, {"torch": "2.11.0"}, "fbgemm-gpu-cpu==1.8.0"),
        ({"cuda": None}, {"torch": "2.14.0"}, "fbgemm-gpu-cpu==1.9.0"),
    ],
)
def test_which_fbgemm_to_install(facts, installed, wheel):
    versions = dict.fromkeys(doctor.DISTRIBUTIONS) | {"torch": "2.13.0"} | installed
    commands = doctor._torchrec_remedies(versions, facts)
    assert any(f" {wheel} torchrec==" in command for command in commands)
    assert ("pip install torch==2.13.0" in commands) == (versions["torch"] == "2.11.0")
