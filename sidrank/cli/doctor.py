"""`sidrank doctor`: versions, wheel pairing, compiler, which doors work, and what to type if not.

torch, FBGEMM and TorchRec must come from one release train, and no metadata says so: the CPU build
of FBGEMM is another distribution than the one TorchRec asks for, and a wrong one ends in
`OSError: Could not load this library`. Only the standard library is imported here.

Source of the pairs: `_fbgemm_torch_compat_table` inside the FBGEMM wheels, and TorchRec's release
notes; for each, the newest release of the package registry.
"""

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from sidrank.cli.compiler import Compiler, find_compiler, install_command
from sidrank.cli.doors import DOORS

__all__ = ["Diagnosis", "Door", "Pairing", "diagnose", "pair", "render", "run"]

DISTRIBUTIONS = (
    "sidrank",
    "torch",
    "fbgemm-gpu",
    "fbgemm-gpu-cpu",
    "torchrec",
    "tensordict",
    "torchmetrics",
    "pyre-extensions",
    "numpy",
    "safetensors",
    "pyarrow",
    "typer",
    "rich",
    "tqdm",
    "scikit-learn",
    "matplotlib",
)
COMFORTS = ("pyarrow", "typer", "rich", "tqdm", "scikit-learn", "matplotlib")
# torch: (FBGEMM, TorchRec), as they are released. sidrank needs 2.13 and is tested with it.
RELEASE_TRAIN = {
    "2.8": ("1.3.0", "1.3.0"),
    "2.9": ("1.4.0", "1.4.0"),
    "2.10": ("1.5.0", "1.5.1"),
    "2.11": ("1.6.0", "1.6.1"),
    "2.12": ("1.7.0", "1.7.0"),
    "2.13": ("1.8.0", "1.8.0"),
    "2.14": ("1.9.0", "1.9.2"),
}
TESTED_TORCH = "2.13"
SUPPORTED = ("2.13", "2.14")
NAMES = {
    "torch_only": "torch-only rooms",
    "evaluation": "evaluation",
    "torchrec": "TorchRec",
    "planner": "planner",
}
TIMEOUT = 180.0  # seconds; a cold disk needs most of a minute to load torch


@dataclass(frozen=True)
class Pairing:
    """Whether torch, FBGEMM and TorchRec belong together.

    Args:
        ok: True, False, or None where one is missing or the table does not know this torch.
        message: The verdict in one sentence.
    """

    ok: bool | None
    message: str


@dataclass(frozen=True)
class Door:
    """What became of trying one door.

    Args:
        open: Whether it worked.
        seconds: Wall-clock time of the trial, start of the process included.
        error: Why it is shut, in one line; None if it is open.
    """

    open: bool
    seconds: float
    error: str | None


@dataclass(frozen=True)
class Diagnosis:
    """Everything `sidrank doctor` says.

    Args:
        python: Version of Python.
        platform: Operating system and processor.
        cuda: CUDA version torch was built for; None for a CPU build or no torch.
        gpu: Name of the GPU that torch sees, if any.
        versions: Version of each distribution; None if it is not installed.
        pairing: Whether torch, FBGEMM and TorchRec belong together.
        compiler: What `torch.compile` and AOTInductor would build with.
        doors: Each door by name.
        remedies: Commands to type, in order; empty if nothing is wrong.
    """

    python: str
    platform: str
    cuda: str | None
    gpu: str | None
    versions: dict[str, str | None]
    pairing: Pairing
    compiler: Compiler
    doors: dict[str, Door]
    remedies: list[str]


def run(*, as_json: bool) -> int:
    """Diagnose this machine and print the result.

    Args:
        as_json: Print JSON instead of text.

    Returns:
        The exit code: 1 if the TorchRec door is shut, else 0.
    """
    diagnosis = diagnose()
    text = json.dumps(asdict(diagnosis), indent=2) if as_json else render(diagnosis)
    sys.stdout.write(text + "\n")
    return 0 if diagnosis.doors["torchrec"].open else 1


