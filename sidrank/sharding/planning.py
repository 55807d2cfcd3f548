"""From traffic to a plan: sizes that fit, the planner run on them, and the outcome in figures.

A budget for all GPUs together is not yet a plan: lookups need memory for what goes in and out, and
tables come in pieces that a GPU holds or does not. So the budget starts at all the HBM there is
and shrinks until the planner finds a place for everything. The planner is TorchRec's, with a
bounded proposer and FBGEMM's real bytes; no GPU is needed.

Source: ours; TorchRec 1.8, ``EmbeddingShardingPlanner``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption, Topology
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cache.sizes import TableShape
from sidrank.sharding.cached_tables import CACHED, Curves, cached_tables, curves_of, table_shapes
from sidrank.sharding.errors import PlanError
from sidrank.sharding.fitting import (
    Placed,
    Shortage,
    cache_sharders,
    least_bytes,
    place,
    pruned,
)
from sidrank.sharding.verification import verify_plan

__all__ = ["CachePlan", "RankBytes", "TablePlan", "plan_caches", "search"]

_SHARES = (
    1.0,
    0.97,
    0.93,
    0.85,
    0.7,
    0.5,
    0.25,
    0.1,
    0.03,
    0.0,
)  # of what smallest caches leave of the HBM


@dataclass(frozen=True)
class TablePlan:
    """What becomes of a table."""

    name: str
    """The table."""
    sharding: str
    """TorchRec's sharding type."""
    kernel: str
    """TorchRec's compute kernel."""
    load_factor: float
    """Share of its rows that has a place in HBM, 1 without a cache."""
    predicted_miss: float
    """Share of the distinct rows of a global batch that has to be fetched."""
    hbm_bytes: int
    """HBM on all ranks, inputs and outputs of its lookups included."""
    ddr_bytes: int
    """Host memory of all ranks."""
    ranks: tuple[int, ...]
    """Where its shards are."""


@dataclass(frozen=True)
class RankBytes:
    """What a rank holds."""

    hbm_bytes: int
    """HBM of its GPU."""
    ddr_bytes: int
    """Host memory."""


@dataclass(frozen=True, eq=False)
class CachePlan:
    """A plan that fits."""

    plan: ShardingPlan
    """For ``DistributedModelParallel``."""
    constraints: Mapping[str, ParameterConstraints]
    """What the planner was told."""
    tables: tuple[TablePlan, ...]
    """What becomes of each table."""
    ranks: tuple[RankBytes, ...]
    """What each rank holds."""
    step_ms: float
    """TorchRec's estimate of the slowest rank's time; an estimate, not a measurement."""


def plan_caches(
    model: nn.Module,
    trace: Curves,
    topology: Topology,
    *,
    batch_size: int = 512,
    base: Mapping[str, ParameterConstraints] | None = None,
    sharders: Sequence[ModuleSharder[nn.Module]] | None = None,
) -> CachePlan:
    """Size all caches for a cluster and place all tables on it.

    Args:
        model: The model, before ``DistributedModelParallel``; the meta device will do.
        trace: An ``AccessTrace`` of its tables, or their curves by name.
        topology: The cluster; all of its memory is for tables.
        batch_size: Samples of each GPU in a step.
        base: Constraints to keep, such as pooling factors.
        sharders: What the model will be sharded with; those of
            :func:`~sidrank.sharding.fitting.cache_sharders` if None.

    Returns:
        The plan, verified.

    Raises:
        PlanError: If nothing fits, naming the table that takes most of what is scarce; or if the
            sharders group tables so that caches do not get what they are given.
        ValueError: If the trace is of other tables, or the batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    used = list(cache_sharders() if sharders is None else sharders)
    shapes = table_shapes(model, sharders=used)
    curves = curves_of(trace, shapes)
    found = search(model, shapes, curves, topology, batch_size=batch_size, base=base, sharders=used)
    if isinstance(found, Shortage):
        raise PlanError(
            f"tables must fit into {topology.world_size} GPUs with"
            f" {topology.devices[0].storage.hbm / 2**30:.4g} GiB of HBM and"
            f" {topology.devices[0].storage.ddr / 2**30:.4g} GiB of host memory each, got no plan:"
            f" {found.scarce} is scarce, and {found.table} alone takes"
            f" {found.table_bytes / 2**30:.4g} GiB of it"
        )
    verify_plan(model, found.plan, sharders=used)
    return found


def search(
    model: nn.Module,
    shapes: Mapping[str, TableShape],
    curves: Mapping[str, MissRatioCurve],
    topology: Topology,
    *,
    batch_size: int,
    base: Mapping[str, ParameterConstraints] | None,
    sharders: Sequence[ModuleSharder[nn.Module]],
) -> CachePlan | Shortage:
    """The largest budget for which the planner finds a plan.

    Args:
        model: The model.
        shapes: Its tables.
        curves: Their curves.
        topology: The cluster.
        batch_size: Samples of each rank in a step.
        base: Constraints to keep.
        sharders: What the model will be sharded with.

    Returns:
        The plan, or what was scarce when even the smallest caches did not fit.
    """
    kept = pruned(shapes, base, topology)
    room = sum(device.storage.hbm for device in topology.devices)
    least = sum(least_bytes(shape, kept[name]) for name, shape in shapes.items())
    ceiling, tried = float(max(room, least)), None
    shortage: Shortage | None = None
    for share in _SHARES:
        budget = int(max(min(least + share * (room - least), ceiling), least))
        if budget == tried:
            continue
        constraints, _ = cached_tables(shapes, curves, budget, base=kept)
        found = place(model, constraints, topology, batch_size=batch_size, sharders=sharders)
        if isinstance(found, Placed):
            return _cache_plan(found, constraints, curves, topology)
        shortage, tried = found, budget
        ceiling = float(budget - max(found.hbm_bytes, 0))
    if shortage is None:  # the first budget is always tried
        raise RuntimeError("no budget was tried")
    return shortage


def _cache_plan(
    placed: Placed,
    constraints: Mapping[str, ParameterConstraints],
    curves: Mapping[str, MissRatioCurve],
    topology: Topology,
) -> CachePlan:
    hbm, ddr = [0] * topology.world_size, [0] * topology.world_size
    tables: list[TablePlan] = []
    for option in placed.options:
        for shard in option.shards:
            if shard.rank is not None and shard.storage is not None:
                hbm[shard.rank] += shard.storage.hbm
                ddr[shard.rank] += shard.storage.ddr
        tables.append(_table_plan(option, curves[option.name]))
    order = {name: place for place, name in enumerate(curves)}
    return CachePlan(
        plan=placed.plan,
        constraints=constraints,
        tables=tuple(sorted(tables, key=lambda table: order[table.name])),
        ranks=tuple(RankBytes(*each) for each in zip(hbm, ddr, strict=True)),
        step_ms=placed.step_ms,
    )


def _table_plan(option: ShardingOption, curve: MissRatioCurve) -> TablePlan:
    cached = option.compute_kernel == CACHED
    load_factor = float(option.cache_load_factor or 1.0) if cached else 1.0
    storage = option.total_storage
    return TablePlan(
        name=option.name,
        sharding=option.sharding_type,
        kernel=option.compute_kernel,
        load_factor=load_factor,
        predicted_miss=curve.miss_rate(load_factor) if cached else 0.0,
        hbm_bytes=storage.hbm,
        ddr_bytes=storage.ddr,
        ranks=tuple(sorted({shard.rank for shard in option.shards if shard.rank is not None})),
    )
