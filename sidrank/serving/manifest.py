"""The folder of an exported ranker: written whole or not at all, and checked before it is used.

``manifest.json`` says of every other file how long it is and its SHA-256, and of itself the
SHA-256 of what it says. A folder is filled under a hidden name beside its place, the manifest
last, flushed to the disk and renamed; what a killed writer leaves behind has no manifest and does
not load. The digests find damage and mix-ups. They are no signature against someone who recomputes
them: load only what you or yours have written.

Source: ours.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "MANIFEST", "read_manifest", "write_manifest"]

FORMAT = "sidrank-ranker-1"
MANIFEST = "manifest.json"


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest of what is in a folder.

    Args:
        folder: Holds the other files and nothing else.
        content: What else the manifest says.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _digest_of(path)}
        for path in sorted(folder.iterdir())
    }
    told = {"format": FORMAT, **content, "files": files}
    told["checksum"] = _digest(_canonical(told))
    (folder / MANIFEST).write_bytes(_canonical(told))


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a manifest and check every file it names.

    Args:
        path: The folder.

    Returns:
        What the manifest says.

    Raises:
        ValueError: If the folder is no exported ranker, or one of another format, or a file is
            missing, one too many, cut short or altered.
    """
    folder = Path(path)
    place = folder / MANIFEST
    if not place.is_file():
        raise ValueError(f"folder must be an exported ranker, got {folder} without {MANIFEST}")
    content = place.read_bytes()
    try:
        told = json.loads(content)
        found = told.get("format")
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"{place} must be whole, got {error}") from error
    if found != FORMAT:
        raise ValueError(f"{place} must be of format {FORMAT}, got {found!r}")
    unsigned = {name: value for name, value in told.items() if name != "checksum"}
    # the second comparison catches what parsing forgives: spaces, escapes, repeated keys
    if told.get("checksum") != _digest(_canonical(unsigned)) or content != _canonical(told):
        raise ValueError(f"{place} must be unaltered, got another checksum")
    names = sorted(each.name for each in folder.iterdir() if each.name != MANIFEST)
    if names != sorted(told["files"]):
        raise ValueError(f"{folder} must hold {sorted(told['files'])}, got {names}")
    for name, known in told["files"].items():
        size = (folder / name).stat().st_size
        if size != known["bytes"]:
            raise ValueError(f"{folder / name} must have {known['bytes']} bytes, got {size}")
        digest = _digest_of(folder / name)
        if digest != known["sha256"]:
            raise ValueError(f"{folder / name} must have SHA-256 {known['sha256']}, got {digest}")
    return told


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(told: dict[str, Any]) -> bytes:
    return (json.dumps(told, indent=2, allow_nan=False) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
