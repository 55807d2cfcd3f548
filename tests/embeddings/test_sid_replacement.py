"""Semantic IDs or content vectors in place of the hash ID."""

import copy

import numpy as np
import pytest
import torch
from torchrec import EmbeddingBagCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from sidrank.embeddings import RawIDSource, SIDExpander
from sidrank.embeddings.content_vectors import ContentSource, ContentVectors
from sidrank.embeddings.sid_replacement import SIDReplacement
from sidrank.semantic_ids import SIDLookup, SIDVersionError
from tests.embeddings import hosts
from tests.embeddings.hosts import bags_of, jagged

IDS = [7, -3, 2**40, 9]
VECTORS = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def content(feature="item_raw"):
    return ContentSource(feature, ContentVectors(IDS, VECTORS))


def host(*names, pooling=PoolingType.SUM, is_weighted=False):
    configs = [
        EmbeddingBagConfig(
            name=f"t_{name}",
            embedding_dim=8,
            num_embeddings=9,
            feature_names=[name],
            pooling=pooling,
        )
        for name in names
    ]
    return EmbeddingBagCollection(tables=configs, is_weighted=is_weighted)


def alive(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


class TestContent:
    def test_sums_the_vectors_of_a_bag_and_the_learned_one_of_unknown_items(self):
        source = content()
        torch.nn.init.normal_(source.default)
        bags = [[7, 9, 7], [], [5, -3], [2**40], [0, 1]]
        out = source(jagged({"item_raw": bags}))
        known = dict(zip(IDS, torch.from_numpy(VECTORS), strict=True))
        for row, bag in enumerate(bags):
            expected = sum((known.get(item, source.default) for item in bag), torch.zeros(5))
            torch.testing.assert_close(out[row], expected)
        out.sum().backward()
        assert source.default.grad.tolist() == [3.0] * 5
        assert source.coverage() == 1 - 3 / 8

    def test_weights(self):
        batch = jagged({"item_raw": [[7, 5], [9]]}, weights=torch.tensor([2.0, 3.0, 0.5]))
        source = content()
        torch.nn.init.normal_(source.default)
        expected = [2 * torch.from_numpy(VECTORS[0]) + 3 * source.default, VECTORS[3] * 0.5]
        for row, each in zip(source(batch), expected, strict=True):
            torch.testing.assert_close(row, torch.as_tensor(each))

    def test_checkpoints_carry_the_hash_and_not_the_vectors(self):
        vectors = ContentVectors(IDS, VECTORS)
        state = vectors.state_dict()
        assert dict(state) == {"_extra_state": vectors.content_hash}
        ContentVectors(IDS[::-1], VECTORS[::-1]).load_state_dict(state)
        other = VECTORS.copy()
        other[2, 1] += 1
        with pytest.raises(SIDVersionError, match=f"{vectors.content_hash}"):
            ContentVectors(IDS, other).load_state_dict(state)
        more = ContentVectors(
            [*IDS, 1], np.vstack([VECTORS, other[:1]]), ancestors=[vectors.content_hash]
        )
        more.load_state_dict(state)
        with pytest.raises(SIDVersionError, match="checkpoint must hold the content vectors"):
            vectors.load_state_dict(more.state_dict())

    def test_meta_device_birth_keeps_the_vectors(self):
        with torch.device("meta"):
            source = content()
        source.to_empty(device="cpu")
        source.reset_parameters()
        batch = jagged({"item_raw": [[7], [5]]})
        assert torch.equal(source(batch), content()(batch))

    @pytest.mark.parametrize(
        ("ids", "vectors", "match"),
        [
            ([1, 2], VECTORS, r"one row for each item id .* got shape \[4, 5\] for 2 ids"),
            ([], VECTORS[:0], "at least one item and column"),
            (IDS, VECTORS[0], "got shape"),
            ([7, 7, 8, 9], VECTORS, "item_ids must be distinct|7"),
            (IDS, np.where(VECTORS[2, 3] == VECTORS, np.nan, VECTORS), "finite, got .* row 2"),
        ],
    )
    def test_bad_vectors(self, ids, vectors, match):
        with pytest.raises(ValueError, match=match):
            ContentVectors(ids, vectors)


class TestReplacement:
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_sid_equals_the_fused_rows_and_content_the_projected_vector(self, dtype):
        model = alive(hosts.replacement(hosts.host_collection()))
        _, sparse, _ = hosts.batch(size=9, dtype=dtype)
        out = model(sparse)
        plain = hosts.host_collection()(sparse)
        assert list(out.keys()) == list(plain.keys())
        assert out.length_per_key() == plain.length_per_key()
        rows, tables = model.expander(sparse), model.ebc.embedding_bags
        sids = []
        for label in ("1", "1_2", "1_2_3"):
            weight = tables[f"sid_{label}"].weight
            bags = bags_of(rows, f"history_sid_{label}")
            sids.append(torch.stack([weight[bag].sum(dim=0) for bag in bags]))
        expected = model.fusions[0](torch.stack(sids, dim=1))
        torch.testing.assert_close(out["history"], expected)
        expected = model.contents[0](sparse) @ model.projections[0].weight.T
        torch.testing.assert_close(out["item"], expected)
        assert torch.equal(out["user"], tables["t_user"].weight[sparse["user"].values()])

    def test_the_hash_tables_are_gone_and_the_others_taken_over(self):
        collection = hosts.host_collection()
        weight = collection.embedding_bags["t_user"].weight
        model = hosts.replacement(collection)
        assert set(model.ebc.embedding_bags) == {"t_user", "sid_1", "sid_1_2", "sid_1_2_3"}
        assert model.ebc.embedding_bags["t_user"].weight is weight
        assert type(model.ebc) is EmbeddingBagCollection
        assert model.embedding_bag_configs() == collection.embedding_bag_configs()
        assert model.device == collection.device
        assert not model.is_weighted()

    def test_the_hash_id_need_not_be_there_and_changes_nothing(self):
        model = alive(SIDReplacement(host("user", "item"), contents={"item": content()}))
        columns = {"user": [[1], [2]], "item_raw": [[7], [5]]}
        out = model(jagged(columns))
        assert list(out.keys()) == ["user", "item"]
        other = model(jagged(columns | {"item": [[3], [4]]}))
        assert torch.equal(out.values(), other.values())

    def test_a_table_of_several_features_goes_on_for_the_others(self):
        configs = [
            EmbeddingBagConfig(
                name="t1", embedding_dim=8, num_embeddings=9, feature_names=["item", "user"]
            ),
            EmbeddingBagConfig(
                name="t2", embedding_dim=8, num_embeddings=9, feature_names=["user", "item"]
            ),
        ]
        collection = EmbeddingBagCollection(tables=configs)
        plain = copy.deepcopy(collection)
        model = SIDReplacement(collection, contents={"item@t1": content()})
        assert [config.feature_names for config in configs] == [["item", "user"], ["user", "item"]]
        batch = jagged({"user": [[1], [2, 3]], "item": [[4], []], "item_raw": [[7], [9]]})
        before, after = plain(batch), model(batch)
        assert list(after.keys()) == list(before.keys())
        for key in list(before.keys()):
            assert torch.equal(after[key], before[key]) == (key != "item@t1")

    @pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
    def test_pools_as_the_host_does(self, pooling):
        model = alive(
            SIDReplacement(host("a", "item", pooling=pooling), contents={"item": content()})
        )
        out = model(jagged({"a": [[1], [2]], "item_raw": [[7, 9, 5], [7]]}))["item"]
        alone = [model(jagged({"a": [[1]], "item_raw": [[i]]}))["item"][0] for i in (7, 9, 5)]
        expected = sum(alone) / (3 if pooling == PoolingType.MEAN else 1)
        torch.testing.assert_close(out[0], expected)

    @pytest.mark.parametrize("bags", [[[], []], [[50], [60, 61]]])
    def test_empty_bags_are_zero_and_unknown_items_learned(self, bags):
        model = alive(hosts.replacement(hosts.host_collection()))
        columns = {"user": [[1], [2]], "item_raw": bags, "history_raw": bags}
        out = model(jagged(columns))
        assert bool(out["item"].any()) == bool(out["history"].any()) == bool(bags[0])

    def test_every_parameter_learns_within_three_steps(self):
        model = hosts.hybrid_dlrm(wide="replacement")
        birth = {name: value.detach().clone() for name, value in model.named_parameters()}
        hosts.train(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=3, size=32)
        assert [n for n, value in model.named_parameters() if torch.equal(value, birth[n])] == []

    def test_names_are_the_checkpoint_format(self):
        assert set(hosts.replacement(hosts.host_collection()).state_dict()) == {
            *(
                f"ebc.embedding_bags.{t}.weight"
                for t in ("t_user", "sid_1", "sid_1_2", "sid_1_2_3")
            ),
            *(f"fusions.0.{name}" for name in ("query", "own.weight", "own.bias", "mean.weight")),
            "expander.sources.0.lookup._extra_state",
            "contents.0.default",
            "contents.0.vectors._extra_state",
            "projections.0.weight",
        }

    def test_checkpoint_of_another_table(self):
        state = hosts.hybrid_dlrm(wide="replacement").state_dict()
        other = hosts.hybrid_dlrm(wide="replacement", table=hosts.sid_table(seed=1))
        with pytest.raises(SIDVersionError, match=hosts.sid_table(seed=0).content_hash):
            other.load_state_dict(state)

    @pytest.mark.parametrize("shuffled", [False, True])
    def test_new_items_are_scored_by_what_they_are(self, shuffled):
        """Items of the test were never trained; a hash ID knows nothing of them."""
        random = np.random.default_rng(1)
        vectors = random.normal(size=(600, 5))
        label = torch.from_numpy(vectors[:, 0] > 0).float()
        seen = random.permutation(vectors) if shuffled else vectors
        source = ContentSource("item_raw", ContentVectors(np.arange(600), seen))
        model = SIDReplacement(host("user", "item"), contents={"item": source})
        batch = jagged({"user": [[0]] * 600, "item_raw": [[item] for item in range(600)]})
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for _ in range(40):
            optimizer.zero_grad()
            logits = model(batch)["item"].sum(dim=1)
            torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:400], label[:400]
            ).backward()
            optimizer.step()
        right = ((logits > 0) == (label > 0))[400:].float().mean()
        assert right < 0.65 if shuffled else right > 0.95


