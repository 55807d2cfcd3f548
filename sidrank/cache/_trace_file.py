"""What an access trace keeps on disk: a safetensors file of sums, named in its header.

Tables are numbered in the names of the tensors and named in the header alone, so that a name can
be anything and never becomes a path. Nothing is unpickled.

Shapes: ``[S]`` segments, ``[P]`` numbers of slots.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from sidrank._disk import publish
from sidrank.cache._reuse import SEGMENTS, Sums, grid

__all__ = ["Counted", "Shard", "read", "write"]

_FORMAT = "sidrank-access-trace-1"


class Shard(NamedTuple):
    """A table, or what one rank has of it."""

    rows: int
    """Its rows."""
    sums: Sums
    """What was counted."""


class Counted(NamedTuple):
    """All that a file holds."""

    sampling: float
    """Share of the rows that was followed."""
    batches: int
    """Batches observed."""
    tables: dict[str, list[Shard]]
    """Shards by name of the table."""


def write(path: Path, counted: Counted) -> None:
    """Write a file, or leave the old one.

    Args:
        path: The file.
        counted: What it shall hold.

    Raises:
        OSError: If the disk refuses.
    """
    tensors: dict[str, NDArray[np.float64]] = {}
    tables: list[dict[str, Any]] = []
    for place, (name, shards) in enumerate(counted.tables.items()):
        tables.append({"name": name, "rows": [shard.rows for shard in shards]})
        for number, (_, sums) in enumerate(shards):
            lower = np.tril_indices(len(sums.accesses))
            tensors[f"{place}.{number}.accesses"] = sums.accesses
            tensors[f"{place}.{number}.followed"] = sums.followed
            tensors[f"{place}.{number}.hits"] = sums.hits[lower]
    length = next(iter(counted.tables.values()))[0].sums.length
    header = {
        "format": _FORMAT,
        "sampling": counted.sampling,
        "batches": counted.batches,
        "length": length,
        "tables": tables,
    }
    content = save_tensors(tensors, metadata={"trace": json.dumps(header)})
    publish(path, [content])
    path.chmod(0o644)  # others may read what is no secret


def read(path: Path) -> Counted:
    """Read a file and check all of it.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a whole trace.
    """
    content = path.read_bytes()
    try:
        return _parsed(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        told = str(error) or type(error).__name__
        raise ValueError(f"{path} must be a whole access trace, got {told}") from error


def _parsed(content: bytes) -> Counted:
    tensors = load_tensors(content)
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    header = cast(dict[str, Any], json.loads(metadata["trace"]))
    if header["format"] != _FORMAT:
        raise ValueError(f"the format {header['format']}")
    sampling, batches, length = header["sampling"], header["batches"], header["length"]
    whole = isinstance(batches, int) and isinstance(length, int) and length >= 1
    if not (whole and 0 < batches <= SEGMENTS * length and 0 < sampling <= 1):
        raise ValueError(f"{batches} batches in segments of {length} at sampling {sampling}")
    tables: dict[str, list[Shard]] = {}
    for place, table in enumerate(header["tables"]):
        if not table["rows"] or table["name"] in tables:
            raise ValueError(f"table {table['name']} twice, or without rows")
        tables[str(table["name"])] = [
            Shard(rows, _sums(tensors, f"{place}.{number}", rows, batches, length))
            for number, rows in enumerate(table["rows"])
        ]
    if not tables:
        raise ValueError("no table")
    return Counted(float(sampling), batches, tables)


def _sums(
    tensors: dict[str, NDArray[Any]], name: str, rows: int, batches: int, length: int
) -> Sums:
    if not (isinstance(rows, int) and 1 <= rows < 2**63):
        raise ValueError(f"{rows} rows")
    held = -(-batches // length)
    points = len(grid(rows))
    lower = np.tril_indices(held)
    accesses, followed, flat = (
        tensors[f"{name}.{part}"] for part in ("accesses", "followed", "hits")
    )
    if accesses.shape != (held,) or followed.shape != (held,):
        raise ValueError(f"{accesses.shape} accesses for {held} segments")
    if flat.shape != (len(lower[0]), points):
        raise ValueError(f"hits of shape {flat.shape} for {rows} rows")
    for part in (accesses, followed, flat):
        if part.dtype != np.float64 or not (np.isfinite(part) & (part >= 0)).all():
            raise ValueError("numbers below 0, or none at all")
    hits = np.zeros((held, held, points))
    hits[lower] = flat
    if (hits.sum(axis=1) > followed[:, None] * (1 + 1e-9)).any() or (followed > accesses).any():
        raise ValueError("more hits than accesses")
    return Sums(batches, length, accesses, followed, hits)
