"""Hash IDs and semantic IDs behind the host's own keys."""

import copy

import pytest
import torch
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM_DCN, DLRM_Projection
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType

from sidrank.embeddings import (
    CodeFeatureSource,
    HybridEmbeddingBagCollection,
    RawIDSource,
    SIDExpander,
)
from sidrank.layers import ConvexGate, ResidualGate
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDVersionError
from tests import reference
from tests.embeddings import hosts


def trained(gate=ConvexGate):
    torch.manual_seed(5)
    return hosts.hybrid(hosts.host_collection(), gate)


class TestAgainstReference:
    @pytest.mark.parametrize("gate", [ResidualGate, ConvexGate])
    def test_forward(self, gate):
        model = trained(gate)
        for config in model.ebc.embedding_bag_configs():
            torch.nn.init.normal_(model.ebc.embedding_bags[config.name].weight)
        _, sparse, _ = hosts.batch(size=9)
        rows = model.expander(sparse)
        out = model(sparse).to_dict()
        for index, key in enumerate(["item", "history"]):
            fusion, form = model.fusions[index], model.gates[index]
            for row in range(9):
                sids = [
                    self.pooled(model, rows, name, row)
                    for name in model.expander.feature_names(key)
                ]
                statistics = [[(self.bag(rows, name, row) or [0])[0] for name in form.statistics]]
                trust = form.weight(torch.tensor(statistics).reshape(1, -1)).item()
                hid = self.pooled(model, rows, key, row)
                expected = reference.gated(
                    hid,
                    sids,
                    (fusion.own.weight.tolist(), fusion.own.bias.tolist()),
                    fusion.mean.weight.tolist(),
                    fusion.query.tolist(),
                    trust,
                    convex=gate is ConvexGate,
                )
                if not self.bag(rows, f"{key}_raw", row):
                    expected = hid
                torch.testing.assert_close(out[key][row].tolist(), expected, rtol=1e-4, atol=1e-5)
        user = model.ebc.embedding_bags["t_user"].weight[sparse["user"].values()]
        assert torch.equal(out["user"], user)

    def bag(self, rows, name, row):
        feature = rows[name]
        end = int(feature.lengths()[: row + 1].sum())
        return feature.values()[end - int(feature.lengths()[row]) : end].tolist()

    def pooled(self, model, rows, name, row):
        (table,) = [
            config.name
            for config in model.ebc.embedding_bag_configs()
            if name in config.feature_names
        ]
        weight = model.ebc.embedding_bags[table].weight
        total = [0.0] * hosts.DIM
        for item in self.bag(rows, name, row):
            total = [t + w for t, w in zip(total, weight[item].tolist(), strict=True)]
        return total


