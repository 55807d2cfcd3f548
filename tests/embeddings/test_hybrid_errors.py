"""What the hybrid refuses, and how it says so."""

import pytest
import torch
from torchrec import EmbeddingBagCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import (
    LFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)

from sidrank.embeddings import HybridEmbeddingBagCollection
from sidrank.layers import ResidualGate
from tests.embeddings import hosts


def zero_first_row(rows):
    torch.nn.init.normal_(rows)
    rows[0] = 0


class _Subclass(EmbeddingBagCollection):
    pass


def _managed_collision():
    config = EmbeddingBagConfig(
        name="t", embedding_dim=16, num_embeddings=9, feature_names=["item"]
    )
    module = MCHManagedCollisionModule(
        zch_size=9,
        device=torch.device("cpu"),
        eviction_interval=1,
        eviction_policy=LFU_EvictionPolicy(),
    )
    return ManagedCollisionEmbeddingBagCollection(
        EmbeddingBagCollection(tables=[config]), ManagedCollisionCollection({"t": module}, [config])
    )


class TestErrors:
    def parts(self, **change):
        expander = hosts.expander()
        parts = {
            "host": hosts.host_collection(),
            "sid_tables": expander.embedding_bag_configs(embedding_dim=hosts.DIM),
            "expander": expander,
            "gates": {key: ResidualGate(statistics=[]) for key in ("item", "history")},
        }
        parts.update(change)
        return parts.pop("host"), parts.pop("sid_tables"), parts

    def refuse(self, error, match, **change):
        host, tables, rest = self.parts(**change)
        with pytest.raises(error, match=match):
            HybridEmbeddingBagCollection(host, tables, **rest)

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (_managed_collision, "ManagedCollisionEmbeddingBagCollection"),
            (
                lambda: FeatureProcessedEmbeddingBagCollection(
                    EmbeddingBagCollection(
                        tables=hosts.host_collection().embedding_bag_configs(), is_weighted=True
                    ),
                    PositionWeightedModuleCollection({"item": 4, "user": 4, "history": 4}),
                ),
                "FeatureProcessedEmbeddingBagCollection",
            ),
            (
                lambda: FusedEmbeddingBagCollection(
                    hosts.host_collection().embedding_bag_configs(), torch.optim.SGD, {"lr": 0.1}
                ),
                "FusedEmbeddingBagCollection",
            ),
            (lambda: _Subclass(hosts.host_collection().embedding_bag_configs()), "_Subclass"),
        ],
        ids=["zch", "feature-processed", "fused", "subclass"],
    )
    def test_other_collections_are_refused_by_name(self, make, name):
        self.refuse(TypeError, f"host must be exactly a torchrec .*{name}", host=make())

    def test_gates_for_other_keys(self):
        gates = {"item": ResidualGate(statistics=[])}
        self.refuse(ValueError, r"gates must have the expander's keys \['item', 'hist", gates=gates)

    def test_key_that_the_host_does_not_put_out(self):
        host = hosts.host_collection(tables=("user", "item"))
        self.refuse(ValueError, "expander keys must be outputs of the host.*got history", host=host)

    def test_width(self):
        tables = hosts.expander().embedding_bag_configs(embedding_dim=8)
        self.refuse(
            ValueError,
            "sid_tables must have the width of item, 16, got 8 in sid_1",
            sid_tables=tables,
        )

    def test_name_taken_by_the_host(self):
        tables = hosts.expander().embedding_bag_configs(embedding_dim=hosts.DIM)
        tables[0].name = "t_item"
        self.refuse(
            ValueError, "sid_tables must have new names, got t_item twice", sid_tables=tables
        )

    def test_feature_without_a_table(self):
        tables = hosts.expander().embedding_bag_configs(embedding_dim=hosts.DIM)[1:]
        self.refuse(
            ValueError, "tables must read each feature of the expander once", sid_tables=tables
        )

    def test_table_too_small(self):
        tables = hosts.expander().embedding_bag_configs(embedding_dim=hosts.DIM)
        tables[0].num_embeddings = 3
        self.refuse(ValueError, "tables must have 5 rows for item_sid_1, got 3", sid_tables=tables)

    def test_residual_gate_over_tables_that_are_not_zero(self):
        tables = hosts.expander().embedding_bag_configs(embedding_dim=hosts.DIM, init_fn=None)
        self.refuse(
            ValueError, "sid_tables must be zero at birth under a ResidualGate", sid_tables=tables
        )

    def test_one_small_table_for_two_features(self):
        tables = hosts.expander().embedding_bag_configs(embedding_dim=hosts.DIM)
        tables[0].feature_names += tables.pop().feature_names
        self.refuse(
            ValueError,
            "tables must have 17 rows for item_sid_2_3, got 5 in sid_1",
            sid_tables=tables,
        )

    def test_pooling(self):
        tables = hosts.expander().embedding_bag_configs(
            embedding_dim=hosts.DIM, pooling=PoolingType.MEAN
        )
        self.refuse(
            ValueError, "sid_tables must pool as the host pools item, SUM, got M", sid_tables=tables
        )

    def test_host_reads_a_feature_of_the_expander(self):
        host = hosts.host_collection(tables=("user", "item", "history", "item_sid_1"))
        self.refuse(
            ValueError, r"host must not read the expander's features.*item_sid_1", host=host
        )

    def test_birth_that_is_zero_in_the_first_row_only(self):
        tables = hosts.expander().embedding_bag_configs(
            embedding_dim=hosts.DIM, init_fn=zero_first_row
        )
        self.refuse(ValueError, "sid_tables must be zero at birth", sid_tables=tables)

    def test_gate_of_another_kind(self):
        gates = {"item": torch.nn.Identity(), "history": ResidualGate(statistics=[])}
        self.refuse(TypeError, "gates must be ResidualGate or ConvexGate, got Id", gates=gates)

    @pytest.mark.parametrize("wide", [False, True])
    def test_empty_batch(self, wide):
        sparse = hosts.empty_batch()
        with pytest.raises(ValueError, match="features must have at least one row, got an empty"):
            (hosts.hybrid(hosts.host_collection()) if not wide else hosts.branch())(sparse)

    def test_missing_statistics(self):
        host, tables, rest = self.parts(
            gates={
                "item": ResidualGate(statistics=["clicks"]),
                "history": ResidualGate(statistics=[]),
            }
        )
        model = HybridEmbeddingBagCollection(host, tables, **rest)
        with pytest.raises(ValueError, match="features must contain the key clicks"):
            model(hosts.batch()[1])
