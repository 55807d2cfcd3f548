r"""An impression compressed to one token, learned through the prediction that it must still allow.

Stage I of instance-as-token. A source ranker's vector after its feature interaction holds all that
the ranker knows of one impression, in thousands of numbers. It is squeezed through

.. math::  z = \sigma(W_1 h + b_1)

and from ``z`` alone the label is predicted again; what survives is a token that a later request of
the user can read. Two ways to train it: *temporal*, each impression alone; *user order*, where the
impressions of a user, in the order of time, pass a causal transformer (SIT) before the label is
predicted, so that ``z`` learns to be of use to later ones. Stored is ``z`` before the transformer
in both ways: it depends on its own impression and nothing else.

Source: IAT, arXiv 2604.08933: the token, both orders, two layers, 64 numbers, the last tokens
taken from the store without a gradient while only the current one learns. Differs from the
source: the decompression is a layer of ``hidden`` and SiLU [derived]; SIT is made of pre-norm
blocks with RoPE over the places in the order of time [derived].

Shapes: ``B`` users (or rows), ``T`` impressions, ``P`` earlier ones from a store, ``D`` width.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from sidrank.semantic_ids._integers import as_integers

__all__ = ["InstanceTokenizer", "InstanceTokens", "user_order"]


class InstanceTokens(NamedTuple):
    """What an :class:`InstanceTokenizer` makes."""

    logits: Tensor
    """Of each impression, shape ``[B, T]``; zero at padding."""
    tokens: Tensor
    """To be stored, shape ``[B, T, D]``, within ``[0, 1]``; zero at padding."""


class InstanceTokenizer(nn.Module):
    r"""From interaction vectors to tokens, and to the logits that train them.

    .. math::  z = \sigma(W_1 h + b_1), \qquad
        \hat y_t = \mathrm{MLP}(z_t) \;\text{ or }\; \mathrm{MLP}(\mathrm{SIT}(z_{\le t})_t)

    A whole model with a loss of its own, not an addition to a live one. The source ranker may be
    trained through it or be frozen; that is the caller's choice of ``h``.

    Args:
        input_dim: Width of the interaction vector.
        dim: Width ``D`` of a token; in user order even multiples of ``num_heads``.
        mode: ``"temporal"``: impressions do not see each other. ``"user_order"``: one sees the
            earlier ones of its row.
        hidden: Width of the decompression, and of the feed-forward layers of SIT.
        num_layers: Layers of SIT.
        num_heads: Attention heads of SIT.

    Raises:
        ValueError: If a size is less than one, ``mode`` is neither, or ``dim`` does not fit
            ``num_heads``.

    Example:
        >>> tokenizer = InstanceTokenizer(input_dim=6, dim=8, mode="user_order", num_heads=2)
        >>> logits, tokens = tokenizer(torch.randn(3, 5, 6), torch.ones(3, 5).bool())
        >>> logits.shape, tokens.shape
        (torch.Size([3, 5]), torch.Size([3, 5, 8]))
    """

    def __init__(
        self,
        *,
        input_dim: int,
        dim: int = 64,
        mode: Literal["temporal", "user_order"] = "temporal",
        hidden: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        sizes = {"input_dim": input_dim, "dim": dim, "hidden": hidden, "num_layers": num_layers}
        for name, size in (sizes | {"num_heads": num_heads}).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if mode not in ("temporal", "user_order"):
            raise ValueError(f"mode must be 'temporal' or 'user_order', got {mode!r}")
        self.input_dim = input_dim
        self.dim = dim
        self.mode: Literal["temporal", "user_order"] = mode
        self.compress = nn.Linear(input_dim, dim)
        self.transformer: _Transformer | None = None
        if mode == "user_order":
            if dim % (2 * num_heads):
                raise ValueError(
                    f"dim must be an even multiple of num_heads {num_heads}, got {dim}"
                )
            self.transformer = _Transformer(
                dim=dim, hidden=hidden, num_layers=num_layers, num_heads=num_heads
            )
        self.decompress = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def tokens(self, h: Tensor) -> Tensor:
        """Tokens of impressions, each from its own vector alone: what a store is given.

        Args:
            h: Interaction vectors, shape ``[..., input_dim]``.

        Returns:
            Shape ``[..., D]``, in the dtype of the weights, also under autocast.
        """
        return _squeezed(h, self.compress.weight, self.compress.bias)

    def forward(
        self,
        h: Tensor,
        mask: Tensor,
        past: Tensor | None = None,
        past_mask: Tensor | None = None,
    ) -> InstanceTokens:
        """Make tokens and logits.

        Args:
            h: Interaction vectors, in user order a user in each row, oldest impression first,
                shape ``[B, T, input_dim]``; padding may hold anything. ``user_order`` groups
                the rows of a batch.
            mask: Which impressions are real, shape ``[B, T]``, bool.
            past: In user order, the tokens of the ``P`` impressions before, from a store,
                oldest first, shape ``[B, P, D]``. They get no gradient.
            past_mask: Which of them are real, shape ``[B, P]``, bool; needed with ``past``.

        Returns:
            Logits and tokens; detach the tokens before they are stored.

        Raises:
            ValueError: If the shapes do not fit, ``past`` is given in temporal mode, or only
                one of ``past`` and ``past_mask`` is.
        """
        h = _check.shape(h, "h", [-1, -1, self.input_dim])
        real = _padding.boolean(mask, "mask", [h.shape[0], h.shape[1]])
        tokens = _padding.zeroed(self.tokens(_padding.zeroed(h, real)), real)
        if self.transformer is None:
            read = _alone(tokens, past, past_mask)
        else:
            stream, seen = _joined(tokens, real, past, past_mask)
            read = self.transformer(stream, seen)[:, stream.shape[1] - h.shape[1] :]
        logits = self.decompress(read).squeeze(2).masked_fill(~real, 0.0)
        return InstanceTokens(logits, tokens)


class _Transformer(nn.Module):
    """SIT: each token reads itself and the real ones before it."""

    def __init__(self, *, dim: int, hidden: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.blocks = nn.ModuleList(
            DecoderBlock(
                attention=SelfAttention(
                    dim=dim, num_heads=num_heads, rotary=RotaryEmbedding(head_dim=head_dim)
                ),
                hidden=hidden,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # places among the real ones: padding in between is not a step in time
        places = mask.long().cumsum(dim=1) - 1
        for block in self.blocks:
            x = block(x, mask, places)
        return self.norm(x)


def user_order(
    users: object, times: object, *, count: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Group the rows of a batch by user, oldest first.

    Args:
        users: User of each row, shape ``[n]``.
        times: Time of each row, shape ``[n]``; rows of one moment stay in their order.
        count: The most rows of a user, the newest; None keeps all.

    Returns:
        Rows of the batch, a user in each row, padding last and 0, shape ``[B, T]``, and which
        are real. Users are in ascending order.

    Raises:
        TypeError: If a column is not of integers.
        ValueError: If they are not vectors of one length, or ``count`` is less than one.

    Example:
        >>> index, mask = user_order([7, 5, 7], [30, 10, 20])
        >>> index.tolist(), mask.tolist()
        ([[1, 0], [2, 0]], [[True, False], [True, True]])
    """
    who, when = as_integers(users, "users"), as_integers(times, "times")
    if who.ndim != 1 or who.shape != when.shape:
        raise ValueError(
            f"users and times must have one shape [n], got {list(who.shape)} and {list(when.shape)}"
        )
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    order = np.lexsort((when, who))
    _, first, held = np.unique(who[order], return_index=True, return_counts=True)
    length = int(held.max(initial=0)) if count is None else count
    kept = np.minimum(held, length)
    mask = np.arange(length) < kept[:, None]
    place = (first + held - kept)[:, None] + np.arange(length)
    index = np.zeros(mask.shape, dtype=np.int64)
    index[mask] = order[place[mask]]
    return index, mask


# a store must not depend on the precision of the day: autocast is off in here
@torch.fx.wrap
def _squeezed(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with torch.autocast(h.device.type, enabled=False):
        return torch.sigmoid(F.linear(h.to(weight.dtype), weight, bias))


# what is optional is looked at in here: to a tracer an argument left out is not None
@torch.fx.wrap
def _alone(tokens: Tensor, past: Tensor | None, past_mask: Tensor | None) -> Tensor:
    if past is not None or past_mask is not None:
        raise ValueError("past must be None in mode 'temporal', got tokens of the past")
    return tokens


@torch.fx.wrap
def _joined(
    tokens: Tensor, real: Tensor, past: Tensor | None, past_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    if past is None and past_mask is None:
        return tokens, real
    if past is None or past_mask is None:
        raise ValueError("past and past_mask must be given together, got one of them")
    past = _check.shape(past, "past", [tokens.shape[0], -1, tokens.shape[2]])
    held = _padding.boolean(past_mask, "past_mask", [past.shape[0], past.shape[1]])
    earlier = _padding.zeroed(past.detach().to(tokens.dtype), held)
    return torch.cat([earlier, tokens], dim=1), torch.cat([held, real], dim=1)
