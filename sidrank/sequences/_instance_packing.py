"""Rows of an instance store as fixed-size records, each with a checksum of its own.

Stores in memory and in files keep the same records, so what is put, what is read and what is
refused is decided here, once.

Shapes: ``n`` records, ``B`` requests, ``T`` newest instances, ``D`` width, ``S`` sides.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_integers
from sidrank.sequences.instance_rows import UNKNOWN_SIDE, InstanceHistory, InstanceSpec, mixed

__all__ = ["assembled", "check_model_version", "checksums", "pack", "record", "requests_of"]

Ints = NDArray[np.int64]
Records = NDArray[np.void]
_BLOCK = 1 << 14


def record(spec: InstanceSpec) -> np.dtype[np.void]:
    """Layout of a record: little-endian, a multiple of eight bytes, the checksum last.

    Args:
        spec: What is in it.

    Returns:
        A structured dtype without holes.
    """
    vector = np.dtype("<f4" if spec.precision == "float32" else "<f2")
    used = 8 * (3 + spec.num_sides) + 4 * spec.num_sides + vector.itemsize * spec.dim
    return np.dtype(
        [
            ("user", "<i8"),
            ("instance", "<i8"),
            ("event_time", "<i8"),
            ("label_times", "<i8", (spec.num_sides,)),
            ("sides", "<i4", (spec.num_sides,)),
            ("vector", vector, (spec.dim,)),
            ("padding", "u1", (-used % 8,)),
            ("checksum", "<u8"),
        ]
    )


def pack(
    spec: InstanceSpec,
    *,
    users: object,
    instances: object,
    event_times: object,
    label_times: object,
    sides: object,
    vectors: object,
) -> Records:
    """Check what is to be put and make records of it.

    Args:
        spec: What a record holds.
        users: Shape ``[n]``.
        instances: Shape ``[n]``.
        event_times: Shape ``[n]``.
        label_times: Shape ``[n, S]``.
        sides: Shape ``[n, S]``, each within ``[-1, 2**31)``.
        vectors: Shape ``[n, D]``, finite in the spec's precision.

    Returns:
        Records, shape ``[n]``, in the order given.

    Raises:
        TypeError: If a column of integers holds something else.
        ValueError: If a shape differs or a value is out of range.
    """
    ids = as_integers(users, "users")
    if ids.ndim != 1:
        raise ValueError(f"users must have shape [n], got {list(ids.shape)}")
    rows = np.zeros(len(ids), dtype=record(spec))
    rows["user"] = ids
    for name, field, values, shape in (
        ("instances", "instance", instances, (len(ids),)),
        ("event_times", "event_time", event_times, (len(ids),)),
        ("label_times", "label_times", label_times, (len(ids), spec.num_sides)),
        ("sides", "sides", sides, (len(ids), spec.num_sides)),
    ):
        column = as_integers(values, name)
        if column.size == 0 and len(ids) * spec.num_sides == 0 and len(shape) == 2:
            column = column.reshape(shape)
        if column.shape != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(column.shape)}")
        if name == "sides":
            _refuse(
                (column < UNKNOWN_SIDE) | (column >= 2**31),
                f"sides must be within [{UNKNOWN_SIDE}, 2**31)",
                column,
            )
        rows[field] = column
    numbers = _numbers(vectors)
    if numbers.size == 0 and len(ids) == 0:
        numbers = numbers.reshape(0, spec.dim)
    if numbers.shape != (len(ids), spec.dim):
        raise ValueError(
            f"vectors must have shape [{len(ids)}, {spec.dim}], got {list(numbers.shape)}"
        )
    with np.errstate(over="ignore"):
        rows["vector"] = numbers
    _refuse(~np.isfinite(rows["vector"]), f"vectors must be finite in {spec.precision}", numbers)
    rows["checksum"] = checksums(rows)
    return rows


def checksums(rows: Records) -> NDArray[np.uint64]:
    """What the checksum of each record must be.

    A sum of 64-bit words, each times an odd number of its own: a change of one word is always
    found, any other with a chance of misses of about 2⁻⁶³. It finds damage, not forgery.

    Args:
        rows: Records, shape ``[n]``; their checksums are not read.

    Returns:
        Shape ``[n]``; none is that of a record of zeros.
    """
    width = rows.dtype.itemsize // 8
    words = np.ascontiguousarray(rows).view("<u8").reshape(len(rows), width)[:, :-1]
    factors = mixed(np.arange(words.shape[1], dtype=np.uint64)) | np.uint64(1)
    out = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _BLOCK):
        block = words[start : start + _BLOCK]
        out[start : start + _BLOCK] = (block * factors).sum(axis=1, dtype=np.uint64)
    return out + np.uint64(0x5EED)


def requests_of(users: object, request_times: object, count: int) -> tuple[Ints, Ints]:
    """Check the questions of a reader.

    Args:
        users: Shape ``[B]``.
        request_times: Shape ``[B]``.
        count: The most instances to give for each.

    Returns:
        Both columns as int64.

    Raises:
        TypeError: If a column is not of integers.
        ValueError: If they are not vectors of one length, or ``count`` is less than one.
    """
    who, now = as_integers(users, "users"), as_integers(request_times, "request_times")
    if who.ndim != 1 or who.shape != now.shape:
        raise ValueError(
            "users and request_times must have one shape [B], "
            f"got {list(who.shape)} and {list(now.shape)}"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return who, now


def check_model_version(spec: InstanceSpec, model_version: str) -> None:
    """Refuse vectors of another model.

    Args:
        spec: Of the store.
        model_version: Of whoever puts or reads.

    Raises:
        ValueError: If they differ.
    """
    if model_version != spec.model_version:
        raise ValueError(
            f"model_version must be {spec.model_version!r}, whose vectors the store holds, "
            f"got {model_version!r}"
        )


def earliest_visible(now: Ints, time_to_live: int | None) -> Ints:
    """The first event time that a request may still see; sums never leave int64.

    Args:
        now: Request times, shape ``[B]``.
        time_to_live: Instances with ``event_time < now < event_time + time_to_live`` are seen.

    Returns:
        Shape ``[B]``.
    """
    least = np.iinfo(np.int64).min
    if time_to_live is None:
        return np.full_like(now, least)
    back = time_to_live - 1
    return np.where(now < least + back, least, now - back)


def assembled(spec: InstanceSpec, rows: Records, slots: Ints, now: Ints) -> InstanceHistory:
    """Put the chosen records of each request side by side.

    Args:
        spec: What a record holds.
        rows: Records, shape ``[n]``.
        slots: Which of them, shape ``[B, T]``; -1 is padding.
        now: When the requests came, shape ``[B]``.

    Returns:
        The history, with sides hidden that were not known before the request.
    """
    real = slots >= 0
    chosen = slots[real]
    shape = slots.shape
    vectors = np.zeros((*shape, spec.dim), dtype=np.float32)
    sides = np.full((*shape, spec.num_sides), UNKNOWN_SIDE, dtype=np.int64)
    event_times = np.zeros(shape, dtype=np.int64)
    instances = np.zeros(shape, dtype=np.int64)
    vectors[real] = rows["vector"][chosen]
    event_times[real] = rows["event_time"][chosen]
    instances[real] = rows["instance"][chosen]
    asked = np.broadcast_to(now[:, None], shape)[real]
    known = rows["label_times"][chosen] < asked[:, None]
    sides[real] = np.where(known, rows["sides"][chosen], UNKNOWN_SIDE)
    arrays = (vectors, sides, real, event_times, instances)
    return InstanceHistory(*(torch.from_numpy(array) for array in arrays))


def _numbers(vectors: object) -> NDArray[Any]:
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().cpu().float().numpy()
    array = np.asarray(vectors)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"vectors must be numbers, got {array.dtype}")
    return array


def _refuse(wrong: NDArray[np.bool_], requirement: str, values: NDArray[Any]) -> None:
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise ValueError(f"{requirement}, got {values[row, column]} in row {row}")
