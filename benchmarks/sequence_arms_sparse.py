"""Arms about sparse attention: does it matter where a history is cut, and what does it cost.

One encoder (SparseCTR, arXiv 2601.17836) whose chunks end at the largest gaps of time, after
equal numbers of events, or, as the control, at the largest gaps of times that were shuffled among
the user's events: as many chunks, cut anywhere. Its bias of moments reads the true times in all of
them. Dense attention with the same bias is the bound: of one layer, as they are, and of two, whose
events read each other before the candidate reads them.

A history is read as it was at the last refresh, every few events of the user, so rows between two
refreshes share it; each asks with two tokens, the item and the page's topic.

Shapes: ``B`` rows, ``G`` windows, ``C`` candidates, ``L`` behaviours, ``H`` heads, ``D`` width.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.sequence_arms_simple import WIDTH, Decision, RowEmbedding
from benchmarks.sequence_rows import Cut, SequenceBatch, SequenceRows
from benchmarks.sequence_settings import Arm
from benchmarks.sequence_training import Recipe
from benchmarks.sequence_windows import Windows, born_to_hand_over, moments, windows
from sidrank.sequences.evolutionary_attention import EvolutionarySparseAttention
from sidrank.sequences.rel_temporal_bias import RelTemporalBias
from sidrank.sequences.sparse_ctr_encoder import SparseCTREncoder
from sidrank.sequences.time_chunks import EqualChunker, TimeChunker

__all__ = ["ARMS", "DenseAttention", "ShuffledChunker", "SparseRanker"]

HEADS, HIDDEN = 1, 64
LENGTH, REFRESH = 128, 32
CHUNKS, LAST, WINDOW = 24, 1, 8


class ShuffledChunker(TimeChunker):
    """Cuts at the largest gaps of times that were shuffled among the events of the history."""

    def of_ordered(self, real: Tensor, times: Tensor) -> Tensor:
        """Chunks of events in the order of time, shape ``[B, L]``; -1 at padding."""
        # a lot for each event that depends on nothing else; padding keeps its place
        lot = (times * 2_654_435_761 + 97) % 1_000_003
        order = torch.argsort(lot.masked_fill(~real, 1_000_003), dim=1, stable=True)
        return super().of_ordered(real, times.gather(1, order))


class DenseAttention(nn.Module):
    """Every behaviour reads all earlier ones and itself, a candidate all of them.

    Not itself: born to match, it would read nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dim = WIDTH
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )
        self.gate = nn.Linear(WIDTH, HEADS, bias=False)
        self.bias = RelTemporalBias(num_heads=HEADS)

    def forward(
        self,
        behaviours: Tensor,
        candidates: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        user: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Behaviours ``[G, L, D]``, oldest first, and candidates ``[G, C, D]``."""
        length = behaviours.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        visible = (causal & mask.unsqueeze(1)).unsqueeze(1)
        logits = self._logits(behaviours, behaviours, self.bias(times, times), visible)
        shares = torch.softmax(logits, dim=-1)
        read = self._gated(behaviours, shares @ self._heads(self.value(behaviours)))
        answers = self.of_candidates(behaviours, candidates, mask, times, now, user)
        return read * mask.unsqueeze(2), answers

    def of_candidates(
        self,
        behaviours: Tensor,
        candidates: Tensor,
        mask: Tensor,
        times: Tensor,
        now: Tensor,
        user: Tensor | None = None,
    ) -> Tensor:
        """Candidates alone."""
        bias = self.bias(now.unsqueeze(1), times)
        logits = self._logits(candidates, behaviours, bias, mask[:, None, None])
        context = torch.softmax(logits, dim=-1) @ self._heads(self.value(behaviours))
        return self._gated(candidates, context)

    def _logits(self, x: Tensor, keys: Tensor, bias: Tensor, visible: Tensor) -> Tensor:
        query, key = self._heads(self.query(x)), self._heads(self.key(keys))
        logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias
        return logits.masked_fill(~visible, torch.finfo(logits.dtype).min)

    def _gated(self, x: Tensor, context: Tensor) -> Tensor:
        gates = torch.sigmoid(self.gate(x)).transpose(1, 2).unsqueeze(3)
        return self.out((gates * context).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)


class SparseRanker(nn.Module):
    """Candidates that went through the encoder make the logit with all other fields.

    Args:
        rows: The log.
        attentions: Of the layers.
    """

    cut = Cut(length=1)  # events are read from the log

    def __init__(
        self, rows: SequenceRows, attentions: list[EvolutionarySparseAttention | DenseAttention]
    ) -> None:
        super().__init__()
        self.rows = rows
        self.embed = RowEmbedding(rows)
        for attention in attentions:
            born_to_hand_over(attention, match=attention is attentions[-1])
        self.encoder = SparseCTREncoder(
            attentions=cast("list[EvolutionarySparseAttention]", attentions), hidden=HIDDEN
        )
        self.decide = Decision(rows, dim=WIDTH, reads=2)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Logits, ``[B]``."""
        found = read_windows(self.rows, batch.row)
        item, request = self.embed.candidate(batch), self.embed.request(batch)
        asked = torch.stack([item, request[:, 0]], dim=1)
        place = places(found.of_row)
        width = int(place.max()) + 1 if len(place) else 0
        candidates = asked.new_zeros(len(found.start), width, 2, WIDTH)
        candidates = candidates.index_put((found.of_row, place), asked)
        states = moments(self.embed, found.events)
        now = found.events.times.amax(dim=1) + 1
        read = self.encoder(
            states, candidates.flatten(1, 2), found.events.mask, found.events.times, now
        )
        read = read.unflatten(1, (width, 2))[found.of_row, place]
        return self.decide(item, request, read)


def read_windows(rows: SequenceRows, which: Tensor) -> Windows:
    """The history of each row as it was at the last refresh."""
    first = rows.first[rows.user[which]]
    end = rows.seen[which] - (rows.seen[which] - first) % REFRESH
    start = torch.maximum(first, end - LENGTH)
    return windows(rows, which, start=start, size=LENGTH, end=end)


def places(of_row: Tensor) -> Tensor:
    """Number of each row among those of its window, from 0."""
    order = torch.argsort(of_row, stable=True)
    ordered = of_row[order]
    first = torch.searchsorted(ordered, ordered)
    return torch.zeros_like(order).scatter(0, order, torch.arange(len(order)) - first)


def _sparse(chunker: Callable[[], TimeChunker | EqualChunker]) -> Callable[..., nn.Module]:
    def build(rows: SequenceRows, seed: int) -> nn.Module:
        return SparseRanker(
            rows,
            [
                EvolutionarySparseAttention(
                    dim=WIDTH,
                    num_heads=HEADS,
                    chunker=chunker(),
                    window=WINDOW,
                    last=LAST,
                    bias=RelTemporalBias(num_heads=HEADS),
                )
            ],
        )

    return build


def _dense(rows: SequenceRows, seed: int) -> nn.Module:
    return SparseRanker(rows, [DenseAttention()])


def _dense_deep(rows: SequenceRows, seed: int) -> nn.Module:
    return SparseRanker(rows, [DenseAttention(), DenseAttention()])


_SETTINGS = ("session", "movielens_per_user")
_RECIPE = Recipe(batch=128, epochs=5, patience=2, together=True)

ARMS = {
    "sparse_equal": Arm(
        _sparse(lambda: EqualChunker(num_chunks=CHUNKS)), _SETTINGS, recipe=_RECIPE
    ),
    "sparse_shuffled": Arm(
        _sparse(lambda: ShuffledChunker(num_chunks=CHUNKS)),
        _SETTINGS,
        control="sparse_equal",
        recipe=_RECIPE,
    ),
    "sparse_dense": Arm(_dense, _SETTINGS, control="sparse_equal", recipe=_RECIPE),
    "sparse_dense_deep": Arm(_dense_deep, _SETTINGS, control="sparse_equal", recipe=_RECIPE),
    "sparse_time": Arm(
        _sparse(lambda: TimeChunker(num_chunks=CHUNKS)),
        _SETTINGS,
        control="sparse_equal",
        recipe=_RECIPE,
        also=("sparse_shuffled", "sparse_dense", "sparse_dense_deep"),
    ),
}
