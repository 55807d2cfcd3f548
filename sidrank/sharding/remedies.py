"""When nothing fits: what is scarce, whose fault it is, and changes after which a plan exists.

A remedy is a change that was tried: more GPUs, more memory in each, or the table that takes most
made smaller (fewer rows, narrower weights, less optimizer state). Arithmetic says where to begin,
and the planner, run on the smallest caches, says whether it is enough; what it does not confirm is
not proposed.

Source: ours.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torchrec.distributed.planner.types import ParameterConstraints

from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.sharding.cached_tables import cached_tables, curves_of, table_shapes
from sidrank.sharding.fitting import (
    Placed,
    Shortage,
    cache_sharders,
    cuda_topology,
    least_bytes,
    place,
    pruned,
)
from sidrank.sharding.planning import CachePlan, search
from sidrank.sharding.table_specs import TableSpec, changed, model_of, pooling_constraints
from sidrank.sharding.verification import verify_plan

__all__ = ["Cluster", "Remedy", "plan_specs", "remedies"]

_GIB = 2**30
_MOST_GPUS = 1024


@dataclass(frozen=True)
class Cluster:
    """GPUs, and what of each is for tables.

    Args:
        world_size: How many, from 1 to 1,024.
        hbm_gib: HBM of each, GiB.
        ddr_gib: Host memory for each, GiB.
        batch_size: Samples of each in a step.

    Raises:
        ValueError: If a number is out of range.
    """

    world_size: int
    hbm_gib: float
    ddr_gib: float = 128.0
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.world_size <= _MOST_GPUS:
            raise ValueError(f"world_size must lie in [1, {_MOST_GPUS}], got {self.world_size}")
        for name, value in (("hbm_gib", self.hbm_gib), ("ddr_gib", self.ddr_gib)):
            if not (value * _GIB >= 1 and math.isfinite(value)):
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class Remedy:
    """A change after which the tables fit."""

    table: str | None
    """The table to change; None if the cluster is to change."""
    change: str
    """The field of :class:`TableSpec` or of :class:`Cluster`."""
    before: int | float | str
    """Its value."""
    after: int | float | str
    """The value with which it fits."""

    @property
    def text(self) -> str:
        """The change in words."""
        before, after = (
            f"{each:,}"
            if isinstance(each, int)
            else f"{each:g}"
            if isinstance(each, float)
            else each
            for each in (self.before, self.after)
        )
        if self.table is None:
            what = {
                "world_size": "GPUs",
                "hbm_gib": "GiB of HBM a GPU",
                "ddr_gib": "GiB of host memory a GPU",
            }[self.change]
            return f"{after} {what} instead of {before}"
        said = f"{self.change} {after} instead of {before} for the table {self.table}"
        return said + (", its ids hashed and traced anew" if self.change == "rows" else "")

    def apply(
        self, specs: Sequence[TableSpec], cluster: Cluster
    ) -> tuple[list[TableSpec], Cluster]:
        """The tables and the cluster with the change made.

        Args:
            specs: The tables.
            cluster: The cluster.

        Returns:
            Both, one of them changed.
        """
        if self.table is not None:
            return changed(specs, self.table, **{self.change: self.after}), cluster
        values: dict[str, Any] = {self.change: self.after}
        return list(specs), replace(cluster, **values)


def plan_specs(
    specs: Sequence[TableSpec], curves: Mapping[str, MissRatioCurve], cluster: Cluster
) -> CachePlan | Shortage:
    """Plan a list of tables.

    Args:
        specs: The tables.
        curves: Their curves, by name.
        cluster: What to plan for.

    Returns:
        The plan, verified, or what was scarce.

    Raises:
        ValueError: If the curves are of other tables.
    """
    model, sharders = model_of(specs), cache_sharders()
    shapes = table_shapes(model, sharders=sharders)
    found = search(
        model,
        shapes,
        curves_of(curves, shapes),
        _topology(cluster),
        batch_size=cluster.batch_size,
        base=pooling_constraints(specs),
        sharders=sharders,
    )
    if isinstance(found, CachePlan):
        verify_plan(model, found.plan, sharders=sharders)
    return found


def remedies(
    specs: Sequence[TableSpec],
    curves: Mapping[str, MissRatioCurve],
    cluster: Cluster,
    shortage: Shortage,
) -> list[Remedy]:
    """Changes after which a plan exists, each tried.

    Args:
        specs: Tables that do not fit.
        curves: Their curves.
        cluster: What they do not fit.
        shortage: What :func:`plan_specs` said of it.

    Returns:
        Remedies for the table that takes most of what is scarce, and for the cluster; none that
        the planner does not confirm. Fewer rows come last, since they ask for another trace.
    """
    found: list[Remedy] = []
    for attempts in _kinds(specs, cluster, shortage):
        for remedy in attempts:
            if _fits(*remedy.apply(specs, cluster), curves):
                found.append(remedy)
                break
    return found


def _kinds(
    specs: Sequence[TableSpec], cluster: Cluster, shortage: Shortage
) -> Iterator[Iterator[Remedy]]:
    """Remedies of each kind, the smallest change first."""
    spec = next(each for each in specs if each.name == shortage.table)
    yield _narrower(spec)
    yield _less_state(spec)
    yield _more_gpus(cluster)
    of_hbm = shortage.scarce == "HBM"
    name, has = ("hbm_gib", cluster.hbm_gib) if of_hbm else ("ddr_gib", cluster.ddr_gib)
    missing = max(shortage.hbm_bytes if of_hbm else shortage.ddr_bytes, 0)
    yield _more_memory(name, has, has + missing / cluster.world_size / _GIB)
    yield _fewer_rows(spec, shortage)


def _fewer_rows(spec: TableSpec, shortage: Shortage) -> Iterator[Remedy]:
    """Fewer rows: what the others leave, then less."""
    over = max(shortage.hbm_bytes if shortage.scarce == "HBM" else shortage.ddr_bytes, 0)
    kept = 1 - over / max(shortage.table_bytes, 1)
    for share in (0.98 * kept, 0.8 * kept, 0.5 * kept, 0.25 * kept):
        rows = int(spec.rows * share)
        rows -= rows % 10 ** max(0, len(str(max(rows, 1))) - 3)  # three digits are enough
        if 1 <= rows < spec.rows:
            yield Remedy(spec.name, "rows", spec.rows, rows)


def _narrower(spec: TableSpec) -> Iterator[Remedy]:
    if spec.dtype == "fp32":
        yield Remedy(spec.name, "dtype", spec.dtype, "fp16")


def _less_state(spec: TableSpec) -> Iterator[Remedy]:
    if spec.optimizer in ("adagrad", "adam", "lamb", "partial_rowwise_adam"):
        yield Remedy(spec.name, "optimizer", spec.optimizer, "rowwise_adagrad")


def _more_gpus(cluster: Cluster) -> Iterator[Remedy]:
    size = cluster.world_size
    while size < _MOST_GPUS:
        size = min(2 * size, _MOST_GPUS)
        yield Remedy(None, "world_size", cluster.world_size, size)


def _more_memory(name: str, has: float, needed: float) -> Iterator[Remedy]:
    for factor in (1.05, 1.3, 2.0, 4.0):
        after = max(needed, has) * factor
        after = float(math.ceil(after)) if after > 2 else math.ceil(after * 100) / 100
        yield Remedy(None, name, has, after)


def _fits(
    specs: Sequence[TableSpec], cluster: Cluster, curves: Mapping[str, MissRatioCurve]
) -> bool:
    """Whether the planner finds a place for everything with the smallest caches."""
    model, sharders, topology = model_of(specs), cache_sharders(), _topology(cluster)
    shapes = table_shapes(model, sharders=sharders)
    fewer = {  # of a table that shrinks, the curve is another one; the smallest cache is not
        name: curve if curve.rows <= shapes[name].rows else _shrunk(curve, shapes[name].rows)
        for name, curve in curves.items()
    }
    kept: Mapping[str, ParameterConstraints] = pruned(shapes, pooling_constraints(specs), topology)
    least = sum(least_bytes(shape, kept[name]) for name, shape in shapes.items())
    constraints, _ = cached_tables(shapes, curves_of(fewer, shapes), least, base=kept)
    found = place(
        model,
        constraints,
        topology,
        batch_size=cluster.batch_size,
        sharders=sharders,
        max_proposals=12,
    )
    return isinstance(found, Placed)


def _shrunk(curve: MissRatioCurve, rows: int) -> MissRatioCurve:
    """The curve of a table whose ids are hashed into fewer rows, taken to be as skewed."""
    share = rows / curve.rows
    slots: list[int] = []
    misses: list[float] = []
    for slot, missed in zip((curve.slots * share).astype(int).tolist(), curve.misses, strict=True):
        if not slots or slot > slots[-1]:
            slots.append(slot)
            misses.append(float(missed))
    return replace(curve, rows=rows, slots=np.array(slots, dtype=np.int64), misses=np.array(misses))


def _topology(cluster: Cluster) -> Any:
    return cuda_topology(
        cluster.world_size,
        hbm_bytes=int(cluster.hbm_gib * _GIB),
        ddr_bytes=int(cluster.ddr_gib * _GIB),
    )
