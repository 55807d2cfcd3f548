"""A proposer that stops: near-best plans from a few dozen proposals, whatever the model's size.

TorchRec's default tries one proposal for each option of each table, twice, and each costs a pass
over all tables: time grows with the square of the tables and more, while most proposals differ
from the one before in a single table that does not matter. Here the options of all tables are one
matrix of costs. A plan can be no faster than its slowest shard and no faster than all its work
spread evenly, on top of what lies on every rank anyway; this bound ranks choices without placing
one of them, and only the best few are placed. What is left of the allowance moves tables off the
rank that turned out busiest. When a choice does not fit, memory is given a price.

Source: ours; TorchRec 1.8, ``GreedyProposer``, ``UniformProposer``, ``NoopPerfModel``. The bound is
that of list scheduling: R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969.

Shapes: ``T`` tables, ``O`` options of a table at most.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torchrec.distributed.planner.types import (
    Enumerator,
    Perf,
    Proposer,
    ShardingOption,
    Storage,
    Topology,
)

__all__ = ["BoundedProposer"]

_PRICES = 32  # of memory, from free to nothing else counting
_TOPS = 24  # limits on the slowest shard that are looked at
_EVERYWHERE = ("row_wise", "data_parallel")
_SWAPS = 3  # partners of a change that may give it the memory it needs
_NEVER = float("inf")


class BoundedProposer(Proposer):
    """At most so many proposals, the most promising first.

    Use it in place of the default proposers: ``EmbeddingShardingPlanner(proposer=...)``.

    Args:
        max_proposals: Proposals to place at most.

    Raises:
        ValueError: If ``max_proposals`` is below 1.
    """

    def __init__(self, *, max_proposals: int = 48) -> None:
        if max_proposals < 1:
            raise ValueError(f"max_proposals must be at least 1, got {max_proposals}")
        self.max_proposals = max_proposals
        self._options: list[list[ShardingOption]] = []
        self._choice: tuple[int, ...] | None = None
        self._made = 0

    def load(
        self, search_space: list[ShardingOption], enumerator: Enumerator | None = None
    ) -> None:
        """Take the options of all tables, estimates filled in.

        Args:
            search_space: What the enumerator found.
            enumerator: Not needed.
        """
        tables: dict[str, list[ShardingOption]] = defaultdict(list)
        for option in search_space:
            tables[option.fqn].append(option)
        # TorchRec's enumerator passes types and kernels through sets: their order is by chance.
        self._options = [sorted(own, key=_kind) for own in tables.values()]
        self._costs = _Costs(self._options)
        self._seen: set[tuple[int, ...]] = set()
        self._made = 0
        self._best = _NEVER
        self._moves: Iterator[tuple[int, ...]] = iter(())
        self._starts: Iterator[tuple[int, ...]] = iter(())
        self._started = False
        self._choice = self._fresh(self._costs.starts(None)) if self._options else None

    def propose(self) -> list[ShardingOption] | None:
        """The next choice of one option a table; None when there is no more to try.

        Returns:
            Options, one a table, not yet placed.
        """
        if self._choice is None:
            return None
        return [own[index] for own, index in zip(self._options, self._choice, strict=True)]

    def feedback(
        self,
        partitionable: bool,
        plan: list[ShardingOption] | None = None,
        perf_rating: float | None = None,
        storage_constraint: Topology | None = None,
    ) -> None:
        """Learn how the last proposal did, and choose the next one.

        Args:
            partitionable: Whether it fitted.
            plan: The proposal, placed.
            perf_rating: Its time.
            storage_constraint: The devices it was placed on.
        """
        choice = self._choice
        if choice is None:
            return
        self._made += 1
        better = partitionable and perf_rating is not None and perf_rating < self._best
        if better and plan is not None and perf_rating is not None:
            self._best = perf_rating
            self._moves = self._costs.moves(choice, _loads(plan))
        if not partitionable:
            self._costs.refuse(choice)
        if not self._started and storage_constraint is not None:
            self._started = True
            self._starts = self._costs.starts(storage_constraint)
        self._choice = None
        if self._made >= self.max_proposals:
            return
        # Half of the allowance goes to choices from scratch, the rest to bettering the best.
        half = self._made < self.max_proposals // 2 or self._best == _NEVER
        first, second = (self._starts, self._moves) if half else (self._moves, self._starts)
        self._choice = self._fresh(first) or self._fresh(second)

    def _fresh(self, choices: Iterator[tuple[int, ...]]) -> tuple[int, ...] | None:
        for choice in choices:
            if choice not in self._seen:
                self._seen.add(choice)
                return choice
        return None


class _Costs:
    """Costs of all options of all tables, and which choices they speak for."""

    def __init__(self, options: Sequence[Sequence[ShardingOption]]) -> None:
        shape = (len(options), max((len(own) for own in options), default=0))
        self.slowest = np.full(shape, _NEVER)  # shard of the option, ms
        self.work = np.full(shape, _NEVER)  # of all its shards, ms
        self.fast = np.full((*shape, 2), _NEVER)  # HBM and DDR of all its shards, bytes
        self.largest = np.full((*shape, 2), _NEVER)  # HBM and DDR of one of its shards
        for table, own in enumerate(options):
            for index, option in enumerate(own):
                times = [_perf(shard.perf).total for shard in option.shards]
                bytes_ = [(_storage(s.storage).hbm, _storage(s.storage).ddr) for s in option.shards]
                self.slowest[table, index] = max(times)
                self.work[table, index] = sum(times)
                self.fast[table, index] = np.sum(bytes_, axis=0)
                self.largest[table, index] = np.max(bytes_, axis=0)
        self.kinds = [[option.sharding_type for option in own] for own in options]
        self.everywhere = np.zeros(shape, dtype=bool)
        for table, own in enumerate(self.kinds):
            self.everywhere[table, : len(own)] = [kind in _EVERYWHERE for kind in own]
        self._needs: dict[tuple[int, ...], tuple[float, float]] = {}
        self._refused: list[tuple[float, float]] = []

    def starts(self, topology: Topology | None) -> Iterator[tuple[int, ...]]:
        """Choices from scratch, best bound first; what does not fit at all comes last."""
        if topology is None:
            yield _choice(self.slowest)
            return
        ranks = len(topology.devices)
        room = np.array([[d.storage.hbm, d.storage.ddr] for d in topology.devices], dtype=float)
        total = np.maximum(room.sum(0), 1)
        share = (self.fast / total).max(2)  # of the scarcer memory, [T, O]
        never = (self.largest > room.max(0)).any(2)
        slowest = np.where(never, _NEVER, self.slowest)
        lost = ~np.isfinite(slowest).any(1)  # no option of the table fits a device
        slowest[lost] = self.slowest[lost]
        found: dict[tuple[int, ...], tuple[bool, float, float]] = {}
        # What lies on all ranks adds its time to each; the rest can be spread.
        placed = np.where(self.everywhere, 0, slowest)
        tops = np.unique(slowest[np.isfinite(slowest) & ~self.everywhere])
        tops = tops[np.linspace(0, len(tops) - 1, _TOPS).astype(int)] if tops.size else [0.0]
        work = np.where(np.isfinite(slowest), self.work / ranks, _NEVER)
        scale = np.where(np.isfinite(work), work, 0).max(1).sum()
        for top in tops:
            below = np.less_equal(placed, top)
            none = np.logical_not(below.any(1, keepdims=True))
            allowed = below | (none & (slowest <= slowest.min(1, keepdims=True)))
            for price in [0.0, *np.geomspace(1e-4, 1e2, _PRICES - 1)]:
                with np.errstate(invalid="ignore"):
                    cost = np.where(allowed, work + price * scale * share, _NEVER)
                choice = _choice(cost)
                at = (np.arange(len(choice)), np.array(choice))
                need = float((self.fast[at].sum(0) / total).max())
                alike = self.everywhere[at]
                spread = max(float(work[at][~alike].sum()), float(placed[at].max()))
                bound = float(work[at][alike].sum()) + spread
                lump = float((self.largest[at] / room.max(0).clip(1)).max())
                found[choice] = (need > 1, bound, need)
                self._needs[choice] = (need, lump)
        yield _choice(slowest)
        yield from self._uniform(slowest)
        for choice in sorted(found, key=lambda each: found[each]):
            need, lump = self._needs[choice]
            if not any(need >= most and lump >= piece for most, piece in self._refused):
                yield choice

    def _uniform(self, slowest: NDArray[np.float64]) -> Iterator[tuple[int, ...]]:
        """One sharding type for all tables, where all tables have it."""
        for kind in sorted({kind for own in self.kinds for kind in own}):
            of_kind = np.full(slowest.shape, _NEVER)
            for table, own in enumerate(self.kinds):
                for index, each in enumerate(own):
                    if each == kind:
                        of_kind[table, index] = slowest[table, index]
            if np.isfinite(of_kind).any(1).all():
                yield _choice(of_kind)

    def refuse(self, choice: tuple[int, ...]) -> None:
        """Leave out what needs as much memory, in pieces as large, as what did not fit."""
        if choice in self._needs:
            self._refused.append(self._needs[choice])

    def moves(
        self, choice: tuple[int, ...], loads: NDArray[np.float64]
    ) -> Iterator[tuple[int, ...]]:
        """Choices that take work off the busiest rank, largest hope first. ``loads``: [T, R]."""
        own = loads[:, int(loads.sum(0).argmax())]
        hope = np.where(np.isfinite(self.work), own[:, None] - self.work / loads.shape[1], -_NEVER)
        order = np.argsort(-hope, axis=None, kind="stable")
        changes: dict[int, int] = {}
        for place in order:
            table, index = (int(each) for each in np.unravel_index(place, hope.shape))
            if hope[table, index] <= 0:
                break
            if table not in changes and index != choice[table]:
                changes[table] = index
        pairs = list(changes.items())
        many = len(pairs) // 2
        while many > 1:  # several at once first: there may be more tables than proposals
            yield _with(choice, pairs[:many])
            many //= 2
        for pair in pairs:
            yield _with(choice, [pair])
            for given in self._releases(choice, pair[0]):  # where memory is full, a swap
                yield _with(choice, [pair, given])

    def _releases(self, choice: tuple[int, ...], table: int) -> list[tuple[int, int]]:
        """Changes of other tables that give most HBM back for the time they cost."""
        at = (np.arange(len(choice)), np.array(choice))
        freed = self.fast[at][:, None, 0] - self.fast[..., 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            price = np.where(freed > 0, (self.work - self.work[at][:, None]) / freed, _NEVER)
        price[table] = _NEVER
        order = np.argsort(price, axis=None, kind="stable")[:_SWAPS]
        places = [np.unravel_index(place, price.shape) for place in order]
        return [(int(t), int(o)) for t, o in places if np.isfinite(price[t, o])]


def _kind(option: ShardingOption) -> tuple[str, str]:
    return option.sharding_type, option.compute_kernel


def _choice(costs: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(costs.argmin(1).tolist())


def _with(choice: tuple[int, ...], changes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    changed = list(choice)
    for table, index in changes:
        changed[table] = index
    return tuple(changed)


def _loads(plan: Sequence[ShardingOption]) -> NDArray[np.float64]:
    """Time that each table spends on each rank, [T, R]."""
    ranks = 1 + max(shard.rank or 0 for option in plan for shard in option.shards)
    loads = np.zeros((len(plan), ranks))
    for table, option in enumerate(plan):
        for shard in option.shards:
            loads[table, shard.rank or 0] += _perf(shard.perf).total
    return loads


def _perf(perf: Perf | None) -> Perf:
    if perf is None:
        raise ValueError("search_space must have estimates of time, got a shard without")
    return perf


def _storage(storage: Storage | None) -> Storage:
    if storage is None:
        raise ValueError("search_space must have estimates of storage, got a shard without")
    return storage
