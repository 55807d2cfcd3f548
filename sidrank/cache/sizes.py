"""How to divide a budget of HBM among the caches of all tables, from what their traffic asks for.

A table either lies in HBM as a whole or keeps a cache there. The next byte goes where it avoids
most misses: misses fall with slots along each table's curve, and the lower hull of all curves,
walked from its steepest piece down, is the best division of divisible budgets. What the last table
cannot use is given to others, and what no observed access would gain to tables whose rows keep
coming that never came before.

Bytes are those that FBGEMM's table-batched embedding allocates on a GPU, with one module a table:
tags, recency, the map of all rows and row-wise optimizer state count beside the rows of the cache.

Source: ours; FBGEMM 1.8, ``SplitTableBatchedEmbeddingBagsCodegen._apply_cache_state``, for bytes.
[derived] Hull, repair of its end, and what the rest goes to. No GPU has run the sizes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sidrank.cache._divide import Demand, divide
from sidrank.cache.miss_ratio_curve import MissRatioCurve

__all__ = ["CacheSizes", "TableCache", "TableShape", "cache_sizes"]

_MIB, _GIB = 2.0**20, 2.0**30


@dataclass(frozen=True)
class TableShape:
    """What decides how many bytes a table takes.

    Args:
        name: The table.
        rows: Its rows.
        dim: Width of a row.
        weight_bytes: Bytes of a weight: 4, 2, or 1 (whose cache keeps 2).
        rowwise_states: Optimizer numbers for each row: 1 for row-wise Adagrad, 0 for SGD and Adam.
        elementwise_states: Optimizer numbers for each weight: 1 for Adagrad, 2 for Adam.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> shape = TableShape(name="item", rows=1000, dim=64)
        >>> shape.full_bytes()["weights"], shape.cached_bytes(96)["row map"]
        (256000, 4000)
    """

    name: str
    rows: int
    dim: int
    weight_bytes: int = 4
    rowwise_states: int = 1
    elementwise_states: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")
        if self.weight_bytes not in (1, 2, 4):
            raise ValueError(f"weight_bytes must be 1, 2 or 4, got {self.weight_bytes}")
        if self.rowwise_states < 0:
            raise ValueError(f"rowwise_states must be at least 0, got {self.rowwise_states}")
        if self.elementwise_states < 0:
            raise ValueError(
                f"elementwise_states must be at least 0, got {self.elementwise_states}"
            )

    def full_bytes(self) -> dict[str, int]:
        """HBM of the whole table.

        Returns:
            Bytes by what they are for.
        """
        states = self.rowwise_states + self.elementwise_states * self.dim
        return {
            "weights": self.rows * self.dim * self.weight_bytes,
            "optimizer": self.rows * 4 * states,
        }

    def cached_bytes(
        self, slots: int, *, algorithm: Literal["lru", "lfu"] = "lru", prefetch: bool = False
    ) -> dict[str, int]:
        """HBM of a cache. Element-wise optimizer state is left with the table, in host memory.

        Args:
            slots: Rows that the cache holds.
            algorithm: Which row leaves: the least recently or the least frequently used.
            prefetch: Whether rows are fetched ahead, which needs a lock for each slot.

        Returns:
            Bytes by what they are for.
        """
        counters = self.rows + 1 if algorithm == "lfu" else slots
        return {
            "cache": slots * self.dim * max(2, self.weight_bytes),
            "tags": slots * 8,
            "recency" if algorithm == "lru" else "frequency": counters * 8,
            "locks": slots * 4 * prefetch,
            "row map": self.rows * 4,
            "optimizer": self.rows * 4 * self.rowwise_states,
        }


@dataclass(frozen=True)
class TableCache:
    """What a table gets."""

    name: str
    """The table."""
    kernel: Literal["fused", "fused_uvm_caching"]
    """By TorchRec's name, the whole table in HBM or a cache in front of host memory."""
    slots: int
    """Rows in HBM."""
    load_factor: float
    """Rows in HBM as a share of the table's; TorchRec's ``CacheParams.load_factor``."""
    parts: Mapping[str, int]
    """Bytes of HBM by what they are for."""
    misses: float
    """Misses that are expected of a global batch."""
    miss_rate: float
    """Misses as a share of the distinct rows that a batch reads."""
    reason: str
    """Why that, in words."""

    @property
    def hbm_bytes(self) -> int:
        """Bytes of HBM."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class CacheSizes:
    """A division of the budget."""

    tables: Mapping[str, TableCache]
    """By name of the table, in the order in which they were given."""
    budget_bytes: int
    """What could be spent."""

    @property
    def hbm_bytes(self) -> int:
        """What is spent."""
        return sum(table.hbm_bytes for table in self.tables.values())

    @property
    def misses(self) -> float:
        """Misses that are expected of a global batch, over all tables."""
        return sum(table.misses for table in self.tables.values())

    def explain(self) -> str:
        """Say what each table gets and why.

        Returns:
            One line for the budget and one for each table.
        """
        told = [
            f"{self.hbm_bytes / _GIB:,.3f} of {self.budget_bytes / _GIB:,.3f} GiB spent,"
            f" {self.misses:,.1f} misses expected of a global batch"
        ]
        for table in self.tables.values():
            share = ", ".join(f"{what} {part:,}" for what, part in table.parts.items() if part)
            told.append(
                f"{table.name}: {table.kernel}, {table.slots:,} rows ({table.load_factor:.4f}),"
                f" {table.miss_rate:.2%} missed; {table.reason}; bytes: {share}"
            )
        return "\n".join(told)


def cache_sizes(
    shapes: Iterable[TableShape],
    curves: Mapping[str, MissRatioCurve],
    budget_bytes: int,
    *,
    algorithm: Literal["lru", "lfu"] = "lru",
    prefetch: bool = False,
    miss_costs: Mapping[str, float] | None = None,
) -> CacheSizes:
    """Divide HBM among tables so that a global batch misses least.

    Cold misses count as the trace had them. A table in HBM never misses; a cached one misses each
    row's first access however large it is, and more slots than rows ever occurred are taken to
    catch those that are yet to come, evenly.

    Args:
        shapes: The tables.
        curves: Their curves, as ``AccessTrace.curves`` gives them; of tables with no more rows
            than the shapes say.
        budget_bytes: HBM for all of them, over all GPUs.
        algorithm: Which row leaves a cache; it decides bytes only, the curves are those of "lru".
        prefetch: Whether rows are fetched ahead.
        miss_costs: What a miss costs, by name of the table; None if all cost alike. Bytes of a
            row, where the transfer counts and not the request.

    Returns:
        What each table gets.

    Raises:
        ValueError: If the curves are of other tables or larger ones, nothing was observed, the
            budget does not pay for the smallest caches, or LFU is to fetch ahead, which FBGEMM
            cannot.

    Example:
        >>> slots = np.array([0, 100, 1000])
        >>> curve = MissRatioCurve(rows=1000, batches=1, accesses=400.0, cold=100.0, slots=slots,
        ...                        misses=np.array([400.0, 120.0, 100.0]))
        >>> item = TableShape(name="item", rows=1000, dim=64)
        >>> sizes = cache_sizes([item], {"item": curve}, 50_000)
        >>> sizes.tables["item"].kernel, sizes.tables["item"].slots, sizes.hbm_bytes <= 50_000
        ('fused_uvm_caching', 128, True)
    """
    shapes = list(shapes)
    _check(shapes, curves, budget_bytes)
    if algorithm not in ("lru", "lfu"):
        raise ValueError(f"algorithm must be lru or lfu, got {algorithm}")
    if prefetch and algorithm == "lfu":
        raise ValueError("prefetch must be False with lfu, which FBGEMM cannot fetch ahead, got it")
    costs = {shape.name: 1.0 for shape in shapes} if miss_costs is None else dict(miss_costs)
    if costs.keys() != curves.keys() or not all(0 <= cost < np.inf for cost in costs.values()):
        raise ValueError(
            f"miss_costs must be finite, at least 0, one for each of {sorted(curves)}, got {costs}"
        )

    def cached(shape: TableShape, slots: int) -> dict[str, int]:
        return shape.cached_bytes(slots, algorithm=algorithm, prefetch=prefetch)

    demands: list[Demand] = []
    for shape in shapes:
        fixed = sum(cached(shape, 0).values())
        demands.append(
            Demand(
                curve=replace(curves[shape.name], rows=shape.rows),
                cost=costs[shape.name],
                fixed=fixed,
                slot=sum(cached(shape, 1).values()) - fixed,
                full=sum(shape.full_bytes().values()),
            )
        )
    least = [demand.least for demand in demands]
    if sum(least) > budget_bytes:
        worst = int(np.argmax(least))
        raise ValueError(
            f"budget_bytes must be at least {sum(least):,} for the smallest caches of all tables,"
            f" got {budget_bytes:,}; {shapes[worst].name} alone needs {least[worst]:,}"
        )
    found: dict[str, TableCache] = {}
    for shape, demand, slots in zip(shapes, demands, divide(demands, budget_bytes), strict=True):
        curve = demand.curve
        missed = 0.0 if slots is None else float(curve.misses_at(slots))
        found[shape.name] = TableCache(
            name=shape.name,
            kernel="fused" if slots is None else "fused_uvm_caching",
            slots=shape.rows if slots is None else slots,
            load_factor=1.0 if slots is None else slots / shape.rows,
            parts=shape.full_bytes() if slots is None else cached(shape, slots),
            misses=missed / curve.batches,
            miss_rate=missed / curve.accesses if curve.accesses else 0.0,
            reason=_reason(demand, slots),
        )
    return CacheSizes(found, budget_bytes)


def _check(
    shapes: list[TableShape], curves: Mapping[str, MissRatioCurve], budget_bytes: int
) -> None:
    names = [shape.name for shape in shapes]
    if not shapes or len(set(names)) < len(names):
        raise ValueError(f"shapes must be of one table or more, each once, got {names}")
    if set(curves) != set(names):
        raise ValueError(f"curves must be of the tables {sorted(names)}, got {sorted(curves)}")
    for shape in shapes:
        curve = curves[shape.name]
        if curve.rows > shape.rows:
            raise ValueError(
                f"curves must be of at most {shape.rows:,} rows for table {shape.name},"
                f" got {curve.rows:,}"
            )
        if curve.batches < 1:
            raise ValueError(f"curves must be of at least 1 batch, got none for {shape.name}")
    if budget_bytes <= 0:
        raise ValueError(f"budget_bytes must be above 0, got {budget_bytes}")


def _reason(demand: Demand, slots: int | None) -> str:
    if slots is None:
        if demand.largest is None:
            return "no cache of it would be smaller than the table"
        return "the whole table pays: nothing is missed, not even first accesses"
    fewer = -np.diff(demand.curve.misses_at([slots, slots + _MIB / demand.slot])).item()
    return f"another MiB would avoid {fewer / demand.curve.batches:.3g} misses a batch"