class _Subclass(EmbeddingBagCollection):
    pass


def expander(key="item"):
    return SIDExpander({key: RawIDSource(f"{key}_raw", SIDLookup(hosts.sid_table()))})


class TestErrors:
    def refuse(self, error, match, *tables, of=None, **rest):
        with pytest.raises(error, match=match):
            SIDReplacement(of or host("user", "item"), *tables, **rest)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: _Subclass(host("item").embedding_bag_configs()),
            lambda: FusedEmbeddingBagCollection(
                host("item").embedding_bag_configs(), torch.optim.SGD, {"lr": 0.1}
            ),
        ],
        ids=["_Subclass", "Fused"],
    )
    def test_other_collections(self, make):
        self.refuse(
            TypeError,
            "host must be exactly a torchrec EmbeddingBag.*(_Subclass|Fused)",
            of=make(),
            contents={"item": content()},
        )

    def test_nothing_to_replace(self):
        self.refuse(ValueError, "expander or contents must be given, got neither")

    def test_content_of_another_kind(self):
        vectors = ContentVectors(IDS, VECTORS)
        self.refuse(
            TypeError,
            "contents must be ContentSource, got ContentVectors for item",
            contents={"item": vectors},
        )

    def test_one_key_twice(self):
        self.refuse(
            ValueError,
            "contents must not hold keys of the expander, got item",
            expander().embedding_bag_configs(embedding_dim=8),
            expander=expander(),
            contents={"item": content()},
        )

    def test_key_that_the_host_does_not_put_out(self):
        self.refuse(
            ValueError,
            r"keys to replace must be outputs of the host, \['user', 'item'\], got other",
            contents={"other": content()},
        )

    def test_no_table_left(self):
        self.refuse(
            ValueError, "host must keep a table", of=host("item"), contents={"item": content()}
        )

    def test_tables_without_an_expander(self):
        self.refuse(
            ValueError,
            r"sid_tables must come with an expander, got \['sid_1'",
            expander().embedding_bag_configs(embedding_dim=8),
            contents={"item": content()},
        )

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"embedding_dim": 4}, "sid_tables must have the width of item, 8, got 4 in sid_1"),
            ({"embedding_dim": 8, "pooling": PoolingType.MEAN}, "must pool as the host pools item"),
            ({"embedding_dim": 8, "name": "t"}, "sid_tables must have new names, got t_user twice"),
        ],
    )
    def test_tables_that_do_not_fit(self, change, match):
        tables = expander().embedding_bag_configs(**change)
        if "name" in change:
            tables[0].name = "t_user"
        self.refuse(ValueError, match, tables, expander=expander())

    def test_features_without_a_table_and_tables_too_small(self):
        tables = expander().embedding_bag_configs(embedding_dim=8)
        tables[0].num_embeddings = 3
        self.refuse(ValueError, "must have 5 rows for item_sid_1", tables, expander=expander())
        self.refuse(ValueError, "tables must read each feature", tables[1:], expander=expander())

    def test_empty_batch(self):
        model = hosts.replacement(hosts.host_collection())
        with pytest.raises(ValueError, match="features must have at least one row, got an empty"):
            model(hosts.empty_batch())

    def test_missing_feature(self):
        model = SIDReplacement(host("user", "item"), contents={"item": content()})
        with pytest.raises(ValueError, match="features must contain the key item_raw"):
            model(jagged({"user": [[1]]}))
