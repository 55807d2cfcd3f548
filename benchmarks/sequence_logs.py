"""The two logs of the sequence study as rows: a planted one, and MovieLens-100K.

Shapes: ``R`` rows, ``U`` users, ``E`` events.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.sequence_rows import CONTEXT, ITEM, SequenceRows
from sidrank.data import AsOfLog, read_movielens
from sidrank.data.planted_sequences import PlantedSequences
from sidrank.demo.protocols import make_split

__all__ = ["movielens_rows", "planted_rows"]

Ints = NDArray[np.int64]
_PARTS = ("train", "validation", "test")


def planted_rows(log: PlantedSequences) -> SequenceRows:
    """Rows of a planted log: by time, 20% of them only past impressions, 55% to learn from.

    Args:
        log: The log.

    Returns:
        The rows; of the rest, 10% validate and 15% are judged.
    """
    edges = np.quantile(log.time, [0.2, 0.75, 0.85])
    stage = np.searchsorted(edges, log.time, side="right")
    item = {
        "item": np.arange(len(log.item_topic)),
        "topic": log.item_topic,
        "form": log.item_form,
        "brand": log.item_brand,
    }
    columns = {name: values[log.item] for name, values in item.items()}
    columns |= {"page": log.page, "slot": log.slot, "style": log.style}
    return _rows(
        name="planted",
        item_fields=ITEM[1:],
        types=("view", "click", "buy"),
        static=dict(log.user_fields),
        events={name: values[log.event_item] for name, values in item.items()}
        | {"kind": log.event_type},
        event_user=log.event_user,
        event_time=log.event_time,
        user=log.user,
        time=log.time,
        columns=columns,
        label=log.label,
        label_time=log.label_time,
        probability=log.probability,
        logit_parts=dict(log.parts),
        parts={n: np.flatnonzero(stage == i + 1) for i, n in enumerate(_PARTS)},
        sizes={"page": int(log.item_topic.max()) + 2},
    )


def movielens_rows(
    data: Path | str | None = None, *, protocol: str = "global_time"
) -> SequenceRows:
    """Rows of MovieLens-100K; a rating of 4 and more is a like, its type too.

    ``topic`` is the first genre, ``form`` the decade, ``brand`` the number of genres; the
    contexts are constant. A label is known as soon as it is given.

    Args:
        data: Folder of the files; None finds them.
        protocol: ``global_time`` or ``per_user`` of ``sidrank.demo.protocols``; rows of its
            other surface are in no part and in no history.

    Returns:
        The rows.
    """
    log = read_movielens(data)
    split = make_split(log, protocol)
    ours = np.flatnonzero(split.counted)
    order = ours[np.lexsort((log.item[ours], log.timestamp[ours], log.user[ours]))]
    place = np.full(len(log.item), -1)
    place[order] = np.arange(len(order))
    genres = {name: i for i, name in enumerate(sorted({g for some in log.genres for g in some}))}
    item = {
        "item": np.arange(len(log.item_ids)),
        "topic": np.array([genres[some[0]] if some else len(genres) for some in log.genres]),
        "form": np.maximum(log.years // 10 - 190, 0),
        "brand": np.array([len(some) for some in log.genres]),
    }
    user = log.user_index[order]
    columns = {name: values[log.item_index[order]] for name, values in item.items()}
    words = {name: i for i, name in enumerate(sorted(set(log.occupations)))}
    liked = log.label[order]
    return _rows(
        name=f"movielens {protocol}",
        item_fields=ITEM,
        types=("other", "like"),
        static={
            "age": log.ages // 10,
            "gender": np.array([int(letter == "F") for letter in log.genders]),
            "occupation": np.array([words[word] for word in log.occupations]),
        },
        events=columns | {"kind": liked},
        event_user=user,
        event_time=log.timestamp[order],
        user=user,
        time=log.timestamp[order],
        columns=columns | {name: np.zeros_like(user) for name in CONTEXT},
        label=liked,
        label_time=log.timestamp[order],
        probability=None,
        logit_parts={},
        parts={name: np.sort(place[getattr(split, name)]) for name in _PARTS},
        sizes={name: len(values) + 1 for name, values in item.items() if name == "item"},
    )


def _rows(
    *,
    name: str,
    item_fields: tuple[str, ...],
    types: tuple[str, ...],
    static: dict[str, Ints],
    events: dict[str, Ints],
    event_user: Ints,
    event_time: Ints,
    user: Ints,
    time: Ints,
    columns: dict[str, Ints],
    label: Ints,
    label_time: Ints,
    probability: NDArray[np.float64] | None,
    logit_parts: dict[str, NDArray[np.float64]],
    parts: dict[str, Ints],
    sizes: dict[str, int],
) -> SequenceRows:
    users = len(next(iter(static.values())))
    found = dict(sizes)
    for some in (events, columns, static):
        for key, values in some.items():
            found[key] = max(found.get(key, 0), int(values.max()) + 2)
    numbers = {key: torch.from_numpy(values + 1) for key, values in events.items()}
    return SequenceRows(
        name=name,
        sizes=found,
        item_fields=item_fields,
        types=types,
        static_names=tuple(static),
        static=torch.from_numpy(np.stack(list(static.values()), axis=1) + 1),
        events=numbers,
        event_time=torch.from_numpy(event_time),
        first=torch.from_numpy(np.searchsorted(event_user, np.arange(users))),
        user=torch.from_numpy(user),
        time=torch.from_numpy(time),
        columns={key: torch.from_numpy(values + 1) for key, values in columns.items()},
        label=torch.from_numpy(label),
        label_time=torch.from_numpy(label_time),
        probability=None if probability is None else torch.from_numpy(probability),
        logit_parts={key: torch.from_numpy(values) for key, values in logit_parts.items()},
        seen=_ends(event_user, event_time, user, time),
        seen_rows=_ends(user, time, user, time),
        parts={key: torch.from_numpy(values) for key, values in parts.items()},
    )


def _ends(of: Ints, at: Ints, user: Ints, time: Ints) -> Tensor:
    """Place after the last entry strictly earlier, in entries sorted by user, then time."""
    first, end = AsOfLog(keys=of, timestamps=at).spans(keys=user, timestamps=time)
    start = np.searchsorted(of, user)
    return torch.from_numpy(np.where(end > first, end, start))
