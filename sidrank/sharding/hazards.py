"""Known faults of TorchRec and FBGEMM on the way of a cached table: refused, or named.

What cannot work is refused: fetching ahead with LFU, since FBGEMM locks slots that are in use for
LRU alone and a later fetch evicts them; fetching ahead without a backward, which never unlocks
them. What works mostly is named in a warning: TorchRec's prefetch pipeline lets its streams race
for the same cache until the fence of pull request 4191 is in.

Source: FBGEMM issues 1201 (later prefetch evicts rows in use; fixed for LRU) and 6120 (prefetch
without a backward); TorchRec pull request 4191, open in April 2026. None has been run here: there
was no GPU.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torchrec.distributed.train_pipeline.train_pipelines import PrefetchTrainPipelineSparseDist
from torchrec.distributed.types import CacheAlgorithm, CacheParams

from sidrank.sharding.errors import PlanError, UpstreamHazardWarning

__all__ = ["check_caches", "check_prefetch_pipeline"]

_FENCE = "_fence_prefetch_and_start_sparse_data_dist"  # what pull request 4191 adds


def check_caches(
    caches: Mapping[str, CacheParams | None],
    fused_params: Iterable[Mapping[str, Any] | None] = (),
) -> None:
    """Refuse caches that fetch ahead with LFU; warn of those that fetch ahead at all.

    Args:
        caches: What each table is cached with, None if it is not; by name of the table.
        fused_params: What sharders give to all their tables.

    Raises:
        PlanError: If rows are to be fetched ahead into an LFU cache.
    """
    shared = [dict(params or {}) for params in fused_params]
    ahead = any(params.get("prefetch_pipeline") for params in shared)
    lfu = any(_is_lfu(params.get("cache_algorithm")) for params in shared)
    fetched = ahead
    for table, params in caches.items():
        if params is None:
            continue
        fetches = ahead if params.prefetch_pipeline is None else params.prefetch_pipeline
        if fetches and (lfu if params.algorithm is None else _is_lfu(params.algorithm)):
            raise PlanError(
                f"prefetch_pipeline must be off for {table}, whose cache is LFU: FBGEMM keeps rows"
                " in use from being evicted with LRU alone, got it on"
            )
        fetched = fetched or bool(fetches)
    if fetched:
        _warn_of_the_race()


def check_prefetch_pipeline(pipeline: Any, model: nn.Module) -> None:
    """Refuse a prefetch pipeline around a model that will not run backward; warn of its race.

    Args:
        pipeline: Any pipeline.
        model: The model that it trains.

    Raises:
        PlanError: If the pipeline fetches ahead and the model is in evaluation.
    """
    if not isinstance(pipeline, PrefetchTrainPipelineSparseDist):
        return
    if not model.training:
        raise PlanError(
            "model must be in training inside a prefetch pipeline, got one in evaluation: rows are"
            " unlocked by the backward, and without one the cache fills up for good"
        )
    _warn_of_the_race()


def _is_lfu(algorithm: Any) -> bool:
    """TorchRec and FBGEMM each have an enum of this name."""
    return getattr(algorithm, "name", algorithm) == CacheAlgorithm.LFU.name


def _warn_of_the_race() -> None:
    if not hasattr(PrefetchTrainPipelineSparseDist, _FENCE):
        warnings.warn(
            "this TorchRec's prefetch pipeline lets streams race for the cache (pull request 4191:"
            " rare garbage rows or illegal access on a GPU); upgrade once it is in, or use"
            " TrainPipelineSparseDist",
            UpstreamHazardWarning,
            stacklevel=3,
        )
