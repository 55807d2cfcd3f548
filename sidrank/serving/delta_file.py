"""A delta in one file, written whole or not at all and checked to the last bit when it is read.

The file is safetensors; its manifest (base, number, lengths, SID tables, hash) is in the header.
It is written under another name in the same folder, flushed to the disk and renamed, so a
server that watches the folder never meets half of it. Reading computes the hash anew: a file that
was cut short or altered is refused. The hash finds damage and mix-ups; it is no signature against
someone who recomputes it. Nothing is unpickled and no name in the file becomes a path.

Shapes: see :class:`~sidrank.serving.Delta`.
"""

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from sidrank._disk import publish
from sidrank.serving._sid_growth import Growth
from sidrank.serving.delta import ChangedRows, Delta

__all__ = ["load_delta", "save_delta"]

_FORMAT = "sidrank-delta-1"
# what json, safetensors and our own checks raise on content that no writer of ours produced
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, safetensors.SafetensorError)


def save_delta(path: str | os.PathLike[str], delta: Delta) -> None:
    """Write a delta; on any failure nothing is left behind.

    Args:
        path: The file, which must not exist. Its folder must.
        delta: The delta.

    Raises:
        FileExistsError: If ``path`` exists: what a server may have read is not changed.
        OSError: If the disk refuses.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise FileExistsError(f"path must not exist yet, got {target}")
    about = {"format": _FORMAT, "hash": delta.hash, "manifest": json.dumps(delta.manifest())}
    tensors = {name: tensor.contiguous() for name, tensor in delta.tensors().items()}
    content = safetensors.torch.save(tensors, metadata=about)
    publish(target.absolute(), [content])


def load_delta(path: str | os.PathLike[str]) -> Delta:
    """Read a delta and check all of it.

    Args:
        path: The file.

    Returns:
        The delta. It says to which version it belongs; ``apply_delta`` holds it to that.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it was cut short, altered, or is something else.
    """
    file = Path(path)
    content = file.read_bytes()
    try:
        delta, promised = _parsed(content)
    except _DAMAGE as error:
        raise ValueError(f"{file} must hold an intact delta, got {error}") from error
    if delta.hash != promised:
        raise ValueError(f"{file} must have the hash {promised}, got {delta.hash}")
    return delta


def _parsed(content: bytes) -> tuple[Delta, str]:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = header.get("__metadata__", {})
    if about.get("format") != _FORMAT:
        raise ValueError(f"format {about.get('format')!r} and not {_FORMAT!r}")
    tensors = safetensors.torch.load(content)
    manifest: dict[str, Any] = json.loads(about["manifest"])
    delta = Delta(
        base=str(manifest["base"]),
        number=int(manifest["number"]),
        rows={
            name: ChangedRows(tensors.pop(f"rows/{name}"), tensors.pop(f"values/{name}"), length)
            for name, length in manifest["lengths"].items()
        },
        items={
            path: Growth(tensors.pop(f"items/{path}"), tensors.pop(f"codes/{path}"), **part)
            for path, part in manifest["items"].items()
        },
        whole=_rest(tensors),
    )
    return delta, about["hash"]


def _rest(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    strange = [name for name in tensors if not name.startswith("whole/")]
    if strange:
        raise ValueError(f"a tensor {strange[0]!r} that the manifest does not tell of")
    return {name.removeprefix("whole/"): tensor for name, tensor in tensors.items()}
