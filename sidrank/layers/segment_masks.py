r"""Masks that make learned tokens a bottleneck between parts of a sequence.

What came before reaches what comes after only through the tokens between them. Both masks here
are one rule: an item is read within its own segment, a learned token also by all that follows.

Sources: PerSRec, arXiv 2601.03479, the mask of its compression tokens; Bottleneck Tokens, arXiv
2604.11095, the condensation mask, which is the same with one segment before the targets.

Shapes: ``T`` tokens, queries by keys.
"""

import torch
from torch import Tensor

__all__ = ["condensation_mask", "segment_mask"]


@torch.fx.wrap
def segment_mask(segments: Tensor, learned: Tensor) -> Tensor:
    r"""Later segments see of earlier ones only the learned tokens.

    .. math::  M_{ij} = [\,j \le i\,] \wedge \neg\,(s_j < s_i \wedge j \text{ is an item})

    Padding is not known here: whoever attends leaves it out besides.

    Args:
        segments: Number of each token's segment, ascending, shape ``[..., T]``, integer.
        learned: Which are learned tokens, at the end of their segments, same shape, bool.

    Returns:
        Which keys a query may read, shape ``[..., T, T]``, bool.

    Raises:
        ValueError: If ``learned`` is not bool or has another shape.

    Example:
        >>> segments = torch.tensor([0, 0, 0, 1, 1])
        >>> segment_mask(segments, torch.tensor([False, False, True, False, False])).int()
        tensor([[1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [1, 1, 1, 0, 0],
                [0, 0, 1, 1, 0],
                [0, 0, 1, 1, 1]], dtype=torch.int32)
    """
    if learned.dtype != torch.bool:
        raise ValueError(f"learned must be bool, got {learned.dtype}")
    if learned.shape != segments.shape:
        wanted, got = list(segments.shape), list(learned.shape)
        raise ValueError(f"learned must have shape {wanted}, got {got}")
    places = torch.arange(segments.shape[-1], device=segments.device)
    earlier = segments.unsqueeze(-2) < segments.unsqueeze(-1)
    hidden = earlier & ~learned.unsqueeze(-2)
    return (places <= places.unsqueeze(1)) & ~hidden


def condensation_mask(
    num_inputs: int, num_tokens: int, num_targets: int, *, device: torch.device | None = None
) -> Tensor:
    """Of ``[inputs; tokens; targets]``, targets see tokens and earlier targets, never an input.

    Args:
        num_inputs: How many inputs come first.
        num_tokens: How many learned tokens follow.
        num_targets: How many targets come last.
        device: Where to make it.

    Returns:
        Which keys a query may read, shape ``[T, T]``, bool.

    Raises:
        ValueError: If a number is less than zero.

    Example:
        >>> condensation_mask(2, 1, 2).int()
        tensor([[1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [1, 1, 1, 0, 0],
                [0, 0, 1, 1, 0],
                [0, 0, 1, 1, 1]], dtype=torch.int32)
    """
    sizes = {"num_inputs": num_inputs, "num_tokens": num_tokens, "num_targets": num_targets}
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"{name} must be at least 0, got {size}")
    places = torch.arange(num_inputs + num_tokens + num_targets, device=device)
    segments = (places >= num_inputs + num_tokens).long()
    return segment_mask(segments, (places >= num_inputs) & (segments == 0))
