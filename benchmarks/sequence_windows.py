"""Histories encoded once for all rows that share them, as a server would do off the request path.

A row names a window of its user's events; rows with the same window share its states. Arms built
on this read events from the log itself, so that what a row sees hangs on no other row of the batch.

Shapes: ``E`` events, ``B`` rows of a batch, ``G`` windows of a batch, ``T`` places in a window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.sequence_arms_simple import RowEmbedding
from benchmarks.sequence_rows import Events, SequenceRows, day_cell

__all__ = ["Windows", "born_to_hand_over", "moments", "windows"]


@dataclass(frozen=True)
class Windows:
    """Windows of events, each once.

    Attributes:
        events: Oldest first, padding last, shape ``[G, T]`` each.
        start: Place of the first event of each window in the log, shape ``[G]``.
        user: Whose it is, shape ``[G]``.
        of_row: Which window each row reads, shape ``[B]``.
        before: Events of the window before each row, shape ``[B]``.
    """

    events: Events
    start: Tensor
    user: Tensor
    of_row: Tensor
    before: Tensor


def windows(
    rows: SequenceRows,
    which: Tensor,
    *,
    start: Tensor,
    size: int,
    end: Tensor | None = None,
    strangers: int = 0,
) -> Windows:
    """Cut the windows that some rows read.

    Args:
        rows: The log.
        which: The rows, shape ``[B]``.
        start: Place in the log of the first event of each one's window, shape ``[B]``.
        size: Most events of a window.
        end: Place after the last, shape ``[B]``; None is the user's last event, for an encoder in
            which none reads a later one.
        strangers: How many events, the oldest of a window, are another user's: the control.

    Returns:
        The windows.
    """
    user, events = rows.user[which], len(rows.event_time)
    length = torch.full_like(start, size) if end is None else end - start
    keys = (user * (events + 1) + start) * (size + 1) + length
    keys, of_row = torch.unique(keys, return_inverse=True)
    length, keys = keys % (size + 1), torch.div(keys, size + 1, rounding_mode="floor")
    owner, first = torch.div(keys, events + 1, rounding_mode="floor"), keys % (events + 1)
    last = torch.cat([rows.first[1:], torch.tensor([events])])
    stop = torch.minimum(first + length, last[owner])
    step = torch.arange(size)
    at = first.unsqueeze(1) + step
    real = at < stop.unsqueeze(1)
    if strangers:
        # half of the users further on; a short history is read again from its start
        someone = (owner + len(rows.first) // 2) % len(rows.first)
        held = last[someone] - rows.first[someone]
        other = rows.first[someone].unsqueeze(1) + step % held.clamp(min=1).unsqueeze(1)
        lent = (step < strangers) & (held > 0).unsqueeze(1)
        at, real = torch.where(lent, other, at), real & (lent | (step >= strangers))
    at = at.clamp(0, events - 1)
    return Windows(
        events=Events(
            fields={name: column[at] * real for name, column in rows.events.items()},
            times=rows.event_time[at] * real,
            mask=real,
        ),
        start=first,
        user=owner,
        of_row=of_row,
        before=(rows.seen[which] - start).clamp(0, size),
    )


def moments(embed: RowEmbedding, events: Events) -> Tensor:
    """Events with their type and part of the day, ``[G, T, D]``: nothing of the request."""
    told = (*embed.item_fields, "kind")
    some = [embed.tables[name](events.fields[name]) for name in told]
    return torch.stack(some).sum(dim=0) + embed.cell(day_cell(events.times))


def born_to_hand_over(attention: nn.Module, *, match: bool = False) -> None:
    """What is read comes out as it is, from the first step on.

    Args:
        attention: Has linear layers ``query``, ``key``, ``value`` and ``out`` of one width.
        match: Whether queries look for what is like them; otherwise that is left to learn.
    """
    names = ("query", "key", "value", "out")
    query, key, value, out = (
        attention.get_submodule(name).get_parameter("weight") for name in names
    )
    with torch.no_grad():
        nn.init.orthogonal_(value)
        out.copy_(value.T)
        if match:
            nn.init.orthogonal_(query, gain=len(query) ** 0.25)
            key.copy_(query)
