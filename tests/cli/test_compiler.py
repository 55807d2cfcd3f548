"""What `sidrank doctor` finds of a C++ compiler; compilers here are scripts that say one thing."""

import shutil
import sys

import pytest

from sidrank.cli.compiler import find_compiler, install_command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts and flags are of Linux")


@pytest.fixture
def only(tmp_path, monkeypatch):
    """A PATH that holds nothing but the commands given."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    def put(name, script="exit 0"):
        command = tmp_path / name
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        return str(command)

    return put


def test_the_machines_own():
    if shutil.which("g++") is None:
        pytest.skip("this machine has no g++")
    found = find_compiler()
    assert found.path == shutil.which("g++")
    assert "g++" in found.version


def test_none(only):
    only("clang")
    found = find_compiler()
    assert (found.path, found.version) == (None, None)
    assert found.error == "no C++ compiler found, looked for g++ and clang++"


def test_cxx_names_it(only, monkeypatch):
    path = only("mycc", 'echo "mycc 1.2"')
    only("g++")
    monkeypatch.setenv("CXX", "mycc -O2")
    found = find_compiler()
    assert (found.path, found.version, found.error) == (path, "mycc 1.2", None)


def test_cxx_that_is_not_there(only, monkeypatch):
    only("g++")
    monkeypatch.setenv("CXX", "nowhere")
    assert find_compiler().error == "no C++ compiler found, looked for nowhere"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 't.cpp:1:10: fatal error: Python.h: No such file' >&2; exit 1", "Python.h: No such"),
        ("echo 'note' >&2; echo 'error: omp.h is missing' >&2; exit 1", "omp.h is missing"),
        ("echo 'cannot find -lgomp' >&2; exit 1", "cannot find -lgomp"),
        ("exit 3", "it ended with code 3"),
    ],
)
def test_one_that_does_not_build(only, script, reason):
    only("g++", f'if [ "$1" = --version ]; then echo "g++ 12"; exit 0; fi; {script}')
    found = find_compiler()
    assert found.version == "g++ 12"
    assert found.error.startswith(reason)


@pytest.mark.parametrize(
    ("manager", "error", "command"),
    [
        ("apt-get", "no C++ compiler found", "apt-get install g++"),
        ("apt-get", "Python.h: No such file", "apt-get install python3-dev"),
        ("apt-get", "'omp.h' file not found", "apt-get install libomp-dev"),
        ("dnf", "no C++ compiler found", "dnf install gcc-c++"),
        ("apk", "Python.h: No such file", "apk add python3-dev"),
        (None, "no C++ compiler found", "apt-get install g++"),
    ],
)
def test_what_to_type(only, manager, error, command):
    if manager:
        only(manager)
    assert install_command(error).removeprefix("sudo ") == command
