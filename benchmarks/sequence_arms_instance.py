"""Instance tokens (IAT) on hosts: past impressions as tokens of a source ranker, or as item ids.

The host reads the fields and the newest behaviours; the other arms give it one token more, read
from the newest impressions of the user in the same way:

- ``item_ids``: the items shown, and how it went where that is known;
- ``fields``: items, context and labels: all there is, without a source ranker;
- ``temporal``, ``user_order``: stored tokens of a source ranker, and labels;
- ``no_sides``: those of user order, without labels;
- ``strangers``: tokens and labels of the impressions of another user, always the same one;
- ``stranger_tokens``: the tokens of another user with the user's own labels.

``instance_*`` run on the planted log, ``ratings_*`` on MovieLens, whose impressions are the rated
items and have no context.

The source ranker is the host, trained on the train rows; the tokenizer learns from its interaction
vectors of the train rows, and every impression is stored. A request reads an impression that is
strictly earlier, and its label if that was known strictly earlier. Source ranker and tokenizers
are made once for all arms of a log and seed; their time is with the arm that comes first.

Shapes: ``R`` rows, ``B`` rows of a batch, ``T`` impressions, ``D`` width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.sequence_arms_simple import WIDTH, Decision, RowEmbedding, TargetRead
from benchmarks.sequence_rows import Cut, SequenceBatch, SequenceRows
from benchmarks.sequence_settings import Arm
from benchmarks.sequence_training import Recipe, train
from sidrank.layers import CrossAttention
from sidrank.sequences.instance_rows import InstanceSpec
from sidrank.sequences.instance_sequence import InstanceSequence
from sidrank.sequences.instance_store import InMemoryInstanceStore
from sidrank.sequences.instance_tokens import InstanceTokenizer, user_order

__all__ = ["ARMS", "Host", "ItemHistory", "StoredHistory", "stored_tokens", "strangers"]

LENGTH = 16
TOKEN, READ = 32, 64  # widths
VERSION = "source"
EPOCHS, USERS, PIECE = 3, 16, 48  # of the tokenizer: passes, rows of a step, longest row
Mode = Literal["temporal", "user_order"]
Build = Callable[[SequenceRows, int], nn.Module]


@dataclass(frozen=True)
class Scale:
    """How much the arms of a log read, and how they and their source ranker are trained."""

    past: int
    recipe: Recipe


PLANTED = Scale(past=24, recipe=Recipe(step=3e-3, batch=256, epochs=3, patience=1))
RATINGS = Scale(past=12, recipe=Recipe(step=3e-3, batch=512, epochs=2, patience=1))


class Reader(nn.Module):
    """Target attention over impressions that have met their sides in a hidden layer.

    Each number of an impression is brought to mean 0 and variance 1 over the batch first: stored
    tokens lie within 0 and 1, and learned tables do not.

    Args:
        dim: Width of an impression and of the answer.
        heads: Of the attention.
    """

    def __init__(self, dim: int = READ, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.mix = nn.Sequential(nn.Linear(dim, dim), nn.SiLU())
        self.read = CrossAttention(dim=dim, query_dim=dim, key_dim=dim, num_heads=heads)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        even = torch.zeros_like(keys)
        if mask.sum() > 1:  # a batch of one has no variance
            even[mask] = self.norm(keys[mask])
        return self.read(queries, self.mix(even), mask)


class Host(nn.Module):
    """Target attention over the newest behaviours, and one token more if there is a past.

    Args:
        rows: The log.
        count: How many impressions the batch must hold.
        past: Made with the width of its query; answers ``(query [B, 1, Q], batch)`` with a
            token ``[B, 1, D]``. None: no such token.
        dim: Width.
    """

    def __init__(
        self,
        rows: SequenceRows,
        count: int = 0,
        past: Callable[[int], nn.Module] | None = None,
        dim: int = WIDTH,
    ) -> None:
        super().__init__()
        self.cut = Cut(length=LENGTH, instances=count)
        self.embed = RowEmbedding(rows, dim)
        self.read = TargetRead(rows, dim=dim)
        reads = TargetRead.reads
        fields = 1 + 4 + len(rows.static_names) + reads
        self.past = None if past is None else past(fields * dim)
        self.decide = Decision(rows, dim=dim, reads=reads + (past is not None))

    def interaction(self, batch: SequenceBatch) -> Tensor:
        """What the logit is made of, ``[B, W]``."""
        states = self.embed.behaviours(batch.behaviours, batch.time)
        item, request = self.embed.candidate(batch), self.embed.request(batch)
        read = self.read(item, request, states, batch.behaviours.mask)
        if self.past is not None:  # before the fields interact
            query = torch.cat([item.unsqueeze(1), request, read], dim=1).flatten(1)
            read = torch.cat([read, self.past(query.unsqueeze(1), batch)], dim=1)
        return self.decide.interaction(item, request, read)

    def forward(self, batch: SequenceBatch) -> Tensor:
        return self.decide.over(self.interaction(batch)).squeeze(1)


class ItemHistory(nn.Module):
    """Fields of past impressions and their labels, in learned tables of their own.

    Args:
        rows: The log, for the sizes of the tables.
        fields: Which fields of an impression are read.
        query_dim: Width of the query.
    """

    def __init__(self, rows: SequenceRows, fields: tuple[str, ...], query_dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({f: nn.Embedding(rows.sizes[f], TOKEN) for f in fields})
        self.side = nn.Embedding(3, TOKEN)
        self.query = nn.Linear(query_dim, READ)
        self.sequence = Reader()
        self.out = nn.Linear(READ, WIDTH)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, query: Tensor, batch: SequenceBatch) -> Tensor:
        past = batch.instances
        if past is None:
            raise ValueError("cut must ask for instances, got none")
        some = [table(past.fields[name]) for name, table in self.tables.items()]
        read = torch.cat([torch.stack(some).sum(dim=0), self.side(past.labels)], dim=2)
        return self.out(self.sequence(self.query(query), read, past.mask))


class StoredHistory(nn.Module):
    """Instance tokens as a store gives them at the time of the request.

    Args:
        store: Of this log.
        count: How many impressions are read.
        query_dim: Width of the query.
        sides: Whether labels are read; if not, all are unknown.
    """

    def __init__(
        self, store: InMemoryInstanceStore, count: int, query_dim: int, *, sides: bool
    ) -> None:
        super().__init__()
        self.store, self.count, self.with_sides = store, count, sides
        self.reader = InstanceSequence(
            sequence=Reader(), query_dim=query_dim, token_dim=WIDTH, side_sizes=[2],
            dim=TOKEN, width=READ,
        )  # fmt: skip

    def forward(self, query: Tensor, batch: SequenceBatch) -> Tensor:
        past = self.store.as_of(batch.user, batch.time, self.count, model_version=VERSION)
        sides = past.sides if self.with_sides else torch.full_like(past.sides, -1)
        return self.reader(query, past.vectors, sides, past.mask)


@dataclass
class _Source:
    """What the source ranker made of a log, with one seed."""

    rows: SequenceRows
    recipe: Recipe
    seed: int
    vectors: Tensor
    tokens: dict[Mode, Tensor]


_made: list[_Source] = []  # the last one


def stored_tokens(rows: SequenceRows, mode: Mode, recipe: Recipe, seed: int) -> Tensor:
    """Tokens of all impressions, by a source ranker and a tokenizer that saw the train rows.

    Args:
        rows: The log.
        mode: Of the tokenizer.
        recipe: Of the source ranker.
        seed: Of both trainings.

    Returns:
        Shape ``[R, D]``.
    """
    held = _made[0] if _made else None
    if held is None or held.rows is not rows or (held.recipe, held.seed) != (recipe, seed):
        torch.manual_seed(seed)
        source = Host(rows)
        train(source, rows, recipe, seed=seed)
        _made[:] = [_Source(rows, recipe, seed, _vectors(source, rows), {})]
    found = _made[0]
    if mode not in found.tokens:
        found.tokens[mode] = _tokenized(rows, found.vectors, mode, seed)
    return found.tokens[mode]


@torch.no_grad()
def _vectors(source: Host, rows: SequenceRows) -> Tensor:
    """Interaction vectors of all rows, each number with mean 0 and variance 1 on train rows."""
    source.eval()
    every = torch.arange(len(rows)).split(1024)
    h = torch.cat([source.interaction(rows.batch(some, source.cut)) for some in every])
    seen = h[rows.parts["train"]]
    return (h - seen.mean(dim=0)) / seen.std(dim=0).clamp(min=1e-3)


def _tokenized(rows: SequenceRows, h: Tensor, mode: Mode, seed: int) -> Tensor:
    torch.manual_seed(seed)
    tokenizer = InstanceTokenizer(input_dim=h.shape[1], dim=TOKEN, mode=mode, hidden=64)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-3)
    learn = rows.parts["train"]
    index, mask = user_order(_pieces(rows, learn), rows.time[learn])
    index, mask = learn[torch.from_numpy(index)], torch.from_numpy(mask)
    for epoch in range(EPOCHS):
        draws = torch.Generator().manual_seed(1000 * seed + epoch)
        for some in torch.randperm(len(index), generator=draws).split(USERS):
            at, real = index[some], mask[some]
            logits = tokenizer(h[at], real).logits[real]
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, rows.label[at][real].float()).backward()
            optimizer.step()
    with torch.no_grad():
        return torch.cat([tokenizer.tokens(some) for some in h.split(4096)])


def _pieces(rows: SequenceRows, some: Tensor) -> Tensor:
    """A number for each user and each ``PIECE`` rows of the user, in the order of time."""
    user = rows.user[some]
    place = torch.arange(len(some)) - torch.searchsorted(user, user)
    return user * len(rows) + place // PIECE


def strangers(rows: SequenceRows, seed: int) -> Tensor:
    """For each row a row of another user, the same one always: the first for the first, ...

    Args:
        rows: The log.
        seed: Who goes with whom.

    Returns:
        Shape ``[R]``; the other's rows start anew where there are too few.
    """
    users, first, count = np.unique(rows.user.numpy(), return_index=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(users))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    who = np.repeat(np.arange(len(users)), count)
    place = np.arange(len(rows)) - first[who]
    return torch.from_numpy(first[other[who]] + place % count[other[who]])


def store_of(rows: SequenceRows, tokens: Tensor, sides: Tensor) -> InMemoryInstanceStore:
    """All impressions, with the times at which they and their labels were known."""
    store = InMemoryInstanceStore(InstanceSpec(model_version=VERSION, dim=TOKEN))
    store.put(
        users=rows.user,
        instances=torch.arange(len(rows)),
        event_times=rows.time,
        label_times=rows.label_time.unsqueeze(1),
        sides=sides.unsqueeze(1),
        vectors=tokens,
        model_version=VERSION,
    )
    return store


def _arms(prefix: str, setting: str, scale: Scale, names: tuple[str, ...]) -> dict[str, Arm]:
    """The arms of a log, by their names with the prefix."""
    count, recipe = scale.past, scale.recipe

    def host(rows: SequenceRows, seed: int) -> nn.Module:
        return Host(rows)

    def history(*context: str) -> Build:
        def build(rows: SequenceRows, seed: int) -> nn.Module:
            fields = (*rows.item_fields, *context)
            return Host(rows, count, lambda query: ItemHistory(rows, fields, query))

        return build

    def stored(mode: Mode, *, sides: bool = True, other: tuple[str, ...] = ()) -> Build:
        def build(rows: SequenceRows, seed: int) -> nn.Module:
            tokens, labels = stored_tokens(rows, mode, recipe, seed), rows.label
            at = strangers(rows, seed)
            tokens = tokens[at] if "tokens" in other else tokens
            labels = labels[at] if "labels" in other else labels
            store = store_of(rows, tokens, labels)
            torch.manual_seed(seed)  # whatever was trained before
            return Host(rows, 0, lambda query: StoredHistory(store, count, query, sides=sides))

        return build

    every: dict[str, tuple[Build, tuple[str, ...]]] = {
        "host": (host, ()),
        "item_ids": (history(), ("host",)),
        "fields": (history("page", "slot", "style"), ("item_ids",)),
        "temporal": (stored("temporal"), ("item_ids", "host")),
        "user_order": (stored("user_order"), ("item_ids", "host", "temporal")),
        "no_sides": (stored("user_order", sides=False), ("user_order", "host")),
        "strangers": (stored("user_order", other=("tokens", "labels")), ("user_order", "host")),
        "stranger_tokens": (stored("user_order", other=("tokens",)), ("user_order", "host")),
    }
    found: dict[str, Arm] = {}
    for name in names:
        build, against = every[name]
        first, *rest = [f"{prefix}_{other}" for other in against] or [""]
        found[f"{prefix}_{name}"] = Arm(build, (setting,), first, recipe, tuple(rest))
    return found


_PLAIN = ("host", "item_ids", "temporal", "user_order", "no_sides", "strangers")
ARMS = {
    **_arms("instance", "instance", PLANTED, (*_PLAIN, "fields", "stranger_tokens")),
    **_arms("ratings", "movielens", RATINGS, _PLAIN),
}
