"""Which items share the first codes: the prefixes of each length, numbered.

Shapes: ``V`` items, ``N`` levels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["number_prefixes"]


def number_prefixes(codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Number the distinct prefixes of each length from 0 on, in lexicographic order.

    Args:
        codes: Codes, shape ``[V, N]``.

    Returns:
        The number of each item's prefix of one level, of two, ..., of all: shape ``[N, V]``.

    Example:
        >>> number_prefixes(np.array([[5, 1], [2, 8], [5, 0]])).tolist()
        [[1, 0, 1], [2, 0, 1]]
    """
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    differs = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
    numbers = np.zeros((codes.shape[1], len(codes)), dtype=np.int64)
    numbers[:, order[1:]] = np.cumsum(differs.T, axis=1)
    return numbers
