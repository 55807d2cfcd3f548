"""One segment of a sequence through a stack of blocks, over a memory of earlier tokens.

Shapes: ``B`` rows, ``T`` tokens, ``M`` keys of the memory, ``H`` heads, ``d`` width of a head,
``D`` width.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.self_attention import Memory

__all__ = ["checked", "following", "in_order", "joined", "listed", "run"]


def checked(blocks: Sequence[DecoderBlock], at_least: int) -> nn.ModuleList:
    """Return the blocks as a module list if they are a stack that may read a memory."""
    if len(blocks) < at_least:
        raise ValueError(f"blocks must hold at least {at_least}, got {len(blocks)}")
    first = blocks[0].attention
    for block in blocks:
        one = block.attention
        if (one.dim, one.num_heads) != (first.dim, first.num_heads):
            raise ValueError(
                f"blocks must all have {first.num_heads} heads and width {first.dim}, "
                f"got {one.num_heads} and {one.dim}"
            )
        if one.window is not None:
            raise ValueError(f"blocks must have no window, got {one.window}")
    return nn.ModuleList(blocks)


def listed(blocks: nn.ModuleList) -> list[DecoderBlock]:
    """What ``checked`` was given."""
    return cast("list[DecoderBlock]", list(blocks))


def following(before: Tensor, mask: Tensor) -> Tensor:
    """Positions of tokens after ``before`` others, counting only real ones; shape ``[B, T]``."""
    return before.unsqueeze(1) + torch.cumsum(mask.long(), dim=1) - 1


def in_order(x: Tensor, mask: Tensor, *, real_last: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Move padding to one side, whatever its place; also return where each token went."""
    order = torch.argsort(mask.to(torch.uint8), dim=1, descending=not real_last, stable=True)
    back = torch.argsort(order, dim=1)
    return taken(x, order), torch.gather(mask, 1, order), back


def taken(x: Tensor, index: Tensor) -> Tensor:
    """The tokens ``[B, T, D]`` of ``x`` at some places ``[B, T]``."""
    return torch.gather(x, 1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))


def joined(memory: list[Memory] | None, more: list[Memory]) -> list[Memory]:
    """Each layer's memory, grown by more keys and values."""
    if memory is None:
        return more
    return [
        (torch.cat([k, k2], dim=2), torch.cat([v, v2], dim=2), torch.cat([m, m2], dim=1))
        for (k, v, m), (k2, v2, m2) in zip(memory, more, strict=True)
    ]


def run(
    blocks: list[DecoderBlock],
    x: Tensor,
    mask: Tensor,
    positions: Tensor,
    memory: list[Memory] | None,
    first_kept: int,
) -> tuple[Tensor, list[Memory]]:
    """Run a segment.

    Args:
        blocks: The stack.
        x: Tokens in order, shape ``[B, T, D]``.
        mask: Which are real, shape ``[B, T]``, bool.
        positions: Their positions, shape ``[B, T]``.
        memory: What every token reads besides, for each layer.
        first_kept: From which token on keys and values are kept.

    Returns:
        States, shape ``[B, T, D]``, and for each layer what was kept.
    """
    kept: list[Memory] = []
    places, real = positions[:, first_kept:], mask[:, first_kept:]
    for layer, block in enumerate(blocks):
        seen = block.attention_norm(x[:, first_kept:])
        key, value = block.attention.keys_values(seen, places)
        kept.append((key, value, real))
        x = block(x, mask, positions, None, None if memory is None else memory[layer])
    return x, kept
