"""A SID table on disk, with the tokenizer that made it: written whole or not at all.

A bundle is a directory::

    codes.safetensors      item_ids int64 [V], sorted; codes int32 [V, N]
    tokenizer.safetensors  tensors of the fitted tokenizer (absent if none was given)
    manifest.json          spec, version, parent, content hash, tokenizer and its arguments,
                           counts, quality, SHA-256 of both files and of itself

It is written under a temporary name in the same parent directory, flushed to the disk and
renamed; the manifest comes last, so what an interrupted writer leaves behind does not load.
Reading checks every byte: the manifest must be exactly what its content serialises to, each
file must have the recorded digest, and the table must hash to the recorded content hash. The
digests find damage and mix-ups; they are no signature against someone who recomputes them.
No file name is taken from the manifest, and nothing is unpickled.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from sidrank._disk import new_folder
from sidrank.semantic_ids.quality import SIDQuality
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable, SIDVersionError
from sidrank.semantic_ids.tokenizer import FittedTokenizer

__all__ = ["SIDBundle", "load_bundle", "save_bundle"]

_CODES = "codes.safetensors"
_TOKENIZER = "tokenizer.safetensors"
_MANIFEST = "manifest.json"
_FORMAT = "sidrank-bundle-1"
# what json, safetensors and our own checks raise on content that no writer of ours produced
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SafetensorError,
)


@dataclass(frozen=True, slots=True)
class SIDBundle:
    """What a bundle holds.

    Attributes:
        table: The codes.
        tokenizer_state: Tensors of the tokenizer by name, None if the bundle has no tokenizer.
        manifest: The manifest; its ``tokenizer`` entry has ``name`` and ``arguments``.
    """

    table: SIDTable
    tokenizer_state: dict[str, Tensor] | None
    manifest: dict[str, Any]


def save_bundle(
    path: str | os.PathLike[str],
    table: SIDTable,
    *,
    tokenizer: FittedTokenizer | None = None,
    quality: SIDQuality | None = None,
) -> None:
    """Write a bundle; on any failure nothing is left behind.

    Args:
        path: Directory to create. Its parent must exist.
        table: The codes.
        tokenizer: The fitted tokenizer that made them.
        quality: What :func:`~sidrank.semantic_ids.quality` found.

    Raises:
        ValueError: If ``path`` exists already (a bundle is never changed in place), or
            ``quality`` is of another table.
        OSError: If the disk refuses.
    """
    if quality is not None and (quality.hash, quality.version) != (
        table.content_hash,
        table.version,
    ):
        raise ValueError(f"quality must be of table {table.content_hash}, got {quality.hash}")
    with new_folder(Path(path), "path") as folder:
        _fill(folder, table, tokenizer, quality)


def load_bundle(path: str | os.PathLike[str], *, expected_hash: str | None = None) -> SIDBundle:
    """Read a bundle and check all of it.

    Args:
        path: The directory.
        expected_hash: Content hash that the table must have, if the caller knows it.

    Returns:
        The table, the tensors of the tokenizer and the manifest.

    Raises:
        SIDVersionError: If a file is missing, unreadable, truncated or altered, or the table
            has another content hash than the manifest or ``expected_hash`` says.
    """
    folder = Path(path)
    try:
        return _load(folder, expected_hash)
    except SIDVersionError:
        raise
    except _DAMAGE as error:
        raise SIDVersionError(f"{folder} must be an intact SID bundle, got {error}") from error


def _fill(
    folder: Path, table: SIDTable, tokenizer: FittedTokenizer | None, quality: SIDQuality | None
) -> None:
    codes = {
        "item_ids": torch.from_numpy(table.item_ids.copy()),
        "codes": torch.from_numpy(table.codes.copy()),
    }
    files = {_CODES: _write(folder / _CODES, safetensors.torch.save(codes))}
    if tokenizer is not None:
        state = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in tokenizer.state_dict().items()
        }
        files[_TOKENIZER] = _write(folder / _TOKENIZER, safetensors.torch.save(state))
    manifest = _description(table) | {
        "tokenizer": None
        if tokenizer is None
        else {"name": type(tokenizer).__name__, "arguments": tokenizer.arguments},
        "quality": None if quality is None else quality.to_dict(complete=True),
        "files": files,
    }
    manifest["checksum"] = _digest(_canonical(manifest))
    _write(folder / _MANIFEST, _canonical(manifest))


def _description(table: SIDTable) -> dict[str, Any]:
    """Return the part of the manifest that the table determines."""
    return {
        "format": _FORMAT,
        "items": len(table),
        "spec": {"codebook_sizes": list(table.spec.codebook_sizes)},
        "version": table.version,
        "parent_version": table.version - 1 if table.ancestors else None,
        "parent": table.parent,
        "ancestors": list(table.ancestors),
        "content_hash": table.content_hash,
    }


def _load(folder: Path, expected_hash: str | None) -> SIDBundle:
    manifest = _read_manifest(folder)
    recorded = manifest["content_hash"]
    if expected_hash is not None and recorded != expected_hash:
        raise SIDVersionError(
            f"{folder} must hold the SID table {expected_hash}, "
            f"got {recorded} (version {manifest['version']})"
        )
    names = [_CODES] if manifest["tokenizer"] is None else [_CODES, _TOKENIZER]
    if sorted(manifest["files"]) != names:
        raise SIDVersionError(f"{folder / _MANIFEST} must list {names}, got other files")
    codes = _read_tensors(folder / _CODES, manifest["files"][_CODES])
    if sorted(codes) != ["codes", "item_ids"]:
        raise SIDVersionError(
            f"{folder / _CODES} must hold item_ids and codes, got {sorted(codes)}"
        )
    table = SIDTable(
        codes["item_ids"],
        codes["codes"],
        spec=SIDSpec(tuple(manifest["spec"]["codebook_sizes"])),
        version=manifest["version"],
        ancestors=manifest["ancestors"],
    )
    if table.content_hash != recorded:
        raise SIDVersionError(
            f"{folder} must hold the SID table {recorded}, got {table.content_hash}"
        )
    for name, value in _description(table).items():
        if manifest[name] != value:
            raise SIDVersionError(
                f"{folder / _MANIFEST} must have {name} {value}, got {manifest[name]}"
            )
    _check_opaque(folder, manifest)
    state = None
    if manifest["tokenizer"] is not None:
        state = _read_tensors(folder / _TOKENIZER, manifest["files"][_TOKENIZER])
    return SIDBundle(table, state, manifest)


def _check_opaque(folder: Path, manifest: dict[str, Any]) -> None:
    """Check the form of what this module stores without understanding it."""
    found = manifest["quality"]
    if found is not None and not isinstance(found, dict):
        raise SIDVersionError(f"{folder / _MANIFEST} must have an object as quality, got {found}")
    made_by = manifest["tokenizer"]
    if made_by is not None and not (
        isinstance(made_by["name"], str) and isinstance(made_by["arguments"], dict)
    ):
        raise SIDVersionError(f"{folder / _MANIFEST} must name its tokenizer, got {made_by}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise SIDVersionError(f"{folder} must be a SID bundle, got no such directory")
    content = _read(folder / _MANIFEST)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SIDVersionError(f"{folder / _MANIFEST} must be whole, got {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise SIDVersionError(f"{folder / _MANIFEST} must be of format {_FORMAT}, got another")
    unsigned = {name: value for name, value in manifest.items() if name != "checksum"}
    # the second comparison catches what parsing forgives: spaces, escapes, repeated keys
    if manifest.get("checksum") != _digest(_canonical(unsigned)) or content != _canonical(manifest):
        raise SIDVersionError(f"{folder / _MANIFEST} must be unaltered, got another checksum")
    return manifest


def _read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    content = _read(path)
    found = _digest(content)
    if found != digest:
        raise SIDVersionError(f"{path} must have SHA-256 {digest}, got {found}")
    return safetensors.torch.load(content)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise SIDVersionError(f"{path} must be a file, got none")
    return path.read_bytes()


def _write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return _digest(content)


def _canonical(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
