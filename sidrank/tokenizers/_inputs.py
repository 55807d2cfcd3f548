"""What every tokenizer accepts, checked once: vectors, weights, pairs and codes.

Shapes: ``V`` items, ``D`` width of a vector, ``N`` levels, ``P`` pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["as_codes", "as_pairs", "as_vectors", "as_weights", "finite"]

_LARGEST = 1e37  # residuals of larger numbers can overflow float32


def as_vectors(x: Tensor | NDArray[Any], *, width: int | None = None) -> Tensor:
    """Read item vectors.

    Args:
        x: Vectors, shape ``[V, D]``, any floating dtype.
        width: ``D`` that they must have; None for any.

    Returns:
        The vectors as float32, shape ``[V, D]``, on their device; not copied if they are.

    Raises:
        ValueError: If ``x`` is not a floating matrix of that width, or not within ±1e37.
    """
    tensor = _tensor(x).detach()
    if tensor.dim() != 2:
        raise ValueError(f"x must have shape [V, D], got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"x must be floating point, got {tensor.dtype}")
    if width is not None and tensor.shape[1] != width:
        raise ValueError(f"x must have shape [n, {width}], got {list(tensor.shape)}")
    return finite(tensor.float(), "x")


def as_weights(weights: Tensor | NDArray[Any] | None, rows: int) -> Tensor | None:
    """Read one weight an item, such as its exposure.

    Args:
        weights: Numbers, shape ``[rows]``; None weighs every item the same.
        rows: ``V``.

    Returns:
        The weights as float64, shape ``[rows]``, or None.

    Raises:
        ValueError: If the shape differs, a weight is negative or not finite, or all are zero.
    """
    if weights is None:
        return None
    tensor = _tensor(weights).detach().double()
    if list(tensor.shape) != [rows]:
        raise ValueError(f"weights must have shape [{rows}], got {list(tensor.shape)}")
    bad = (~((tensor >= 0) & (tensor < torch.inf))).nonzero()
    if len(bad):
        row = int(bad[0])
        value = tensor[row].item()
        raise ValueError(f"weights must be finite and not negative, got {value} in row {row}")
    if not bool((tensor > 0).any()):
        raise ValueError(f"weights must not all be zero, got {rows} zeros")
    return tensor


def as_pairs(pairs: Tensor | NDArray[Any] | None, rows: int) -> Tensor | None:
    """Read pairs of items that belong together, such as co-engaged ones.

    Args:
        pairs: Rows of ``x``, integers, shape ``[P, 2]``; None if there are none.
        rows: ``V``.

    Returns:
        The pairs as int64, shape ``[P, 2]``, or None.

    Raises:
        ValueError: If the shape differs, there is no pair, or a row is not in ``x``.
        TypeError: If the rows are not integers.
    """
    if pairs is None:
        return None
    tensor = _tensor(pairs)
    if not _integer(tensor):
        raise TypeError(f"pairs must be integers, got {tensor.dtype}")
    if tensor.dim() != 2 or tensor.shape[1] != 2 or len(tensor) == 0:
        raise ValueError(f"pairs must have shape [P, 2] with P >= 1, got {list(tensor.shape)}")
    outside = tensor[(tensor < 0) | (tensor >= rows)]
    if len(outside):
        raise ValueError(f"pairs must hold rows within [0, {rows}), got {int(outside[0])}")
    return tensor.long()


def as_codes(codes: Tensor | NDArray[Any], sizes: Sequence[int]) -> Tensor:
    """Read codes.

    Args:
        codes: Codes, shape ``[n, N]``, any integer dtype.
        sizes: Codebook sizes, one per level.

    Returns:
        The codes, shape ``[n, N]``, on their device.

    Raises:
        TypeError: If they are not integers.
        ValueError: If they have another number of levels or leave a codebook.
    """
    rows = _tensor(codes)
    if not _integer(rows):
        raise TypeError(f"codes must be integers, got {rows.dtype}")
    if rows.dim() != 2 or rows.shape[1] != len(sizes):
        raise ValueError(f"codes must have shape [n, {len(sizes)}], got {list(rows.shape)}")
    for level, size in enumerate(sizes):
        outside = rows[:, level][(rows[:, level] < 0) | (rows[:, level] >= size)]
        if len(outside):
            raise ValueError(
                f"codes of level {level} must be within [0, {size}), got {int(outside[0])}"
            )
    return rows


def finite(tensor: Tensor, name: str) -> Tensor:
    """Refuse what is not a number, or too large for the arithmetic.

    Args:
        tensor: Numbers, shape ``[n, D]``.
        name: What the message calls them.

    Returns:
        The tensor.

    Raises:
        ValueError: If a number is not within ±1e37.
    """
    if tensor.numel() == 0:
        return tensor
    # comparisons with nan are false; no copy of the vectors is made
    within = (tensor.amax(dim=1) <= _LARGEST) & (tensor.amin(dim=1) >= -_LARGEST)
    if not within.all():
        row = int((~within).nonzero()[0])
        value = tensor[row][~(tensor[row].abs() <= _LARGEST)][0].item()
        raise ValueError(f"{name} must be finite and within ±1e37, got {value} in row {row}")
    return tensor


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values
    # torch warns of read-only arrays and refuses reversed ones: these are copied
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
