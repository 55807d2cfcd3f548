"""Byte-pair units of a batch."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.embeddings import CodeFeatureSource, RawIDSource, SIDExpander, check_coverage
from sidrank.layers import ResidualGate
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, SIDVersionError
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.unit_encoder import SIDUnitEncoder
from tests.embeddings import hosts
from tests.embeddings.hosts import bags_of, jagged
from tests.semantic_ids import reference_bpe

SIZES = (3, 2, 3, 2)
RANDOM = np.random.default_rng(0)
ITEMS = np.array([0, 1, 5, 2**40, -7, 9, 12, 13])
TABLE = SIDTable(
    ITEMS, np.stack([RANDOM.integers(0, size, 8) for size in SIZES], axis=1), spec=SIDSpec(SIZES)
)
BPE = SIDBPE.train(TABLE, [9, 1, 5, 0, 2, 3, 40, 0], max_units=10 + 8)
LEVELS = ["c1", "c2", "c3", "c4"]
ids = st.one_of(st.sampled_from(ITEMS.tolist()), st.integers(-(2**63), 2**63 - 1))
some_bags = st.lists(st.lists(ids, max_size=4), min_size=1, max_size=5)


def by_id(feature="raw"):
    return RawIDSource(feature, SIDLookup(TABLE))


def expected_rows(bags):
    """A unit's row stands behind row 0; an unknown item has row 0 alone."""
    codes = dict(zip(TABLE.item_ids.tolist(), TABLE.codes.tolist(), strict=True))
    spelled = {
        item: reference_bpe.encode([row], SIZES, BPE.merges.tolist())[0]
        for item, row in codes.items()
    }
    return [
        [row for item in bag for row in ([u + 1 for u in spelled[item]] if item in codes else [0])]
        for bag in bags
    ]


def code_columns(bags):
    codes = dict(zip(TABLE.item_ids.tolist(), TABLE.codes.tolist(), strict=True))
    return {
        name: [[codes[i][level] if i in codes else -1 for i in bag] for bag in bags]
        for level, name in enumerate(LEVELS)
    }


def test_the_merges_leave_words_of_several_lengths():
    lengths = (BPE.encode(TABLE.codes) >= 0).sum(axis=1)
    assert len(np.unique(lengths)) >= 3


@given(some_bags)
def test_rows_of_raw_ids(bags):
    expanded = SIDExpander({"item": by_id()}, mode=BPE)(jagged({"raw": bags}))
    assert expanded.keys() == ["raw", "item_sid_units"]
    assert bags_of(expanded, "item_sid_units") == expected_rows(bags)
    assert bags_of(expanded, "raw") == bags


@given(some_bags)
def test_rows_of_codes_in_the_batch(bags):
    source = CodeFeatureSource(LEVELS, SIDSpec(SIZES))
    expanded = SIDExpander({"item": source}, mode=BPE)(jagged(code_columns(bags)))
    assert bags_of(expanded, "item_sid_units") == expected_rows(bags)


def test_both_kinds_of_source_in_one_expander():
    bags, others = [[0, 3], [], [12, 5]], [[13], [0, 0], [1]]
    sources = {"a": by_id(), "b@t": CodeFeatureSource(LEVELS, SIDSpec(SIZES))}
    expander = SIDExpander(sources, mode=BPE)
    expanded = expander(jagged({"raw": bags, **code_columns(others)}))
    assert bags_of(expanded, "a_sid_units") == expected_rows(bags)
    assert bags_of(expanded, "b_t_sid_units") == expected_rows(others)
    assert expander.coverage() == {"a": 0.75, "b@t": 1.0}
    check_coverage(expander, floor=0.7)
    expander.reset_coverage()
    assert np.isnan(list(expander.coverage().values())).all()
    (config,) = expander.embedding_bag_configs(embedding_dim=4)
    assert config.name == "sid_units"
    assert config.feature_names == ["a_sid_units", "b_t_sid_units"]
    assert config.num_embeddings == BPE.num_units + 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_dtype_and_weights_travel_with_the_item(dtype):
    bags = [[0, 12], [], [3]]
    weights = torch.tensor([0.5, 2.0, 3.0])
    batch = jagged({"raw": bags}, dtype, weights)
    expanded = SIDExpander({"item": by_id()}, mode=BPE)(batch)
    assert expanded.values().dtype == dtype
    assert expanded.lengths().dtype == batch.lengths().dtype
    counts = [len(row) for bag in bags for item in bag for row in expected_rows([[item]])]
    assert counts[0] != counts[1]
    expected = weights.repeat_interleave(torch.tensor(counts))
    assert torch.equal(expanded["item_sid_units"].weights(), expected)
    assert expanded.length_per_key() == [3, sum(counts)]


