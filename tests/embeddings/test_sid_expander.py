"""SID features of a batch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec import KeyedJaggedTensor

from sidrank.embeddings import CodeFeatureSource, RawIDSource, SIDExpander, check_coverage
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from tests import reference
from tests.embeddings.hosts import bags_of, jagged

GROUPS = {
    "level": {1: [(0,)], 2: [(0,), (1,)], 3: [(0,), (1,), (2,)]},
    "prefix": {1: [(0,)], 2: [(0,), (0, 1)], 3: [(0,), (0, 1), (0, 1, 2)]},
    "multires": {1: [(0,)], 2: [(0,), (1,), (0, 1)], 3: [(0,), (1,), (2,), (0, 1), (1, 2)]},
}


def table(items, codes, sizes):
    return SIDTable(np.array(items, dtype=np.int64), np.array(codes), spec=SIDSpec(tuple(sizes)))


@st.composite
def catalogues(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    items = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8, unique=True))
    codes = [[draw(st.integers(0, size - 1)) for size in sizes] for _ in items]
    ids = st.one_of(st.sampled_from(items), st.integers(-(2**63), 2**63 - 1))
    bags = draw(st.lists(st.lists(ids, max_size=4), min_size=1, max_size=5))
    return sizes, items, codes, bags


class TestAgainstReference:
    @pytest.mark.parametrize("mode", list(GROUPS))
    @given(catalogues())
    def test_rows(self, mode, case):
        sizes, items, codes, bags = case
        source = RawIDSource("raw", SIDLookup(table(items, codes, sizes)))
        expander = SIDExpander({"item": source}, mode=mode)
        assert expander.resolutions == GROUPS[mode][len(sizes)]
        expanded = expander(jagged({"raw": bags}))
        expected = reference.sid_features(
            sizes, expander.resolutions, dict(zip(items, codes, strict=True)), bags, 10**6
        )
        for group, name in zip(expander.resolutions, expander.feature_names("item"), strict=True):
            assert bags_of(expanded, name) == expected[group]

    @given(catalogues())
    def test_codes_as_features_equal_the_lookup(self, case):
        sizes, items, codes, bags = case
        spec = SIDSpec(tuple(sizes))
        by_id = SIDExpander(
            {"item": RawIDSource("raw", SIDLookup(table(items, codes, sizes)))}, mode="multires"
        )
        names = [f"c{level}" for level in range(len(sizes))]
        by_code = SIDExpander({"item": CodeFeatureSource(names, spec)}, mode="multires")
        codes_of = dict(zip(items, codes, strict=True))
        columns = {
            name: [[codes_of[i][level] if i in codes_of else -1 for i in bag] for bag in bags]
            for level, name in enumerate(names)
        }
        one, other = by_id(jagged({"raw": bags})), by_code(jagged(columns))
        for name in by_id.feature_names("item"):
            assert bags_of(one, name) == bags_of(other, name)


class TestProperties:
    def test_radix_is_a_bijection_on_8192_squared_pairs(self):
        source = CodeFeatureSource(["a", "b"], SIDSpec((8192, 8192)))
        expander = SIDExpander({"item": source}, mode="prefix", max_rows=8192 * 8192)
        seen = torch.zeros(8192 * 8192 + 1, dtype=torch.bool)
        second = torch.arange(8192)
        for first in range(0, 8192, 512):
            codes = torch.cartesian_prod(torch.arange(first, first + 512), second)
            rows = expander._ids(codes.to(torch.int32))[1]
            assert not seen[rows].any()
            seen[rows] = True
        assert not seen[0]
        assert seen[1:].all()

    @pytest.mark.parametrize("rows", [1000, 4096])
    def test_hashed_groups_fill_the_table_evenly(self, rows):
        source = CodeFeatureSource(["a", "b"], SIDSpec((256, 256)))
        expander = SIDExpander({"item": source}, mode="prefix", max_rows=rows)
        codes = torch.cartesian_prod(torch.arange(256), torch.arange(256)).to(torch.int32)
        counts = torch.bincount(expander._ids(codes)[1], minlength=rows + 1)
        assert counts[0] == 0
        assert len(counts) == rows + 1
        mean = 256 * 256 / rows
        variance = ((counts[1:] - mean) ** 2).float().mean().item()
        assert 0.8 * mean < variance < 1.2 * mean  # Poisson, as a random hash would give

    @given(catalogues())
    def test_unknown_items_alone_read_row_0_also_of_hashed_groups(self, case):
        sizes, items, codes, bags = case
        source = RawIDSource("raw", SIDLookup(table(items, codes, sizes)))
        expanded = SIDExpander({"item": source}, max_rows=1)(jagged({"raw": bags}))
        known = [[int(item in items) for item in bag] for bag in bags]
        for name in expanded.keys()[1:]:
            assert bags_of(expanded, name) == known

    def test_no_code_is_forgotten_beyond_64_bits(self):
        """8192 ** 5 is 2 ** 65: a radix alone would drop bits of the first code."""
        names = list("abcde")
        source = CodeFeatureSource(names, SIDSpec((8192,) * 5))
        expander = SIDExpander({"item": source}, mode="prefix", max_rows=2**31 - 2)
        codes = torch.tensor(
            list(itertools.product([0, 4096, 8191], [0, 4096], [1, 2], [0, 4096], [0, 8191])),
            dtype=torch.int32,
        )
        rows = expander._ids(codes)[4]
        assert len(rows.unique()) == len(codes)

    @given(st.lists(st.lists(st.integers(-3, 12), max_size=3), min_size=1, max_size=4))
    def test_own_features_and_dtype_are_untouched(self, bags):
        expander = SIDExpander(
            {"item": RawIDSource("raw", SIDLookup(table([1, 9], [[0, 1], [2, 3]], [4, 4])))}
        )
        for dtype in (torch.int32, torch.int64):
            batch = jagged({"other": bags, "raw": bags}, dtype)
            expanded = expander(batch)
            assert expanded.values().dtype == dtype
            assert expanded.keys() == ["other", "raw", *expander.feature_names("item")]
            assert bags_of(expanded, "other") == bags
            assert bags_of(expanded, "raw") == bags
            assert expanded.length_per_key() == [sum(map(len, bags))] * 5

    def test_weights_travel_with_the_bag(self):
        expander = SIDExpander(
            {"item": RawIDSource("raw", SIDLookup(table([1, 9], [[0, 1], [2, 3]], [4, 4])))}
        )
        batch = jagged({"raw": [[1, 9], [], [5]]}, weights=torch.tensor([0.5, 2.0, 3.0]))
        expanded = expander(batch)
        for name in expander.feature_names("item"):
            assert expanded[name].weights().tolist() == [0.5, 2.0, 3.0]

    def test_tables_are_shared_by_the_item_features(self):
        lookup = SIDLookup(table([1, 9], [[0, 1], [2, 3]], [4, 4]))
        sources = {"item": RawIDSource("a", lookup), "seen@t": RawIDSource("b", lookup)}
        configs = SIDExpander(sources).embedding_bag_configs(embedding_dim=8)
        assert [config.name for config in configs] == ["sid_1", "sid_2", "sid_1_2"]
        assert configs[2].feature_names == ["item_sid_1_2", "seen_t_sid_1_2"]
        assert [config.num_embeddings for config in configs] == [5, 5, 17]

    def test_output_rows_fit_their_tables(self):
        sizes, names = (3, 300, 7), ["a", "b", "c"]
        expander = SIDExpander({"item": CodeFeatureSource(names, SIDSpec(sizes))}, max_rows=500)
        configs = expander.embedding_bag_configs(embedding_dim=4)
        codes = torch.cartesian_prod(*[torch.arange(size) for size in sizes]).to(torch.int32)
        for config, rows in zip(configs, expander._ids(codes), strict=True):
            assert rows.min() >= 1
            assert rows.max() < config.num_embeddings

    @pytest.mark.parametrize("bad", [-1, -(2**63), -(2**32), -(2**40) + 3, 4, 2**40, 2**63 - 1])
    @pytest.mark.parametrize("level", [0, 1])
    def test_no_code_outside_its_codebook_becomes_a_code(self, bad, level):
        expander = SIDExpander({"item": CodeFeatureSource(["a", "b"], SIDSpec((4, 4)))})
        columns = {"a": [[1], [2]], "b": [[1], [3]]}
        columns["ab"[level]] = [[bad], [3]]
        expanded = expander(jagged(columns))
        for name in expander.feature_names("item"):
            assert bags_of(expanded, name)[0] == [0]
            assert bags_of(expanded, name)[1] != [0]

    def test_codes_of_different_bags_are_not_paired(self):
        expander = SIDExpander({"item": CodeFeatureSource(["a", "b"], SIDSpec((4, 4)))})
        expander(jagged({"a": [[1], [2, 3]], "b": [[1, 2], [3]]}))
        assert expander.coverage() == {"item": 0.0}


class TestCoverage:
    def expander(self):
        return SIDExpander(
            {"item": RawIDSource("raw", SIDLookup(table([1, 9], [[0, 1], [2, 3]], [4, 4])))}
        )

    def test_counts_what_it_saw(self):
        expander = self.expander()
        expander(jagged({"raw": [[1, 9], [], [5]]}))
        expander(jagged({"raw": [[-1]]}))
        assert expander.coverage() == {"item": 0.5}
        check_coverage(torch.nn.Sequential(expander), floor=0.5)
        expander.reset_coverage()
        assert np.isnan(expander.coverage()["item"])

    def test_hashed_ids_given_as_raw_ids_are_refused(self):
        raw = np.random.default_rng(0).integers(2**40, 2**50, 1000)
        source = RawIDSource("raw", SIDLookup(table(raw, np.zeros((1000, 2), int), [4, 4])))
        expander = SIDExpander({"item": source})
        expander(jagged({"raw": [[int(i) % 5000] for i in raw]}))
        with pytest.raises(ValueError, match=r"coverage of item must be at least 0\.5, got 0\.00"):
            check_coverage(expander)

    def test_nothing_seen_is_not_full_coverage(self):
        with pytest.raises(ValueError, match=r"coverage of item must be at least 0\.5, got nan"):
            check_coverage(self.expander())

    def test_model_without_expander(self):
        with pytest.raises(ValueError, match=r"model must hold a SIDExpander, got Linear"):
            check_coverage(torch.nn.Linear(1, 1))

    def test_survives_moving_but_not_garbage(self):
        expander = self.expander()
        expander(jagged({"raw": [[1], [5]]}))
        expander.to_empty(device="cpu")
        assert expander.coverage() == {"item": 0.5}
        expander.to("meta")
        expander.to_empty(device="cpu")
        assert np.isnan(expander.coverage()["item"])
        assert bags_of(expander(jagged({"raw": [[9]]})), "item_sid_1_2") == [[12]]


class TestErrors:
    def test_source_of_another_kind(self):
        with pytest.raises(
            TypeError, match="sources must be RawIDSource or CodeFeatureSource, got"
        ):
            SIDExpander({"item": SIDLookup(table([1], [[0, 1]], [4, 4]))})

    def test_keys_that_give_equal_names(self):
        with pytest.raises(ValueError, match="sources must give distinct feature names, got"):
            SIDExpander({"item@t": self.source(), "item_t": self.source()})

    def test_new_feature_that_the_batch_already_holds(self):
        with pytest.raises(ValueError, match="features must not hold the key a_sid_1, got"):
            SIDExpander({"a": self.source()})(jagged({"raw": [[1]], "a_sid_1": [[1]]}))

    def source(self, feature="raw"):
        return RawIDSource(feature, SIDLookup(table([1], [[0, 1]], [4, 4])))

    def test_no_source(self):
        with pytest.raises(ValueError, match="sources must name at least one item feature"):
            SIDExpander({})

    def test_two_specs(self):
        other = RawIDSource("b", SIDLookup(table([1], [[0, 1]], [4, 8])))
        with pytest.raises(ValueError, match="sources must have one SIDSpec"):
            SIDExpander({"a": self.source(), "b": other})

    def test_mode(self):
        with pytest.raises(
            ValueError, match="mode must be 'level', 'prefix', 'multires' or a SIDBPE"
        ):
            SIDExpander({"a": self.source()}, mode="bpe")

    @pytest.mark.parametrize("rows", [0, -1, 2**31])
    def test_max_rows(self, rows):
        with pytest.raises(ValueError, match=f"max_rows must be in .*, got {rows}"):
            SIDExpander({"a": self.source()}, max_rows=rows)

    def test_missing_feature(self):
        with pytest.raises(ValueError, match="features must contain the key raw, got"):
            SIDExpander({"a": self.source()})(jagged({"other": [[1]]}))

    def test_float_ids(self):
        with pytest.raises(ValueError, match=r"raw must be int32 or int64, got torch\.float32"):
            SIDExpander({"a": self.source()})(jagged({"raw": [[1.0]]}, torch.float32))

    def test_variable_batch(self):
        batch = KeyedJaggedTensor(
            keys=["raw", "other"],
            values=torch.tensor([1, 1, 1]),
            lengths=torch.tensor([1, 1, 1]),
            stride_per_key_per_rank=[[1], [2]],
        )
        with pytest.raises(ValueError, match="features must have one batch size for all keys"):
            SIDExpander({"a": self.source()})(batch)

    def test_code_features_of_unequal_length(self):
        expander = SIDExpander({"a": CodeFeatureSource(["c1", "c2"], SIDSpec((4, 4)))})
        with pytest.raises(ValueError, match="c2 must have as many values as c1, 1, got 2"):
            expander(jagged({"c1": [[1]], "c2": [[1, 2]]}))

    @pytest.mark.parametrize("names", [["c1"], "c1"])
    def test_code_features_per_level(self, names):
        with pytest.raises(ValueError, match="features must name one code feature for each of 2"):
            CodeFeatureSource(names, SIDSpec((4, 4)))
