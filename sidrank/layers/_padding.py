"""Masks of behaviours: True is real, False is padding, which may hold anything, also NaN.

``boolean`` is called through this module (``_padding.boolean(...)``), see ``sidrank._check``.
"""

import torch
from torch import Tensor

from sidrank import _check

__all__ = ["boolean", "zeroed"]


@torch.fx.wrap
def boolean(mask: Tensor, name: str, dims: list[int]) -> Tensor:
    """Return ``mask`` if it is bool and has the shape ``dims``.

    Args:
        mask: The argument to check.
        name: Its name in the caller's signature.
        dims: The size of each axis; -1 allows any size.

    Returns:
        ``mask`` itself.

    Raises:
        ValueError: If the dtype is another one, which ``~`` would turn into numbers, or the
            shape differs.

    Example:
        >>> boolean(torch.tensor([[True, False]]), "mask", [-1, 2])
        tensor([[ True, False]])
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {mask.dtype}")
    return _check.shape(mask, name, dims)


def zeroed(values: Tensor, mask: Tensor) -> Tensor:
    """Put zeros where there is padding; a product would keep its NaN.

    Args:
        values: Shape ``[..., D]``.
        mask: Shape ``[...]``, bool.

    Returns:
        ``values`` with zero rows, shape ``[..., D]``.

    Example:
        >>> zeroed(torch.tensor([[1.0], [float("nan")]]), torch.tensor([True, False])).tolist()
        [[1.0], [0.0]]
    """
    return values.masked_fill(~mask.unsqueeze(-1), 0.0)
