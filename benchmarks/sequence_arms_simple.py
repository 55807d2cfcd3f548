"""The two plain arms of the sequence study: mean pooling, and target attention as in DIN.

Both read the static fields, the request's context and its quarter of the day as embeddings beside
the candidate, and a history that is read in one way or the other; all of it and its products in
pairs (as in DLRM) make the logit. Other arms take their parts.

Shapes: ``B`` rows, ``L`` behaviours, ``F`` static fields, ``D`` width.
"""

import torch
from torch import Tensor, nn

from benchmarks.sequence_rows import CONTEXT, Cut, Events, SequenceBatch, SequenceRows, day_cell
from benchmarks.sequence_settings import SETTINGS, Arm
from sidrank.layers import CrossAttention

__all__ = [
    "ARMS",
    "Decision",
    "MeanPooling",
    "RowEmbedding",
    "TargetAttention",
    "TargetRead",
    "tower",
]

WIDTH = 32
_AGES = 12  # half decades of seconds; an hour is the eighth


class RowEmbedding(nn.Module):
    """Embeddings that all arms can share: the sum over fields of one table each.

    Items, topics, forms and brands share their tables between candidate and behaviours; pages
    share the topics' table.

    Args:
        rows: The log, for the sizes of the tables.
        dim: Width.
    """

    def __init__(self, rows: SequenceRows, dim: int = WIDTH) -> None:
        super().__init__()
        self.dim = dim
        sizes = rows.sizes
        self.item_fields = rows.item_fields
        names = (*rows.item_fields, "kind", "slot", "style")
        self.tables = nn.ModuleDict({name: _table(sizes[name], dim) for name in names})
        self.statics = nn.ModuleList([_table(sizes[name], dim) for name in rows.static_names])
        self.cell = _table(4, dim)
        self.age = _table(_AGES, dim)
        self.topics = sizes["topic"]

    def candidate(self, batch: SequenceBatch) -> Tensor:
        """The item asked about, ``[B, D]``."""
        some = [self.tables[name](batch.candidate[name]) for name in self.item_fields]
        return torch.stack(some).sum(dim=0)

    def request(self, batch: SequenceBatch) -> Tensor:
        """Fields of the request that say nothing of its item, ``[B, 3 + 1 + F, D]``."""
        page = self.tables["topic"](batch.context["page"].clamp(max=self.topics - 1))
        told = [page, *(self.tables[name](batch.context[name]) for name in CONTEXT[1:])]
        told.append(self.cell(day_cell(batch.time)))
        told += [table(batch.static[:, at]) for at, table in enumerate(self.statics)]
        return torch.stack(told, dim=1)

    def behaviours(self, events: Events, time: Tensor) -> Tensor:
        """Events with their type, part of the week and age at the request, ``[B, L, D]``."""
        told = (*self.item_fields, "kind")
        some = [self.tables[name](events.fields[name]) for name in told]
        passed = (time.unsqueeze(1) - events.times).clamp(min=1).double().log() / 1.1
        age = (passed - 3).clamp(0, _AGES - 1).long()
        return torch.stack(some).sum(dim=0) + self.cell(day_cell(events.times)) + self.age(age)


