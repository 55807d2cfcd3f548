r"""A planted impression log: long tail, new items every day, and a known best possible AUC.

A real log never says how much of a model's error is the model's. Here every label is drawn from
a probability that is handed out with it, so a ranking can be judged against the truth
(:func:`sidrank.metrics.expected_auc`) and against the best there is
(:func:`sidrank.metrics.bayes_auc`). The logit of a user and an item has four parts that do not
correlate, each a fixed share of one variance:

.. math:: \mathrm{logit} = b + \sigma \left(\sqrt{(1 - \rho)\, w}\; \mathrm{quality}_v
    + \sqrt{\rho\, w}\; \mathrm{taste}_{uv} + \sqrt{m}\; \mathrm{memory}_v
    + \sqrt{a}\; \mathrm{bias}_u\right), \qquad w + m + a = 1

========= ================================================ =====================================
part      is                                               can be learned from
========= ================================================ =====================================
quality   one number an item                               the item's vector, its past likes
taste     user × item, by their places in a tree 8 × 8 × 8 the item's vector or codes, with the
                                                           user's past; no scalar of the item
memory    one number an item that its vector does not show the item's past likes: hash ids
bias      one number a user                                the user's past
========= ================================================ =====================================

``structure`` :math:`\rho` moves the item's share from all quality to all taste. Nothing else
changes with it: the same seed gives the same users, items, vectors, impressions and uniform
numbers behind the labels, so the points of a curve over ``structure`` are paired. The variance of
the logit stays the same and with it, about, the best possible AUC: 0.864 on the default log for any
structure (0.859 to 0.872 over five seeds). On the last day alone it is 0.861 to 0.866 with all
structure, but 0.839 to 0.867 with none: the most popular item has one impression in seven, and
how much its quality differs from the others' is luck. No model can know the memory of a
new item; ``parts`` tell what is left to know.

Differs from real data: the impressions do not depend on taste, position or earlier labels (no
selection, no feedback); tastes and qualities do not drift; popularity says nothing of quality;
new items come at all popularities from their first moment on; users differ only by place in the
tree, bias and activity; a user's rows come at random times of the day, not in sessions; vectors see
all of the taste up to noise. What works here may fail there.

Source: none; the exposure follows the usual reading of a long tail (Zipf) [derived].

Shapes: ``R`` rows, ``V`` items, ``U`` users, ``D`` width of item vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sidrank.data._planted_exposure import DAY, expose, raw_ids
from sidrank.data._planted_taste import BRANCHES, RANK, item_vectors, plant_tastes
from sidrank.data.as_of import AsOfLog

__all__ = ["PlantedLog", "PlantedSettings", "plant_log"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_START = 1_767_225_600_000  # 2026-01-01 in milliseconds
_INTERCEPT = -1.0
_SPREAD = 2.0  # standard deviation of the logit
_BIAS_SHARE = 0.1
_SEGMENT_TRUE = 0.75
_BLOCK = 1 << 17


@dataclass(frozen=True, slots=True)
class PlantedSettings:
    """What to plant.

    Attributes:
        seed: Everything random follows from it.
        structure: Share of taste, against quality, in what an item's vector tells: 0 to 1.
        rows: Impressions, ``R``.
        items: Items of all days together, ``V``.
        users: Users, ``U``. By default each has 200 impressions on average, 9 of 10 more than 90,
            and likes one in three: enough to learn a taste from.
        days: Days; the last one is the natural test day.
        new_share: Share of a day's pool of items on offer that no earlier day offered.
        zipf: Exponent of the exposure of a day's pool by popularity rank.
        memory: Share of the logit's variance that lies in the item alone and not in its vector.
        noise: Length of the noise of an item vector; a taste has length 1.
        width: Width of the item vectors, ``D``.

    Raises:
        ValueError: If a number is out of range.
    """

    seed: int = 0
    structure: float = 1.0
    rows: int = 1_000_000
    items: int = 100_000
    users: int = 5_000
    days: int = 10
    new_share: float = 0.2
    zipf: float = 1.1
    memory: float = 0.1
    noise: float = 0.5
    width: int = 32

    def __post_init__(self) -> None:
        vector = len(BRANCHES) * RANK + 1
        least = {"seed": 0, "rows": 1, "items": 1, "users": 64, "days": 1, "width": vector}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        highest = {"structure": 1.0, "new_share": 1.0, "memory": 1.0 - _BIAS_SHARE}
        for name, most in highest.items():
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be 0 to {most}, got {getattr(self, name)}")
        for name in ("zipf", "noise"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0, got {getattr(self, name)}")
        if self.rows // self.days >= DAY:
            raise ValueError(f"rows must leave a millisecond each, got {self.rows}")

    @property
    def pools(self) -> tuple[int, int]:
        """Items that a day offers, and how many of them no earlier day did."""
        places = self.items / (1 + self.new_share * (self.days - 1))
        fresh = int(places * self.new_share + 1e-9)  # never more than the pool can hold
        return self.items - fresh * (self.days - 1), fresh


@dataclass(frozen=True, slots=True)
class PlantedLog:
    """Impressions with labels, their probabilities, and the truth behind them.

    A host may know ``user``, ``item``, ``timestamp``, the labels of earlier rows,
    ``item_vectors`` and ``user_segment``; the rest is for judging.

    Attributes:
        settings: What was planted.
        user: User of each row, a value of ``user_ids``, shape ``[R]``.
        item: Item of each row, a value of ``item_ids``, shape ``[R]``.
        timestamp: Unix milliseconds, strictly increasing, shape ``[R]``.
        label: 1 for a like, shape ``[R]``.
        probability: Of the label being 1, shape ``[R]``.
        parts: The logit's four parts by name (``quality``, ``taste``, ``memory``, ``bias``), scaled
            as they are added to the intercept, shape ``[R]`` each.
        item_ids: Sorted raw ids, scattered over [0, 2⁶³), shape ``[V]``; some have no row.
        item_vectors: What can be seen of each item, made of its place in the tree, its quality and
            noise; no label has a part in them. Shape ``[V, D]``.
        item_codes: True branch of each item at each depth, shape ``[V, 3]``.
        item_quality: Quality of each item, shape ``[V]``.
        item_first_day: Day on which each item is offered first, from 0, shape ``[V]``.
        user_ids: Sorted raw ids, scattered over [0, 2⁶³), shape ``[U]``.
        user_codes: True branch of each user at each depth, shape ``[U, 3]``.
        user_segment: Branch at the first depth as the host knows it: right for about 3 of 4 users,
            else any branch; shape ``[U]``.
    """

    settings: PlantedSettings
    user: Ints
    item: Ints
    timestamp: Ints
    label: Ints
    probability: Floats
    parts: Mapping[str, NDArray[np.float32]]
    item_ids: Ints
    item_vectors: NDArray[np.float32]
    item_codes: Ints
    item_quality: Floats
    item_first_day: Ints
    user_ids: Ints
    user_codes: Ints
    user_segment: Ints

    @property
    def item_index(self) -> Ints:
        """Position of each row's item in ``item_ids``, shape ``[R]``."""
        return np.searchsorted(self.item_ids, self.item)

    @property
    def user_index(self) -> Ints:
        """Position of each row's user in ``user_ids``, shape ``[R]``."""
        return np.searchsorted(self.user_ids, self.user)

    @property
    def day(self) -> Ints:
        """Day of each row, from 0, shape ``[R]``."""
        return (self.timestamp - _START) // DAY

    @property
    def item_age(self) -> Ints:
        """Days since each row's item was first offered, shape ``[R]``; 0 for a new item.

        Items of the log's first day may be older than it says.
        """
        return self.day - self.item_first_day[self.item_index]

    def liked_before(self, count: int, *, rows: Ints | None = None) -> Ints:
        """The user's newest likes strictly before each row.

        Args:
            count: How many to keep, ``L``.
            rows: Positions of the rows asked for, shape ``[Q]``; None is all rows.

        Returns:
            Item ids, newest first, −1 where there are fewer, shape ``[Q, L]``.

        Raises:
            ValueError: If ``count`` is less than one.
        """
        rows = np.arange(len(self.user)) if rows is None else rows
        liked = np.flatnonzero(self.label == 1)
        log = AsOfLog(keys=self.user[liked], timestamps=self.timestamp[liked])
        items = np.append(self.item[liked], -1)
        result = np.empty((len(rows), count), np.int64)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            newest = log.newest(count, keys=self.user[block], timestamps=self.timestamp[block])
            result[start : start + _BLOCK] = items[newest]
        return result


