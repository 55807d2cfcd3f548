import copy
import functools
import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import SIDSpec, SIDTable
from sidrank.semantic_ids.trie import SIDTrie
from tests import reference
from tests.strategies import sid_items


def table_of(sizes, items):
    return SIDTable(list(items), list(items.values()), spec=SIDSpec(sizes))


def random_table(items, sizes, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * items)[:items]
    return SIDTable(ids, rng.integers(0, sizes, (items, len(sizes))), spec=SIDSpec(sizes))


def rows_of(ragged):
    ends = ragged.offsets.tolist()
    return [ragged.values[start:end].tolist() for start, end in itertools.pairwise(ends)]


def compiled(trie):
    """The mask as a compiler sees it: in one graph, without a step that depends on the data."""
    torch.compiler.reset()
    return torch.compile(trie.mask, backend="aot_eager", fullgraph=True)


class TestAgainstADictionary:
    @given(sid_items(), st.data())
    def test_all_questions(self, case, data):
        sizes, items = case
        trie, tree = SIDTrie(table_of(sizes, items)), reference.prefix_tree(items)
        length = data.draw(st.integers(0, len(sizes)))
        known = [prefix for prefix in tree if len(prefix) == length]
        stranger = st.tuples(*(st.integers(-1, size + 1) for size in sizes[:length]))
        prefixes = known + data.draw(st.lists(stranger, max_size=10))
        dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
        asked = torch.tensor(prefixes, dtype=dtype).reshape(len(prefixes), length)
        expected = [tree.get(prefix, (set(), [])) for prefix in prefixes]
        below = [sorted(found, key=lambda i: (items[i], i)) for _, found in expected]
        assert trie.counts(asked).tolist() == [len(found) for found in below]
        assert rows_of(trie.items(asked)) == below
        ids = sorted(items)
        assert [[ids[row] for row in rows] for rows in rows_of(trie.rows(asked))] == below
        if length < len(sizes):
            following = [sorted(codes) for codes, _ in expected]
            assert rows_of(trie.children(asked)) == following
            mask = trie.mask(asked)
            assert (mask.dtype, mask.shape) == (torch.bool, (len(prefixes), sizes[length]))
            assert [row.nonzero().squeeze(1).tolist() for row in mask] == following

    @given(sid_items())
    def test_numbers_of_prefixes(self, case):
        sizes, items = case
        tree = reference.prefix_tree(items)
        lengths = [len(prefix) for prefix in tree]
        trie = SIDTrie(table_of(sizes, items))
        assert list(trie.prefix_counts) == [lengths.count(n + 1) for n in range(len(sizes))]
        assert len(trie) == len(items)


@functools.cache
def large_table():
    rng = np.random.default_rng(1)
    crowded = (8192 * rng.random((50_000, 3)) ** 4).astype(np.int64)
    edges = [[0, 0, 0], [8191, 8191, 8191], [0, 8191, 8191], [8191, 0, 0]]
    codes = np.concatenate([crowded, edges])
    return SIDTable(rng.permutation(len(codes)), codes, spec=SIDSpec((8192,) * 3))


class TestLargeCatalogue:
    @pytest.fixture
    def table(self):
        return large_table()

    @pytest.mark.parametrize("length", [0, 1, 2, 3])
    def test_the_items_below_a_prefix_are_those_that_have_it(self, table, length):
        asked = table.codes[:: 1000 if length else len(table), :length]
        offsets, rows = SIDTrie(table).rows(torch.from_numpy(asked.copy()))
        for prefix, found in zip(asked, np.split(rows.numpy(), offsets[1:-1]), strict=True):
            owners = np.flatnonzero((table.codes[:, :length] == prefix).all(axis=1))
            assert np.array_equal(np.sort(found), owners)

    def test_every_leaf_is_reached_by_masks(self, table):
        trie, codes = SIDTrie(table), torch.from_numpy(table.codes[::50].copy()).long()
        for level in range(3):
            assert trie.mask(codes[:, :level]).gather(1, codes[:, level : level + 1]).all()

    def test_greedy_decoding_ends_in_items(self, table):
        trie = SIDTrie(table)
        known = {tuple(row) for row in table.codes.tolist()}
        generator = torch.Generator().manual_seed(0)
        for masked in (True, False):
            prefixes = torch.zeros(200, 0, dtype=torch.int64)
            for size in table.spec.codebook_sizes:
                logits = torch.randn(200, size, generator=generator)
                if masked:
                    logits = logits.masked_fill(~trie.mask(prefixes), -torch.inf)
                prefixes = torch.cat([prefixes, logits.argmax(dim=1, keepdim=True)], dim=1)
            ended = [tuple(row) in known for row in prefixes.tolist()]
            # without the mask, chance finds one path in ten million
            assert all(ended) if masked else not any(ended)
            assert (trie.counts(prefixes) > 0).tolist() == ended

    def test_memory_is_that_of_the_docstring(self, table):
        trie = SIDTrie(table)
        tensors = [*trie._keys, *trie._starts, trie._rows, trie._item_ids]
        used = sum(tensor.nbytes for tensor in tensors)
        slack = 8 * 3 * 8
        assert used <= 16 * (sum(trie.prefix_counts) + len(table)) + slack
        assert used <= 16 * 4 * len(table) + slack

    def test_codebooks_whose_product_is_beyond_int64(self):
        sizes = (2**31,) * 4
        last = 2**31 - 1
        codes = [[last] * 4, [last, last, 0, last], [0, 0, 0, 0]]
        trie = SIDTrie(SIDTable([1, 2, 3], codes, spec=SIDSpec(sizes)))
        assert rows_of(trie.items(torch.tensor(codes))) == [[1], [2], [3]]
        assert rows_of(trie.children(torch.tensor([[last, last], [0, last]]))) == [[0, last], []]


