"""Crosses of attributes and SID prefixes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.embeddings import CodeFeatureSource, MemorizationBranch, RawIDSource, SIDExpander
from sidrank.embeddings.content_summary import ContentSummaryHash
from sidrank.layers import ResidualGate
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, SIDVersionError
from tests.embeddings import hosts
from tests.embeddings.hosts import bags_of, jagged

CODES = {3: (0, 1), 7: (0, 2), -9: (1, 1), 2**50: (0, 1)}
TABLE = SIDTable(list(CODES), [list(c) for c in CODES.values()], spec=SIDSpec((2, 3)))
PAIRS = [("kind", (1,)), ("kind", (1, 2)), ((1,), (2,)), ((2,), "kind")]
WORD = 2**64


def expander(mode="level"):
    return SIDExpander({"item": RawIDSource("raw", SIDLookup(TABLE))}, mode=mode)


def summary(pairs=PAIRS, rows=50, num_hashes=3, mode="level"):
    attributes = {"item": {"kind": "item_kind"}} if "kind" in itertools.chain(*pairs) else None
    return ContentSummaryHash(
        expander(mode), pairs=pairs, attributes=attributes, num_hashes=num_hashes, rows=rows
    )


def splitmix(x):
    """The finaliser of SplitMix64, as published, on unsigned numbers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def number(part, item, kind):
    if part == "kind":
        return kind
    first, second = CODES[item]
    return {(1,): first, (2,): second, (1, 2): 3 * first + second}[part]


def cross(pair, item, kind, index, rows):
    if item not in CODES:
        return 0
    left, right = (number(part, item, kind) for part in pair)
    x = splitmix((left + (index + 1) * 0x9E3779B97F4A7C15) % WORD)
    return splitmix((x + right) % WORD) % 2**63 % rows + 1


items = st.one_of(st.sampled_from(list(CODES)), st.integers(-(2**63), 2**63 - 1))
kinds = st.one_of(st.integers(-2, 3), st.integers(-(2**63), 2**63 - 1))
some_bags = st.lists(st.lists(st.tuples(items, kinds), max_size=4), min_size=1, max_size=4)


@given(some_bags, st.integers(1, 60))
def test_rows(bags, rows):
    module = summary(rows=rows)
    batch = jagged(
        {"raw": [[i for i, _ in b] for b in bags], "item_kind": [[k for _, k in b] for b in bags]}
    )
    out = module(batch)
    names = iter(module.feature_names("item")[2:])
    for pair in PAIRS:
        for index in range(3):
            expected = [[cross(pair, i, k, index, rows) for i, k in bag] for bag in bags]
            assert bags_of(out, next(names)) == expected
    assert next(names, None) is None
    alone = module.expander(batch)
    for name in alone.keys():  # noqa: SIM118 (a method, not a mapping's)
        assert bags_of(out, name) == bags_of(alone, name)


def test_every_row_fits_its_table_and_every_feature_has_one():
    module = summary(mode="prefix")
    assert module.check_tables(module.embedding_bag_configs(embedding_dim=4)) is None
    configs = module.embedding_bag_configs(embedding_dim=4, name="s")
    assert [config.name for config in configs][:3] == ["s_1", "s_1_2", "s_cross_kind_x_1"]
    read = [name for config in configs for name in config.feature_names]
    assert read == module.feature_names("item")
    assert len(module.resolutions) == len(read) == 2 + 4 * 3
    assert [config.num_embeddings for config in configs[2:]] == [51] * 4


def test_hashes_collide_independently():
    """Of two values that share a row in one hash hardly any share it in another."""
    module = summary(pairs=[("kind", (1,))], rows=100, num_hashes=2)
    kinds = list(range(2000))
    out = module(jagged({"raw": [[3] * 2000], "item_kind": [kinds]}))
    one, two = (torch.tensor(bags_of(out, name)[0]) for name in module.feature_names("item")[2:])
    upper = torch.ones(2000, 2000, dtype=torch.bool).triu(1)
    first = (one[:, None] == one[None])[upper]
    both = (first & (two[:, None] == two[None])[upper]).sum() / first.sum()
    assert abs(first.float().mean() - 0.01) < 0.002
    assert abs(both - 0.01) < 0.005
    counts = torch.bincount(one - 1, minlength=100).float()
    assert counts.min() > 0


