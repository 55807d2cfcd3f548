"""One try at a plan: TorchRec's planner on given sizes, and what was scarce if it found none.

Source: ours; TorchRec 1.8, ``EmbeddingShardingPlanner``, ``GreedyPerfPartitioner``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner, SortBy
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    Enumerator,
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    ShardingOption,
    Storage,
    Topology,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from sidrank.cache.sizes import TableShape
from sidrank.sharding.cached_tables import CACHED
from sidrank.sharding.estimators import estimators_for
from sidrank.sharding.proposers import BoundedProposer

__all__ = [
    "Placed",
    "Shortage",
    "cache_sharders",
    "cuda_topology",
    "least_bytes",
    "place",
    "pruned",
]

_SET = 32
_REPLICATED = 0.01  # of a GPU's HBM: larger tables are not copied to every GPU [derived]
_MANY = 128  # ranks: on more, only tables of a quarter of a host are split over all [derived]


@dataclass(frozen=True, eq=False)
class Placed:
    """A plan that fits."""

    plan: ShardingPlan
    """For ``DistributedModelParallel``."""
    options: Sequence[ShardingOption]
    """What was chosen for each table, with estimates."""
    step_ms: float
    """TorchRec's estimate of the slowest rank's time."""


@dataclass(frozen=True)
class Shortage:
    """No plan."""

    hbm_bytes: int
    """HBM that is missing over all ranks even if all of it could be used; 0 or less if none is."""
    ddr_bytes: int
    """Host memory that is missing likewise."""
    table: str
    """The table that takes most of what is scarce."""
    table_bytes: int
    """What it takes."""
    scarce: str
    """``HBM`` or ``host memory``."""


def cuda_topology(
    world_size: int, *, hbm_bytes: int, ddr_bytes: int | None = None, local_world_size: int = 8
) -> Topology:
    """A cluster of GPUs to plan for, whether or not one is near.

    Args:
        world_size: GPUs.
        hbm_bytes: HBM of each that tables may take.
        ddr_bytes: Host memory that tables may take, for each GPU; TorchRec's 128 GiB if None.
        local_world_size: GPUs of a host; the largest divisor of ``world_size`` up to it is taken.

    Returns:
        The cluster, with TorchRec's default bandwidths.

    Raises:
        ValueError: If a number is below 1.
    """
    for name, value in (
        ("world_size", world_size),
        ("hbm_bytes", hbm_bytes),
        ("ddr_bytes", 1 if ddr_bytes is None else ddr_bytes),
        ("local_world_size", local_world_size),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    host = max(size for size in range(1, local_world_size + 1) if world_size % size == 0)
    trainer = TrainerConfig(
        world_size=world_size,
        local_world_size=host,
        hbm_cap_bytes=hbm_bytes,
        ddr_cap_bytes=ddr_bytes,
    )
    return TopologyFactory.create_topology(trainer, kernel_config=KernelConfig())


def cache_sharders(
    fused_params: Mapping[str, Any] | None = None,
) -> list[ModuleSharder[nn.Module]]:
    """Sharders that give each table an embedding operator, and so a cache, of its own.

    Args:
        fused_params: What else every table shall have.

    Returns:
        Sharders of ``EmbeddingBagCollection`` and ``EmbeddingCollection``.
    """
    own = {**(fused_params or {}), "use_one_tbe_per_table": True}
    sharders = [
        EmbeddingBagCollectionSharder(fused_params=dict(own)),
        EmbeddingCollectionSharder(fused_params=dict(own)),
    ]
    return cast(list[ModuleSharder[nn.Module]], sharders)


def least_bytes(shape: TableShape, constraint: ParameterConstraints | None = None) -> int:
    """HBM of the smallest cache of a table, or of all of it where that is less or asked for.

    Args:
        shape: The table.
        constraint: What it is held to.

    Returns:
        Bytes over all ranks.
    """
    full = sum(shape.full_bytes().values())
    kernels = constraint.compute_kernels if constraint is not None else None
    if kernels and CACHED not in kernels:
        return full
    return min(full, sum(shape.cached_bytes(_SET).values()))


def pruned(
    shapes: Mapping[str, TableShape],
    base: Mapping[str, ParameterConstraints] | None,
    topology: Topology,
) -> dict[str, ParameterConstraints]:
    """Constraints without sharding types that cannot pay, so that many ranks stay affordable.

    Large tables are not copied to every rank, and on many ranks only tables that would fill a good
    part of a host are split over all of them. Sharding types that ``base`` asks for are left alone.

    Args:
        shapes: The tables.
        base: Constraints to keep.
        topology: The cluster.

    Returns:
        Constraints of all tables of the model and of ``base``.
    """
    hbm = topology.devices[0].storage.hbm
    hosted = topology.intra_group_size * hbm / 4
    found = dict(base or {})
    for name, shape in shapes.items():
        kept = found.get(name) or ParameterConstraints()
        if not kept.sharding_types:
            full = sum(shape.full_bytes().values())
            types = ["table_wise", "column_wise", "table_column_wise", "table_row_wise"]
            if full <= _REPLICATED * hbm:
                types.append("data_parallel")
            if topology.world_size <= _MANY or full > hosted:
                types.append("row_wise")
            found[name] = replace(kept, sharding_types=types)
    return found


def place(
    model: nn.Module,
    constraints: Mapping[str, ParameterConstraints],
    topology: Topology,
    *,
    batch_size: int,
    sharders: Sequence[ModuleSharder[nn.Module]],
    max_proposals: int = 48,
) -> Placed | Shortage:
    """Run the planner once.

    Args:
        model: The model.
        constraints: What each table is held to.
        topology: The cluster; all of its memory is for tables.
        batch_size: Samples of each rank in a step.
        sharders: What the model will be sharded with.
        max_proposals: Proposals to place at most.

    Returns:
        The plan, or what was scarce.
    """
    given = dict(constraints)
    enumerator = _Once(
        EmbeddingEnumerator(
            topology=topology,
            batch_size=batch_size,
            constraints=given,
            estimator=estimators_for(topology, given),
        )
    )
    used = list(sharders)
    shortage = _shortage(enumerator.enumerate(model, used), topology)
    if shortage.hbm_bytes > 0 or shortage.ddr_bytes > 0:
        return shortage
    chosen: list[ShardingOption] = []
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        callbacks=[lambda best: chosen.extend(best) or best],  # a plan's estimates
        enumerator=enumerator,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        proposer=BoundedProposer(max_proposals=max_proposals),
        partitioner=GreedyPerfPartitioner(sort_by=SortBy.PERF),
        stats=[],
        constraints=given,
        debug=False,
    )
    try:
        plan = planner.plan(model, used)
    except PlannerError:
        return shortage
    return Placed(plan, chosen, float(_times(chosen, topology.world_size).max()))


class _Once(Enumerator):
    """An enumerator that is asked twice and copies thousands of options no more than once."""

    def __init__(self, inner: EmbeddingEnumerator) -> None:
        self.inner = inner
        self.space: list[ShardingOption] | None = None

    def enumerate(
        self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]
    ) -> list[ShardingOption]:
        if self.space is None:
            self.space = self.inner.enumerate(module, sharders)
        return self.space

    def populate_estimates(self, sharding_options: list[ShardingOption]) -> None:
        self.inner.populate_estimates(sharding_options)


def _shortage(space: Sequence[ShardingOption], topology: Topology) -> Shortage:
    """What is missing at the least, if every table took its thriftiest way."""
    needs: dict[str, tuple[bool, int, int]] = {}
    device = topology.devices[0].storage
    for option in space:
        storage = option.total_storage
        # A shard that no device holds is no way at all, unless every way has one.
        lost = any(not each.storage.fits_in(device) for each in option.shards if each.storage)
        mine = (lost, storage.hbm, storage.ddr)
        best = needs.get(option.name, mine)
        if lost < best[0]:
            best = mine
        elif lost == best[0]:
            best = (lost, min(best[1], mine[1]), min(best[2], mine[2]))
        needs[option.name] = best
    room = sum((device.storage for device in topology.devices), Storage(0, 0))
    hbm = sum(need[1] for need in needs.values())
    ddr = sum(need[2] for need in needs.values())
    of_hbm = hbm / max(room.hbm, 1) >= ddr / max(room.ddr, 1)
    table = max(needs, key=lambda name: (needs[name][0], needs[name][1 if of_hbm else 2]))
    return Shortage(
        hbm_bytes=hbm - room.hbm,
        ddr_bytes=ddr - room.ddr,
        table=table,
        table_bytes=needs[table][1 if of_hbm else 2],
        scarce="HBM" if of_hbm else "host memory",
    )


def _times(options: Sequence[ShardingOption], ranks: int) -> np.ndarray[Any, Any]:
    """Time of each rank, ms."""
    times = np.zeros(ranks)
    for option in options:
        for shard in option.shards:
            if shard.rank is not None and shard.perf is not None:
                times[shard.rank] += shard.perf.total
    return times
