"""Rows of the sequence study: histories stored once a user, cut into padded batches.

Two sources, one shape (``benchmarks.sequence_logs``): a planted log, and MovieLens-100K, where a
user's earlier ratings are the behaviours, cut by a protocol of ``sidrank.demo.protocols``. A row
reads events strictly earlier than itself, and labels of earlier rows where they were known
strictly earlier.

All ids start at 1; 0 is padding, or not known. The newest event is at the last position, padding
comes first.

Shapes: ``R`` rows, ``U`` users, ``E`` events, ``F`` static fields, ``B`` rows of a batch, ``L``
behaviours, ``I`` instances.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = [
    "CONTEXT",
    "ITEM",
    "Cut",
    "Events",
    "Instances",
    "SequenceBatch",
    "SequenceRows",
    "day_cell",
]

CONTEXT = ("page", "slot", "style")
ITEM = ("item", "topic", "form", "brand")


@dataclass(frozen=True)
class Cut:
    """How much a model wants to read of each row.

    Attributes:
        length: Newest behaviours of all types together, ``L``.
        per_type: Newest behaviours of each type by itself; 0 for none.
        instances: Newest earlier rows (impressions) of the user, ``I``; 0 for none.
        skip: Behaviours left out at the newest end.
    """

    length: int = 128
    per_type: int = 0
    instances: int = 0
    skip: int = 0


@dataclass(frozen=True)
class Events:
    """Behaviours of a batch, oldest first.

    Attributes:
        fields: ``item``, ``topic``, ``form``, ``brand``, ``kind``: int64, shape ``[B, L]`` each.
        times: Unix seconds, int64, 0 where padded, shape ``[B, L]``.
        mask: Which are real, bool, shape ``[B, L]``.
    """

    fields: dict[str, Tensor]
    times: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Instances:
    """Earlier rows of the same user, oldest first.

    Attributes:
        rows: Which rows, for a store; -1 where padded, shape ``[B, I]``.
        fields: Fields of candidate and context, shape ``[B, I]`` each.
        times: Unix seconds of the request, 0 where padded, shape ``[B, I]``.
        labels: 0 padded or not known yet, 1 not liked, 2 liked, shape ``[B, I]``.
        label_times: When the label is known, 0 where padded (later than the row: not known).
        mask: Which are real, bool, shape ``[B, I]``.
    """

    rows: Tensor
    fields: dict[str, Tensor]
    times: Tensor
    labels: Tensor
    label_times: Tensor
    mask: Tensor


@dataclass(frozen=True)
class SequenceBatch:
    """What a model reads, and what it is judged by.

    Attributes:
        static: Fields of the user, int64, shape ``[B, F]``; names in ``rows.static_names``.
        behaviours: Newest events of all types.
        by_type: Newest events of each type, by its name; empty unless asked for.
        instances: Earlier rows; None unless asked for.
        candidate: ``item``, ``topic``, ``form``, ``brand``, shape ``[B]`` each.
        context: ``page``, ``slot``, ``style``, shape ``[B]`` each.
        time: Unix seconds of the request, shape ``[B]``.
        label: float32, shape ``[B]``.
        probability: True probability, float64, shape ``[B]``; None where nobody knows it.
        user: Shape ``[B]``; for judging, not for reading.
        row: Which rows, shape ``[B]``.
    """

    static: Tensor
    behaviours: Events
    by_type: dict[str, Events]
    instances: Instances | None
    candidate: dict[str, Tensor]
    context: dict[str, Tensor]
    time: Tensor
    label: Tensor
    probability: Tensor | None
    user: Tensor
    row: Tensor


@dataclass(frozen=True)
class SequenceRows:
    """A log.

    Attributes:
        name: Of the data set.
        sizes: Ids of each field, 0 included: what an embedding table needs.
        item_fields: Fields of an item that say something: on planted rows the id says no more than
            topic, form and brand together.
        types: Names of the behaviour types; their ids are 1, 2, ...
        static_names: Names of the user's fields.
        static: Shape ``[U, F]``.
        events: Fields of the events, by user, then time, shape ``[E]`` each.
        event_time: Unix seconds, shape ``[E]``.
        first: Place of each user's first event, shape ``[U]``.
        user: Sorted, 0 to ``U - 1``, shape ``[R]``.
        time: Not decreasing inside a user, shape ``[R]``.
        columns: Fields of candidate and context, shape ``[R]`` each.
        label: 0 or 1, shape ``[R]``.
        label_time: When it is known, shape ``[R]``.
        probability: True probability of each label, or None.
        logit_parts: Parts of the true logit by name, shape ``[R]`` each; empty for real data.
        seen: Place, among the events, of the first not strictly earlier than the row.
        seen_rows: The same among the rows.
        parts: Rows of ``train``, ``validation``, ``test``.
    """

    name: str
    sizes: dict[str, int]
    item_fields: tuple[str, ...]
    types: tuple[str, ...]
    static_names: tuple[str, ...]
    static: Tensor
    events: dict[str, Tensor]
    event_time: Tensor
    first: Tensor
    user: Tensor
    time: Tensor
    columns: dict[str, Tensor]
    label: Tensor
    label_time: Tensor
    probability: Tensor | None
    logit_parts: dict[str, Tensor]
    seen: Tensor
    seen_rows: Tensor
    parts: dict[str, Tensor]
    _typed: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, rows: Tensor, cut: Cut | None = None) -> SequenceBatch:
        """Cut rows out; those a model is not judged on (earlier ones) can be asked for too.

        Args:
            rows: Which, int64, shape ``[B]``.
            cut: How much of each; None is the default.

        Returns:
            The batch.
        """
        cut = Cut() if cut is None else cut
        user = self.user[rows]
        seen = self.seen[rows] - cut.skip
        by_type: dict[str, Events] = {}
        if cut.per_type:
            for name in self.types:
                places, before = self._type(name)
                at, real = _newest(before[self.first[user]], before[seen], cut.per_type)
                by_type[name] = self._events(_take(places, at), real)
        return SequenceBatch(
            static=self.static[user],
            behaviours=self._events(*_newest(self.first[user], seen, cut.length)),
            by_type=by_type,
            instances=self._instances(rows, cut.instances) if cut.instances else None,
            candidate={name: self.columns[name][rows] for name in ITEM},
            context={name: self.columns[name][rows] for name in CONTEXT},
            time=self.time[rows],
            label=self.label[rows].float(),
            probability=None if self.probability is None else self.probability[rows],
            user=user,
            row=rows,
        )

    def _events(self, at: Tensor, real: Tensor) -> Events:
        return Events(
            fields={name: _masked(column, at, real) for name, column in self.events.items()},
            times=_masked(self.event_time, at, real),
            mask=real,
        )

    def _instances(self, rows: Tensor, count: int) -> Instances:
        begin = torch.searchsorted(self.user, self.user[rows])
        at, real = _newest(begin, self.seen_rows[rows], count)
        label_times = _masked(self.label_time, at, real)
        known = real & (label_times < self.time[rows].unsqueeze(1))
        return Instances(
            rows=torch.where(real, at, -1),
            fields={name: _masked(column, at, real) for name, column in self.columns.items()},
            times=_masked(self.time, at, real),
            labels=torch.where(known, _take(self.label, at) + 1, 0),
            label_times=label_times,
            mask=real,
        )

    def _type(self, name: str) -> tuple[Tensor, Tensor]:
        """Places of the events of a type, and how many of them come before each event."""
        if name not in self._typed:
            own = self.events["kind"] == self.types.index(name) + 1
            before = torch.cat([torch.zeros(1, dtype=torch.int64), own.long().cumsum(0)])
            self._typed[name] = own.nonzero().squeeze(1), before
        return self._typed[name]


def day_cell(times: Tensor) -> Tensor:
    """Quarter of the day, 0 to 3 (UTC)."""
    return torch.div(times % 86_400, 21_600, rounding_mode="floor")


def _newest(first: Tensor, end: Tensor, count: int) -> tuple[Tensor, Tensor]:
    at = end.unsqueeze(1) + torch.arange(-count, 0)
    return at, at >= first.unsqueeze(1)


def _take(column: Tensor, at: Tensor) -> Tensor:
    if not len(column):
        return torch.zeros_like(at)
    return column[at.clamp(0, len(column) - 1)]


def _masked(column: Tensor, at: Tensor, real: Tensor) -> Tensor:
    return _take(column, at) * real
