"""Whether a C++ compiler works here: `torch.compile` and AOTInductor build what they run on a CPU.

Nothing in torch's metadata asks for one, and Inductor says so only when it fails. A name on the
PATH is not enough: without Python's headers or OpenMP the first compilation fails. So a small
library is built. Only the standard library is imported here.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Compiler", "find_compiler", "install_command"]

SOURCE = """#include <Python.h>
#include <omp.h>
#include <vector>
int threads() { return std::vector<int>(1, omp_get_max_threads())[0]; }
"""
# package manager: (verb, compiler, headers of Python, OpenMP of clang)
PACKAGES = {
    "apt-get": ("install", "g++", "python3-dev", "libomp-dev"),
    "dnf": ("install", "gcc-c++", "python3-devel", "libomp-devel"),
    "apk": ("add", "g++", "python3-dev", "openmp-dev"),
    "conda": ("install -c conda-forge", "gxx", "python", "llvm-openmp"),
}
TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Compiler:
    """What became of building a small library.

    Args:
        path: The compiler; None if there is none.
        version: First line of what it says of itself.
        error: Why it is of no use, in one line; None if it works.
    """

    path: str | None
    version: str | None
    error: str | None


def find_compiler() -> Compiler:
    """Build a library with the compiler that torch would take: CXX, or one on the PATH.

    Returns:
        The finding.
    """
    asked = shlex.split(os.environ.get("CXX", ""))[:1]
    names = asked or (["clang++"] if sys.platform == "darwin" else ["g++", "clang++"])
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        return Compiler(None, None, f"no C++ compiler found, looked for {' and '.join(names)}")
    said = _run([path, "--version"])
    version = said.stdout.strip().splitlines()[0] if said.stdout.strip() else None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text(SOURCE)
        flags = ["-shared", "-fPIC", "-std=c++17", f"-I{sysconfig.get_path('include')}"]
        openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
        built = _run([path, *flags, *openmp, str(source), "-o", str(Path(folder) / "trial.so")])
    return Compiler(path, version, None if built.returncode == 0 else _reason(built))


def install_command(error: str) -> str:
    """What to type.

    Args:
        error: What ``find_compiler`` found wrong.

    Returns:
        One line for the package manager of this machine.
    """
    openmp = any(name in error for name in ("omp.h", "-lomp", "-lgomp"))
    wanted = 2 if "Python.h" in error else 3 if openmp else 1
    if sys.platform == "darwin":
        return "xcode-select --install" if wanted == 1 else "brew install python libomp"
    manager = next((name for name in PACKAGES if shutil.which(name)), "apt-get")
    package = PACKAGES[manager]
    root = manager == "conda" or os.geteuid() == 0
    return f"{'' if root else 'sudo '}{manager} {package[0]} {package[wanted]}"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"error: {error}")


def _reason(built: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in built.stderr.splitlines() if line.strip()]
    named = [line.partition("error:")[2].strip() for line in lines if "error:" in line]
    return (named or lines or [f"it ended with code {built.returncode}"])[0]
