"""An exported program as machine code in a file.

AOTInductor writes C++ and has it compiled for the processor that it runs on, with the vector
instructions that it finds there. The file holds the weights too.

Source: AOTInductor of PyTorch 2.13.
"""

import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor import aoti_compile_and_package, cpp_builder, exc
from torch._inductor.package import load_package
from torch.export import ExportedProgram

__all__ = ["check_compiler", "load_compiled", "processor", "save_compiled"]


def check_compiler() -> None:
    """Ask for a C++ compiler before anything else is done.

    Raises:
        ValueError: If there is none.
    """
    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError) as error:
        raise ValueError(
            "compiled must be False without a C++ compiler, got none that runs: install g++, or"
            " name one in CXX"
        ) from error


def save_compiled(program: ExportedProgram, path: Path) -> None:
    """Compile a program.

    Args:
        program: The program.
        path: The file to write.
    """
    # as many threads as torch may use where it runs, not where it was compiled
    options = {"cpp.dynamic_threads": True}
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def load_compiled(path: Path, *, runners: int = 1) -> Callable[..., Tensor]:
    """Read a compiled program.

    Args:
        path: The file.
        runners: Calls that are answered at the same time; others wait.

    Returns:
        The program: it takes tensors in order and gives one.
    """
    loader = load_package(str(path), num_runners=runners).loader

    def run(*tensors: Tensor) -> Tensor:
        # its own __call__ parses the tree of arguments anew every time; here there is none
        return loader.boxed_run(list(tensors))[0]  # pyright: ignore[reportAttributeAccessIssue]

    return run


def processor() -> dict[str, str]:
    """What machine code was made for.

    Returns:
        Kind of machine, and the vector instructions that torch uses.
    """
    return {"machine": platform.machine(), "vectors": torch.backends.cpu.get_cpu_capability()}