def test_the_codes_of_an_unknown_item_are_not_code_zero():
    module = summary()
    out = module(jagged({"raw": [[5, 3]], "item_kind": [[1, 1]]}))
    for name in module.feature_names("item"):
        unknown, known = bags_of(out, name)[0]
        assert unknown == 0
        assert known > 0


def test_attributes_of_other_bags_make_the_batch_unknown():
    module = summary(pairs=[("kind", (1,)), ((1,), (2,))])
    out = module(jagged({"raw": [[3], [7, 3]], "item_kind": [[1, 2], [3]]}))
    for name in module.feature_names("item")[2:]:
        assert bags_of(out, name) == [[0], [0, 0]]
    assert bags_of(out, "item_sid_1") == [[1], [1, 1]]


def test_codes_beyond_their_codebook_are_unknown():
    source = CodeFeatureSource(["a", "b"], SIDSpec((2, 3)))
    module = ContentSummaryHash(SIDExpander({"item": source}), pairs=[((1,), (2,))])
    out = module(jagged({"a": [[1], [2], [0]], "b": [[2], [1], [-1]]}))
    rows = bags_of(out, "item_cross_1_x_2_hash1")
    assert rows[0][0] > 0
    assert rows[1:] == [[0], [0]]


@pytest.mark.parametrize("bags", [[[]], [[], []], [[5, 6], [8]]])
def test_empty_bags_and_batches_of_unknown_items(bags):
    module = summary()
    out = module(jagged({"raw": bags, "item_kind": bags}))
    for name in module.feature_names("item"):
        assert bags_of(out, name) == [[0] * len(bag) for bag in bags]


def test_weights_and_dtype_travel_with_the_bag():
    batch = jagged(
        {"raw": [[3, 7]], "item_kind": [[1, 2]]}, torch.int32, torch.tensor([0.5, 2, 9, 9])
    )
    module = summary()
    out = module(batch)
    assert out.values().dtype == torch.int32
    for name in module.feature_names("item"):
        assert out[name].weights().tolist() == [0.5, 2.0]


def test_a_checkpoint_of_other_codes_is_refused():
    other = SIDTable(list(CODES), np.zeros((4, 2), int), spec=SIDSpec((2, 3)))
    source = RawIDSource("raw", SIDLookup(other))
    module = ContentSummaryHash(SIDExpander({"item": source}), pairs=[((1,), (2,))])
    assert list(module.state_dict()) == ["expander.sources.0.lookup._extra_state"]
    with pytest.raises(SIDVersionError, match=TABLE.content_hash):
        module.load_state_dict(summary(pairs=[((1,), (2,))]).state_dict())


@pytest.mark.parametrize("autocast", [False, True])
def test_bit_equal_at_birth_in_a_hybrid_and_alive_soon(autocast):
    host, model = hosts.host_dlrm(), hosts.hybrid_dlrm(wide="summary")
    dense, sparse, _ = hosts.batch(size=64)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(model(dense, sparse), host(dense, sparse))
    birth = {name: value.detach().clone() for name, value in model.named_parameters()}
    hosts.train(model, torch.optim.Adagrad(model.parameters(), lr=0.05), steps=3)
    assert [n for n, value in model.named_parameters() if torch.equal(value, birth[n])] == []


