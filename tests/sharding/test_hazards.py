"""Known faults upstream: what cannot work is refused, what mostly works is named."""

import warnings

import pytest
from torch import nn
from torchrec.distributed.train_pipeline.train_pipelines import PrefetchTrainPipelineSparseDist
from torchrec.distributed.types import CacheAlgorithm, CacheParams

from sidrank.sharding import PlanError, verify_pipeline
from sidrank.sharding.errors import UpstreamHazardWarning
from sidrank.sharding.hazards import check_caches

LFU, LRU = CacheAlgorithm.LFU, CacheAlgorithm.LRU


class TestLFU:
    @pytest.mark.parametrize(
        ("params", "fused"),
        [
            (CacheParams(algorithm=LFU, prefetch_pipeline=True), {}),
            (CacheParams(algorithm=LFU), {"prefetch_pipeline": True}),
            (CacheParams(prefetch_pipeline=True), {"cache_algorithm": LFU}),
            (CacheParams(), {"cache_algorithm": LFU, "prefetch_pipeline": True}),
        ],
    )
    def test_with_prefetch_is_refused(self, params, fused):
        with pytest.raises(PlanError, match="prefetch_pipeline must be off for t, whose cache is"):
            check_caches({"other": None, "t": params}, [None, fused])

    @pytest.mark.parametrize(
        ("params", "fused"),
        [
            (CacheParams(algorithm=LFU), {}),
            (CacheParams(algorithm=LFU, prefetch_pipeline=False), {"prefetch_pipeline": True}),
            (CacheParams(algorithm=LFU), None),
        ],
    )
    def test_without_prefetch_passes(self, params, fused):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UpstreamHazardWarning)
            check_caches({"t": params}, [fused])

    def test_of_one_table_does_not_taint_another(self):
        with pytest.warns(UpstreamHazardWarning):
            check_caches(
                {
                    "ahead": CacheParams(algorithm=LRU, prefetch_pipeline=True),
                    "lfu": CacheParams(algorithm=LFU),
                }
            )


class TestRace:
    def test_is_named(self):
        with pytest.warns(UpstreamHazardWarning, match="pull request 4191"):
            check_caches({"t": CacheParams(algorithm=LRU, prefetch_pipeline=True)})

    def test_is_not_named_where_nothing_is_fetched_ahead(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_caches({"t": CacheParams(algorithm=LRU)})

    def test_is_not_named_once_the_fence_is_in(self, monkeypatch):
        fence = "_fence_prefetch_and_start_sparse_data_dist"
        monkeypatch.setattr(PrefetchTrainPipelineSparseDist, fence, None, raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_caches({"t": CacheParams(algorithm=LRU, prefetch_pipeline=True)})


class TestPipeline:
    def pipeline(self):
        """One that was never filled: only its kind matters here."""
        pipeline = PrefetchTrainPipelineSparseDist.__new__(PrefetchTrainPipelineSparseDist)
        pipeline._pipelined_modules = []
        return pipeline

    def test_without_a_backward_is_refused(self):
        with pytest.raises(PlanError, match="model must be in training inside a prefetch pipeline"):
            verify_pipeline(self.pipeline(), nn.Linear(1, 1).eval())

    def test_with_one_is_warned_of(self):
        with pytest.warns(UpstreamHazardWarning, match="TrainPipelineSparseDist"):
            verify_pipeline(self.pipeline(), nn.Linear(1, 1))
