"""Plans and pipelines that leave something out are refused."""

import pytest
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fp_embeddingbag import FeatureProcessedEmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection

from sidrank.sharding import PlanError, verify_pipeline, verify_plan


def collection(kind=EmbeddingBagCollection, name="t"):
    config = EmbeddingBagConfig(
        name=name, embedding_dim=4, num_embeddings=8, feature_names=[f"f_{name}"]
    )
    return kind(tables=[config])


class Subclass(EmbeddingBagCollection):
    """What TorchRec leaves unsharded without a word."""


def planned(model):
    topology = Topology(world_size=2, compute_device="cpu")
    planner = EmbeddingShardingPlanner(topology=topology)
    return planner.plan(model, [EmbeddingBagCollectionSharder()])


def test_a_complete_plan_passes():
    model = nn.ModuleDict({"a": collection(name="a"), "b": collection(name="b")})
    verify_plan(model, planned(model))


def test_a_subclass_that_torchrec_overlooks_is_named():
    model = nn.ModuleDict({"a": collection(name="a"), "b": collection(Subclass, name="b")})
    plan = planned(model)
    assert "b" not in plan.plan  # the silence that this check ends
    with pytest.raises(PlanError, match=r"plan must hold every table, got none for b\.b"):
        verify_plan(model, plan)


def test_one_missing_table_is_named():
    model = nn.ModuleDict({"a": collection(name="a")})
    plan = planned(model)
    plan.plan["a"].pop("a")
    with pytest.raises(PlanError, match=r"got none for a\.a"):
        verify_plan(model, plan)


def test_sequence_collections_count_too():
    config = EmbeddingConfig(name="t", embedding_dim=4, num_embeddings=8, feature_names=["f"])
    model = nn.ModuleDict({"seq": EmbeddingCollection(tables=[config])})
    with pytest.raises(PlanError, match=r"got none for seq\.t"):
        verify_plan(model, ShardingPlan({}))


def test_a_feature_processed_collection_is_planned_as_a_whole():
    inner = EmbeddingBagCollection(tables=collection().embedding_bag_configs(), is_weighted=True)
    processors = PositionWeightedModuleCollection({"f_t": 4})
    model = nn.ModuleDict({"fp": FeatureProcessedEmbeddingBagCollection(inner, processors)})
    topology = Topology(world_size=2, compute_device="cpu")
    sharders = [FeatureProcessedEmbeddingBagCollectionSharder()]
    plan = EmbeddingShardingPlanner(topology=topology).plan(model, sharders)
    verify_plan(model, plan)
    plan.plan["fp"].pop("t")
    with pytest.raises(PlanError, match=r"got none for fp\."):
        verify_plan(model, plan)


def test_a_pipeline_of_another_kind_is_named():
    with pytest.raises(PlanError, match=r"pipeline must be one that pipelines.*got Linear"):
        verify_pipeline(nn.Linear(1, 1), nn.Linear(1, 1))