@pytest.mark.parametrize("shuffled", [False, True])
def test_learns_what_only_the_pair_tells(shuffled):
    """A label that is the exclusive or of attribute and code; a sum over both learns nothing."""
    random = np.random.default_rng(0)
    raw, kind = random.choice(list(CODES), 400), random.integers(0, 2, 400)
    first = np.array([CODES[int(item)][0] for item in raw])
    label = torch.tensor(first ^ kind).float()
    seen = random.permutation(kind) if shuffled else kind
    batch = jagged({"raw": raw[:, None].tolist(), "item_kind": seen[:, None].tolist()})
    branch = MemorizationBranch(summary(pairs=[("kind", (1,))]))
    optimizer = torch.optim.Adagrad(branch.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        logits = branch(batch)[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, label).backward()
        optimizer.step()
    right = ((logits > 0) == (label > 0)).float().mean()
    assert right < 0.7 if shuffled else right == 1.0


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"pairs": []}, "pairs must hold at least one pair, got none"),
            ({"pairs": [("a", "b")]}, "pairs must each hold two parts, an attribute and levels"),
            ({"pairs": ["ab"]}, "pairs must each hold two parts"),
            ({"pairs": [((0,), (1,))]}, r"rising levels from 1 to 2, got \(0,\)"),
            ({"pairs": [((1,), (3,))]}, r"rising levels from 1 to 2, got \(3,\)"),
            ({"pairs": [((1,), (2, 1))]}, r"rising levels from 1 to 2, got \(2, 1\)"),
            ({"pairs": [((1,), ())]}, r"rising levels from 1 to 2, got \(\)"),
            ({"pairs": [((1,), 2)]}, "rising levels from 1 to 2, got 2"),
            ({"pairs": [((1,), (2,))] * 2}, "pairs must be distinct"),
            ({"num_hashes": 0}, "num_hashes must be at least 1, got 0"),
            ({"rows": 0}, "rows must be in .*, got 0"),
            ({"rows": 2**31 - 1}, "rows must be in .*, got 2147483647"),
        ],
    )
    def test_arguments(self, change, match):
        with pytest.raises(ValueError, match=match):
            ContentSummaryHash(expander(), **{"pairs": [((1,), (2,))], **change})

    @pytest.mark.parametrize(
        "attributes", [None, {"item": {}}, {"item": {"kind": "a", "brand": "b"}}, {"other": {}}]
    )
    def test_attributes(self, attributes):
        with pytest.raises(ValueError, match="attributes must name a feature for each item feat"):
            ContentSummaryHash(expander(), pairs=[("kind", (1,))], attributes=attributes)

    def test_units(self):
        with pytest.raises(ValueError, match="expander must find codes, got one that finds byte"):
            ContentSummaryHash(hosts.expander("bpe"), pairs=[((1,), (2,))])

    def test_attribute_with_another_number_of_values(self):
        with pytest.raises(
            ValueError, match="item_kind must have one value for each of 1 item ids, got 2"
        ):
            summary()(jagged({"raw": [[3]], "item_kind": [[1, 2]]}))

    def test_missing_attribute(self):
        with pytest.raises(ValueError, match="features must contain the key item_kind"):
            summary()(jagged({"raw": [[3]]}))

    def test_attribute_of_another_dtype(self):
        with pytest.raises(ValueError, match="raw must be int32 or int64"):
            summary()(jagged({"raw": [[3]], "item_kind": [[1]]}, torch.float32))

    def test_feature_that_the_batch_already_holds(self):
        batch = jagged({"raw": [[3]], "item_kind": [[1]], "item_cross_kind_x_1_hash1": [[1]]})
        with pytest.raises(ValueError, match="features must not hold the key item_cross_kind_x_1"):
            summary()(batch)

    def test_table_too_small(self):
        module = summary()
        tables = module.embedding_bag_configs(embedding_dim=hosts.DIM)
        tables[-1].num_embeddings = 50
        with pytest.raises(ValueError, match="tables must have 51 rows for item_cross_2_x_kind"):
            MemorizationBranch(module, tables)

    def test_gates_of_a_hybrid_still_want_zero_tables(self):
        module = hosts.summary()
        tables = module.embedding_bag_configs(embedding_dim=hosts.DIM, init_fn=None)
        gates = {key: ResidualGate(statistics=[]) for key in ("item", "history")}
        with pytest.raises(ValueError, match="sid_tables must be zero at birth under a Residual"):
            hosts.HybridEmbeddingBagCollection(
                hosts.host_collection(), tables, expander=module, gates=gates
            )
