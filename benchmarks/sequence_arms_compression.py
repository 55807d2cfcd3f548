"""Arms about compression tokens: what recent behaviours learn of old ones through a few tokens.

One stack of blocks, one host, and three ways to read a user's window, whose oldest events are the
*old* ones: not at all, through learned tokens at their end (PerSRec, arXiv 2601.03479), or each of
them. The host reads the states of the newest events alone, so all that it knows of the old ones
went through the attention of the recent. The states hold nothing of the request; how long ago an
event was is added when they are read.

The control has the tokens, and another user's old events.

Shapes: ``B`` rows, ``G`` windows, ``T`` places, ``D`` width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.sequence_arms_simple import WIDTH, Decision, RowEmbedding, TargetRead
from benchmarks.sequence_rows import Cut, SequenceBatch, SequenceRows
from benchmarks.sequence_settings import Arm
from benchmarks.sequence_training import Recipe
from benchmarks.sequence_windows import born_to_hand_over, moments, windows
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from sidrank.sequences.compression_tokens import CompressionTokens

__all__ = ["ARMS", "FullHistory", "RecentHistory", "WindowRanker", "window_of"]

HEADS, LAYERS, HIDDEN = 1, 2, 64
READ = 16  # newest states that the host reads
TOKENS = 16
PLANTED, OLD_PLANTED = 192, 72  # all that a user did; old topics, as a rule, end before the 72nd
MOVIELENS = 64  # old ratings, and again as many recent ones at most


def window_of(rows: SequenceRows) -> tuple[int, int, int]:
    """Events of a window, old ones among them, and how far a window moves when it is full."""
    if rows.name == "planted":
        return PLANTED, OLD_PLANTED, PLANTED
    return 2 * MOVIELENS, MOVIELENS, MOVIELENS


def stack() -> list[DecoderBlock]:
    """The blocks, alike in all arms."""
    blocks: list[DecoderBlock] = []
    for _ in range(LAYERS):
        rotary = RotaryEmbedding(head_dim=WIDTH // HEADS)
        attention = SelfAttention(dim=WIDTH, num_heads=HEADS, rotary=rotary)
        born_to_hand_over(attention)
        blocks.append(DecoderBlock(attention=attention, hidden=HIDDEN))
    return blocks


class FullHistory(nn.Module):
    """Every event reads all earlier ones: the bound."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(stack())

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States ``[G, T, D]`` of events ``[G, T, D]``."""
        for block in self.blocks:
            x = block(x, mask)
        return x


class RecentHistory(nn.Module):
    """Recent events read recent ones, old ones old: nothing passes.

    Args:
        old: How many are old.
    """

    def __init__(self, old: int) -> None:
        super().__init__()
        self.old = old
        self.blocks = nn.ModuleList(stack())

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States ``[G, T, D]`` of events ``[G, T, D]``."""
        parts: list[Tensor] = []
        places = torch.arange(x.shape[1])
        for part in (slice(0, self.old), slice(self.old, None)):
            y = x[:, part]
            for block in self.blocks:
                y = block(y, mask[:, part], places[part])
            parts.append(y)
        return torch.cat(parts, dim=1)


class WindowRanker(nn.Module):
    """The candidate reads the newest states of its user's window.

    Args:
        rows: The log.
        encoder: Makes states ``[G, T, D]`` of events and their mask, none from a later event.
        strangers: Whether old events are another user's.
    """

    cut = Cut(length=1)  # events are read from the log

    def __init__(self, rows: SequenceRows, encoder: nn.Module, *, strangers: bool = False) -> None:
        super().__init__()
        self.rows = rows
        self.size, self.old, self.stride = window_of(rows)
        self.strangers = self.old if strangers else 0
        self.embed = RowEmbedding(rows)
        self.encoder = encoder
        self.read = TargetRead(rows)
        self.decide = Decision(rows, dim=WIDTH, reads=TargetRead.reads)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Logits, ``[B]``."""
        rows, first = self.rows, self.rows.first[batch.user]
        past = (rows.seen[batch.row] - first - self.size).clamp(min=0)
        moved = torch.div(past + self.stride - 1, self.stride, rounding_mode="floor")
        found = windows(
            rows,
            batch.row,
            start=first + moved * self.stride,
            size=self.size,
            strangers=self.strangers,
        )
        states = self.encoder(moments(self.embed, found.events), found.events.mask)
        at = found.before.unsqueeze(1) + torch.arange(-READ, 0)
        real, at = at >= 0, at.clamp(min=0)
        newest = states[found.of_row.unsqueeze(1), at]
        passed = batch.time.unsqueeze(1) - found.events.times[found.of_row.unsqueeze(1), at]
        age = (passed.clamp(min=1).double().log() / 1.1 - 3).long()
        newest = newest + self.embed.age(age.clamp(0, self.embed.age.num_embeddings - 1))
        item, request = self.embed.candidate(batch), self.embed.request(batch)
        return self.decide(item, request, self.read(item, request, newest, real))


def _recent(rows: SequenceRows, seed: int) -> nn.Module:
    return WindowRanker(rows, RecentHistory(window_of(rows)[1]))


def _full(rows: SequenceRows, seed: int) -> nn.Module:
    return WindowRanker(rows, FullHistory())


def _tokens(shares: Sequence[float], *, strangers: bool = False) -> Callable[..., nn.Module]:
    """Learned tokens, as many after each segment; segments end at these shares of the old."""

    def build(rows: SequenceRows, seed: int) -> nn.Module:
        old, each = window_of(rows)[1], TOKENS // len(shares)
        insert = [(round(share * old), each) for share in shares]
        encoder = CompressionTokens(blocks=stack(), insert=insert)
        return WindowRanker(rows, encoder, strangers=strangers)

    return build


_SETTINGS = ("long_brief", "movielens_per_user")
_RECIPE = Recipe(batch=128, epochs=4, patience=2, together=True)

ARMS = {
    "compression_recent": Arm(_recent, _SETTINGS, recipe=_RECIPE),
    "compression_full": Arm(_full, _SETTINGS, control="compression_recent", recipe=_RECIPE),
    "compression_strangers": Arm(
        _tokens((1.0,), strangers=True), _SETTINGS, control="compression_recent", recipe=_RECIPE
    ),
    "compression_tokens": Arm(
        _tokens((1.0,)),
        _SETTINGS,
        control="compression_recent",
        recipe=_RECIPE,
        also=("compression_strangers", "compression_full"),
    ),
    "compression_segments": Arm(
        _tokens((0.25, 0.5, 0.75, 1.0)), _SETTINGS, control="compression_tokens", recipe=_RECIPE
    ),
}