def test_an_unknown_item_has_a_row_that_no_unit_has():
    expander = SIDExpander({"item": by_id()}, mode=SIDBPE([], spec=BPE.spec))
    known = bags_of(expander(jagged({"raw": [ITEMS.tolist()]})), "item_sid_units")[0]
    unknown = bags_of(expander(jagged({"raw": [[99, -1], [2**63 - 1]]})), "item_sid_units")
    assert unknown == [[0, 0], [0]]
    assert min(known) == 1


def test_the_given_sources_go_on_giving_codes():
    lookup = SIDLookup(TABLE)
    first, second = RawIDSource("a", lookup), RawIDSource("b", lookup)
    expander = SIDExpander({"a": first, "b": second}, mode=BPE)
    codes, _ = first(jagged({"a": [ITEMS.tolist()]}))
    assert np.array_equal(codes, TABLE.lookup(ITEMS))
    one, other = (source.lookup for source in expander.sources)
    assert one is other
    assert one.keys.data_ptr() == lookup.keys.data_ptr()  # only the codes are new
    assert one.codes.data_ptr() != lookup.codes.data_ptr()


def test_the_encoder_survives_the_meta_device():
    with torch.device("meta"):
        sources = {"a": by_id(), "b": CodeFeatureSource(LEVELS, SIDSpec(SIZES))}
        expander = SIDExpander(sources, mode=BPE)
    expander.to("meta")
    expander.to_empty(device="cpu")
    bags = [[0, 12], [9]]
    expanded = expander(jagged({"raw": bags, **code_columns(bags)}))
    assert bags_of(expanded, "a_sid_units") == expected_rows(bags)
    assert bags_of(expanded, "b_sid_units") == expected_rows(bags)


def test_hybrid_keeps_the_hosts_values_at_birth_and_learns():
    collection = hosts.host_collection()
    host = hosts.dlrm(copy.deepcopy(collection))
    model = hosts.dlrm(hosts.hybrid(collection, mode="bpe"))
    dense, sparse, _ = hosts.batch(size=64)
    assert torch.equal(host(dense, sparse), model(dense, sparse))
    assert isinstance(model.sparse_arch.embedding_bag_collection.gates[0], ResidualGate)
    hosts.train(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)
    tables = model.sparse_arch.embedding_bag_collection.ebc.embedding_bags
    assert tables["sid_units"].weight.abs().max() > 0


class TestErrors:
    @pytest.mark.parametrize("source", ["raw", "codes"])
    def test_checkpoint_of_other_merges(self, source):
        def expander(bpe):
            made = by_id() if source == "raw" else CodeFeatureSource(LEVELS, SIDSpec(SIZES))
            return SIDExpander({"item": made}, mode=bpe)

        state = expander(BPE).state_dict()
        expander(SIDBPE(BPE.merges, spec=BPE.spec)).load_state_dict(state)
        with pytest.raises(SIDVersionError, match="checkpoint must hold units of the SIDBPE"):
            expander(BPE.first(15)).load_state_dict(state)

    def test_encoder_of_other_merges(self):
        with pytest.raises(SIDVersionError, match="checkpoint must hold units of the SIDBPE"):
            SIDUnitEncoder(BPE).load_state_dict(SIDUnitEncoder(BPE.first(15)).state_dict())

    def test_merges_of_another_spec(self):
        other = SIDBPE([], spec=SIDSpec((3, 2, 3, 3)))
        with pytest.raises(ValueError, match="spec must be that of the SIDBPE"):
            SIDExpander({"item": by_id()}, mode=other)

    def test_table_too_small(self):
        with pytest.raises(ValueError, match="max_rows must hold 18 units, got 17"):
            SIDExpander({"item": by_id()}, mode=BPE, max_rows=17)

    def test_width_of_codes(self):
        with pytest.raises(ValueError, match=r"codes must have shape \[\*, 4\], got \[2, 3\]"):
            SIDUnitEncoder(BPE)(torch.zeros(2, 3, dtype=torch.int32))
        with pytest.raises(ValueError, match="codes must be int32 or int64, got"):
            SIDUnitEncoder(BPE)(torch.zeros(2, 4))
