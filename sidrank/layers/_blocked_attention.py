"""The tools of windowed attention: a sequence cut into blocks that read their neighbours.

Shapes: ``B`` rows, ``L`` places, ``n`` blocks of ``b`` places (``n * b >= L``), ``H`` heads, ``d``
width of a head, ``s`` the keys that a block of queries can reach.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attend_in_blocks", "blocks", "hidden_bias", "reach", "spans"]


def reach(window: int, block: int, causal: bool) -> tuple[int, int]:
    """How many blocks before and after its own a block of queries looks into."""
    before = -(-(window - 1) // block)
    return before, 0 if causal else before


def blocks(x: Tensor, block: int) -> Tensor:
    """``[B, L, ...]`` cut into ``[B, n, b, ...]``, the end filled with zeros."""
    return spans(x, block, 0, 0)


def spans(x: Tensor, block: int, before: int, after: int) -> Tensor:
    """For every block its own places and those of its neighbours.

    Whole blocks are laid side by side, so that the gradient comes back as a few sums of large
    slices; ``unfold`` has a slower backward, and a ragged span a slower matrix product.

    Args:
        x: Shape ``[B, L, ...]``.
        block: Places in a block, ``b``.
        before: Blocks before the own one.
        after: Blocks after the own one.

    Returns:
        Shape ``[B, n, (before + 1 + after) * b, ...]``; zeros where the sequence has no place.
    """
    if torch.compiler.is_exporting():
        return _gathered(x, block, before, after)
    rows, length = x.shape[0], x.shape[1]
    count = -(-length // block)
    head = x.new_zeros(rows, before * block, *x.shape[2:])
    tail = x.new_zeros(rows, (count + after) * block - length, *x.shape[2:])
    filled = torch.cat([head, x, tail], dim=1).unflatten(1, (count + before + after, block))
    if before + after == 0:
        return filled
    return torch.cat([filled[:, k : k + count] for k in range(before + 1 + after)], dim=2)


def _gathered(x: Tensor, block: int, before: int, after: int) -> Tensor:
    """The same by index, slower: no size in here is known only for some lengths."""
    length = x.shape[1]
    starts = torch.arange(length // block + 2, device=x.device).unsqueeze(1) * block
    places = starts + torch.arange(-before * block, (1 + after) * block, device=x.device)
    inside = (places >= 0) & (places < length)
    found = x[:, places.clamp(min=0).clamp(max=length - 1)]
    return found * inside.view(*inside.shape, *[1] * (x.dim() - 2)).to(x.dtype)


def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    length: int,
    dropout: float = 0.0,
) -> Tensor:
    """Each block of queries reads its own span of keys.

    Args:
        query: Shape ``[B, n, b, H, d]``.
        key: Shape ``[B, n, s, H, d]``.
        value: Shape ``[B, n, s, H, d']``.
        visible: Which keys a query reads, shape ``[B, n, b, s]``, bool; one that reads
            nothing comes out as zeros.
        length: Places of the sequence, ``L``.
        dropout: Share of attention weights set to zero.

    Returns:
        Shape ``[B, L, H, d']``.
    """
    rows, count = query.shape[0], query.shape[1]
    # a block is a row of its own to the kernel; heads share its mask
    context = functional.scaled_dot_product_attention(
        query.flatten(0, 1).transpose(1, 2),
        key.flatten(0, 1).transpose(1, 2),
        value.flatten(0, 1).transpose(1, 2),
        attn_mask=hidden_bias(visible.flatten(0, 1).unsqueeze(1), query),
        dropout_p=dropout,
    )
    context = context.transpose(1, 2).unflatten(0, (rows, count)).flatten(1, 2)
    if torch.compiler.is_exporting():
        return context[:, torch.arange(length, device=context.device)]
    return context[:, :length]


def hidden_bias(visible: Tensor, like: Tensor) -> Tensor:
    """The mask as what is added to scores: one pass here, three inside the kernel's own way."""
    hidden = torch.full((), float("-inf"), dtype=like.dtype, device=like.device)
    return torch.where(visible, torch.zeros_like(hidden), hidden)
