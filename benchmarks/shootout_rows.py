"""The shoot-out's rows: what a ranker sees of a planted log, cut into batches.

Everything a row carries is of strictly earlier rows. Counts of an item stop where training stops:
they tell the gate how far its hash ID was trained. An item without a training row is "unknown" to
the hash-ID table (row 0). Training rows are made cold at random, as in the demo: hash ID and
counts of the item are taken away, which teaches every arm, the host included, what to do then.

``World`` is what the arms, the training loop and the figures know of any data; rows of MovieLens
take the same form in ``shootout_movielens_rows``.

Shapes: ``R`` rows, ``B`` rows of a batch, ``L`` history length, ``V`` items, ``F`` numbers.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec import KeyedJaggedTensor

from sidrank.data import AsOfLog, ExposureStatistics, PlantedLog
from sidrank.semantic_ids import SIDSpec, SIDTable
from sidrank.tokenizers import RQKMeans

__all__ = ["SHORT", "Size", "World", "item_codes", "make_world"]

SHORT, LONG, FOUND = 10, 50, 10
HOST_KEYS = ("user", "segment", "hour", "item", "history")
PRIOR = 20.0  # impressions that a like rate is shrunk by
BUCKETS = {"0": 0, "1-4": 1, "5-19": 5, "20-99": 20, "100-999": 100, "1000+": 1000}
AGES = {"0": 0, "1": 1, "2-3": 2, "4-6": 4, "7+": 7}
TAIL, HEAD = 20, 200  # training rows: fewer is tail, at least as many is head

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """How large every arm is.

    Attributes:
        width: Width of all embeddings.
        hidden: Width of the layers.
        init: Standard deviation of all embeddings at birth.
        units: Most byte-pair units.
    """

    width: int = 16
    hidden: int = 64
    init: float = 0.05
    units: int = 20_000


@dataclass(kw_only=True)
class World:
    """Rows of one seed, ready to train on.

    Attributes:
        keys: Features that the host reads.
        table: Learned codes; an item's id is its position.
        vectors: Item vectors and a row of zeros for "none", shape ``[V + 1, D]``.
        single: One id a row, shape ``[R]`` each.
        multi: Several a row, −1 where fewer, shape ``[R, L]`` each.
        dense: Numbers of each row; shape ``[R, F]``.
        cold: The numbers of the item when it is made cold, shape ``[F]``; NaN keeps the row's.
        label: Shape ``[R]``.
        users: User of each row, shape ``[R]``.
        parts: Positions of train, validation (if a pass is chosen there) and test rows.
        slices: Masks of the test rows by name.
        sizes: Rows of the host's tables.
        frequency: Training rows of each item, shape ``[V]``.
        probability: True probability of each label, shape ``[R]``, where it is known.
        true_codes: Codes that were planted, shape ``[V, 3]``, where there are any.
        scalars: Two numbers of each item for the control that has nothing else, shape ``[V, 2]``;
            where there are none, they are made of the training rows.
        size: How large the arms are.
    """

    keys: tuple[str, ...]
    table: SIDTable
    vectors: Tensor
    single: dict[str, Tensor]
    multi: dict[str, Tensor]
    dense: Tensor
    cold: Tensor
    label: Tensor
    users: Ints
    parts: dict[str, Ints]
    slices: dict[str, NDArray[np.bool_]]
    sizes: dict[str, int]
    frequency: Ints
    probability: NDArray[np.float64] | None = None
    true_codes: Ints | None = None
    scalars: Tensor | None = None
    size: Size = field(default_factory=Size)

    def labels(self, part: str) -> Ints:
        """Labels of the rows of a part."""
        return self.label[self.parts[part]].numpy().astype(np.int64)

    def cut(
        self, rows: Tensor, keys: tuple[str, ...], made_cold: Tensor | None = None
    ) -> tuple[Tensor, KeyedJaggedTensor, Tensor]:
        """Numbers ``[B, F]``, the named features, and labels ``[B]`` of some rows."""
        dense = self.dense[rows]
        values: list[Tensor] = []
        lengths: list[Tensor] = []
        for key in keys:
            if key in self.single:
                ids = self.single[key][rows]
                if made_cold is not None and key in ("item", "impressions", "likes"):
                    ids = ids.masked_fill(made_cold, 0)
                values.append(ids)
                lengths.append(torch.ones_like(ids))
            else:
                bags = self.multi[key][rows]
                held = bags >= 0
                values.append(bags[held])
                lengths.append(held.sum(dim=1))
        if made_cold is not None:
            changed = made_cold.unsqueeze(1) & ~self.cold.isnan()
            dense = torch.where(changed, self.cold.nan_to_num(), dense)
        batch = KeyedJaggedTensor.from_lengths_sync(
            keys=list(keys), values=torch.cat(values), lengths=torch.cat(lengths)
        )
        return dense, batch, self.label[rows]


def item_codes(log: PlantedLog, levels: tuple[int, ...], *, seed: int) -> SIDTable:
    """Residual k-means on what can be seen of the items."""
    vectors = torch.from_numpy(log.item_vectors)
    tokenizer = RQKMeans(levels=levels, sample=20_000, iterations=10, seed=seed).fit(vectors)
    codes = np.asarray(tokenizer.encode(vectors))
    return SIDTable(np.arange(len(codes)), codes, spec=SIDSpec(levels))


def make_world(log: PlantedLog, levels: tuple[int, ...]) -> World:
    """Make the features of every row; the last two days validate and test."""
    settings, day = log.settings, log.day
    learn = day < settings.days - 2
    cut = int(log.timestamp[learn].max()) + 1
    item, user = log.item_index, log.user_index
    frequency = np.bincount(item[learn], minlength=len(log.item_ids))
    rate = float(log.label[learn].mean())

    counts = ExposureStatistics(statistics=["shown", "liked"], window=10 * 86_400_000)
    ones = np.ones(len(item), np.int64)
    counts.update(
        item[learn], log.timestamp[learn], {"shown": ones[learn], "liked": log.label[learn]}
    )
    counts.advance(cut)
    shown, liked = counts.as_of(item, np.minimum(log.timestamp, cut)).T
    by_user = AsOfLog(keys=user, timestamps=log.timestamp)
    user_shown = by_user.totals(ones, keys=user, timestamps=log.timestamp)
    user_liked = by_user.totals(log.label, keys=user, timestamps=log.timestamp)
    numbers = np.column_stack(
        [
            (user_liked + PRIOR * rate) / (user_shown + PRIOR),
            np.log1p(user_shown),
            (liked + PRIOR * rate) / (shown + PRIOR),
            np.log1p(shown),
        ]
    )
    mean, deviation = numbers[learn].mean(axis=0), numbers[learn].std(axis=0) + 1e-6
    cold = (np.array([np.nan, np.nan, rate, 0.0]) - mean) / deviation

    hid = np.where(frequency > 0, np.arange(1, len(frequency) + 1), 0)
    past = _positions(log)
    history = np.where(past >= 0, hid[past], -1)
    order = np.random.default_rng(settings.seed).permutation(len(item))
    single = {
        "user": user,
        "segment": log.user_segment[user],
        "hour": log.timestamp // 3_600_000 % 24,
        "item": hid[item],
        "item_raw": item,
        "impressions": shown,
        "likes": liked,
        "shuffled_impressions": shown[order],
        "shuffled_likes": liked[order],
    }
    multi = {
        "history": history[:, :SHORT],
        "history_raw": past[:, :SHORT],
        "long": history,
        "long_raw": past,
    }
    last = day == settings.days - 1
    return World(
        keys=HOST_KEYS,
        table=item_codes(log, levels, seed=settings.seed),
        vectors=torch.from_numpy(np.pad(log.item_vectors, ((0, 1), (0, 0)))),
        single={name: torch.from_numpy(ids) for name, ids in single.items()},
        multi={name: torch.from_numpy(np.ascontiguousarray(ids)) for name, ids in multi.items()},
        dense=torch.from_numpy(((numbers - mean) / deviation).astype(np.float32)),
        cold=torch.from_numpy(cold.astype(np.float32)),
        label=torch.from_numpy(log.label).float(),
        users=log.user,
        parts={
            "train": np.flatnonzero(learn),
            "validation": np.flatnonzero(day == settings.days - 2),
            "test": np.flatnonzero(last),
        },
        slices=_slices(frequency[item][last], log.item_age[last]),
        sizes={
            "user": len(log.user_ids),
            "segment": int(log.user_segment.max()) + 1,
            "hour": 24,
            "item": len(hid) + 1,
        },
        frequency=frequency,
        probability=log.probability,
        true_codes=log.item_codes,
    )


def _positions(log: PlantedLog) -> Ints:
    """Newest liked items before each row, as positions."""
    ids = log.liked_before(LONG)
    return np.where(ids >= 0, np.searchsorted(log.item_ids, ids), -1)


def _slices(frequency: Ints, age: Ints) -> dict[str, NDArray[np.bool_]]:
    found = {
        "all": frequency >= 0,
        "new": frequency == 0,
        "tail": (frequency > 0) & (frequency < TAIL),
        "new_tail": frequency < TAIL,
        "head": frequency >= HEAD,
    }
    for kind, edges, values in (("rows", BUCKETS, frequency), ("age", AGES, age)):
        ends = [*edges.values(), np.inf]
        for name, first, end in zip(edges, ends, ends[1:], strict=False):
            found[f"{kind} {name}"] = (values >= first) & (values < end)
    return found
