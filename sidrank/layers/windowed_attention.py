"""Exact attention within a sliding window, in time and memory linear in the length.

A window of ``w`` over ``L`` places has ``L * w`` visible pairs; a masked dense attention computes
``L * L`` and throws the rest away. Here queries go in blocks, and a block reads the blocks that its
window touches: nothing is approximated, and what is computed beyond the window is bounded by the
block, whatever ``L``.

Which way is taken, from shapes alone:

- one dense ``scaled_dot_product_attention`` where the window reaches over most of the sequence,
- blocks otherwise, each handed to the same kernel with a mask of its own.

Where a query sees nothing, PyTorch's kernels have answered zero since 2.5, with a gradient of zero;
the tests hold those of the CPU to it.

``FlexAttention`` is not used: it has no backward on a CPU, and no GPU has run this.

Source: the sliding window of Longformer, Beltagy et al., 2020, arXiv 2004.05150, section 3.1;
[derived] the blocks and the choice of their size.

Shapes: ``B`` rows, ``L`` places, ``H`` heads, ``d`` width of a head, ``S`` places of a
jagged batch, all rows one after the other.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sidrank.layers import attention_masks
from sidrank.layers._blocked_attention import (
    attend_in_blocks,
    blocks,
    hidden_bias,
    reach,
    spans,
)

__all__ = ["jagged_windowed_attention", "windowed_attention"]


@torch.fx.wrap
def windowed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None = None,
    mask: Tensor | None = None,
    causal: bool = True,
    dropout: float = 0.0,
) -> Tensor:
    """Key ``j`` is read by query ``i`` when ``0 <= i - j < window`` and it is real.

    Args:
        query: Shape ``[B, H, L, d]``.
        key: Shape ``[B, H, L, d]``.
        value: Shape ``[B, H, L, d']``, finite at padding too.
        window: How many places a query sees, itself included; ``None`` is all.
        mask: Which keys are real, shape ``[B, L]``, bool; ``None`` is all.
        causal: Whether later keys are hidden; if not, ``|i - j| < window``.
        dropout: Share of attention weights set to zero; pass 0 outside training.

    Returns:
        Shape ``[B, H, L, d']``; exactly zero where a query sees nothing.

    Raises:
        ValueError: If ``window`` is less than one.

    Example:
        >>> x = torch.ones(1, 1, 3, 1)
        >>> read = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1)
        >>> windowed_attention(x, x, read, window=2).flatten().tolist()
        [1.0, 1.5, 3.0]
    """
    length = query.shape[2]
    if window is not None:
        _at_least_one(window)
        window = None if window >= length else window
    if window is None or length <= _dense_up_to(window, causal):
        return _dense(query, key, value, window, mask, causal, dropout)
    return _blocked(query, key, value, window, mask, causal, dropout)


@torch.fx.wrap
def jagged_windowed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    *,
    window: int,
    causal: bool = True,
    dropout: float = 0.0,
) -> Tensor:
    """The same for rows of different lengths, without padding to the longest.

    Blocks run over the ends of rows; a key is read only by queries of its own row.

    Args:
        query: Shape ``[S, H, d]``.
        key: Shape ``[S, H, d]``.
        value: Shape ``[S, H, d']``.
        offsets: Where each row begins and the last one ends, shape ``[B + 1]``, integer.
        window: How many places a query sees, itself included.
        causal: Whether later keys are hidden; if not, ``|i - j| < window``.
        dropout: Share of attention weights set to zero; pass 0 outside training.

    Returns:
        Shape ``[S, H, d']``.

    Raises:
        ValueError: If ``window`` is less than one.

    Example:
        >>> x = torch.ones(3, 1, 1)
        >>> read = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
        >>> offsets = torch.tensor([0, 1, 3])
        >>> jagged_windowed_attention(x, x, read, offsets, window=2).flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    _at_least_one(window)
    length = query.shape[0]
    places = torch.arange(length, device=query.device)
    # counted from 1: what is filled up with zeros belongs to no row
    row = torch.searchsorted(offsets, places, right=True, out_int32=True)
    if window > length:
        window = max(length, 1)
    block = _block(window)
    before, after = reach(window, block, causal)
    row = row.unsqueeze(0)
    same = blocks(row, block).unsqueeze(3) == spans(row, block, before, after).unsqueeze(2)
    context = attend_in_blocks(
        blocks(query.unsqueeze(0), block),
        spans(key.unsqueeze(0), block, before, after),
        spans(value.unsqueeze(0), block, before, after),
        same & _band(query, window, block, causal),
        length,
        dropout,
    )
    return context.squeeze(0)


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
) -> Tensor:
    if window is None and mask is None:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=causal, dropout_p=dropout
        )
    visible = attention_masks.window_mask(query, window, causal)
    if mask is not None:
        visible = visible & mask.unsqueeze(1).unsqueeze(1)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=hidden_bias(visible, query), dropout_p=dropout
    )


def _blocked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
) -> Tensor:
    rows, length = query.shape[0], query.shape[2]
    block = _block(window)
    before, after = reach(window, block, causal)
    real = query.new_ones(rows, length, dtype=torch.bool) if mask is None else mask
    visible = spans(real, block, before, after).unsqueeze(2) & _band(query, window, block, causal)
    context = attend_in_blocks(
        blocks(query.transpose(1, 2), block),
        spans(key.transpose(1, 2), block, before, after),
        spans(value.transpose(1, 2), block, before, after),
        visible,
        length,
        dropout,
    )
    return context.transpose(1, 2)


def _band(like: Tensor, window: int, block: int, causal: bool) -> Tensor:
    before, after = reach(window, block, causal)
    query = torch.arange(block, device=like.device).unsqueeze(1)
    key = torch.arange(-before * block, (1 + after) * block, device=like.device)
    ago = query - key
    return (ago >= 0) & (ago < window) if causal else ago.abs() < window


def _at_least_one(window: int) -> None:
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")


def _block(window: int) -> int:
    """A long block computes much beyond the window, a short one copies every key often.

    [derived] The fastest of 16, 32, ... 256 on a CPU for windows from 4 to 512.
    """
    return 32 if window < 64 else max(64, 1 << (window // 4 - 1).bit_length())


def _dense_up_to(window: int, causal: bool) -> int:
    """The length where both ways take the same time, as measured."""
    block = _block(window)
    before, after = reach(window, block, causal)
    return 3 * (before + 1 + after) * block // 2