def plant_log(settings: PlantedSettings | None = None) -> PlantedLog:
    """Draw a log; the same settings give the same bits on the same machine.

    Args:
        settings: What to plant; None is the default.

    Returns:
        The log.

    Example:
        >>> log = plant_log(PlantedSettings(rows=2000, items=300, users=64, days=3))
        >>> log.item_vectors.shape, len(log.label), log.day.max()
        ((300, 32), 2000, np.int64(2))
    """
    settings = PlantedSettings() if settings is None else settings
    who, where, how_good, seen, drawn = (
        np.random.default_rng(each) for each in np.random.SeedSequence(settings.seed).spawn(5)
    )
    shown = expose(
        who,
        rows=settings.rows,
        pools=settings.pools,
        days=settings.days,
        zipf=settings.zipf,
        users=settings.users,
    )
    tastes = plant_tastes(where, items=settings.items, user_weight=shown.user_weight)
    quality = _normal(how_good, shown.item_weight)
    memory = _normal(how_good, shown.item_weight, apart_from=quality)
    bias = _normal(how_good, shown.user_weight)
    vectors = item_vectors(seen, tastes, quality, width=settings.width, noise=settings.noise)
    told = seen.random(settings.users) < _SEGMENT_TRUE
    segment = np.where(told, tastes.user_codes[:, 0], seen.integers(0, BRANCHES[0], settings.users))

    share = 1.0 - settings.memory - _BIAS_SHARE
    parts = {
        "quality": np.sqrt((1.0 - settings.structure) * share) * quality[shown.item],
        "taste": np.sqrt(settings.structure * share) * tastes.of(shown.user, shown.item),
        "memory": np.sqrt(settings.memory) * memory[shown.item],
        "bias": np.sqrt(_BIAS_SHARE) * bias[shown.user],
    }
    logit = _INTERCEPT + _SPREAD * sum(parts.values())
    probability = 1.0 / (1.0 + np.exp(-logit))
    item_ids = raw_ids(settings.items, salt=2 * settings.seed)
    user_ids = raw_ids(settings.users, salt=2 * settings.seed + 1)
    by_item, by_user = np.argsort(item_ids), np.argsort(user_ids)
    return PlantedLog(
        settings=settings,
        user=user_ids[shown.user],
        item=item_ids[shown.item],
        timestamp=_START + shown.timestamp,
        label=(drawn.random(settings.rows) < probability).astype(np.int64),
        probability=probability,
        parts={name: (_SPREAD * part).astype(np.float32) for name, part in parts.items()},
        item_ids=item_ids[by_item],
        item_vectors=vectors[by_item],
        item_codes=tastes.item_codes[by_item],
        item_quality=quality[by_item],
        item_first_day=shown.first_day[by_item],
        user_ids=user_ids[by_user],
        user_codes=tastes.user_codes[by_user],
        user_segment=segment[by_user],
    )


def _normal(
    draws: np.random.Generator, weight: Floats, *, apart_from: Floats | None = None
) -> Floats:
    """One number each, of mean 0 and variance 1 and as normal as can be, under the weights.

    Independent draws would leave the log to the luck of its few most popular items. In an order
    drawn at random, each takes as much of the normal distribution as its weight is; what the
    numbers share with another column (of mean 0 and variance 1) is taken out.
    """
    order = draws.permutation(len(weight))
    middle = np.cumsum(weight[order]) - weight[order] / 2
    normal = NormalDist()
    value = np.empty(len(weight))
    value[order] = [normal.inv_cdf(place) for place in (middle / weight.sum()).tolist()]
    value -= (weight * value).sum() / weight.sum()
    if apart_from is not None:
        value -= (weight * value * apart_from).sum() / weight.sum() * apart_from
    return value / np.sqrt((weight * value**2).sum() / weight.sum())
