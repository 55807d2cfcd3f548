"""Divide a budget among tables whose misses fall with what they get.

Three steps. Pieces of all tables' lower hulls are taken, steepest first, while they fit: the best
division if budgets were divisible. What does not fit in the end (a table that goes to HBM as a
whole is a large piece) is repaired by a search over the few tables that are closest to
taking or giving a piece. What is left over goes to the best use that is small enough.

Source: ours [derived]; the search keeps, table after table, the divisions that none beats in both
bytes and misses (Nemhauser and Ullmann, Management Science 15(9), 1969).

Shapes: ``[P]`` sizes that a table may get.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sidrank.cache.miss_ratio_curve import MissRatioCurve

__all__ = ["SET", "Demand", "divide"]

SET = 32  # slots of one set: FBGEMM's caches are 32-way
_EVEN = 65  # sizes beside the curve's points, which may be few
_SEARCHED = 4  # tables in the search
_KEPT = 2048  # of the best divisions among the first of them

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Demand:
    """What a table takes and what it misses for it; a size is a number of slots, or all rows."""

    curve: MissRatioCurve
    """Over the rows of the table."""
    cost: float
    """Of a miss."""
    fixed: int
    """Bytes of a cache without a slot."""
    slot: int
    """Bytes of a slot."""
    full: int
    """Bytes of the whole table."""
    sizes: NDArray[np.int64] = field(init=False)
    """Slots worth considering, in whole sets, ascending; rows of the table for all of it; [P]."""
    spent: NDArray[np.int64] = field(init=False)
    """Bytes of each size, ascending, shape ``[P]``."""
    costs: Floats = field(init=False)
    """Cost of what each size misses of a batch, shape ``[P]``."""

    def __post_init__(self) -> None:
        """Lay the sizes out."""
        largest = self.largest
        slots = np.empty(0, dtype=np.int64)
        if largest is not None:
            even = np.linspace(1, largest, _EVEN).astype(np.int64)
            points = np.append(self.curve.slots, even)
            slots = np.unique(np.clip(-(-points // SET) * SET, SET, largest))
        object.__setattr__(self, "sizes", np.append(slots, self.curve.rows))
        object.__setattr__(self, "spent", np.append(self.fixed + self.slot * slots, self.full))
        object.__setattr__(self, "costs", np.append(self.missed(slots), 0.0))

    @property
    def largest(self) -> int | None:
        """Most slots that take fewer bytes than the whole table; None if not one set does."""
        slots = (self.full - self.fixed - 1) // self.slot // SET * SET
        return slots if slots >= SET else None

    @property
    def least(self) -> int:
        """Bytes of the smallest size."""
        return int(self.spent[0])

    @cached_property
    def touched(self) -> float:
        """Slots from which on only first accesses miss."""
        only_cold = self.curve.slots[self.curve.misses <= self.curve.cold]
        return float(only_cold[0]) if len(only_cold) else self.curve.cold

    def missed(self, slots: NDArray[np.int64] | int) -> Floats:
        """Cost of what so many slots miss of a batch.

        In a long run, a first access of the trace is a reuse at a distance that the trace was too
        short to see: it counts as missed up to all rows that occurred, and less and less with
        slots beyond.

        Args:
            slots: Numbers of slots, of any shape.

        Returns:
            The cost, of the same shape.
        """
        sizes = np.asarray(slots, dtype=np.float64)
        curve = self.curve
        beyond = np.clip((sizes - self.touched) / max(curve.rows - self.touched, 1.0), 0, 1)
        missed = curve.misses_at(sizes) - curve.cold * beyond
        return np.asarray(missed * self.cost / max(curve.batches, 1))

    def hull(self) -> list[int]:
        """Places of the sizes on the lower hull.

        Returns:
            The places, ascending; costs fall less and less by the byte.
        """
        kept: list[int] = []
        for place in range(len(self.sizes)):
            while len(kept) > 1 and self.slope(kept[-2], kept[-1]) <= self.slope(kept[-1], place):
                kept.pop()
            kept.append(place)
        return kept

    def slope(self, low: int, high: int) -> float:
        """Cost saved by a byte from one size to a larger one.

        Args:
            low: Place of the smaller size.
            high: Place of the larger size.

        Returns:
            The cost.
        """
        saved = self.costs[low] - self.costs[high]
        return float(saved / (self.spent[high] - self.spent[low]))


def divide(demands: Sequence[Demand], budget: int) -> list[int | None]:
    """Give every table a size.

    Args:
        demands: The tables; their smallest sizes fit in the budget together.
        budget: Bytes.

    Returns:
        Slots of each table's cache; None if all of it lies in HBM.
    """
    hulls = [demand.hull() for demand in demands]
    steps = _walk(demands, hulls, budget)
    walked = [hull[step] for hull, step in zip(hulls, steps, strict=True)]
    near = _near(demands, hulls, steps)
    searched = _search(demands, walked, near, budget)
    division = min(
        (_fill(demands, places, budget) for places in (walked, searched)),
        key=lambda division: _cost(demands, division),
    )
    return _even(demands, division)


def _even(demands: Sequence[Demand], division: list[int | None]) -> list[int | None]:
    """Give tables that are alike in everything the same, where that misses no more."""
    alike: dict[object, list[int]] = {}
    for table, demand in enumerate(demands):
        curve = demand.curve
        points = curve.slots.tobytes(), curve.misses.tobytes(), curve.rows, curve.batches
        numbers = curve.accesses, curve.cold, demand.cost, demand.fixed, demand.slot, demand.full
        alike.setdefault((points, numbers), []).append(table)
    for tables in alike.values():
        demand, old = demands[tables[0]], [division[table] for table in tables]
        spent = sum(_bytes(demand, slots) for slots in old)
        share = (spent // len(tables) - demand.fixed) // demand.slot // SET * SET
        if len(set(old)) < 2 or demand.largest is None or not SET <= share <= demand.largest:
            continue
        before = sum(0.0 if slots is None else float(demand.missed(slots)) for slots in old)
        # rounded down to whole sets, which may cost each a set's worth of hits
        slack = float(demand.missed(share) - demand.missed(share + SET))
        if float(demand.missed(share)) * len(tables) <= before + slack * len(tables):
            for table in tables:
                division[table] = share
    return division


def _walk(demands: Sequence[Demand], hulls: Sequence[list[int]], budget: int) -> list[int]:
    """How many pieces of each hull are taken: steepest first, each table until one is too large."""
    pieces = [
        (demand.slope(low, high), table, int(demand.spent[high] - demand.spent[low]))
        for table, (demand, hull) in enumerate(zip(demands, hulls, strict=True))
        for low, high in pairwise(hull)
    ]
    pieces.sort(key=lambda piece: -piece[0])  # stable: a table's own pieces keep their order
    left = budget - sum(demand.least for demand in demands)
    steps, stopped = [0] * len(demands), set[int]()
    for _, table, size in pieces:
        if size > left:
            stopped.add(table)
        elif table not in stopped:
            left -= size
            steps[table] += 1
    return steps


def _near(demands: Sequence[Demand], hulls: Sequence[list[int]], steps: Sequence[int]) -> list[int]:
    """The tables that gain most by the next piece, and those that lose least without the last."""
    if len(demands) <= _SEARCHED:
        return list(range(len(demands)))
    gain = [
        demand.slope(hull[step], hull[step + 1]) if step + 1 < len(hull) else -np.inf
        for demand, hull, step in zip(demands, hulls, steps, strict=True)
    ]
    loss = [
        demand.slope(hull[step - 1], hull[step]) if step else np.inf
        for demand, hull, step in zip(demands, hulls, steps, strict=True)
    ]
    chosen = dict.fromkeys(np.argsort(gain)[::-1][: _SEARCHED // 2].tolist())
    chosen |= dict.fromkeys(np.argsort(loss).tolist())
    return list(chosen)[:_SEARCHED]


def _search(
    demands: Sequence[Demand], places: Sequence[int], near: Sequence[int], budget: int
) -> list[int]:
    """The best sizes of a few tables while the others keep theirs."""
    others = sum(
        int(demand.spent[place])
        for table, (demand, place) in enumerate(zip(demands, places, strict=True))
        if table not in near
    )
    room = budget - others
    rest = sum(demands[table].least for table in near)
    spent, cost = np.zeros(1, dtype=np.int64), np.zeros(1)
    origins: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for table in near:
        demand = demands[table]
        rest -= demand.least
        sums = (spent[:, None] + demand.spent).ravel()
        costs = (cost[:, None] + demand.costs).ravel()
        order = np.flatnonzero(sums <= room - rest)
        order = order[np.lexsort((costs[order], sums[order]))]
        # what costs no less than something smaller is never wanted
        lowest = np.minimum.accumulate(costs[order])
        order = order[np.append(True, lowest[1:] < lowest[:-1])]
        if len(order) > _KEPT:
            order = order[np.linspace(0, len(order) - 1, _KEPT).round().astype(np.int64)]
        origins.append(np.divmod(order, len(demand.spent)))
        spent, cost = sums[order], costs[order]
    result, at = list(places), len(spent) - 1
    for table, (before, place) in zip(reversed(near), reversed(origins), strict=True):
        result[table], at = int(place[at]), int(before[at])
    return result


def _fill(demands: Sequence[Demand], places: Sequence[int], budget: int) -> list[int | None]:
    """Spend what is left: again and again on the use that saves most by the byte."""
    whole = [place == len(demand.sizes) - 1 for demand, place in zip(demands, places, strict=True)]
    division: list[int | None] = [
        None if full else int(demand.sizes[place])
        for demand, place, full in zip(demands, places, whole, strict=True)
    ]
    left = budget - sum(
        _bytes(demand, slots) for demand, slots in zip(demands, division, strict=True)
    )
    offers = {table: _offer(demand, division[table], left) for table, demand in enumerate(demands)}
    while True:
        for table, offer in offers.items():
            if offer is not None and offer[1] > left:
                offers[table] = _offer(demands[table], division[table], left)
        open_ = {table: offer for table, offer in offers.items() if offer is not None}
        if not open_:
            return division
        table = max(open_, key=lambda each: open_[each][0])
        _, more, division[table] = open_[table]
        left -= more
        offers[table] = _offer(demands[table], division[table], left)


def _offer(demand: Demand, slots: int | None, left: int) -> tuple[float, int, int | None] | None:
    """The larger size that saves most by the byte: how much, its bytes, its slots; None if none."""
    if slots is None:
        return None
    spent, now = _bytes(demand, slots), float(demand.missed(slots))
    larger = np.empty(0, dtype=np.int64)
    if demand.largest is not None:
        most = min(demand.largest, slots + left // demand.slot // SET * SET)
        if most > slots:
            between = demand.sizes[(demand.sizes > slots) & (demand.sizes < most)]
            larger = np.append(between, most)
    bytes_ = demand.fixed + demand.slot * larger
    costs = demand.missed(larger)
    choices: list[int | None] = list(larger.tolist())
    if demand.full <= spent + left:
        bytes_, costs = np.append(bytes_, demand.full), np.append(costs, 0.0)
        choices.append(None)
    if not choices:
        return None
    saved = (now - costs) / (bytes_ - spent)
    # of equals the largest, or nothing would ever end where nothing is saved
    best = len(saved) - 1 - int(np.argmax(saved[::-1]))
    return float(saved[best]), int(bytes_[best]) - spent, choices[best]


def _bytes(demand: Demand, slots: int | None) -> int:
    return demand.full if slots is None else demand.fixed + demand.slot * slots


def _cost(demands: Sequence[Demand], division: Sequence[int | None]) -> float:
    return sum(
        0.0 if slots is None else float(demand.missed(slots))
        for demand, slots in zip(demands, division, strict=True)
    )