class TestLaws:
    @pytest.mark.parametrize("autocast", [False, True])
    def test_bit_equal_at_birth(self, autocast):
        collection = hosts.host_collection()
        host = hosts.dlrm(copy.deepcopy(collection))
        upgraded = hosts.dlrm(hosts.hybrid(collection))
        dense, sparse, _ = hosts.batch(size=64)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert torch.equal(host(dense, sparse), upgraded(dense, sparse))

    @pytest.mark.parametrize("optimizer", [torch.optim.Adagrad, torch.optim.Adam])
    @pytest.mark.parametrize("wide", [False, True, "bpe"])
    def test_every_new_parameter_moves_within_three_steps(self, optimizer, wide):
        model = hosts.hybrid_dlrm(wide=wide)
        birth = {name: value.detach().clone() for name, value in model.named_parameters()}
        hosts.train(model, optimizer(model.parameters(), lr=0.05), steps=3)
        still = [
            name for name, value in model.named_parameters() if torch.equal(value, birth[name])
        ]
        assert still == []

    def test_every_new_parameter_has_a_gradient_at_the_third_step_of_sgd(self):
        model = hosts.hybrid_dlrm(wide=True)
        hosts.train(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=3)
        dead = [n for n, value in model.named_parameters() if not value.grad.abs().max() > 0]
        assert dead == []

    @pytest.mark.parametrize("wide", [False, "summary", "replacement"])
    def test_other_rows_of_the_batch_change_nothing(self, wide):
        model = hosts.hybrid_dlrm(gate=ConvexGate, wide=wide)
        dense, sparse, _ = hosts.batch(size=6)
        together = model(dense, sparse)
        for row in range(6):
            parts = []
            for key in list(sparse.keys()):
                feature = sparse[key]
                end = int(feature.lengths()[: row + 1].sum())
                parts.append(feature.values()[end - int(feature.lengths()[row]) : end])
            alone = KeyedJaggedTensor(
                keys=sparse.keys(),
                values=torch.cat(parts),
                lengths=torch.tensor([len(part) for part in parts]),
            )
            torch.testing.assert_close(model(dense[row : row + 1], alone), together[row : row + 1])

    def test_composes_and_never_subclasses(self):
        model = trained()
        assert type(model.ebc) is EmbeddingBagCollection
        assert not isinstance(model, EmbeddingBagCollection)

    def test_parameters_of_the_host_are_taken_over_not_copied(self):
        collection = hosts.host_collection()
        weight = collection.embedding_bags["t_item"].weight
        model = hosts.hybrid(collection)
        assert model.ebc.embedding_bags["t_item"].weight is weight

    def test_names_are_the_checkpoint_format(self):
        names = set(hosts.hybrid_dlrm(wide=True).state_dict())
        inside = "host.sparse_arch.embedding_bag_collection."
        assert {name.removeprefix(inside) for name in names if name.startswith(inside)} == {
            "ebc.embedding_bags.t_user.weight",
            "ebc.embedding_bags.t_item.weight",
            "ebc.embedding_bags.t_history.weight",
            *(f"ebc.embedding_bags.sid_{r}.weight" for r in ("1", "2", "3", "1_2", "2_3")),
            *(
                f"fusions.{key}.{name}"
                for key in (0, 1)
                for name in ("query", "own.weight", "own.bias", "mean.weight")
            ),
            *(f"gates.0.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
            "gates.1.mlp.logit",
            "expander.sources.0.lookup._extra_state",
            "expander.sources.1.lookup._extra_state",
        }
        assert {name for name in names if name.startswith("branch.ebc.")} == {
            f"branch.ebc.embedding_bags.memory_{r}.weight" for r in ("1", "1_2", "1_2_3")
        }

    def test_unknown_items_read_the_learned_row(self):
        model = trained(ResidualGate)
        weight = model.ebc.embedding_bags["sid_1"].weight
        torch.nn.init.constant_(weight.data[0], 1.0)
        _, sparse, _ = hosts.batch()
        before = model(sparse)["item"].clone()
        sparse["item_raw"].values()[0] = -1
        sparse["item_raw"].values()[1] = 10**12
        after = model(sparse)["item"]
        assert (after[:2] != before[:2]).all()
        torch.testing.assert_close(after[2:], before[2:])


class TestHosts:
    """Collections and models that it must serve."""

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    @pytest.mark.parametrize("mode", ["level", "prefix", "multires"])
    def test_modes_and_dtypes(self, mode, dtype):
        collection = hosts.host_collection()
        _, sparse, _ = hosts.batch(dtype=dtype)
        before = collection(sparse)
        after = hosts.hybrid(collection, mode=mode)(sparse)
        assert after.keys() == before.keys()
        assert after.length_per_key() == before.length_per_key()
        assert torch.equal(after.values(), before.values())

    def test_dcn_and_projection(self):
        dense, sparse, _ = hosts.batch()
        shape = {
            "dense_in_features": hosts.DENSE,
            "dense_arch_layer_sizes": [8, hosts.DIM],
            "over_arch_layer_sizes": [8, 1],
        }
        projection = {
            "interaction_branch1_layer_sizes": [2 * hosts.DIM],
            "interaction_branch2_layer_sizes": [2 * hosts.DIM],
        }
        for kind, extra in (
            (DLRM_DCN, {"dcn_num_layers": 2, "dcn_low_rank_dim": 4}),
            (DLRM_Projection, projection),
        ):
            torch.manual_seed(0)
            host = kind(hosts.host_collection(), **shape, **extra)
            model = copy.deepcopy(host)
            arch = model.sparse_arch
            arch.embedding_bag_collection = hosts.hybrid(arch.embedding_bag_collection)
            assert torch.equal(model(dense, sparse), host(dense, sparse))

    def test_shared_tables_and_features(self):
        configs = [
            EmbeddingBagConfig(
                name="t1", embedding_dim=8, num_embeddings=9, feature_names=["item", "user"]
            ),
            EmbeddingBagConfig(
                name="t2", embedding_dim=16, num_embeddings=9, feature_names=["item"]
            ),
        ]
        host = EmbeddingBagCollection(tables=configs)
        source = RawIDSource("item_raw", SIDLookup(hosts.sid_table()))
        expander = SIDExpander({"item@t2": source})
        batch = KeyedJaggedTensor.from_lengths_sync(
            keys=["item", "user", "item_raw"],
            values=torch.tensor([1, 2, 3, 4, 5, 6]),
            lengths=torch.ones(6, dtype=torch.int64),
        )
        before = host(batch)
        tables = expander.embedding_bag_configs(embedding_dim=16)
        model = HybridEmbeddingBagCollection(
            host, tables, expander=expander, gates={"item@t2": ResidualGate(statistics=[])}
        )
        after = model(batch)
        assert after.keys() == ["item@t1", "user", "item@t2"]
        assert torch.equal(after.values(), before.values())
        torch.nn.init.normal_(model.ebc.embedding_bags["sid_1"].weight)
        changed = model(batch)
        assert torch.equal(changed["item@t1"], before["item@t1"])
        assert not torch.equal(changed["item@t2"], before["item@t2"])

    def test_weighted_host(self):
        config = EmbeddingBagConfig(
            name="t", embedding_dim=8, num_embeddings=9, feature_names=["item"]
        )
        host = EmbeddingBagCollection(tables=[config], is_weighted=True)
        expander = SIDExpander({"item": RawIDSource("raw", SIDLookup(hosts.sid_table()))})
        model = HybridEmbeddingBagCollection(
            host,
            expander.embedding_bag_configs(embedding_dim=8),
            expander=expander,
            gates={"item": ResidualGate(statistics=[])},
        )
        assert model.is_weighted()
        for table in model.ebc.embedding_bags.values():
            torch.nn.init.normal_(table.weight)

        def out(weight):
            return model(
                KeyedJaggedTensor(
                    keys=["item", "raw"],
                    values=torch.tensor([1, 2, 1, 2]),
                    lengths=torch.tensor([2, 2]),
                    weights=torch.tensor([1.0, 1.0, 1.0, weight]),
                )
            )["item"]

        assert not torch.allclose(out(1.0), out(3.0))  # the SID side is weighted as well

    def test_mean_pooling_and_half_precision_tables(self):
        configs = [
            EmbeddingBagConfig(
                name="t",
                embedding_dim=16,
                num_embeddings=24,
                feature_names=["history"],
                pooling=PoolingType.MEAN,
                data_type=DataType.FP16,
            )
        ]
        host = EmbeddingBagCollection(tables=configs)
        expander = SIDExpander(
            {"history": RawIDSource("history_raw", SIDLookup(hosts.sid_table()))}
        )
        _, sparse, _ = hosts.batch()
        before = host(sparse)
        tables = expander.embedding_bag_configs(embedding_dim=16, pooling=PoolingType.MEAN)
        model = HybridEmbeddingBagCollection(
            host, tables, expander=expander, gates={"history": ResidualGate(statistics=[])}
        )
        assert torch.equal(model(sparse).values(), before.values())

    def test_the_first_value_of_a_statistics_bag_counts(self):
        model = trained(ResidualGate)
        for config in model.ebc.embedding_bag_configs():
            torch.nn.init.normal_(model.ebc.embedding_bags[config.name].weight)

        def out(shown):
            features = {"item": [1], "item_raw": [1], "shown": shown, "liked": [2]}
            features |= {"user": [1], "history": [], "history_raw": []}
            return model(
                KeyedJaggedTensor(
                    keys=list(features),
                    values=torch.tensor([v for bag in features.values() for v in bag]),
                    lengths=torch.tensor([len(bag) for bag in features.values()]),
                )
            )["item"]

        assert torch.equal(out([5, 900]), out([5]))
        assert not torch.equal(out([900, 5]), out([5]))

    def test_tables_larger_than_needed(self):
        expander = hosts.expander()
        tables = expander.embedding_bag_configs(embedding_dim=hosts.DIM)
        for config in tables:
            config.num_embeddings += 100
        gates = {key: ResidualGate(statistics=[]) for key in ("item", "history")}
        host = hosts.host_collection()
        _, sparse, _ = hosts.batch()
        before = host(sparse)
        model = HybridEmbeddingBagCollection(host, tables, expander=expander, gates=gates)
        assert torch.equal(model(sparse).values(), before.values())
        assert model.device == host.device

    def test_optimizer_in_backward_goes_on(self):
        from torch.distributed.optim import _apply_optimizer_in_backward

        collection = hosts.host_collection()
        _apply_optimizer_in_backward(torch.optim.SGD, collection.parameters(), {"lr": 0.5})
        model = hosts.dlrm(hosts.hybrid(collection))
        weight = model.sparse_arch.embedding_bag_collection.ebc.embedding_bags["t_item"].weight
        before = weight.detach().clone()
        hosts.loss(model, hosts.batch()).backward()
        assert not torch.equal(weight, before)

    def test_empty_bags_everywhere(self):
        model = trained(ConvexGate)
        sparse = KeyedJaggedTensor(
            keys=["user", "item", "history", "item_raw", "history_raw", "shown", "liked"],
            values=torch.zeros(0, dtype=torch.int64),
            lengths=torch.zeros(14, dtype=torch.int32),
        )
        assert torch.equal(model(sparse).values(), torch.zeros(2, 3 * hosts.DIM))


class TestVersions:
    def test_checkpoint_of_another_table(self):
        state = hosts.hybrid_dlrm().state_dict()
        with pytest.raises(SIDVersionError, match=hosts.sid_table(seed=0).content_hash):
            hosts.hybrid_dlrm(table=hosts.sid_table(seed=1)).load_state_dict(state)
        hosts.hybrid_dlrm(seed=2).load_state_dict(state)

    def test_checkpoint_of_a_table_that_grew(self):
        table = hosts.sid_table()
        state = hosts.hybrid_dlrm(table=table).state_dict()
        grown = table.append([1000], [[1, 2, 3]])
        hosts.hybrid_dlrm(table=grown).load_state_dict(state)

    @pytest.mark.parametrize(("saved", "loaded"), [("a", "b"), ("a", None), (None, "a")])
    def test_codes_as_features_carry_the_hash_too(self, saved, loaded):
        spec = SIDSpec((4,))
        state = CodeFeatureSource(["c"], spec, content_hash=saved).state_dict()
        with pytest.raises(SIDVersionError, match="content_hash must be that of the checkpoint"):
            CodeFeatureSource(["c"], spec, content_hash=loaded).load_state_dict(state)
        CodeFeatureSource(["c"], spec, content_hash=saved).load_state_dict(state)

    def test_codes_as_features_accept_the_table_they_grew_from(self):
        spec = SIDSpec((4,))
        state = CodeFeatureSource(["c"], spec, content_hash="a").state_dict()
        CodeFeatureSource(["c"], spec, content_hash="b", ancestors=["a"]).load_state_dict(state)
