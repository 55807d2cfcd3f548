"""Columns of integers as tables take them: any integer dtype, array, tensor or list.

Shapes: ``n`` rows, ``N`` levels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids.spec import SIDSpec

__all__ = ["as_code_rows", "as_integers"]


def as_integers(values: object, name: str) -> NDArray[np.int64]:
    """Read integers of any dtype.

    Args:
        values: Array, tensor or list.
        name: What messages call them.

    Returns:
        The integers as int64, in the shape that they had.

    Raises:
        TypeError: If they are not integers.
        ValueError: If one is beyond the int64 range.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.size == 0 and not isinstance(values, Tensor | np.ndarray):
        array = array.astype(np.int64)  # an empty list has no integers to tell its dtype by
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.dtype == np.uint64 and array.size and array.max() > np.uint64(2**63 - 1):
        raise ValueError(f"{name} must be within the int64 range, got {array.max()}")
    return array.astype(np.int64)


def as_code_rows(
    codes: NDArray[Any] | Tensor | Sequence[Sequence[int]], ids: NDArray[np.int64], spec: SIDSpec
) -> NDArray[np.int64]:
    """Read the codes of items and check that they are within their codebooks.

    Args:
        codes: One code per level, shape ``[n, N]``.
        ids: Item of each row, shape ``[n]``.
        spec: Codebook sizes, one per level.

    Returns:
        The codes, shape ``[n, N]``.

    Raises:
        TypeError: If they are not integers.
        ValueError: If the shape differs or a code is outside its codebook.
    """
    rows = as_integers(codes, "codes")
    if rows.size == 0 and len(ids) == 0:
        rows = rows.reshape(0, spec.num_levels)
    if rows.shape != (len(ids), spec.num_levels):
        raise ValueError(
            f"codes must have shape [{len(ids)}, {spec.num_levels}], got {list(rows.shape)}"
        )
    outside = (rows < 0) | (rows >= np.array(spec.codebook_sizes, dtype=np.int64))
    if outside.any():
        row, level = (int(index[0]) for index in np.nonzero(outside))
        raise ValueError(
            f"codes of level {level} must be within [0, {spec.codebook_sizes[level]}), "
            f"got {rows[row, level]} for item {ids[row]}"
        )
    return rows
