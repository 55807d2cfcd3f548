"""TorchRec's estimates with FBGEMM's real bytes, once for each size of shard.

TorchRec estimates the storage of a cached table by its share of all bytes. FBGEMM allocates
otherwise: row-wise optimizer state lies in HBM for all rows however few are cached, element-wise
state stays in host memory, and every column shard has row-wise state and a row map of its own. A
plan that is to fit must count what is allocated.

A table that is split over a thousand ranks has a thousand shards and two sizes of them. TorchRec
estimates each shard anew, at about a millisecond, which on many tables and ranks is most of what
planning costs. Here each size is estimated once.

Source: ours; TorchRec 1.8, ``EmbeddingPerfEstimator`` and ``EmbeddingStorageEstimator``; bytes of
FBGEMM 1.8 as in :class:`~sidrank.cache.sizes.TableShape`, one table-batched embedding a table.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchrec import optim
from torchrec.distributed.planner.constants import UVM_CACHING_RATIO
from torchrec.distributed.planner.shard_estimators import (
    EmbeddingPerfEstimator,
    EmbeddingStorageEstimator,
)
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    Shard,
    ShardEstimator,
    ShardingOption,
    Storage,
    Topology,
)

from sidrank.cache.sizes import TableShape

__all__ = ["estimators_for", "shape_of"]

_SET = 32
_STATES: dict[Any, tuple[int, int]] = {  # numbers for each row, and for each weight
    torch.optim.SGD: (0, 0),
    optim.SGD: (0, 0),
    optim.RowWiseAdagrad: (1, 0),
    torch.optim.Adagrad: (0, 1),
    optim.Adagrad: (0, 1),
    optim.LarsSGD: (0, 1),
    torch.optim.Adam: (0, 2),
    optim.Adam: (0, 2),
    optim.LAMB: (0, 2),
    optim.PartialRowWiseAdam: (1, 1),
    optim.PartialRowWiseLAMB: (1, 1),
}
_FUSED_STATES = {
    "EXACT_SGD": (0, 0),
    "SGD": (0, 0),
    "EXACT_ROWWISE_ADAGRAD": (1, 0),
    "ROWWISE_ADAGRAD": (1, 0),
    "EMAINPLACE_ROWWISE_ADAGRAD": (1, 0),
    "EXACT_ADAGRAD": (0, 1),
    "LARS_SGD": (0, 1),
    "ADAM": (0, 2),
    "LAMB": (0, 2),
    "PARTIAL_ROWWISE_ADAM": (1, 1),
    "PARTIAL_ROWWISE_LAMB": (1, 1),
}


def shape_of(
    name: str,
    weight: Tensor,
    *,
    fused_params: Mapping[str, Any] | None = None,
    rows: int | None = None,
    dim: int | None = None,
) -> TableShape:
    """What decides how many bytes a table takes, from its weight and its optimizer.

    Args:
        name: The table.
        weight: Its weight, on any device; the optimizer is the one that
            ``apply_optimizer_in_backward`` left on it.
        fused_params: Those of the sharder, whose ``optimizer`` counts if the weight has none.
            With neither, FBGEMM runs plain SGD.
        rows: Rows of a shard; None for all.
        dim: Columns of a shard; None for all.

    Returns:
        The shape.

    Raises:
        ValueError: If it is not known how much state the optimizer keeps.
    """
    classes = getattr(weight, "_optimizer_classes", None)
    chosen: Any = (fused_params or {}).get("optimizer")
    if classes:
        states, label = _STATES.get(classes[0]), classes[0].__name__
    elif chosen is None:
        states, label = (0, 0), "none"
    else:
        label = str(getattr(chosen, "name", chosen))
        states = _FUSED_STATES.get(label)
    if states is None:
        raise ValueError(
            f"optimizer of {name} must be one whose state is known, such as RowWiseAdagrad,"
            f" got {label}"
        )
    return TableShape(
        name=name,
        rows=weight.shape[0] if rows is None else rows,
        dim=weight.shape[1] if dim is None else dim,
        weight_bytes=weight.element_size(),
        rowwise_states=states[0],
        elementwise_states=states[1],
    )


def estimators_for(
    topology: Topology, constraints: Mapping[str, ParameterConstraints] | None = None
) -> list[ShardEstimator]:
    """Estimators of time and of storage for ``EmbeddingEnumerator(estimator=...)``.

    Args:
        topology: The devices.
        constraints: What is known of each table; the same as the enumerator gets.

    Returns:
        TorchRec's estimator of time, and one of storage that counts FBGEMM's bytes for the
        kernels ``fused`` and ``fused_uvm_caching`` and agrees with TorchRec's on all others.
    """
    given = None if constraints is None else dict(constraints)
    return [
        _OncePerSize(EmbeddingPerfEstimator(topology=topology, constraints=given)),
        _OncePerSize(_AllocatedStorage(EmbeddingStorageEstimator(topology, given))),
    ]


class _OncePerSize(ShardEstimator):
    """An estimator whose answer for a shard depends on its size alone."""

    def __init__(self, inner: ShardEstimator) -> None:
        self.inner = inner

    def estimate(
        self, sharding_options: list[ShardingOption], sharder_data_map: dict[str, Any]
    ) -> None:
        kinds: list[dict[tuple[int, ...], Shard]] = []
        short: list[ShardingOption] = []
        for option in sharding_options:
            sizes: dict[tuple[int, ...], Shard] = {}
            for shard in option.shards:
                if tuple(shard.size) not in sizes:
                    sizes[tuple(shard.size)] = copy.copy(shard)
            kinds.append(sizes)
            short.append(_changed(option, shards=list(sizes.values())))
        self.inner.estimate(short, sharder_data_map=sharder_data_map)
        for option, few, sizes in zip(sharding_options, short, kinds, strict=True):
            option.is_weighted = few.is_weighted
            for shard in option.shards:
                known = sizes[tuple(shard.size)]
                shard.perf, shard.storage = known.perf, known.storage


class _AllocatedStorage(ShardEstimator):
    """What FBGEMM allocates, beside what TorchRec counts for inputs and outputs."""

    def __init__(self, inner: ShardEstimator) -> None:
        self.inner = inner

    def estimate(
        self, sharding_options: list[ShardingOption], sharder_data_map: dict[str, Any]
    ) -> None:
        # A table in host memory needs HBM for its inputs and outputs and for nothing else.
        outside = [
            _changed(option, compute_kernel="fused_uvm") if _of_fbgemm(option) else option
            for option in sharding_options
        ]
        self.inner.estimate(outside, sharder_data_map=sharder_data_map)
        for option in filter(_of_fbgemm, sharding_options):
            fused_params = sharder_data_map[option.module_type_key].fused_params
            for shard in option.shards:
                if shard.storage is not None and all(shard.size):
                    own = _bytes(option, shard, fused_params)
                    shard.storage = Storage(hbm=shard.storage.hbm + own.hbm, ddr=own.ddr)


def _of_fbgemm(option: ShardingOption) -> bool:
    return option.compute_kernel in ("fused", "fused_uvm_caching")


def _bytes(option: ShardingOption, shard: Shard, fused_params: Mapping[str, Any]) -> Storage:
    rows, dim = shard.size
    shape = shape_of(option.name, option.tensor, fused_params=fused_params, rows=rows, dim=dim)
    full = shape.full_bytes()
    if option.compute_kernel == "fused":
        return Storage(hbm=sum(full.values()), ddr=0)
    share = option.cache_load_factor or fused_params.get("cache_load_factor", UVM_CACHING_RATIO)
    slots = max(1, -(-int(rows * share) // _SET)) * _SET
    prefetch = bool(option.cache_params and option.cache_params.prefetch_pipeline)
    cached = shape.cached_bytes(slots, prefetch=prefetch)
    in_host = full["weights"] + full["optimizer"] - cached["optimizer"]
    return Storage(hbm=sum(cached.values()), ddr=in_host)


def _changed(
    option: ShardingOption, *, shards: list[Shard] | None = None, compute_kernel: str | None = None
) -> ShardingOption:
    """A shallow copy, so that what is estimated for it is not estimated for the original."""
    other = copy.copy(option)
    if shards is not None:
        other.shards = shards
    if compute_kernel is not None:
        other.compute_kernel = compute_kernel
    return other
