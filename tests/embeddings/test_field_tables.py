"""Single fields: the columns of the whole collection, from the features of these fields alone."""

import pytest
import torch
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType

from sidrank.embeddings import HybridEmbeddingBagCollection, RawIDSource, SIDExpander
from sidrank.embeddings.field_tables import FieldTables
from sidrank.layers import ConvexGate, ResidualGate
from sidrank.semantic_ids import SIDLookup
from tests.embeddings import hosts


def only(batch, names):
    """The features of these names, and no other."""
    return batch.permute([place for place, key in enumerate(batch.keys()) if key in names])


def collection(is_weighted=False):
    """A feature of two tables, a table of two features, a mean, half precision."""
    sizes = {"t1": (8, ["item", "user"]), "t2": (16, ["item"]), "t3": (8, ["history"])}
    return EmbeddingBagCollection(
        is_weighted=is_weighted,
        tables=[
            EmbeddingBagConfig(
                name=name,
                embedding_dim=dim,
                num_embeddings=24,
                feature_names=features,
                pooling=PoolingType.MEAN if name == "t3" and not is_weighted else PoolingType.SUM,
                data_type=DataType.FP16 if name == "t2" and not is_weighted else DataType.FP32,
            )
            for name, (dim, features) in sizes.items()
        ],
    )


class TestStockCollection:
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_columns_are_those_of_the_collection(self, weighted, dtype):
        stock = collection(weighted)
        _, sparse, _ = hosts.batch(size=7, dtype=dtype)
        if weighted:
            sparse = KeyedJaggedTensor(
                keys=sparse.keys(),
                values=sparse.values(),
                lengths=sparse.lengths(),
                weights=torch.rand(len(sparse.values())),
            )
        whole = stock(only(sparse, ["item", "user", "history"])).to_dict()
        tables = FieldTables(stock)
        for name, feature in (("item@t1", "item"), ("item@t2", "item"), ("history", "history")):
            (found,) = tables.look_up([name], only(sparse, [feature]))
            assert found.dtype == torch.float32
            assert torch.equal(found, whole[name])

    def test_a_feature_that_is_not_there(self):
        _, sparse, _ = hosts.batch()
        with pytest.raises(ValueError, match="features must contain the key history, got"):
            FieldTables(collection()).look_up(["history"], only(sparse, ["item"]))


class TestHybrid:
    @pytest.mark.parametrize("mode", ["level", "prefix", "multires", "bpe"])
    @pytest.mark.parametrize("gate", [ResidualGate, ConvexGate])
    def test_fields_are_those_of_a_whole_pass(self, gate, mode):
        torch.manual_seed(3)
        model = hosts.hybrid(hosts.host_collection(), gate, mode=mode)
        for table in model.ebc.embedding_bags.values():
            torch.nn.init.normal_(table.weight)
        _, sparse, _ = hosts.batch(size=9)
        whole = model(sparse).to_dict()
        for names in (["item"], ["history", "user"], ["user", "item", "history"]):
            read = {feature for name in names for feature in model.features_of(name)}
            found = model.fields(only(sparse, read), names)
            for name, column in zip(names, found, strict=True):
                torch.testing.assert_close(column, whole[name], rtol=0, atol=1e-6)

    def test_an_item_without_a_semantic_id_keeps_the_hosts_value(self):
        model = hosts.hybrid(hosts.host_collection(), ConvexGate)
        batch = hosts.jagged(
            {"item": [[1], [2]], "item_raw": [[7], []], "shown": [[], []], "liked": [[], []]}
        )
        (found,) = model.fields(batch, ["item"])
        rows = model.ebc.embedding_bags["t_item"].weight
        assert torch.equal(found[1], rows[2])
        assert not torch.allclose(found[0], rows[1])

    def test_a_key_of_a_table(self):
        """Where several tables read a feature, the keys of the output name the table too."""
        expander = SIDExpander({"item@t2": RawIDSource("item_raw", SIDLookup(hosts.sid_table()))})
        model = HybridEmbeddingBagCollection(
            collection(),
            expander.embedding_bag_configs(embedding_dim=16, init_fn=None),
            expander=expander,
            gates={"item@t2": ConvexGate(statistics=["shown"])},
        )
        assert model.features_of("item@t2") == ["item", "item_raw", "shown"]
        assert model.features_of("item@t1") == ["item"]
        _, sparse, _ = hosts.batch()
        found = model.fields(only(sparse, ["item", "item_raw", "shown"]), ["item@t2", "item@t1"])
        whole = model(sparse).to_dict()
        assert torch.equal(found[0], whole["item@t2"])
        assert torch.equal(found[1], whole["item@t1"])

    def test_other_features_before_the_collection(self):
        model = hosts.hybrid(hosts.host_collection(), mode="summary")
        _, sparse, _ = hosts.batch()
        assert not model.has_fields_apart()
        with pytest.raises(TypeError, match=r"fields must be looked up in .* behind KeywordBag"):
            model.fields(sparse, ["item"])

    def test_an_exchanged_collection(self):
        model = hosts.hybrid(hosts.host_collection())
        model.ebc = torch.nn.Sequential(model.ebc)
        _, sparse, _ = hosts.batch()
        assert not model.has_fields_apart()
        with pytest.raises(TypeError, match=r"fields must be looked up .* got Sequential behind"):
            model.fields(sparse, ["item"])


class TestWhatABranchReads:
    def test_its_sources(self):
        assert hosts.branch().source_features() == ["item_raw", "history_raw"]
        assert hosts.branch(mode="bpe").source_features() == ["item_raw", "history_raw"]

    def test_the_sources_of_its_deep_side(self):
        branch = hosts.branch()
        levels = SIDExpander({"item": RawIDSource("shown", SIDLookup(hosts.sid_table()))})
        branch.deep = type(hosts.branch(mode="bpe").deep)(levels)
        assert branch.source_features() == ["item_raw", "history_raw", "shown"]

    def test_a_deep_side_that_does_not_say(self):
        branch = hosts.branch()
        branch.deep = torch.nn.Identity()
        assert branch.source_features() is None