def diagnose() -> Diagnosis:
    """Try every door, each in its own process.

    Returns:
        The findings.
    """
    versions = {name: _version(name) for name in DISTRIBUTIONS}
    with ThreadPoolExecutor() as pool:
        compiling = pool.submit(find_compiler)
        answers = dict(zip(DOORS, pool.map(_try, DOORS), strict=True))
    doors = {name: door for name, (door, _) in answers.items()}
    facts, compiler = answers["torch_only"][1], compiling.result()
    return Diagnosis(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cuda=facts.get("cuda"),
        gpu=facts.get("gpu"),
        versions=versions,
        pairing=pair(versions),
        compiler=compiler,
        doors=doors,
        remedies=[
            *_remedies(versions, doors, facts),
            *([install_command(compiler.error)] if compiler.error else []),
        ],
    )


def pair(versions: dict[str, str | None]) -> Pairing:
    """Compare the installed versions with the release train.

    Args:
        versions: Version of each distribution by name; None if it is not installed.

    Returns:
        The verdict.

    Example:
        >>> pair({"torch": "2.13.0", "fbgemm-gpu-cpu": "1.6.0", "torchrec": "1.8.0"}).message
        'torch 2.13 needs FBGEMM 1.8 and TorchRec 1.8, got FBGEMM 1.6 and TorchRec 1.8'
        >>> pair({"torch": "2.10.0", "fbgemm-gpu-cpu": "1.5.0", "torchrec": "1.5.1"}).message
        'torch 2.10 needs FBGEMM 1.5 and TorchRec 1.5, and has them; sidrank needs torch 2.13'
    """
    if versions.get("fbgemm-gpu") and versions.get("fbgemm-gpu-cpu"):
        return Pairing(False, "fbgemm-gpu and fbgemm-gpu-cpu overwrite each other; keep one")
    if versions.get("fbgemm-gpu") and (versions.get("torch") or "").endswith("+cpu"):
        return Pairing(False, "fbgemm-gpu is a CUDA build and this torch is not")
    torch, torchrec = _minor(versions.get("torch")), _minor(versions.get("torchrec"))
    fbgemm = _minor(versions.get("fbgemm-gpu") or versions.get("fbgemm-gpu-cpu"))
    found = {"torch": torch, "FBGEMM": fbgemm, "TorchRec": torchrec}
    missing = [name for name, minor in found.items() if minor is None]
    if torch is None or missing:
        return Pairing(None, f"not installed: {', '.join(missing)}")
    if torch not in RELEASE_TRAIN:
        first, *_, last = RELEASE_TRAIN
        return Pairing(None, f"the table knows torch {first} to {last}, not torch {torch}")
    needs = tuple(_minor(number) for number in RELEASE_TRAIN[torch])
    text = f"torch {torch} needs FBGEMM {needs[0]} and TorchRec {needs[1]}"
    if (fbgemm, torchrec) != needs:
        return Pairing(False, f"{text}, got FBGEMM {fbgemm} and TorchRec {torchrec}")
    older = "" if torch in SUPPORTED else f"; sidrank needs torch {TESTED_TORCH}"
    return Pairing(True, f"{text}, and has them{older}")


def render(diagnosis: Diagnosis) -> str:
    """Lay the findings out for a terminal.

    Args:
        diagnosis: The findings.

    Returns:
        Lines of text.
    """
    gpu = diagnosis.gpu or "no GPU"
    lines = [f"Python {diagnosis.python}, {diagnosis.platform}, {gpu}", "", "versions"]
    for name, number in diagnosis.versions.items():
        lines.append(f"  {name:<16} {number or '-'}")
    verdict = {True: "ok", False: "WRONG", None: "unknown"}[diagnosis.pairing.ok]
    lines += ["", f"build     {_build(diagnosis)}"]
    lines += [f"pairing   {verdict}: {diagnosis.pairing.message}"]
    compiler = diagnosis.compiler
    state = f"MISSING  {compiler.error}; torch.compile and AOTInductor need it"
    lines += [f"compiler  {state if compiler.error else compiler.version}", "", "doors"]
    for name, door in diagnosis.doors.items():
        state = f"open  ({door.seconds:.1f} s)" if door.open else f"SHUT  {door.error}"
        lines.append(f"  {NAMES[name]:<16} {state}")
    if diagnosis.remedies:
        lines += ["", "type", "  " + " && ".join(diagnosis.remedies)]
    return "\n".join(lines)


