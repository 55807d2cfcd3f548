"""Codes drawn uniformly, but frozen: a function of a vector's bits and a seed.

Multiply-add hashing of the 32-bit words of a vector modulo 2^64 (Dietzfelbinger, 1996): over
the draw of the multipliers, the codes of two vectors that differ are independent and uniform up
to rounding. Integer sums have no rounding, so neither batch nor device matters.

Shapes: ``n`` vectors, ``D`` width.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = ["vector_codes"]

_BLOCK = 1 << 20  # int64 numbers at a time


def vector_codes(x: Tensor, *, size: int, seed: tuple[int, ...]) -> Tensor:
    """Draw a code for each vector; equal vectors get equal codes.

    Args:
        x: Vectors, shape ``[n, D]``, float32.
        size: Number of codes, less than ``2**31``.
        seed: What the draw depends on besides the vector.

    Returns:
        Codes, shape ``[n]``, int64, from 0 to ``size - 1``.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-(2**63), 2**63 - 1, x.shape[1] + 1, endpoint=True)
    multipliers = torch.from_numpy(drawn).to(x.device)
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    step = max(1, _BLOCK // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        block = x[start : start + step] + 0.0  # -0.0 equals 0.0
        words = block.contiguous().view(torch.int32).long() & 0xFFFFFFFF
        mixed = (words * multipliers[:-1]).sum(dim=1) + multipliers[-1]
        high = (mixed >> 32) & 0xFFFFFFFF
        codes[start : start + step] = (high * size) >> 32
    return codes
