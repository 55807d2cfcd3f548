"""What the branches of evolutionary attention read: summaries, last behaviours, blocked windows.

All of it is gathered, so that a query meets only the keys of its branches and no matrix of all
pairs is ever made. Wrapped functions look at lengths, which a tracer cannot compare; they are
called through this module, see ``sidrank._check``.

Behaviours are in the order of time here, real ones first.

Shapes: ``B`` rows, ``L`` behaviours, ``C`` candidates, ``P`` chunks, ``m`` last behaviours of a
chunk, ``w`` window, ``N`` blocks of ``S`` queries and ``K`` keys, ``H`` heads, ``d`` width of a
head, ``D`` width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sidrank import _check

__all__ = [
    "chunk_ends",
    "chunk_means",
    "first",
    "key_blocks",
    "logits",
    "near",
    "newest",
    "own_logits",
    "query_blocks",
    "unbiased",
    "unblocked",
    "user_token",
    "visible_too",
    "weighed",
    "weighed_beside",
]

SMALLEST_BLOCK = 32


def chunk_means(x: Tensor, chunks: Tensor, num_chunks: int) -> tuple[Tensor, Tensor]:
    """Mean of the behaviours of each chunk, and how many there are.

    Args:
        x: Shape ``[B, L, D]``, zero at padding.
        chunks: Shape ``[B, L]``, -1 at padding.
        num_chunks: Number ``P`` of chunks.

    Returns:
        Means, zero for an empty chunk, shape ``[B, P, D]``, and counts, shape ``[B, P]``, int64.
    """
    place = chunks.clamp(min=0)
    counts = chunks.new_zeros(chunks.shape[0], num_chunks)
    counts = counts.scatter_add(1, place, (chunks >= 0).to(chunks.dtype))
    sums = x.new_zeros(x.shape[0], num_chunks, x.shape[2])
    sums = sums.scatter_add(1, place.unsqueeze(2).expand_as(x), x)
    return sums / counts.clamp(min=1).unsqueeze(2).to(x.dtype), counts


@torch.fx.wrap
def chunk_ends(counts: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """Places of the last behaviours of each chunk, the newest first.

    Args:
        counts: Behaviours of each chunk, shape ``[B, P]``.
        last: Number ``m`` of them to name.

    Returns:
        Places and which are real, shape ``[B, P, m]`` each; place 0 where there is none.
    """
    ago = torch.arange(last, device=counts.device)
    real = ago < counts.unsqueeze(2)
    ends = counts.cumsum(dim=1).unsqueeze(2) - 1 - ago
    return ends.masked_fill(~real, 0), real


@torch.fx.wrap
def newest(real: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Places of the newest behaviours, the newest first.

    Args:
        real: Which behaviours are real, shape ``[B, L]``.
        most: How many to name.

    Returns:
        Places and which are real, shape ``[B, min(most, L)]`` each; place 0 where there is none.
    """
    ago = torch.arange(min(most, real.shape[1]), device=real.device)
    places = real.sum(dim=1, keepdim=True) - 1 - ago
    return places.clamp(min=0), places >= 0


@torch.fx.wrap
def user_token(x: Tensor, user: Tensor | None) -> Tensor:
    """The user as a token, or no token.

    Args:
        x: Behaviours, shape ``[B, L, D]``.
        user: Shape ``[B, D]``, or ``None``.

    Returns:
        Shape ``[B, 1, D]`` or ``[B, 0, D]``.
    """
    if user is None:
        return x.new_zeros(x.shape[0], 0, x.shape[2])
    return _check.shape(user, "user", [x.shape[0], x.shape[2]]).unsqueeze(1)


@torch.fx.wrap
def query_blocks(x: Tensor, window: int) -> Tensor:
    """Cut a sequence into blocks of queries.

    Args:
        x: Shape ``[B, L]`` or ``[B, L, D]``.
        window: How many places a query sees, itself included.

    Returns:
        Shape ``[B, N, S]`` or ``[B, N, S, D]``, zeros after the end.
    """
    size, count, _ = _blocks(x.shape[1], window)
    return _padded(x, 0, size * count - x.shape[1]).unflatten(1, (count, size))


@torch.fx.wrap
def key_blocks(x: Tensor, window: int) -> Tensor:
    """Give each block of queries the keys that some of them see.

    Args:
        x: Shape ``[B, L]`` or ``[B, L, D]``.
        window: How many places a query sees, itself included.

    Returns:
        Shape ``[B, N, K]`` or ``[B, N, K, D]``, zeros before the start and after the end.
    """
    size, count, before = _blocks(x.shape[1], window)
    spans = _padded(x, before, size * count - x.shape[1]).unfold(1, size + before, size)
    return spans if x.dim() == 2 else spans.transpose(2, 3)


@torch.fx.wrap
def near(real: Tensor, window: int) -> Tensor:
    """Which keys of its block a query sees: its window, as far as it is real.

    Args:
        real: Which behaviours are real, shape ``[B, L]``.
        window: How many places a query sees, itself included.

    Returns:
        Shape ``[B, N, S, K]``.
    """
    size, _, before = _blocks(real.shape[1], window)
    queries = torch.arange(size, device=real.device).unsqueeze(1) + before
    ago = queries - torch.arange(size + before, device=real.device)
    within = (ago >= 0) & (ago < window)
    return within & key_blocks(real, window).unsqueeze(2)


