"""An exported program in a file, read without unpickling anything.

``torch.export.load`` reads tensors as raw bytes where the file says so, and unpickles them, or
whole objects, where the file says that. What ``torch.export.save`` writes of a ranker has no such
entry, so a file with one is not ours and is refused before it is read.

Source: the PT2 archive of PyTorch 2.13.
"""

import io
import json
import zipfile
from pathlib import Path, PurePosixPath

import torch
from torch.export import ExportedProgram

__all__ = ["load_program"]

_PLAIN = ("weight_", "tensor_")


def load_program(path: Path) -> ExportedProgram:
    """Read a program.

    Args:
        path: What ``torch.export.save`` wrote.

    Returns:
        The program.

    Raises:
        ValueError: If the file holds pickled objects, or this torch cannot read it.
    """
    try:
        pickled = _pickled(path)
        if not pickled:
            return torch.export.load(path)
    except Exception as error:  # torch raises dozens of kinds
        raise ValueError(
            f"{path} must be a program that torch {torch.__version__} reads, got"
            f" {type(error).__name__}: {error}"
        ) from error
    raise ValueError(f"{path} must hold plain tensors, got pickled objects in {pickled[0]}")


def _pickled(path: Path) -> list[str]:
    """Entries that reading would unpickle."""
    found: list[str] = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            entry = PurePosixPath(name)
            kind = entry.parent.name
            if kind in ("weights", "constants") and entry.suffix == ".json":
                for told in json.loads(archive.read(name))["config"].values():
                    if told["use_pickle"] or not told["path_name"].startswith(_PLAIN):
                        found.append(f"{entry.parent / told['path_name']}")
            elif kind in ("weights", "constants") and entry.suffix:  # of older archives
                found.append(name)
            elif kind == "sample_inputs":
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    return found
