"""Vectors of length one, safe at zero.

The cosine of two vectors is the product of what ``unit`` makes of them. A zero vector (a SID row
at birth, an empty bucket) has no direction: it stays zero, its cosine with anything is 0, and it
gets no gradient, where ``F.normalize`` would hand it one multiplied by ``1e12``.
"""

import torch
from torch import Tensor

__all__ = ["unit"]


def unit(x: Tensor) -> Tensor:
    """Divide each vector by its length.

    Args:
        x: Vectors, shape ``[..., D]``.

    Returns:
        Vectors of length one, zero where ``x`` is zero, shape ``[..., D]``.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # the largest lane first, so that squares neither vanish nor overflow
    scale = x.detach().abs().amax(dim=-1, keepdim=True)
    scaled = x / torch.where(scale > 0, scale, 1)
    squares = (scaled * scaled).sum(dim=-1, keepdim=True)
    return scaled * torch.where(squares > 0, squares, 1).rsqrt() * (scale > 0)
