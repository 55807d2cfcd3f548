r"""Attention over behaviours that know when they happened, gated lane by lane.

In a live stream what counts changes by the minute. The time of a behaviour is added to its
vector, a gate that reads the vector decides how much of each lane of the context comes through,
and normed queries and keys keep the scores bounded whatever is added.

Source: OneLive, arXiv 2602.08612, time-aware gated attention and QK-norm; QK-norm after Henry et
al., arXiv 2010.04245. Differs from the source: queries, keys and gate read one sequence, the one
with times [derived]; the time part is zero at birth, so that it can be added to a trained host
[derived]; which features tell the time is the caller's choice, with :func:`calendar_features` for
hour, day and week [derived].

Shapes: ``B`` rows, ``L`` behaviours, ``P`` time features, ``H`` heads, ``d`` width of a head,
``D`` width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.windowed_attention import windowed_attention

__all__ = ["TimeAwareGatedAttention", "TimeEncoding", "calendar_features"]

_HOUR, _DAY = 3600, 86400
_THURSDAY = 3  # 1970-01-01, with Monday 0


class TimeEncoding(nn.Module):
    r"""Add the time to a token, for instance to behaviours or to the one that begins a sequence.

    .. math::  x + V\,\mathrm{SiLU}(U t + b) + c, \qquad V = 0,\ c = 0 \text{ at birth}

    Args:
        num_features: Number ``P`` of features that tell the time, of the order of one.
        dim: Width ``D`` of a token.
        hidden: Width of the hidden layer.

    Raises:
        ValueError: If a size is less than one.

    Example:
        >>> encode, x = TimeEncoding(num_features=6, dim=4), torch.randn(2, 4)
        >>> torch.equal(encode(x, calendar_features(torch.tensor([0, 3600]))), x)
        True
    """

    def __init__(self, *, num_features: int, dim: int, hidden: int = 32) -> None:
        super().__init__()
        for name, size in {"num_features": num_features, "dim": dim, "hidden": hidden}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.num_features = num_features
        self.dim = dim
        self.hidden = nn.Linear(num_features, hidden)
        self.out = _Zero(hidden, dim)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Add the times.

        Args:
            x: Tokens, shape ``[..., D]``.
            times: Features of their times, shape ``[..., P]``.

        Returns:
            Tokens, shape ``[..., D]``.
        """
        return x + self.out(functional.silu(self.hidden(times)))


