"""Byte-pair merges on disk: one safetensors file, written whole or not at all.

The tensor ``merges`` (int32 ``[M, 2]``) and, as text in the header, the spec, the content hash and
where the merges were learned. Reading checks all of it; nothing is unpickled. The digests find
damage and mix-ups; they are no signature against someone who recomputes them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from sidrank._disk import publish
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDVersionError

__all__ = ["load_bpe", "save_bpe"]

_FORMAT = "sidrank-bpe-1"
# what json, safetensors and our own checks raise on content that no writer of ours produced
_DAMAGE = (OSError, ValueError, TypeError, LookupError, RecursionError, SafetensorError)


def save_bpe(path: str | os.PathLike[str], bpe: SIDBPE) -> None:
    """Write the merges; on any failure nothing is left behind.

    Args:
        path: File to create. Its directory must exist.
        bpe: The merges.

    Raises:
        ValueError: If ``path`` exists already: rows of a table that was trained for one set of
            merges mean nothing under another.
        OSError: If the disk refuses.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise ValueError(f"path must not exist yet, got {target}")
    about: dict[str, Any] = {
        "format": _FORMAT,
        "codebook_sizes": list(bpe.spec.codebook_sizes),
        "content_hash": bpe.content_hash,
        "table_hash": bpe.table_hash,
        "table_version": bpe.table_version,
    }
    about["checksum"] = _digest(about)
    content = safetensors.numpy.save({"merges": bpe.merges}, metadata={"bpe": json.dumps(about)})
    publish(target.absolute(), [content])


def load_bpe(path: str | os.PathLike[str], *, expected_hash: str | None = None) -> SIDBPE:
    """Read merges and check all of them.

    Args:
        path: The file.
        expected_hash: Content hash that they must have, if the caller knows it.

    Returns:
        The merges.

    Raises:
        SIDVersionError: If the file is missing, unreadable, truncated or altered, or the merges
            have another content hash than the file or ``expected_hash`` says.
    """
    try:
        bpe, recorded = _read(Path(path))
    except _DAMAGE as error:
        raise SIDVersionError(f"{path} must be an intact SIDBPE file, got {error}") from error
    wanted = recorded if expected_hash is None else expected_hash
    if bpe.content_hash != wanted or bpe.content_hash != recorded:
        raise SIDVersionError(f"{path} must hold the SIDBPE {wanted}, got {bpe.content_hash}")
    return bpe


def _read(path: Path) -> tuple[SIDBPE, str]:
    with safe_open(path, framework="numpy") as file:
        about = json.loads((file.metadata() or {})["bpe"])
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']!r}")
        merges = np.asarray(file.get_tensor("merges"))
    if about.pop("checksum") != _digest(about):
        raise ValueError("another checksum")
    bpe = SIDBPE(
        merges,
        spec=SIDSpec(tuple(about["codebook_sizes"])),
        table_hash=about["table_hash"],
        table_version=about["table_version"],
    )
    return bpe, about["content_hash"]


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
