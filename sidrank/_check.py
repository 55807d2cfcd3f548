"""Checks of arguments inside ``forward``.

Each function returns its tensor and the caller uses the result: FX drops a call whose
result is unused. They are called through this module (``_check.shape(...)``), because FX
patches wrapped functions in the module that defines them; importing one by name breaks the
trace. They read shapes and dtypes only: reading a value would stall a GPU.
"""

import torch
from torch import Tensor

__all__ = ["integer", "shape"]


@torch.fx.wrap
def shape(tensor: Tensor, name: str, dims: list[int]) -> Tensor:
    """Return ``tensor`` if it has the shape ``dims``.

    Args:
        tensor: The argument to check.
        name: Its name in the caller's signature.
        dims: The size of each axis; -1 allows any size.

    Returns:
        ``tensor`` itself.

    Raises:
        ValueError: If the number of axes or one of the sizes differs.

    Example:
        >>> shape(torch.zeros(2, 3), "x", [-1, 3]).shape
        torch.Size([2, 3])
    """
    same = tensor.dim() == len(dims)
    if same:
        for axis, size in enumerate(dims):
            if size >= 0 and tensor.size(axis) != size:
                same = False
    if not same:
        wanted = ", ".join(["*" if size < 0 else str(size) for size in dims])
        got = ", ".join([str(size) for size in tensor.shape])
        raise ValueError(f"{name} must have shape [{wanted}], got [{got}]")
    return tensor


@torch.fx.wrap
def integer(tensor: Tensor, name: str) -> Tensor:
    """Return ``tensor`` if its dtype is int32 or int64.

    Args:
        tensor: The argument to check.
        name: Its name in the caller's signature.

    Returns:
        ``tensor`` itself.

    Raises:
        ValueError: If the dtype is another one.

    Example:
        >>> integer(torch.tensor([1, 2]), "ids")
        tensor([1, 2])
    """
    if tensor.dtype != torch.int64 and tensor.dtype != torch.int32:
        raise ValueError(f"{name} must be int32 or int64, got {tensor.dtype}")
    return tensor
