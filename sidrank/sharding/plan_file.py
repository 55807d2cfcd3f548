"""What `sidrank plan` found, handed to a real planner.

The file names a sharding type, a kernel and a load factor for each table. As constraints they bind
TorchRec's planner on the real cluster to the same numbers; statistics go with them, so that it
balances ranks by the same costs.

Source: ours; TorchRec 1.8, ``ParameterConstraints``.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheAlgorithm, CacheParams, ShardingType

from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.sharding.cache_statistics import TraceCacheStatistics
from sidrank.sharding.cached_tables import CACHED

__all__ = ["load_constraints", "plan_figures"]

_SHARDINGS = {each.value for each in ShardingType}
_KERNELS = {each.value for each in EmbeddingComputeKernel}


def load_constraints(file: str | os.PathLike[str]) -> dict[str, ParameterConstraints]:
    """Constraints that hold a planner to what ``sidrank plan --json`` printed.

    Shard with ``fused_params={"use_one_tbe_per_table": True}`` (``cache_sharders`` does), and let
    ``verify_plan`` check what came out.

    Args:
        file: What was printed, as a file.

    Returns:
        Constraints by name of the table, for ``EmbeddingShardingPlanner(constraints=...)``.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not hold a plan, or one that does not fit.
    """
    path = Path(file)
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON, got {error}") from None
    tables = cast(dict[str, Any], found).get("tables") if isinstance(found, dict) else None
    if not isinstance(tables, list) or "fits" not in found:
        raise ValueError(f"{path} must hold a plan of sidrank plan --json, got {str(found)[:60]}")
    if found["fits"] is not True or not tables:
        raise ValueError(f"{path} must hold a plan that fits, got one that does not")
    constraints: dict[str, ParameterConstraints] = {}
    for place, table in enumerate(cast(list[Any], tables)):
        try:
            name = _text(table, "name")
            constraints[name] = _constraint(cast(Mapping[str, Any], table))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: table {place} is not whole: {error}") from None
    return constraints


def plan_figures(rows: int, lookups: float, pooling_factors: tuple[float, ...]) -> dict[str, Any]:
    """What the file holds of a table beside its plan, for :func:`load_constraints`.

    Args:
        rows: Rows of the table.
        lookups: Distinct rows of a global batch, on average.
        pooling_factors: Values of a sample, one for each feature.

    Returns:
        Entries of the table's object.
    """
    return {"rows": rows, "lookups": lookups, "pooling_factors": list(pooling_factors)}


def _constraint(table: Mapping[str, Any]) -> ParameterConstraints:
    sharding, kernel = _text(table, "sharding"), _text(table, "kernel")
    if sharding not in _SHARDINGS:
        raise ValueError(f"sharding must be one of TorchRec's, got {sharding}")
    if kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of TorchRec's, got {kernel}")
    factors = [float(each) for each in table["pooling_factors"]]
    params = None
    if kernel == CACHED:
        load_factor = float(table["load_factor"])
        if not 0 < load_factor < 1:
            raise ValueError(f"load_factor of a cache must lie in (0, 1), got {load_factor}")
        params = CacheParams(
            algorithm=CacheAlgorithm.LRU,
            load_factor=load_factor,
            stats=TraceCacheStatistics(_known(table, load_factor)),
        )
    return ParameterConstraints(
        sharding_types=[sharding],
        compute_kernels=[kernel],
        pooling_factors=factors,
        cache_params=params,
    )


def _known(table: Mapping[str, Any], load_factor: float) -> MissRatioCurve:
    """The curve of which one point is known: the one that was chosen."""
    rows, lookups, miss = int(table["rows"]), float(table["lookups"]), table["predicted_miss"]
    if not 0 <= miss <= 1:
        raise ValueError(f"predicted_miss must lie in [0, 1], got {miss}")
    slots = min(max(round(load_factor * rows), 1), rows)
    return MissRatioCurve(
        rows=rows,
        batches=1,
        accesses=lookups,
        cold=0.0,
        slots=np.array([slots], dtype=np.int64),
        misses=np.array([miss * lookups]),
    )


def _text(table: Any, key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a word, got {value!r}")
    return value