@torch.fx.wrap
def unblocked(blocks: Tensor, like: Tensor) -> Tensor:
    """Put blocks of queries back into one sequence.

    Args:
        blocks: Shape ``[B, N, S, D]``.
        like: A tensor with the length of the sequence on axis 1.

    Returns:
        Shape ``[B, L, D]``.
    """
    return blocks.flatten(1, 2)[:, : like.shape[1]]


def logits(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled products of queries and keys.

    Args:
        query: Shape ``[..., Q, d]``.
        key: Shape ``[..., T, d]``.
        bias: Added to them, shape ``[..., Q, T]`` or ``[..., 1, T]``, or ``None``.

    Returns:
        Shape ``[..., Q, T]``.
    """
    products = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return products if bias is None else products + bias


def own_logits(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """The same where each query has one key of its own.

    Args:
        query: Shape ``[..., Q, d]``.
        key: Shape ``[..., Q, d]``.
        bias: Added to them, shape ``[..., 1, 1]``, or ``None``.

    Returns:
        Shape ``[..., Q, 1]``.
    """
    products = (query * query.shape[-1] ** -0.5 * key).sum(dim=-1, keepdim=True)
    return products if bias is None else products + bias


@torch.fx.wrap
def weighed(logits: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Mean of the values by the softmax of logits, zero where a query sees nothing.

    Args:
        logits: Shape ``[..., Q, T]``.
        value: Shape ``[..., T, d]``, finite.
        visible: Bool, shape that broadcasts to ``[..., Q, T]``.

    Returns:
        Shape ``[..., Q, d]``.
    """
    shares = torch.softmax(_shown(logits, visible), dim=-1).to(value.dtype)
    return (shares @ value).masked_fill(~visible.any(dim=-1, keepdim=True), 0.0)


@torch.fx.wrap
def weighed_beside(
    logits: Tensor, value: Tensor, visible: Tensor, own_logits: Tensor, own_value: Tensor
) -> Tensor:
    """The same where each query has one value of its own besides.

    Args:
        logits: Shape ``[..., Q, T]``.
        value: Shape ``[..., T, d]``, finite.
        visible: Bool, shape that broadcasts to ``[..., Q, T]``.
        own_logits: Shape ``[..., Q, 1]``.
        own_value: Shape ``[..., Q, d]``.

    Returns:
        Shape ``[..., Q, d]``.
    """
    every = torch.cat([own_logits.to(logits.dtype), _shown(logits, visible)], dim=-1)
    shares = torch.softmax(every, dim=-1).to(value.dtype)
    return shares[..., :1] * own_value + shares[..., 1:] @ value


@torch.fx.wrap
def first(token: Tensor, others: Tensor) -> Tensor:
    """Put the user's token, if there is one, before the keys of every block.

    Args:
        token: Shape ``[B, H, U, d]``, ``U`` 0 or 1.
        others: Shape ``[B, N, H, K, d]`` or ``[B, H, K, d]``.

    Returns:
        ``others`` with ``U + K`` on their last axis but one.
    """
    if token.shape[2] == 0:
        return others
    if others.dim() == 5:
        token = token.unsqueeze(1).expand(-1, others.shape[1], -1, -1, -1)
    return torch.cat([token, others], dim=-2)


@torch.fx.wrap
def unbiased(bias: Tensor | None, token: Tensor) -> Tensor | None:
    """Give a bias the column of the user's token, if there is one: zeros.

    Args:
        bias: Shape ``[..., Q, K]``, or ``None``.
        token: Shape ``[B, H, U, d]``, ``U`` 0 or 1.

    Returns:
        Shape ``[..., Q, U + K]``, or ``None``.
    """
    return None if bias is None else functional.pad(bias, (token.shape[2], 0))


@torch.fx.wrap
def visible_too(visible: Tensor, token: Tensor) -> Tensor:
    """Give a mask the column of the user's token, if there is one: visible.

    Args:
        visible: Shape ``[..., Q, K]``.
        token: Shape ``[B, H, U, d]``, ``U`` 0 or 1.

    Returns:
        Shape ``[..., Q, U + K]``.
    """
    return functional.pad(visible, (token.shape[2], 0), value=True)


def _shown(logits: Tensor, visible: Tensor) -> Tensor:
    # the least finite number, so that a query which sees nothing meets no NaN on its way to zero
    return logits.masked_fill(~visible, torch.finfo(logits.dtype).min)


def _blocks(length: int, window: int) -> tuple[int, int, int]:
    """Queries of a block, number of blocks, and keys before the first query of a block."""
    size = max(1, min(length, max(SMALLEST_BLOCK, window)))
    count = max(1, (length + size - 1) // size)
    return size, count, 0 if count == 1 else min(window, length) - 1


def _padded(x: Tensor, before: int, after: int) -> Tensor:
    return functional.pad(x, (before, after) if x.dim() == 2 else (0, 0, before, after))
