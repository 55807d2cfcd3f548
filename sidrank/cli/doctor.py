"""`sidrank doctor`: versions, wheel pairing, which doors work, and what to type if one does not.

torch, FBGEMM and TorchRec must come from one release train, and no metadata says so: the CPU build
of FBGEMM is another distribution than the one TorchRec asks for, and a wrong one ends in
`OSError: Could not load this library`. Only the standard library is imported here.
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
# torch: (FBGEMM, TorchRec). sidrank is tested with 2.13; the next one follows the release train.
RELEASE_TRAIN = {"2.13": ("1.8", "1.8"), "2.14": ("1.9", "1.9")}
TESTED_TORCH = "2.13"
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
        doors: Each door by name.
        remedies: Commands to type, in order; empty if nothing is wrong.
    """

    python: str
    platform: str
    cuda: str | None
    gpu: str | None
    versions: dict[str, str | None]
    pairing: Pairing
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
        answers = dict(zip(DOORS, pool.map(_try, DOORS), strict=True))
    doors = {name: door for name, (door, _) in answers.items()}
    facts = answers["torch_only"][1]
    return Diagnosis(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cuda=facts.get("cuda"),
        gpu=facts.get("gpu"),
        versions=versions,
        pairing=pair(versions),
        doors=doors,
        remedies=_remedies(versions, doors, facts.get("cuda")),
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
        known = " and ".join(RELEASE_TRAIN)
        return Pairing(None, f"the table knows torch {known}, not torch {torch}")
    needs = RELEASE_TRAIN[torch]
    text = f"torch {torch} needs FBGEMM {needs[0]} and TorchRec {needs[1]}"
    if (fbgemm, torchrec) != needs:
        return Pairing(False, f"{text}, got FBGEMM {fbgemm} and TorchRec {torchrec}")
    return Pairing(True, f"{text}, and has them")


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
    lines += ["", f"pairing  {verdict}: {diagnosis.pairing.message}", "", "doors"]
    for name, door in diagnosis.doors.items():
        state = f"open  ({door.seconds:.1f} s)" if door.open else f"SHUT  {door.error}"
        lines.append(f"  {NAMES[name]:<16} {state}")
    if diagnosis.remedies:
        lines += ["", "type", *(f"  {command}" for command in diagnosis.remedies)]
    return "\n".join(lines)


def _remedies(
    versions: dict[str, str | None], doors: dict[str, Door], cuda: str | None
) -> list[str]:
    commands: list[str] = []
    if not doors["torch_only"].open and _minor(versions["torch"]) in RELEASE_TRAIN:
        core = [name for name in ("numpy", "safetensors") if not versions[name]]
        core = core or ["--force-reinstall", f"torch=={versions['torch']}"]
        commands.append(f"pip install {' '.join(core)}")
    if not doors["torchrec"].open or pair(versions).ok is False:
        commands += _torchrec_remedies(versions, cuda)
    lacking = [name for name in COMFORTS if not versions[name]]
    if lacking:
        commands.append(f"pip install {' '.join(lacking)}")
    return commands


def _torchrec_remedies(versions: dict[str, str | None], cuda: str | None) -> list[str]:
    commands: list[str] = []
    torch = _minor(versions["torch"])
    if torch not in RELEASE_TRAIN:
        torch = TESTED_TORCH
        commands.append(f"pip install torch=={torch}.0")
    fbgemm, torchrec = RELEASE_TRAIN[torch]
    wanted, other = ("fbgemm-gpu-cpu", "fbgemm-gpu")
    if cuda is not None:
        wanted, other = other, wanted
    if versions[other]:
        commands.append(f"pip uninstall --yes {other}")
    wheels = f"{wanted}=={fbgemm}.0 torchrec=={torchrec}.0"
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