class TimeAwareGatedAttention(nn.Module):
    r"""Self-attention with times, a gate on the context and normed queries and keys.

    .. math::  X' = X + \mathrm{MLP}(t), \qquad
        O = \big(\mathrm{MHA}(X' W_Q, X' W_K, X' W_V) \odot \sigma(X' W_\theta + b)\big)\, W_O,
        \qquad \mathrm{softmax}\Big(\frac{\mathrm{RMS}(Q)\,\mathrm{RMS}(K)^\top}{\sqrt d}\Big)

    No score exceeds :math:`\sqrt d \max |\gamma_q \gamma_k|`, with the scales of the two norms.

    Args:
        time: Adds the times; its width is the width ``D`` of the attention.
        num_heads: Number ``H`` of heads, a divisor of ``D``.
        rotary: Turns queries and keys by their places among real behaviours; ``None``: order
            plays no part beyond what is visible.
        causal: Whether later behaviours are hidden.

    Raises:
        ValueError: If ``num_heads`` is less than one or no divisor of the width.

    Example:
        >>> attend = TimeAwareGatedAttention(time=TimeEncoding(num_features=6, dim=8))
        >>> times = calendar_features(torch.arange(10).view(2, 5) * 3600)
        >>> attend(torch.randn(2, 5, 8), torch.ones(2, 5).bool(), times).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        *,
        time: TimeEncoding,
        num_heads: int = 1,
        rotary: RotaryEmbedding | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {num_heads}")
        if time.dim % num_heads:
            raise ValueError(f"num_heads must divide the width {time.dim}, got {num_heads}")
        self.dim = time.dim
        self.num_heads = num_heads
        self.head_dim = time.dim // num_heads
        self.causal = causal
        self.time = time
        self.query = nn.Linear(self.dim, self.dim, bias=False)
        self.key = nn.Linear(self.dim, self.dim, bias=False)
        self.value = nn.Linear(self.dim, self.dim, bias=False)
        self.query_norm = nn.RMSNorm(self.head_dim)
        self.key_norm = nn.RMSNorm(self.head_dim)
        self.rotary = rotary
        self.gate = nn.Linear(self.dim, self.dim)
        self.out = nn.Linear(self.dim, self.dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor, times: Tensor) -> Tensor:
        """Attend.

        Args:
            x: Behaviours, oldest first, shape ``[B, L, D]``; padding may hold anything.
            mask: Which are real, shape ``[B, L]``, bool.
            times: Features of their times, shape ``[B, L, P]``; padding may hold anything.

        Returns:
            What each behaviour read, shape ``[B, L, D]``, zero at padding.

        Raises:
            ValueError: If the shapes do not fit.
        """
        x, real = self._timed(x, mask, times)
        query, key = self._queries_and_keys(x, real)
        value = self._heads(self.value(x))
        context = _read(query, key, value, real, self.causal)
        gated = context.transpose(1, 2).flatten(2) * torch.sigmoid(self.gate(x))
        return _padding.zeroed(self.out(gated), real)

    def scores(self, x: Tensor, mask: Tensor, times: Tensor) -> Tensor:
        """What the softmax gets, to be looked at: bounded, whatever the behaviours hold.

        Args:
            x: As in :meth:`forward`.
            mask: As in :meth:`forward`.
            times: As in :meth:`forward`.

        Returns:
            Shape ``[B, H, L, L]``, queries by keys, with those that are not visible.

        Raises:
            ValueError: If the shapes do not fit.
        """
        query, key = self._queries_and_keys(*self._timed(x, mask, times))
        return query @ key.transpose(2, 3) * self.head_dim**-0.5

    def _timed(self, x: Tensor, mask: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        x = _check.shape(x, "x", [-1, -1, self.dim])
        real = _padding.boolean(mask, "mask", [x.shape[0], x.shape[1]])
        dims = [x.shape[0], x.shape[1], self.time.num_features]
        known = _padding.zeroed(_check.shape(times, "times", dims), real)
        return self.time(_padding.zeroed(x, real), known), real

    def _queries_and_keys(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query_norm(self._heads(self.query(x)))
        key = self.key_norm(self._heads(self.key(x)))
        if self.rotary is not None:
            places = torch.cumsum(real.long(), dim=1) - 1
            query, key = self.rotary(query, places), self.rotary(key, places)
        return query, key

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)


def calendar_features(times: Tensor, *, utc_offset: float = 0.0) -> Tensor:
    """Where times stand in the day, the week and the year, as sines and cosines.

    Args:
        times: Seconds since 1970-01-01 in UTC, of any shape.
        utc_offset: Hours that local time is ahead of UTC.

    Returns:
        Shape ``[..., 6]``, float32: sine and cosine of the time of the day, of the week (which
        begins on Monday) and of the year (of 365.2425 days).

    Example:
        >>> monday_noon = torch.tensor(4 * 86400 + 43200)  # 1970-01-05
        >>> calendar_features(monday_noon)[:2].round().tolist()  # half of the day is over
        [0.0, -1.0]
    """
    local = times.double() + utc_offset * _HOUR
    week = local + _THURSDAY * _DAY
    turns = [local / _DAY, week / (7 * _DAY), local / (365.2425 * _DAY)]
    angles = 2.0 * math.pi * torch.remainder(torch.stack(turns, dim=-1), 1.0)
    both = torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1)
    return both.flatten(-2).float()


# a function that is imported by name is not seen by a tracer: here it is called in one that is
@torch.fx.wrap
def _read(query: Tensor, key: Tensor, value: Tensor, real: Tensor, causal: bool) -> Tensor:
    return windowed_attention(query, key, value, mask=real, causal=causal)


class _Zero(nn.Linear):
    """A linear layer that is born zero; whoever resets it, in whatever order."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
