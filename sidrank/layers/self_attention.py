r"""Multi-head attention of a sequence on itself: causal, windowed, masked or over a memory.

Every sequence encoder of the library attends through this one. What differs between them is only
which keys a query may read.

Source: Vaswani et al., 2017, section 3.2; QK-norm: OneLive, arXiv 2602.08612, after Henry et al.,
arXiv 2010.04245. Differs from the source: no biases.

Shapes: ``B`` rows, ``T`` tokens, ``M`` keys of a memory, ``H`` heads, ``d`` width of a head, ``D``
width.
"""

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding, attention_masks
from sidrank.layers.attention import attend
from sidrank.layers.rotary import RotaryEmbedding, Turns
from sidrank.layers.windowed_attention import windowed_attention

__all__ = ["Memory", "SelfAttention"]

Memory = tuple[Tensor, Tensor, Tensor]
"""Keys and values of other tokens, ``[B, H, M, d]`` each, and which are real, ``[B, M]``."""


class SelfAttention(nn.Module):
    r"""Tokens read tokens.

    Args:
        dim: Width ``D``.
        num_heads: Number ``H`` of heads, a divisor of ``dim``.
        window: How many tokens a token sees, itself included; ``None`` is all before it.
        rotary: Turns queries and keys by their positions; ``None``: positions play no part.
        qk_norm: Whether queries and keys are divided by their root mean square, which bounds
            the scores.
        dropout: Share of attention weights dropped in training.

    Raises:
        ValueError: If a size is less than one or ``dim`` is no multiple of ``num_heads``.

    Example:
        >>> attend_to = SelfAttention(dim=8, num_heads=2, rotary=RotaryEmbedding(head_dim=4))
        >>> attend_to(torch.randn(2, 5, 8), torch.ones(2, 5).bool()).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int = 1,
        window: int | None = None,
        rotary: RotaryEmbedding | None = None,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_heads": num_heads, "window": 1 if window is None else window}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads {num_heads}, got {dim}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.window = window
        self.dropout = dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.rotary = rotary
        self.query_norm = nn.RMSNorm(self.head_dim) if qk_norm else None
        self.key_norm = nn.RMSNorm(self.head_dim) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor | Turns | None = None,
        visible: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: Tokens, shape ``[B, T, D]``; padding may hold anything.
            mask: Which tokens are real, shape ``[B, T]``, bool.
            positions: Positions for RoPE, shape ``[T]`` or ``[B, T]``, or their turns; by default
                0, 1, 2, ...
            visible: Which tokens a token may read if they are real, shape ``[T, T]`` or
                ``[B, T, T]``, bool; by default those before it, itself and no more than
                ``window``.
            memory: Keys and values that every token reads besides.

        Returns:
            Shape ``[B, T, D]``; zero for a token that sees nothing.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x = _check.shape(x, "x", [-1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [x.shape[0], x.shape[1]])
        query, key, value = self.project(_padding.zeroed(x, real), positions)
        dropout = self.dropout if self.training else 0.0
        context = _read(query, key, value, real, self.window, visible, memory, dropout)
        return self.merge(context)

    def project(
        self, x: Tensor, positions: Tensor | Turns | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, for a caller who attends in its own way.

        Args:
            x: Tokens, shape ``[B, T, D]``.
            positions: Positions for RoPE, shape ``[T]`` or ``[B, T]``, or their turns; by default
                0, 1, 2, ...

        Returns:
            Shape ``[B, H, T, d]`` each.
        """
        query = self._placed(self.query(x), self.query_norm, positions)
        return query, *self.keys_values(x, positions)

    def merge(self, context: Tensor) -> Tensor:
        """Put the heads side by side, then the last layer.

        Args:
            context: What the heads read, shape ``[B, H, T, d]``.

        Returns:
            Shape ``[B, T, D]``.
        """
        return self.out(context.transpose(1, 2).flatten(2))

    def keys_values(
        self, x: Tensor, positions: Tensor | Turns | None = None
    ) -> tuple[Tensor, Tensor]:
        """What other tokens read of these: a memory for later, with a mask of which are real.

        Args:
            x: Tokens, shape ``[B, T, D]``.
            positions: Positions for RoPE, shape ``[T]`` or ``[B, T]``, or their turns; by default
                0, 1, 2, ...

        Returns:
            Keys and values, shape ``[B, H, T, d]`` each.
        """
        key = self._placed(self.key(x), self.key_norm, positions)
        return key, self._heads(self.value(x))

    def _placed(
        self, x: Tensor, norm: nn.Module | None, positions: Tensor | Turns | None
    ) -> Tensor:
        heads = self._heads(x)
        if norm is not None:
            heads = norm(heads)
        return heads if self.rotary is None else self.rotary(heads, _places(heads, positions))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)


# what is optional is looked at in here: to a tracer an argument left out is not None
@torch.fx.wrap
def _read(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    real: Tensor,
    window: int | None,
    visible: Tensor | None,
    memory: Memory | None,
    dropout: float,
) -> Tensor:
    if visible is None and memory is None:
        return windowed_attention(query, key, value, window=window, mask=real, dropout=dropout)
    length = query.shape[2]
    if visible is None:
        visible = attention_masks.window_mask(query, window)
    elif visible.dtype != torch.bool or visible.shape[-2:] != (length, length):
        raise ValueError(
            f"visible must be bool and end in [{length}, {length}], "
            f"got {visible.dtype}, {list(visible.shape)}"
        )
    seen = visible & real.unsqueeze(1)
    if memory is not None:
        keys, values, held = memory
        hidden = ~held[:, None, :, None]  # of what may hold NaN
        key = torch.cat([keys.masked_fill(hidden, 0.0), key], dim=2)
        value = torch.cat([values.masked_fill(hidden, 0.0), value], dim=2)
        seen = torch.cat([held.unsqueeze(1).expand(-1, length, -1), seen], dim=2)
    return attend(query, key, value, visible=seen.unsqueeze(1), dropout=dropout)


@torch.fx.wrap
def _places(heads: Tensor, positions: Tensor | Turns | None) -> Tensor | Turns:
    return torch.arange(heads.shape[2], device=heads.device) if positions is None else positions
