"""How far items are from every code of the last level, by what their tokenizer rebuilds.

A policy that moves items to near codes (:class:`~sidrank.semantic_ids.collisions.NextNearest`)
must know what is near. This asks any tokenizer that can decode: the distance of item ``x`` with
codes ``c_1, ..., c_N`` to last code ``k`` is ``|x - decode(c_1, ..., c_{N-1}, k)|^2``.

Shapes: ``n`` items, ``D`` width of a vector, ``N`` levels, ``K`` codes of the last.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_code_rows
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.tokenizer import FittedTokenizer

__all__ = ["decoded_distances"]

_BLOCK = 1 << 22  # rebuilt numbers at a time


def decoded_distances(
    tokenizer: FittedTokenizer,
    vectors: Tensor | NDArray[Any],
    codes: Tensor | NDArray[Any],
    *,
    spec: SIDSpec,
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Return the distances of any rows to all codes of the last level.

    ``K`` vectors are rebuilt for each row that is asked for, so ask for few.

    Args:
        tokenizer: The fitted tokenizer that made the codes.
        vectors: Item vectors, shape ``[n, D]``, floating.
        codes: Their codes, shape ``[n, N]``.
        spec: Codebook sizes.

    Returns:
        A function from rows ``[m]`` to squared distances ``[m, K]``.

    Raises:
        TypeError: If codes are not integers.
        ValueError: If a shape differs or a code is outside its codebook.
    """
    x = vectors if isinstance(vectors, Tensor) else torch.from_numpy(np.array(vectors))
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"vectors must be a floating matrix, got {x.dtype} {list(x.shape)}")
    prefixes = as_code_rows(codes, np.arange(len(x)), spec)[:, :-1]
    size = spec.codebook_sizes[-1]
    last = torch.arange(size).unsqueeze(1)

    def distances(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        out = np.empty((len(rows), size))
        step = max(1, _BLOCK // max(1, size * x.shape[1]))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            under = torch.from_numpy(prefixes[part]).repeat_interleave(size, dim=0)
            rebuilt = tokenizer.decode(torch.cat([under, last.repeat(len(part), 1)], dim=1))
            mine = x[torch.from_numpy(part)].detach().cpu().double().numpy()
            gap = mine[:, np.newaxis] - rebuilt.cpu().double().numpy().reshape(len(part), size, -1)
            out[start : start + step] = np.square(gap).sum(axis=2)
        return out

    return distances