def _build(diagnosis: Diagnosis) -> str:
    torch = diagnosis.versions["torch"]
    if torch is None or not diagnosis.doors["torch_only"].open:
        return "unknown: torch does not load"
    if diagnosis.cuda is None:
        return "torch for CPUs, whose FBGEMM is fbgemm-gpu-cpu (extra `cpu`)"
    if diagnosis.gpu is None:
        return f"torch for CUDA {diagnosis.cuda}, which sees no GPU: the extra `cpu` serves here"
    return f"torch for CUDA {diagnosis.cuda}, whose FBGEMM is fbgemm-gpu (extra `cuda`)"


def _remedies(
    versions: dict[str, str | None], doors: dict[str, Door], facts: dict[str, str | None]
) -> list[str]:
    commands: list[str] = []
    if not doors["torch_only"].open and _minor(versions["torch"]) in SUPPORTED:
        core = [name for name in ("numpy", "safetensors") if not versions[name]]
        core = core or ["--force-reinstall", f"torch=={versions['torch']}"]
        commands.append(f"pip install {' '.join(core)}")
    if not doors["torchrec"].open or pair(versions).ok is False:
        commands += _torchrec_remedies(versions, facts)
    lacking = [name for name in COMFORTS if not versions[name]]
    if lacking:
        commands.append(f"pip install {' '.join(lacking)}")
    return commands


def _torchrec_remedies(versions: dict[str, str | None], facts: dict[str, str | None]) -> list[str]:
    commands: list[str] = []
    torch = _minor(versions["torch"])
    if torch not in SUPPORTED:
        torch = TESTED_TORCH
        commands.append(f"pip install torch=={torch}.0")
    fbgemm, torchrec = RELEASE_TRAIN[torch]
    wanted, other = ("fbgemm-gpu-cpu", "fbgemm-gpu")
    kept = versions["fbgemm-gpu"] and not versions["fbgemm-gpu-cpu"]
    if facts.get("cuda") and (facts.get("gpu") or kept):  # CUDA torch runs without a GPU, too
        wanted, other = other, wanted
    if versions[other]:
        commands.append(f"pip uninstall --yes {other}")
    wheels = f"{wanted}=={fbgemm} torchrec=={torchrec}"
    # --no-deps: TorchRec would bring the CUDA FBGEMM, and that another torch
    commands.append(f"pip install --no-deps --force-reinstall {wheels}")
    commands.append("pip install tensordict torchmetrics==1.0.3 pyre-extensions tqdm")
    return commands


def _try(name: str) -> tuple[Door, dict[str, str | None]]:
    start = time.perf_counter()
    command = [sys.executable, "-P", "-m", "sidrank.cli.doors", name]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Door(False, TIMEOUT, f"no answer in {TIMEOUT:.0f} s"), {}
    answer = _last_object(done.stdout)
    if answer is None:
        error = f"the process ended with code {done.returncode}: {_last(done.stderr)}"
    else:
        error = answer["error"]
    return Door(error is None, round(time.perf_counter() - start, 2), error), answer or {}


def _last_object(text: str) -> dict[str, str | None] | None:
    for line in reversed(text.splitlines()):
        if line.startswith('{"error"'):
            return json.loads(line)
    return None


def _last(text: str) -> str:
    lines = text.split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _minor(number: str | None) -> str | None:
    return ".".join(number.split("+")[0].split(".")[:2]) if number else None
