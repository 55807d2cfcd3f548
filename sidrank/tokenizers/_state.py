"""Tensors that a tokenizer is asked to take over: the right names, shapes and numbers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sidrank.tokenizers._inputs import finite

__all__ = ["taken_over"]


def taken_over(
    state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Check the tensors of a state and copy them.

    Args:
        state: Tensors by name.
        shapes: The names that there must be, and their shapes.

    Returns:
        Copies on the CPU, by name, in the order of ``shapes``.

    Raises:
        ValueError: If a name is missing or unknown, or a tensor is not float32, not finite, or
            of another shape.
    """
    if sorted(state) != sorted(shapes):
        raise ValueError(f"state must hold {sorted(shapes)}, got {sorted(state)}")
    for name, shape in shapes.items():
        tensor = state[name]
        if list(tensor.shape) != list(shape):
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, got {tensor.dtype}")
        finite(tensor.reshape(len(tensor), -1), name)
    return {name: state[name].detach().cpu().clone() for name in shapes}
