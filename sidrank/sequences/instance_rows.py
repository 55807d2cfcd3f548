r"""One past impression as one row: its vector, its times, its labels, and what a reader may see.

An *instance* is an impression that a source ranker has seen: its interaction vector compressed to
``D`` numbers, when it happened, and integers that tell how it went (its *sides*: clicked, bought,
after how long). Each side has a time of its own from which it is known, because a purchase may be
known days after the click: a request reads a side only if that time is strictly earlier.

Source: IAT, arXiv 2604.08933, which names an instance by a hash of request, creative and time and
keeps ``(instance, side)`` by user. Differs from the source: a time for each side [derived]; the
hash, three rounds of the splitmix64 finaliser [derived].

Shapes: ``n`` instances, ``B`` requests, ``T`` newest instances, ``D`` width, ``S`` sides.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_integers

__all__ = [
    "UNKNOWN_SIDE",
    "InstanceHistory",
    "InstanceSpec",
    "instance_ids",
]

UNKNOWN_SIDE = -1
"""A side that was not known yet when the request came, or never will be."""


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """What the rows of a store are; written into its file.

    Attributes:
        model_version: Which source ranker made the vectors, 1 to 200 characters. Vectors of two
            models do not mix: a store takes and gives those of one.
        dim: Width ``D`` of a vector.
        num_sides: Number ``S`` of sides.
        precision: How vectors are kept. ``"float32"`` is exact; ``"float16"`` takes half the
            space and rounds by at most 1/2048 of a number (of 2⁻¹⁴ for smaller numbers).

    Raises:
        ValueError: If one of them is none of these.

    Example:
        >>> InstanceSpec(model_version="ranker-7", num_sides=2).dim
        64
    """

    model_version: str
    dim: int = 64
    num_sides: int = 1
    precision: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.model_version, str) or not 1 <= len(self.model_version) <= 200:
            raise ValueError(
                f"model_version must be 1 to 200 characters, got {self.model_version!r}"
            )
        for name, size, least in (("dim", self.dim, 1), ("num_sides", self.num_sides, 0)):
            if type(size) is not int or size < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {size!r}")
        if self.precision not in ("float32", "float16"):
            raise ValueError(f"precision must be 'float32' or 'float16', got {self.precision!r}")


class InstanceHistory(NamedTuple):
    """What requests may know of the past of their users, oldest first, padding last."""

    vectors: Tensor
    """Shape ``[B, T, D]``, float32; zero at padding."""
    sides: Tensor
    """Shape ``[B, T, S]``, int64; -1 what was not known yet, and at padding."""
    mask: Tensor
    """Which instances are real, shape ``[B, T]``, bool."""
    event_times: Tensor
    """Shape ``[B, T]``, int64; 0 at padding."""
    instances: Tensor
    """Their ids, shape ``[B, T]``, int64; 0 at padding."""


def instance_ids(requests: object, creatives: object, times: object) -> NDArray[np.int64]:
    """Names of instances: a hash that is the same on every machine and in every version.

    Args:
        requests: Request of each, shape ``[n]``, any integers of 64 bits.
        creatives: What was shown, shape ``[n]``, likewise.
        times: When, shape ``[n]``, likewise.

    Returns:
        Ids, shape ``[n]``, int64, also negative. Of a thousand million instances two share an
        id with a chance of 3%, and it matters only if they are of one user.

    Raises:
        TypeError: If an argument is not of integers.
        ValueError: If they are not vectors of one length.

    Example:
        >>> first, second = instance_ids([1, 1], [2, 2], [3, 4]).tolist()
        >>> first == second
        False
    """
    parts = {"requests": requests, "creatives": creatives, "times": times}
    columns = [as_integers(part, name) for name, part in parts.items()]
    if columns[0].ndim != 1 or len({column.shape for column in columns}) > 1:
        shapes = ", ".join(str(list(column.shape)) for column in columns)
        raise ValueError(f"requests, creatives and times must have one shape [n], got {shapes}")
    state = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        state = mixed(state + column.view(np.uint64))
    return state.view(np.int64)


def mixed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Scatter 64-bit numbers one to one (the finaliser of splitmix64).

    Args:
        values: Any shape, uint64.

    Returns:
        As many others.
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