class Decision(nn.Module):
    """All fields and what was read of the past, with their products in pairs, make the logit.

    Args:
        rows: The log.
        dim: Width.
        reads: Vectors read of the past.
    """

    def __init__(self, rows: SequenceRows, *, dim: int, reads: int) -> None:
        super().__init__()
        fields = 1 + 4 + len(rows.static_names) + reads
        self.pairs = torch.triu_indices(fields, fields, 1)
        self.width = fields * dim + self.pairs.shape[1]
        self.over = tower(self.width)

    def forward(self, item: Tensor, request: Tensor, read: Tensor) -> Tensor:
        """Logits.

        Args:
            item: Shape ``[B, D]``.
            request: Shape ``[B, 4 + F, D]``.
            read: Shape ``[B, reads, D]``.

        Returns:
            Shape ``[B]``.
        """
        return self.over(self.interaction(item, request, read)).squeeze(1)

    def interaction(self, item: Tensor, request: Tensor, read: Tensor) -> Tensor:
        """What the network makes the logit of: all vectors and their products in pairs."""
        told = torch.cat([item.unsqueeze(1), request, read], dim=1)
        products = (told @ told.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return torch.cat([told.flatten(1), products], dim=1)


class TargetRead(nn.Module):
    """Three queries read states of the past: the item, the item on its page, and all fields.

    Born to look for what is like the query and to hand it over as it is, so that a match of
    embeddings is seen from the first step.

    Args:
        rows: The log.
        dim: Width.
        heads: Of the attention.
    """

    reads = 3

    def __init__(self, rows: SequenceRows, *, dim: int = WIDTH, heads: int = 2) -> None:
        super().__init__()
        told = (1 + 4 + len(rows.static_names)) * dim
        self.query = nn.Sequential(nn.Linear(told, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.attend = CrossAttention(dim=dim, query_dim=dim, key_dim=dim, num_heads=heads)
        with torch.no_grad():
            nn.init.orthogonal_(self.attend.query.weight, gain=dim**0.25)
            self.attend.key.weight.copy_(self.attend.query.weight)
            nn.init.orthogonal_(self.attend.value.weight)
            self.attend.out.weight.copy_(self.attend.value.weight.T)

    def forward(self, item: Tensor, request: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Read.

        Args:
            item: Shape ``[B, D]``.
            request: Shape ``[B, 4 + F, D]``, the page first.
            states: What is read, shape ``[B, T, D]``.
            mask: Which of them are real, shape ``[B, T]``, bool.

        Returns:
            Shape ``[B, 3, D]``.
        """
        told = torch.cat([item, request.flatten(1)], dim=1)
        queries = torch.stack([item, item + request[:, 0], item + self.query(told)], dim=1)
        return self.attend(queries, states, mask)


class MeanPooling(nn.Module):
    """Mean of the newest behaviours beside everything else.

    Args:
        rows: The log.
        cut: How much of it to read.
        dim: Width.
    """

    def __init__(self, rows: SequenceRows, cut: Cut | None = None, dim: int = WIDTH) -> None:
        super().__init__()
        self.cut = Cut() if cut is None else cut
        self.embed = RowEmbedding(rows, dim)
        self.decide = Decision(rows, dim=dim, reads=1)

    def forward(self, batch: SequenceBatch) -> Tensor:
        events = self.embed.behaviours(batch.behaviours, batch.time)
        real = batch.behaviours.mask.unsqueeze(2)
        pooled = (events * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        item, request = self.embed.candidate(batch), self.embed.request(batch)
        return self.decide(item, request, pooled.unsqueeze(1))


class TargetAttention(nn.Module):
    """The candidate reads the newest behaviours by attention.

    An arm that encodes behaviours first takes this as its host: ``encoder(events, batch)`` returns
    states ``[B, T, D]`` and which of them are real ``[B, T]``.

    Args:
        rows: The log.
        cut: How much of it to read.
        dim: Width.
        encoder: What makes states of behaviours; None reads them as they are.
    """

    def __init__(
        self,
        rows: SequenceRows,
        cut: Cut | None = None,
        dim: int = WIDTH,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.cut = Cut() if cut is None else cut
        self.embed = RowEmbedding(rows, dim)
        self.encoder = encoder
        self.read = TargetRead(rows, dim=dim)
        self.decide = Decision(rows, dim=dim, reads=TargetRead.reads)

    def forward(self, batch: SequenceBatch) -> Tensor:
        states, real = self.embed.behaviours(batch.behaviours, batch.time), batch.behaviours.mask
        if self.encoder is not None:
            states, real = self.encoder(states, batch)
        item, request = self.embed.candidate(batch), self.embed.request(batch)
        return self.decide(item, request, self.read(item, request, states, real))


def tower(width: int, hidden: int = 64) -> nn.Sequential:
    """Two hidden layers and a logit."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
        nn.Linear(hidden, 1),
    )  # fmt: skip


def _table(rows: int, dim: int) -> nn.Embedding:
    """Rows at right angles, as far as the width allows: no two ids look alike at birth."""
    table = nn.Embedding(rows, dim)
    nn.init.orthogonal_(table.weight, gain=max(1.0, (rows / dim) ** 0.5))
    return table


def _mean(rows: SequenceRows, seed: int) -> nn.Module:
    return MeanPooling(rows)


def _target(rows: SequenceRows, seed: int) -> nn.Module:
    return TargetAttention(rows)


def _target_recent(rows: SequenceRows, seed: int) -> nn.Module:
    return TargetAttention(rows, Cut(length=64))


def _target_full(rows: SequenceRows, seed: int) -> nn.Module:
    return TargetAttention(rows, Cut(length=320))


ARMS = {
    "mean_pooling": Arm(_mean, tuple(SETTINGS)),
    "target_attention": Arm(_target, tuple(SETTINGS), control="mean_pooling"),
    "target_attention_64": Arm(_target_recent, ("long",)),
    "target_attention_320": Arm(_target_full, ("long",), control="target_attention_64"),
}
