"""Which of a model's tables lie in HBM and which keep a cache there, as constraints for a planner.

The trace says what each table's traffic asks for, the sizer divides the budget, and the planner is
told the outcome: one kernel a table, one load factor a cache, and the statistics that let it
charge a table for what it will fetch.

Source: ours; TorchRec 1.8, ``ParameterConstraints`` and ``CacheParams``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import nn
from torch.nn import Parameter
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheAlgorithm, CacheParams, ModuleSharder
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollectionInterface,
    EmbeddingCollectionInterface,
)

from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cache.sizes import CacheSizes, TableShape, cache_sizes
from sidrank.sharding.cache_statistics import TraceCacheStatistics
from sidrank.sharding.errors import PlanError
from sidrank.sharding.estimators import shape_of
from sidrank.sharding.hazards import check_caches

__all__ = ["Curves", "cached_tables", "curves_of", "table_shapes"]

CACHED = "fused_uvm_caching"
_WHOLE = ("fused", "dense")


class _Trace(Protocol):
    def curves(self) -> Mapping[str, MissRatioCurve]: ...


Curves = _Trace | Mapping[str, MissRatioCurve]


def table_shapes(
    model: nn.Module, *, sharders: Sequence[ModuleSharder[nn.Module]] | None = None
) -> dict[str, TableShape]:
    """What decides how many bytes each table of a model takes.

    Args:
        model: The model, before ``DistributedModelParallel``; the meta device will do.
        sharders: The sharders, for an optimizer that is among their fused parameters and was not
            given by ``apply_optimizer_in_backward``.

    Returns:
        Shapes by name of the table.

    Raises:
        ValueError: If the model holds no unsharded table, or two of one name, which neither a
            trace nor a planner can tell apart.
    """
    fused: dict[type, Mapping[str, Any]] = {
        sharder.module_type: getattr(sharder, "fused_params", None) or {}
        for sharder in sharders or ()
    }
    shapes: dict[str, TableShape] = {}
    for part in model.modules():
        for name, weight in _weights(part).items():
            if name in shapes:
                raise ValueError(f"model must hold one table of a name, got two named {name}")
            shapes[name] = shape_of(name, weight, fused_params=fused.get(type(part)))
    if not shapes:
        raise ValueError(
            f"model must hold an unsharded embedding collection, got {type(model).__name__}"
            " without one"
        )
    return shapes


def curves_of(trace: Curves, shapes: Mapping[str, TableShape]) -> dict[str, MissRatioCurve]:
    """The curves of a trace, if they are those of these tables.

    Args:
        trace: An ``AccessTrace``, or curves by name of the table.
        shapes: The tables.

    Returns:
        Curves in the order of the tables. One of fewer rows than its table (ids that never came
        were not known to exist) is stretched to the table's.

    Raises:
        ValueError: If the trace is of other tables, or of larger ones.
    """
    curves = trace if isinstance(trace, Mapping) else trace.curves()
    missing, extra = sorted(shapes.keys() - curves.keys()), sorted(curves.keys() - shapes.keys())
    if missing or extra:
        raise ValueError(
            "trace must hold the tables of the model and no other, got"
            f" {_some(missing, 'none')} missing and {_some(extra, 'none')} too many"
        )
    for name, shape in shapes.items():
        if curves[name].rows > shape.rows:
            raise ValueError(
                f"trace must have at most {shape.rows:,} rows for the table {name},"
                f" got {curves[name].rows:,}"
            )
    return {name: replace(curves[name], rows=shape.rows) for name, shape in shapes.items()}


def cached_tables(
    shapes: Mapping[str, TableShape],
    curves: Mapping[str, MissRatioCurve],
    budget_bytes: int | None,
    *,
    base: Mapping[str, ParameterConstraints] | None = None,
    prefetch: bool = False,
) -> tuple[dict[str, ParameterConstraints], CacheSizes | None]:
    """Constraints that hold every table to what the sizer gave it.

    Args:
        shapes: The tables.
        curves: Their curves.
        budget_bytes: HBM for all of them over all GPUs, without inputs and outputs of lookups.
            None leaves the sizes to the planner: each table may be cached, with statistics and
            TorchRec's default load factor to start from, as ``EmbeddingOffloadScaleupProposer``
            needs it.
        base: Constraints to keep. A table whose ``compute_kernels`` leave caches out is paid for
            whole, before all others; caches that they ask for are kept caches.
        prefetch: Whether rows will be fetched ahead, which takes a lock for each slot.

    Returns:
        Constraints by name of the table, and the sizes; None without a budget.

    Raises:
        PlanError: If tables that must lie in HBM as a whole take more than the budget, or rows
            would be fetched ahead into an LFU cache.
        ValueError: If the budget does not pay for the smallest caches.

    Warns:
        UpstreamHazardWarning: If rows will be fetched ahead, an open race upstream.
    """
    kept = {name: (base or {}).get(name) or ParameterConstraints() for name in shapes}
    ahead = [{"prefetch_pipeline": True}] if prefetch else []
    check_caches({name: each.cache_params for name, each in kept.items()}, ahead)
    whole = {
        name
        for name, each in kept.items()
        if each.compute_kernels and CACHED not in each.compute_kernels
    }
    sizes = None
    if budget_bytes is not None:
        if budget_bytes <= 0:
            raise ValueError(f"budget_bytes must be above 0, got {budget_bytes}")
        paid = {name: sum(shapes[name].full_bytes().values()) for name in whole}
        left = budget_bytes - sum(paid.values())
        if whole and left < 0:
            most = max(paid, key=lambda name: paid[name])
            raise PlanError(
                f"budget_bytes must be at least {sum(paid.values()):,} for the tables whose"
                f" compute_kernels leave caches out, got {budget_bytes:,}; {most} alone takes"
                f" {paid[most]:,}"
            )
        sized = [shape for name, shape in shapes.items() if name not in whole]
        if sized:
            their = {shape.name: curves[shape.name] for shape in sized}
            sizes = cache_sizes(sized, their, left, prefetch=prefetch)
    found = dict(base or {})
    for name in shapes:
        if name not in whole:
            found[name] = _constraint(kept[name], curves[name], name, sizes, prefetch=prefetch)
    return found, sizes


def _constraint(
    kept: ParameterConstraints,
    curve: MissRatioCurve,
    name: str,
    sizes: CacheSizes | None,
    *,
    prefetch: bool,
) -> ParameterConstraints:
    params = kept.cache_params or CacheParams(algorithm=CacheAlgorithm.LRU)
    params = replace(params, stats=TraceCacheStatistics(curve))
    if prefetch:
        params = replace(params, prefetch_pipeline=True)
    allowed = kept.compute_kernels
    if sizes is None:
        load_factor = params.load_factor or 0.2
        kernels = allowed or ["fused", CACHED]
        return replace(
            kept, compute_kernels=kernels, cache_params=replace(params, load_factor=load_factor)
        )
    size = sizes.tables[name]
    kernels = [kernel for kernel in allowed or _WHOLE if kernel in _WHOLE]
    if size.kernel == "fused" and kernels:
        return replace(kept, compute_kernels=kernels, cache_params=None)
    # FBGEMM wants less than all rows in a cache, even where there is room for all.
    load_factor = min(size.load_factor, 1 - 1 / (curve.rows + 1))
    return replace(
        kept, compute_kernels=[CACHED], cache_params=replace(params, load_factor=load_factor)
    )


def _weights(part: nn.Module) -> dict[str, Parameter]:
    if isinstance(part, EmbeddingBagCollectionInterface):
        names = [config.name for config in part.embedding_bag_configs()]
    elif isinstance(part, EmbeddingCollectionInterface):
        names = [config.name for config in part.embedding_configs()]
    else:
        return {}
    found = dict(part.named_parameters())
    by_table = {path.split(".")[-2]: weight for path, weight in found.items() if "." in path}
    return {name: by_table[name] for name in names}


def _some(names: Sequence[str], nothing: str) -> str:
    if not names:
        return nothing
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
