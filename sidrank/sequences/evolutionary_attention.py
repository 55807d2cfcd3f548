r"""Attention over a long history at a cost that grows with its length alone.

A behaviour and a candidate read three things: a summary of each earlier chunk of the history
(where the user has been), the last behaviours of each earlier chunk (how interests changed from
one session to the next) and a window of what came just before. A gate for each head weighs them.

Source: SparseCTR, arXiv 2601.17836, evolutionary sparse self-attention.
Differs from the source: a summary is the mean of its chunk, with the moment of the chunk's last
behaviour [derived]; the branches share their projections [derived]; the user has no moment, so no
bias [derived]; a candidate stands after the last behaviour, in a chunk of its own [derived].

Cost: a query meets ``P + m P + w`` keys, so ``L (P + m P + w)`` pairs in all; windows are read in
blocks of ``w`` (32 at least), which doubles their part. No matrix of all pairs is made.

Shapes: ``B`` rows, ``L`` behaviours, ``C`` candidates, ``P`` chunks, ``m`` last behaviours of a
chunk, ``w`` window, ``H`` heads, ``D`` width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sidrank import _check
from sidrank.layers import _padding
from sidrank.sequences import _sparse_branches, _time_order, selection
from sidrank.sequences.rel_temporal_bias import RelTemporalBias
from sidrank.sequences.time_chunks import EqualChunker, TimeChunker

__all__ = ["EvolutionarySparseAttention"]


class _Far(NamedTuple):
    """Summaries, then last behaviours: keys and values ``[B, H, T, d]``, the rest ``[B, T]``."""

    key: Tensor
    value: Tensor
    times: Tensor
    chunks: Tensor
    real: Tensor


class _Past(NamedTuple):
    """A history in the order of time."""

    x: Tensor
    order: Tensor
    real: Tensor
    when: Tensor
    now: Tensor
    chunks: Tensor
    key: Tensor
    value: Tensor
    far: _Far
    user_key: Tensor
    user_value: Tensor


class EvolutionarySparseAttention(nn.Module):
    r"""Behaviours and candidates read summaries, transitions and a window.

    .. math::  O = \sum_{b \in \{global, transition, local\}} g_b \odot O_b, \qquad
        O_b = \mathrm{softmax}\Big(\tfrac{Q K_b^\top}{\sqrt d} + B\Big) V_b, \qquad
        g = \sigma(W x)

    * global: keys are the means of the chunks strictly before the query's own;
    * transition: keys are the last ``m`` behaviours of each of those chunks;
    * local: keys are the user, then the last ``w`` behaviours, the query included.

    A branch that a query finds empty adds exactly nothing. Candidates come after the last
    behaviour, see all chunks, and never each other.

    Args:
        dim: Width ``D``.
        num_heads: Number ``H`` of heads, a divisor of ``dim``.
        chunker: Cuts the history.
        window: Number ``w`` of behaviours that one sees besides the chunks, itself included.
        last: Number ``m`` of last behaviours of each chunk.
        bias: Adds what two moments say to the logits; ``None`` adds nothing.

    Raises:
        ValueError: If a size is less than one, ``dim`` is no multiple of ``num_heads`` or
            ``bias`` has another number of heads.

    Example:
        >>> attention = EvolutionarySparseAttention(
        ...     dim=8, num_heads=2, chunker=TimeChunker(num_chunks=3), window=4,
        ...     bias=RelTemporalBias(num_heads=2))
        >>> times, now = torch.arange(20).expand(2, 20), torch.tensor([20, 9])
        >>> states, answers = attention(
        ...     torch.randn(2, 20, 8), torch.randn(2, 3, 8), torch.ones(2, 20).bool(), times, now)
        >>> states.shape, answers.shape
        (torch.Size([2, 20, 8]), torch.Size([2, 3, 8]))
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int = 1,
        chunker: TimeChunker | EqualChunker,
        window: int,
        last: int = 1,
        bias: RelTemporalBias | None = None,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_heads": num_heads, "window": window, "last": last}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads {num_heads}, got {dim}")
        if bias is not None and bias.num_heads != num_heads:
            raise ValueError(f"bias must have {num_heads} heads, got {bias.num_heads}")
        self.dim = dim
        self.num_heads = num_heads
        self.window = window
        self.last = last
        self.chunker = chunker
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(dim, 3 * num_heads, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.bias = bias

    def forward(
        self,
        behaviours: Tensor,
        candidates: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        user: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            behaviours: Shape ``[B, L, D]``, in any order; padding may hold anything.
            candidates: Shape ``[B, C, D]``.
            mask: Which behaviours are real, shape ``[B, L]``, bool.
            times: When they happened, since 1 January 1970, shape ``[B, L]``, int64 or int32;
                of one instant the behaviour further left is the older.
            now: When the request came, same unit, shape ``[B]``; only earlier behaviours are
                read.
            user: A token that every window has besides, shape ``[B, D]``.

        Returns:
            Behaviours, zero where they are not real or not earlier, shape ``[B, L, D]``, and
            candidates, shape ``[B, C, D]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        past = self._past(behaviours, mask, times, now, user)
        return self._behaviours(past), self._candidates(past, candidates)

    def of_candidates(
        self,
        behaviours: Tensor,
        candidates: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        user: Tensor | None = None,
    ) -> Tensor:
        """The candidates alone, for a last layer: ``C (P + m P + w)`` pairs.

        Args:
            behaviours: As in :meth:`forward`.
            candidates: As in :meth:`forward`.
            mask: As in :meth:`forward`.
            times: As in :meth:`forward`.
            now: As in :meth:`forward`.
            user: As in :meth:`forward`.

        Returns:
            Candidates, shape ``[B, C, D]``.

        Raises:
            ValueError: If the shapes or dtypes do not fit.
        """
        return self._candidates(self._past(behaviours, mask, times, now, user), candidates)

    def _past(
        self, behaviours: Tensor, mask: Tensor, times: Tensor, now: Tensor, user: Tensor | None
    ) -> _Past:
        known = selection.earlier(mask, times, now)
        x = _check.shape(behaviours, "behaviours", [known.shape[0], known.shape[1], self.dim])
        when = times.long().masked_fill(~known, 0)
        order = _time_order.by_time(known, when)
        x = _time_order.taken(_padding.zeroed(x, known), order)
        real, when = known.gather(1, order), when.gather(1, order)
        chunks = self.chunker.of_ordered(real, when)
        key, value = self.key(x), self.value(x)

        means, counts = _sparse_branches.chunk_means(x, chunks, self.chunker.num_chunks)
        ends, some = _sparse_branches.chunk_ends(counts, self.last)
        newest, ends = ends[:, :, 0], ends.flatten(1)
        places = torch.cat([newest, ends], dim=1)
        far = _Far(
            self._heads(torch.cat([self.key(means), _time_order.taken(key, ends)], dim=1)),
            self._heads(torch.cat([self.value(means), _time_order.taken(value, ends)], dim=1)),
            _time_order.taken(when, places),
            _time_order.taken(chunks, places),
            torch.cat([counts > 0, some.flatten(1)], dim=1),
        )
        token, now = _sparse_branches.user_token(x, user), now.long().unsqueeze(1)
        users = self._heads(self.key(token)), self._heads(self.value(token))
        return _Past(x, order, real, when, now, chunks, key, value, far, *users)

    def _behaviours(self, past: _Past) -> Tensor:
        query = self.query(past.x)
        bias = self._bias(past.when, past.far.times)
        visible = past.far.chunks.unsqueeze(1) < past.chunks.unsqueeze(2)
        branches = self._distant(self._heads(query), past.far, bias, visible)
        answers = self._mixed(past.x, *branches, self._near(query, past))
        answers = _padding.zeroed(answers, past.real)
        return _time_order.taken(answers, _time_order.back(past.order))

    def _candidates(self, past: _Past, candidates: Tensor) -> Tensor:
        x = _check.shape(candidates, "candidates", [past.x.shape[0], -1, self.dim])
        query = self._heads(self.query(x))
        places, real = _sparse_branches.newest(past.real, self.window - 1)
        recent = _time_order.taken(past.when, places)
        bias = self._bias(past.now, torch.cat([past.far.times, past.now, recent], dim=1))
        size = self.chunker.num_chunks * (1 + self.last)
        # a chunk of their own, after all the others
        visible = torch.ones_like(past.far.real).unsqueeze(1)
        branches = self._distant(query, past.far, _columns(bias, 0, size), visible)
        key = _sparse_branches.first(
            past.user_key, self._heads(_time_order.taken(past.key, places))
        )
        logits = _sparse_branches.logits(
            query, key, _sparse_branches.unbiased(_columns(bias, size + 1, None), past.user_key)
        )
        own = _sparse_branches.own_logits(
            query, self._heads(self.key(x)), _columns(bias, size, size + 1)
        )
        near = _sparse_branches.weighed_beside(
            logits,
            _sparse_branches.first(
                past.user_value, self._heads(_time_order.taken(past.value, places))
            ),
            _sparse_branches.visible_too(real.unsqueeze(1).unsqueeze(1), past.user_key),
            own,
            self._heads(self.value(x)),
        )
        return self._mixed(x, *branches, near)

    def _distant(
        self, query: Tensor, far: _Far, bias: Tensor | None, visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Global and transition: two softmaxes over one product."""
        visible = (visible & far.real.unsqueeze(1)).unsqueeze(1)
        logits, chunks = _sparse_branches.logits(query, far.key, bias), self.chunker.num_chunks
        summaries = _sparse_branches.weighed(
            logits[..., :chunks], far.value[:, :, :chunks], visible[..., :chunks]
        )
        transitions = _sparse_branches.weighed(
            logits[..., chunks:], far.value[:, :, chunks:], visible[..., chunks:]
        )
        return summaries, transitions

    def _near(self, query: Tensor, past: _Past) -> Tensor:
        window = self.window
        query = self._heads(_sparse_branches.query_blocks(query, window))
        key = self._heads(_sparse_branches.key_blocks(past.key, window))
        value = self._heads(_sparse_branches.key_blocks(past.value, window))
        bias = self._bias(
            _sparse_branches.query_blocks(past.when, window),
            _sparse_branches.key_blocks(past.when, window),
        )
        visible = _sparse_branches.near(past.real, window).unsqueeze(2)
        bias = _sparse_branches.unbiased(bias, past.user_key)
        visible = _sparse_branches.visible_too(visible, past.user_key)
        key = _sparse_branches.first(past.user_key, key)
        value = _sparse_branches.first(past.user_value, value)
        logits = _sparse_branches.logits(query, key, bias)
        context = _sparse_branches.weighed(logits, value, visible)
        context = context.transpose(2, 3).flatten(3)
        return self._heads(_sparse_branches.unblocked(context, past.x))

    def _mixed(self, x: Tensor, summaries: Tensor, transitions: Tensor, near: Tensor) -> Tensor:
        gates = torch.sigmoid(self.gate(x)).unflatten(2, (3, self.num_heads)).permute(2, 0, 3, 1)
        gates = gates.unsqueeze(4)
        mixed = gates[0] * summaries + gates[1] * transitions + gates[2] * near
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _bias(self, query_times: Tensor, key_times: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias(query_times, key_times)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.dim // self.num_heads)).transpose(-2, -3)


def _columns(bias: Tensor | None, start: int, end: int | None) -> Tensor | None:
    return None if bias is None else bias[..., start:end]
