"""Keywords beside semantic IDs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.embeddings import MemorizationBranch, RawIDSource, SIDExpander
from sidrank.embeddings.keyword_bag import KeywordBag
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from tests.embeddings import hosts
from tests.embeddings.hosts import bags_of, jagged

WORD = 2**64


def expander(*keys):
    table = SIDTable([3, 7], [[0, 1], [1, 2]], spec=SIDSpec((2, 3)))
    sources = {key: RawIDSource(f"{key}_raw", SIDLookup(table)) for key in keys or ("item",)}
    return SIDExpander(sources, mode="level")


def row(word, rows):
    """The finaliser of SplitMix64, as published, then a remainder."""
    x = word % WORD
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return (x ^ (x >> 31)) % 2**63 % rows


words = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.integers(1, 70))
def test_rows(bags, rows):
    module = KeywordBag(expander(), keywords={"item": "words"}, rows=rows)
    batch = jagged({"item_raw": [one for one, _ in bags], "words": [two for _, two in bags]})
    out = module(batch)
    expected = [[row(word, rows) for word in two] for _, two in bags]
    assert bags_of(out, "item_keywords") == expected
    alone = module.expander(batch)
    assert list(out.keys()) == [*alone.keys(), "item_keywords"]
    for name in list(alone.keys()):
        assert bags_of(out, name) == bags_of(alone, name)


@pytest.mark.parametrize("weighted", [False, True])
def test_item_features_without_keywords_have_empty_bags(weighted):
    module = KeywordBag(expander("item", "seen@t"), keywords={"item": "words"}, rows=9)
    columns = {"item_raw": [[3], [5]], "seen@t_raw": [[7, 3], []], "words": [[1, 2], []]}
    weights = torch.arange(6.0) if weighted else None
    out = module(jagged(columns, weights=weights))
    assert bags_of(out, "seen_t_keywords") == [[], []]
    assert len(bags_of(out, "item_keywords")[0]) == 2
    if weighted:
        assert out["item_keywords"].weights().tolist() == [4.0, 5.0]
    configs = module.embedding_bag_configs(embedding_dim=4)
    assert [config.name for config in configs] == ["sid_1", "sid_2", "sid_keywords"]
    assert configs[-1].feature_names == ["item_keywords", "seen_t_keywords"]
    assert configs[-1].num_embeddings == 9
    assert module.check_tables(configs) is None
    assert len(module.resolutions) == len(module.feature_names("item")) == 3


def test_in_front_of_another_summary_too():
    """A bag of crosses and keywords has all its names; histories have no keywords."""
    module = hosts.summary()
    _, sparse, _ = hosts.batch()
    out = module(sparse)
    assert set(module.feature_names("item")) <= set(out.keys())
    assert bags_of(out, "item_keywords") == [
        [row(word, 25) for word in bag] for bag in bags_of(sparse, "words")
    ]
    assert bags_of(out, "history_keywords") == [[]] * 6


@pytest.mark.parametrize("shuffled", [False, True])
def test_tells_unknown_items_apart(shuffled):
    """Of items without a SID only the keywords say which are liked; shuffled, they do not."""
    random = np.random.default_rng(0)
    kind = random.integers(0, 2, 300)
    said = random.permutation(kind) if shuffled else kind
    noise = random.integers(100, 200, (300, 2))
    batch = jagged(
        {
            "item_raw": [[1000 + i] for i in range(300)],
            "words": np.column_stack([said + 2**40, noise]).tolist(),
        }
    )
    branch = MemorizationBranch(KeywordBag(expander(), keywords={"item": "words"}))
    label = torch.tensor(kind).float()
    optimizer = torch.optim.SGD(branch.parameters(), lr=2.0)
    train = slice(0, 200)
    for _ in range(40):
        optimizer.zero_grad()
        logits = branch(batch)[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits[train], label[train]).backward()
        optimizer.step()
    right = ((logits > 0) == (label > 0))[200:].float().mean()
    assert right < 0.7 if shuffled else right > 0.95


@pytest.mark.parametrize("bags", [[[]], [[], []]])
def test_no_keywords_at_all(bags):
    branch = MemorizationBranch(KeywordBag(expander(), keywords={"item": "words"}))
    torch.nn.init.normal_(branch.ebc.embedding_bags["memory_keywords"].weight)
    out = branch(jagged({"item_raw": bags, "words": bags}))
    assert out.tolist() == [[0.0]] * len(bags)


class TestErrors:
    @pytest.mark.parametrize("keywords", [{}, {"other": "words"}])
    def test_keywords(self, keywords):
        with pytest.raises(ValueError, match=r"keywords must be of item features.*\['item'\], got"):
            KeywordBag(expander(), keywords=keywords)

    @pytest.mark.parametrize("rows", [0, 2**31])
    def test_rows(self, rows):
        with pytest.raises(ValueError, match=f"rows must be in .*, got {rows}"):
            KeywordBag(expander(), keywords={"item": "words"}, rows=rows)

    def test_missing_feature(self):
        module = KeywordBag(expander(), keywords={"item": "words"})
        with pytest.raises(ValueError, match="features must contain the key words"):
            module(jagged({"item_raw": [[3]]}))

    def test_feature_that_the_batch_already_holds(self):
        module = KeywordBag(expander(), keywords={"item": "words"})
        with pytest.raises(ValueError, match="features must not hold the key item_keywords"):
            module(jagged({"item_raw": [[3]], "words": [[1]], "item_keywords": [[1]]}))

    def test_another_dtype(self):
        batch = hosts.KeyedJaggedTensor(
            keys=["words"], values=torch.zeros(1), lengths=torch.ones(1, dtype=torch.int32)
        )
        with pytest.raises(ValueError, match=r"words must be int32 or int64, got torch\.float32"):
            KeywordBag(expander(), keywords={"item": "words"})(batch)

    def test_twice(self):
        once = KeywordBag(expander(), keywords={"item": "words"})
        with pytest.raises(ValueError, match="expander keys must give distinct feature names"):
            KeywordBag(once, keywords={"item": "words"})

    def test_table_of_another_feature(self):
        module = KeywordBag(expander(), keywords={"item": "words"})
        tables = module.embedding_bag_configs(embedding_dim=4)
        tables[-1].feature_names = ["other"]
        with pytest.raises(ValueError, match="tables must read each feature of the expander once"):
            MemorizationBranch(module, tables)
