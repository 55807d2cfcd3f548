"""Who is shown what and when, in a planted log: Zipf exposure of a catalogue that turns over.

Each day offers a pool of places, ranked by popularity. An impression takes the place of rank
``r`` with a chance proportional to ``r ** -zipf``. Overnight a fixed share of the places gets
items that were never offered before, whose forerunners never come back. The places are drawn
evenly along the ranks, so that new items are as popular as old ones: head, middle and tail.

Shapes: ``R`` impressions, ``V`` items, ``U`` users, ``P`` places of a day's pool, ``T`` days.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DAY", "Exposure", "expose", "raw_ids"]

DAY = 86_400_000  # milliseconds

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Exposure:
    """Impressions, by positions of users and items.

    Attributes:
        item: Item of each impression, shape ``[R]``.
        user: User of each impression, shape ``[R]``.
        timestamp: Milliseconds from the start, strictly increasing, shape ``[R]``.
        first_day: Day on which each item is offered first, shape ``[V]``.
        item_weight: Expected share of each item in all impressions, shape ``[V]``.
        user_weight: Expected share of each user, shape ``[U]``.
    """

    item: Ints
    user: Ints
    timestamp: Ints
    first_day: Ints
    item_weight: NDArray[np.float64]
    user_weight: NDArray[np.float64]


def expose(
    draws: np.random.Generator,
    *,
    rows: int,
    pools: tuple[int, int],
    days: int,
    zipf: float,
    users: int,
) -> Exposure:
    """Draw the impressions.

    Args:
        draws: Source of chance.
        rows: Number of impressions, ``R``; days have as many, but for the remainder.
        pools: Places of a day's pool and, of them, those that get a new item every night.
        days: Number of days, ``T``.
        zipf: Exponent of the exposure.
        users: Number of users, ``U``.

    Returns:
        The impressions, in the order of their time.
    """
    places, fresh = pools
    popularity = np.arange(1, places + 1) ** -zipf
    popularity /= popularity.sum()
    edges = np.arange(fresh + 1) * places // max(fresh, 1)
    offered = draws.permutation(places)
    first_day = np.zeros(places + fresh * (days - 1), np.int64)
    weight = np.zeros(len(first_day))
    cumulative = np.cumsum(popularity)
    items: list[Ints] = []
    times: list[Ints] = []
    for day in range(days):
        if day:
            replaced = edges[:-1] + (draws.random(fresh) * np.diff(edges)).astype(np.int64)
            newcomers = places + fresh * (day - 1) + np.arange(fresh)
            offered[replaced] = draws.permutation(newcomers)
            first_day[newcomers] = day
        weight[offered] += popularity / days
        count = rows * (day + 1) // days - rows * day // days
        place = np.searchsorted(cumulative, draws.random(count) * cumulative[-1], side="right")
        items.append(offered[np.minimum(place, places - 1)])
        # distinct: count sorted numbers with repeats, spread by one each
        moments = np.sort(draws.integers(0, DAY - count + 1, count)) + np.arange(count)
        times.append(day * DAY + moments)
    activity = np.exp(0.5 * draws.standard_normal(users))
    activity /= activity.sum()
    among = np.cumsum(activity)
    user = np.searchsorted(among, draws.random(rows) * among[-1], side="right")
    return Exposure(
        item=np.concatenate(items),
        user=np.minimum(user, users - 1),
        timestamp=np.concatenate(times),
        first_day=first_day,
        item_weight=weight,
        user_weight=activity,
    )


def raw_ids(count: int, *, salt: int) -> Ints:
    """Distinct ids scattered over [0, 2⁶³), the same on every machine.

    Args:
        count: How many.
        salt: Which ids: seed and kind.

    Returns:
        The ids, shape ``[count]``.
    """
    # Each step is a bijection on 63 bits, so no two ids are equal.
    mask = np.uint64(2**63 - 1)
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64)
        x += np.uint64(salt % 2**40) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((31, 0xBF58476D1CE4E5B9), (29, 0x94D049BB133111EB)):
            x &= mask
            x ^= x >> np.uint64(shift)
            x *= np.uint64(factor)
        x &= mask
        x ^= x >> np.uint64(32)
    return x.astype(np.int64)
