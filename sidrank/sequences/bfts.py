r"""BFTS: read a long history and the fields of a request as one stream, and keep them apart above.

A stream in which fields (age, city, ...) and behaviours attend to each other in every layer loses
rank: a few static tokens, read by everything everywhere, pull the behaviours towards themselves.
BFTS lets them meet in the first layers only. Above, the static tokens leave the stream and the
behaviours attend within windows that shrink from layer to layer, at a cost linear in their
number.

.. code-block:: text

    places     fields  sep | behaviour 1 ... behaviour n   sep | target
    positions    0      0  |      1       ...      n       n+1 |  n+1
    full layers      every token reads those before it and itself
    window w         (removed)  the last w of those before it, itself included

Source: TokenFormer, arXiv 2604.13737 (bottom full, top sliding; NLIR; RMSNorm, RoPE, SwiGLU).
Differs from the source: several targets are scored at once, each as if it were alone [derived];
padding is moved behind the behaviours first, so that windows count behaviours and not places of a
batch [derived]; the separators take the positions of their neighbours without content [derived];
above the full layers only tokens that a target can still reach are computed, which changes no
answer [derived].

Shapes: ``B`` rows, ``F`` fields, ``L`` behaviours, ``C`` targets, ``H`` heads, ``D`` width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.attention import attend
from sidrank.layers.nlir import NLIR
from sidrank.layers.rotary import RotaryEmbedding, Turns
from sidrank.layers.self_attention import SelfAttention
from sidrank.layers.swiglu import SwiGLU
from sidrank.layers.windowed_attention import windowed_attention

__all__ = ["BFTSEncoder"]


class BFTSEncoder(nn.Module):
    r"""Fields, behaviours and targets through full layers, then through shrinking windows.

    A target reads all behaviours in the full layers and, through the windows, the last
    :math:`1 + \sum_i (w_i - 1)` tokens of the stream, itself and the separator among them.

    Args:
        dim: Width ``D``.
        num_heads: Number ``H`` of heads; the width of a head must be even.
        hidden: Width inside the feed-forward layers.
        full_layers: Layers at the bottom that see everything.
        windows: Tokens that a token sees in each layer above, itself included; they never grow.
        gated: Whether the residual of each attention is an ``NLIR``; if not it is a plain sum.

    Raises:
        ValueError: If a size is less than one, ``dim`` does not fit the heads or windows grow.

    Example:
        >>> encoder = BFTSEncoder(dim=8, num_heads=2, hidden=16, windows=[4, 2])
        >>> static, behaviours = torch.randn(2, 3, 8), torch.randn(2, 9, 8)
        >>> targets, mask = torch.randn(2, 5, 8), torch.ones(2, 9).bool()
        >>> encoder(static, behaviours, mask, targets).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int = 1,
        hidden: int,
        full_layers: int = 1,
        windows: Sequence[int] = (),
        gated: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_heads": num_heads, "full_layers": full_layers}
        for name, size in (*sizes.items(), *(("windows", window) for window in windows)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if sorted(windows, reverse=True) != list(windows):
            raise ValueError(f"windows must not grow, got {list(windows)}")
        if dim % (2 * num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads {num_heads}, got {dim}")
        self.dim = dim
        self.full_layers = full_layers
        self.windows = tuple(windows)
        self.separators = nn.Parameter(torch.empty(2, dim))
        self.rotary = RotaryEmbedding(head_dim=dim // num_heads)
        layers = [None] * full_layers + list(windows)
        self.blocks = nn.ModuleList(
            _StreamBlock(
                SelfAttention(dim=dim, num_heads=num_heads, window=window),
                hidden,
                self.rotary,
                NLIR(dim=dim) if gated else None,
            )
            for window in layers
        )
        self.norm = nn.RMSNorm(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give the separators their first values."""
        nn.init.normal_(self.separators, std=0.02)

    def forward(self, static: Tensor, behaviours: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Encode the targets; what they can no longer reach is not computed.

        Args:
            static: One token a field, shape ``[B, F, D]``; ``F`` may be 0.
            behaviours: Oldest first, shape ``[B, L, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool; padding may stand anywhere.
            targets: Candidates of the request, shape ``[B, C, D]``.

        Returns:
            Shape ``[B, C, D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self._encode(static, behaviours, mask, targets, reach=True)[1]

    def every_token(
        self, static: Tensor, behaviours: Tensor, mask: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode all that is in the stream after the last layer.

        Args:
            static: One token a field, shape ``[B, F, D]``.
            behaviours: Oldest first, shape ``[B, L, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            targets: Candidates of the request, shape ``[B, C, D]``.

        Returns:
            The tokens before the targets, real ones first: ``[B, L + 1, D]``, behaviours and
            separator, with fields and their separator before them if no layer has a window; and
            the targets, ``[B, C, D]``, as ``forward`` gives them. What follows the last real
            token is finite and means nothing.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self._encode(static, behaviours, mask, targets, reach=False)

    def _encode(
        self, static: Tensor, behaviours: Tensor, mask: Tensor, targets: Tensor, reach: bool
    ) -> tuple[Tensor, Tensor]:
        behaviours = _check.shape(behaviours, "behaviours", [-1, -1, self.dim])
        rows = behaviours.shape[0]
        static = _check.shape(static, "static", [rows, -1, self.dim])
        targets = _check.shape(targets, "targets", [rows, -1, self.dim])
        mask = _padding.boolean(mask, "mask", [rows, behaviours.shape[1]])
        behaviours = _padding.zeroed(behaviours, mask)
        x, places, count = _stream(static, behaviours, mask, targets, self.separators)
        prefix, chosen = static.shape[1] + 1, targets.shape[1]
        angles = self.rotary.turns(_all_places(behaviours))
        turns = _turned_to(places, angles)
        for index, block in enumerate(self.blocks):
            if index >= self.full_layers:
                if index == self.full_layers:
                    x, places, count = x[:, prefix:], places[:, prefix:], count - prefix
                if reach:
                    # of these tokens a target may still hear: one window after the other
                    kept = sum(window - 1 for window in self.windows[index - self.full_layers :])
                    x, places, count = _newest(x, places, count, chosen, max(kept, 1))
                if reach or index == self.full_layers:
                    turns = _turned_to(places, angles)
            x = block(x, turns, count, chosen)
        x = self.norm(x)
        before = x.shape[1] - chosen
        return x[:, :before], x[:, before:]


class _StreamBlock(nn.Module):
    """``DecoderBlock`` for a stream whose last tokens are targets, blind to each other.

    What comes before them is real up to a row's ``count`` and padding after it: causality alone
    hides padding from what is real, so no mask is needed.
    """

    def __init__(
        self, attention: SelfAttention, hidden: int, rotary: RotaryEmbedding, residual: NLIR | None
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(attention.dim)
        self.attention = attention
        self.residual = residual
        self.ffn_norm = nn.RMSNorm(attention.dim)
        self.ffn = SwiGLU(dim=attention.dim, hidden=hidden)
        self.rotary = rotary

    def forward(self, x: Tensor, turns: Turns, count: Tensor, targets: int) -> Tensor:
        query, key, value = self.attention.project(self.attention_norm(x))
        query, key = self.rotary(query, turns), self.rotary(key, turns)
        context = _read(query, key, value, count, self.attention.window, targets)
        branch = self.attention.merge(context)
        x = x + branch if self.residual is None else self.residual(x, branch)
        return x + self.ffn(self.ffn_norm(x))


@torch.fx.wrap
def _stream(
    static: Tensor, behaviours: Tensor, mask: Tensor, targets: Tensor, separators: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their positions, and how many of those before the targets are real."""
    rows, fields, length = static.shape[0], static.shape[1], behaviours.shape[1]
    one = separators.expand(rows, 2, -1)
    # the separator stands behind the padding and is real: moving what is real forward, in its
    # order, brings it to its place
    sequence = torch.cat([behaviours, one[:, 1:]], dim=1)
    padding = functional.pad(~mask, (0, 1))
    sequence = _rows(sequence, padding.long().argsort(dim=1, stable=True))
    n = mask.sum(dim=1)
    before = torch.arange(-fields, length + 2, device=mask.device).clamp(min=0)
    own = (n + 1).unsqueeze(1).expand(rows, targets.shape[1])
    places = torch.cat([before.expand(rows, -1), own], dim=1)
    return torch.cat([static, one[:, :1], sequence, targets], dim=1), places, n + fields + 2


@torch.fx.wrap
def _newest(
    x: Tensor, places: Tensor, count: Tensor, targets: int, kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the tokens before the targets, the last real ones."""
    before = x.shape[1] - targets
    if kept >= before:
        return x, places, count
    first = (count - kept).clamp(min=0).unsqueeze(1)
    index = first + torch.arange(kept, device=x.device)
    newest = torch.cat([_rows(x[:, :before], index), x[:, before:]], dim=1)
    places = torch.cat([places[:, :before].gather(1, index), places[:, before:]], dim=1)
    return newest, places, count.clamp(max=kept)


@torch.fx.wrap
def _all_places(behaviours: Tensor) -> Tensor:
    return torch.arange(behaviours.shape[1] + 2, device=behaviours.device)


@torch.fx.wrap
def _turned_to(places: Tensor, angles: Turns) -> Turns:
    """Rows share the angles, which are dear; looking them up is cheap."""
    cosine, sine = angles
    return cosine[places].unsqueeze(1), sine[places].unsqueeze(1)


@torch.fx.wrap
def _read(
    query: Tensor, key: Tensor, value: Tensor, count: Tensor, window: int | None, targets: int
) -> Tensor:
    before = query.shape[2] - targets
    context = windowed_attention(
        query[:, :, :before], key[:, :, :before], value[:, :, :before], window=window
    )
    ago = count.unsqueeze(1) - torch.arange(before, device=count.device)
    seen = (ago > 0) if window is None else (ago > 0) & (ago < window)
    seen = seen.unsqueeze(1).expand(-1, targets, -1)
    own = torch.eye(targets, dtype=torch.bool, device=count.device).expand(count.shape[0], -1, -1)
    visible = torch.cat([seen, own], dim=2).unsqueeze(1)
    return torch.cat([context, attend(query[:, :, before:], key, value, visible=visible)], dim=2)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of each row by their places, ``[B, T, D]`` and ``[B, K]`` to ``[B, K, D]``."""
    start = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + start).flatten()).unflatten(0, index.shape)
