r"""A long history and candidates through layers of sparse attention.

Source: SparseCTR, arXiv 2601.17836: pre-norm blocks with RMSNorm and SwiGLU over
``[behaviours; candidates]``, of which the candidates' last states are the answer.
Differs from the source: the last block makes the candidates' states alone, since nobody reads
the behaviours' [derived].

Shapes: ``B`` rows, ``L`` behaviours, ``C`` candidates, ``D`` width.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank import _check
from sidrank.layers import _padding
from sidrank.layers.swiglu import SwiGLU
from sidrank.sequences import selection
from sidrank.sequences.evolutionary_attention import EvolutionarySparseAttention

__all__ = ["SparseCTREncoder"]


class SparseCTREncoder(nn.Module):
    r"""Candidates that have read a long history, ready for a host's layers.

    Each layer is

    .. math::  x \leftarrow x + \mathrm{Attn}(\mathrm{RMS}(x)), \qquad
        x \leftarrow x + \mathrm{SwiGLU}(\mathrm{RMS}(x))

    for behaviours and candidates alike, and a last norm follows.

    Args:
        attentions: One for each layer, of one ``dim``; they may share a chunker.
        hidden: Width inside the feed-forward layers.

    Raises:
        ValueError: If there are no attentions, their widths differ, one is given twice, or
            ``hidden`` is less than one.

    Example:
        >>> from sidrank.sequences.rel_temporal_bias import RelTemporalBias
        >>> from sidrank.sequences.time_chunks import TimeChunker
        >>> chunker = TimeChunker(num_chunks=3)
        >>> attentions = [
        ...     EvolutionarySparseAttention(
        ...         dim=8, num_heads=2, chunker=chunker, window=4,
        ...         bias=RelTemporalBias(num_heads=2))
        ...     for _ in range(2)
        ... ]
        >>> encoder = SparseCTREncoder(attentions=attentions, hidden=16)
        >>> times, now = torch.arange(20).expand(2, 20), torch.tensor([20, 9])
        >>> encoder(
        ...     torch.randn(2, 20, 8), torch.randn(2, 3, 8), torch.ones(2, 20).bool(), times, now,
        ...     torch.randn(2, 8)).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, *, attentions: Sequence[EvolutionarySparseAttention], hidden: int) -> None:
        super().__init__()
        widths = [attention.dim for attention in attentions]
        if not widths or len(set(widths)) > 1:
            raise ValueError(f"attentions must be one or more of one dim, got dims {widths}")
        if len(set(attentions)) < len(attentions):
            raise ValueError("attentions must be different modules, got one of them twice")
        self.dim = widths[0]
        self.blocks = nn.ModuleList(
            _SparseBlock(attention=attention, hidden=hidden) for attention in attentions
        )
        self.norm = nn.RMSNorm(self.dim)

    def forward(
        self,
        behaviours: Tensor,
        candidates: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        user: Tensor | None = None,
    ) -> Tensor:
        """Encode.

        Args:
            behaviours: Shape ``[B, L, D]``, in any order; padding may hold anything.
            candidates: Shape ``[B, C, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, since 1 January 1970, shape ``[B, L]``, int64 or int32.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours are
                read.
            user: The user's embedding, a token of every window, shape ``[B, D]``.

        Returns:
            Candidates, shape ``[B, C, D]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        rest = mask, times, now, user
        for block in self.blocks[:-1]:
            behaviours, candidates = block(behaviours, candidates, *rest)
        last = cast("_SparseBlock", self.blocks[-1])
        return self.norm(last.of_candidates(behaviours, candidates, *rest))


class _SparseBlock(nn.Module):
    r"""Sparse attention, then a feed-forward layer, each added to the stream."""

    def __init__(self, *, attention: EvolutionarySparseAttention, hidden: int) -> None:
        super().__init__()
        self.dim = attention.dim
        self.attention_norm = nn.RMSNorm(attention.dim)
        self.attention = attention
        self.ffn_norm = nn.RMSNorm(attention.dim)
        self.ffn = SwiGLU(dim=attention.dim, hidden=hidden)

    def forward(
        self,
        behaviours: Tensor,
        candidates: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        user: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Behaviours, zero where they are not real or not earlier, and candidates."""
        known = selection.earlier(mask, times, now)
        x, candidates = self._checked(behaviours, candidates, known)
        normed, token = self._normed(x, user)
        read, answers = self.attention(
            normed, self.attention_norm(candidates), known, times, now, token
        )
        return _padding.zeroed(self._fed(x + read), known), self._fed(candidates + answers)

    def of_candidates(
        self,
        behaviours: Tensor,
        candidates: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        user: Tensor | None = None,
    ) -> Tensor:
        """The candidates alone, which is all that a last block is asked for."""
        known = selection.earlier(mask, times, now)
        x, candidates = self._checked(behaviours, candidates, known)
        normed, token = self._normed(x, user)
        answers = self.attention.of_candidates(
            normed, self.attention_norm(candidates), known, times, now, token
        )
        return self._fed(candidates + answers)

    def _checked(
        self, behaviours: Tensor, candidates: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, length = known.shape[0], known.shape[1]
        behaviours = _check.shape(behaviours, "behaviours", [rows, length, self.dim])
        candidates = _check.shape(candidates, "candidates", [rows, -1, self.dim])
        return _padding.zeroed(behaviours, known), candidates

    def _normed(self, x: Tensor, user: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.attention_norm(x), _rms(user, self.attention_norm.weight)

    def _fed(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.ffn_norm(x))


@torch.fx.wrap
def _rms(user: Tensor | None, weight: Tensor) -> Tensor | None:
    if user is None:
        return None
    user = _check.shape(user, "user", [-1, weight.shape[0]])
    return functional.rms_norm(user, list(weight.shape), weight)