class TestUnknown:
    def test_a_code_beyond_its_codebook_is_not_a_child_of_the_next_prefix(self):
        table = SIDTable([1, 2], [[0, 1], [1, 0]], spec=SIDSpec((2, 2)))
        trie = SIDTrie(table)
        # keys of level 2: 0 * 2 + 1 and 1 * 2 + 0; the prefix [0, 2] and [1, -1] would be these
        asked = torch.tensor([[0, 2], [1, -1], [2, -2], [0, 1]])
        assert trie.counts(asked).tolist() == [0, 0, 0, 1]

    def test_no_prefix_goes_on_after_an_unknown_one(self):
        trie = SIDTrie(random_table(50, (3, 3, 3)))
        assert not trie.mask(torch.tensor([[-1, 0], [3, 1], [7, 7]])).any()

    @pytest.mark.parametrize("length", [0, 1, 2])
    def test_an_empty_table(self, length):
        trie = SIDTrie(SIDTable([], [], spec=SIDSpec((3, 4))))
        asked = torch.zeros(2, length, dtype=torch.int64)
        assert trie.counts(asked).tolist() == [0, 0]
        assert rows_of(trie.items(asked)) == [[], []]
        if length < 2:
            assert not trie.mask(asked).any()
            assert not compiled(trie)(asked).any()

    def test_no_prefixes(self):
        trie = SIDTrie(random_table(50, (3, 4)))
        for length, width in ((0, 3), (1, 4)):
            asked = torch.zeros(0, length, dtype=torch.int64)
            assert trie.mask(asked).shape == (0, width)
            assert trie.items(asked).offsets.tolist() == [0]


class TestDevices:
    def check(self, trie, twin):
        asked = torch.tensor([[0, 1], [2, 2], [-1, 0], [1, 3]])
        for length in range(3):
            prefixes = asked[:, :length]
            other = prefixes.to(twin.device)
            assert torch.equal(twin.items(other).values.cpu(), trie.items(prefixes).values)
            if length < 2:
                assert torch.equal(twin.mask(other).cpu(), trie.mask(prefixes))
        assert (twin.content_hash, twin.version) == (trie.content_hash, trie.version)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
    def test_copies(self, copied):
        trie = SIDTrie(random_table(40, (3, 4)))
        self.check(trie, copied(trie))

    def test_to_the_same_device_is_itself(self):
        trie = SIDTrie(random_table(40, (3, 4)))
        assert trie.to("cpu") is trie

    def test_to_another_device_moves_every_tensor(self):
        moved = SIDTrie(random_table(40, (3, 4))).to("meta")
        tensors = [*moved._keys, *moved._starts, moved._rows, moved._item_ids]
        assert {tensor.device.type for tensor in tensors} == {"meta"}

    @pytest.mark.gpu
    def test_to_a_gpu(self):
        trie = SIDTrie(random_table(40, (3, 4)))
        self.check(trie, trie.to("cuda"))

    @pytest.mark.parametrize("length", [0, 1, 2])
    def test_the_compiled_mask_is_the_same(self, length):
        table = random_table(300, (5, 6, 7))
        trie = SIDTrie(table)
        known = torch.from_numpy(table.codes[:20, :length].copy())
        asked = torch.cat([known, torch.full((2, length), -1), torch.full((2, length), 9)])
        assert torch.equal(compiled(trie)(asked), trie.mask(asked))


class TestErrors:
    @pytest.fixture
    def trie(self):
        return SIDTrie(random_table(40, (3, 4)))

    def test_shape(self, trie):
        with pytest.raises(ValueError, match=r"prefixes must have shape \[B, l\] with l <= 1, got"):
            trie.mask(torch.zeros(2, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"with l <= 1, got \[2, 2\]"):
            trie.children(torch.zeros(2, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"with l <= 2, got \[2, 3\]"):
            trie.items(torch.zeros(2, 3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"prefixes must have shape \[B, l\].*got \[2\]"):
            trie.counts(torch.zeros(2, dtype=torch.int64))

    def test_dtype(self, trie):
        with pytest.raises(ValueError, match=r"prefixes must be int32 or int64, got torch.float32"):
            trie.mask(torch.zeros(2, 1))

    def test_device(self, trie):
        with pytest.raises(ValueError, match="prefixes must be on cpu, got meta"):
            trie.mask(torch.zeros(2, 1, dtype=torch.int64, device="meta"))
