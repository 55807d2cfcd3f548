"""Which key a query may read, as a boolean matrix.

Written the short way, with one comparison of all places with all places: the definition that
faster code must equal, and the mask itself where a mask is what is wanted.

Shapes: ``Q`` queries, ``T`` keys.
"""

import torch
from torch import Tensor

__all__ = ["window_mask"]


@torch.fx.wrap
def window_mask(like: Tensor, window: int | None = None, causal: bool = True) -> Tensor:
    """Key ``j`` is visible to query ``i`` when ``0 <= i - j < window``.

    Args:
        like: Sequences as they are attended to, shape ``[..., T, D]``; gives length and device.
        window: How many places a query sees, itself included; ``None`` is all.
        causal: Whether later keys are hidden; if not, ``|i - j| < window``.

    Returns:
        Shape ``[T, T]``, bool, queries by keys.

    Example:
        >>> window_mask(torch.zeros(3, 1), 2).int().tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    places = torch.arange(like.shape[-2], device=like.device)
    ago = places.unsqueeze(1) - places
    ago = ago.abs() if not causal else ago
    visible = ago >= 0
    return visible if window is None else visible & (ago < window)
