"""Semantic IDs that a caller hands to a metric, checked.

Shapes: ``N`` levels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sidrank.metrics._columns import Column

__all__ = ["code_array"]


def code_array(codes: Column, name: str, axes: Sequence[str]) -> npt.NDArray[Any]:
    """Read codes of semantic IDs.

    Args:
        codes: Integers, -1 for an unknown item.
        name: Argument name for the message.
        axes: Names of the axes, the first one rows and the last one levels.

    Returns:
        The codes in the caller's integer dtype, at least one row and one level.

    Raises:
        TypeError: If a code is not an integer.
        ValueError: If the number of axes differs, there is no row or no level, or a code is
            below -1 or does not fit 31 bits.
    """
    array = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    if array.ndim != len(axes):
        raise ValueError(f"{name} must have shape [{', '.join(axes)}], got {list(array.shape)}")
    if array.shape[0] == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} must hold a row and a level, got shape {list(array.shape)}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.size:
        for code in (int(array.min()), int(array.max())):
            if not -1 <= code < 1 << 31:
                raise ValueError(f"{name} must be in [-1, 2**31), got {code}")
    return array
