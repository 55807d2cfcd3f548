import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import SIDSpec, SIDTable, SIDVersionError
from tests.strategies import ANY_IDS, sid_items

SPEC = SIDSpec((4, 3))


def table_of(sizes, items, **lineage):
    return SIDTable(list(items), list(items.values()), spec=SIDSpec(sizes), **lineage)


class TestAgainstADictionary:
    @given(sid_items(), st.lists(ANY_IDS, max_size=10))
    def test_lookup(self, case, strangers):
        sizes, items = case
        wanted = [*items, *strangers, *(i + 1 for i in items if i < 2**63 - 1)]
        expected = [items.get(i, (-1,) * len(sizes)) for i in wanted]
        found = table_of(sizes, items).lookup(np.array(wanted, dtype=np.int64))
        assert found.dtype == np.int32
        assert [tuple(row) for row in found.tolist()] == expected

    @given(sid_items(), sid_items())
    def test_append(self, first, second):
        sizes, items = first
        extra = {i: row for i, row in _fit(second[1], sizes).items() if i not in items}
        table = table_of(sizes, items)
        grown = table.append(list(extra), list(extra.values()))
        assert grown.content_hash == table_of(sizes, items | extra).content_hash
        assert (grown is table) == (not extra)
        if extra:
            assert (grown.version, grown.parent) == (2, table.content_hash)

    @given(sid_items(min_items=1), st.randoms(use_true_random=False))
    def test_the_order_of_the_items_does_not_matter(self, case, rng):
        sizes, items = case
        shuffled = list(items.items())
        rng.shuffle(shuffled)
        table, other = table_of(sizes, items), table_of(sizes, dict(shuffled))
        assert table.item_ids.tolist() == sorted(items)
        assert other.content_hash == table.content_hash
        assert other.codes.tolist() == table.codes.tolist()


class TestContentHash:
    def test_changes_with_ids_codes_and_spec_and_not_with_the_version(self):
        base = SIDTable([1, 2], [[0, 1], [2, 0]], spec=SPEC)
        others = [
            SIDTable([1, 3], [[0, 1], [2, 0]], spec=SPEC),
            SIDTable([1, 2], [[0, 1], [2, 1]], spec=SPEC),
            SIDTable([1, 2], [[0, 1], [2, 0]], spec=SIDSpec((4, 4))),
            SIDTable([1], [[0, 1]], spec=SPEC),
        ]
        assert len({table.content_hash for table in [base, *others]}) == 5
        later = SIDTable([1, 2], [[0, 1], [2, 0]], spec=SPEC, version=9)
        assert later.content_hash == base.content_hash
        assert len(base.content_hash) == 64

    def test_is_the_same_for_arrays_and_tensors_of_any_integer_dtype(self):
        ids, codes = [1, 2], [[0, 1], [2, 0]]
        kinds = [
            (ids, codes),
            (np.array(ids, np.uint8), np.array(codes, np.int16)),
            (torch.tensor(ids, dtype=torch.int32), torch.tensor(codes)),
            (np.array(ids, np.uint64), np.array(codes, np.uint64)),
        ]
        assert len({SIDTable(i, c, spec=SPEC).content_hash for i, c in kinds}) == 1


class TestVersions:
    def test_ancestors_grow_with_every_append(self):
        first = SIDTable([1], [[0, 0]], spec=SPEC)
        second = first.append([2], [[1, 1]])
        third = second.append([3], [[1, 2]])
        assert third.ancestors == (first.content_hash, second.content_hash)
        assert (third.version, third.parent) == (3, second.content_hash)
        assert (first.ancestors, first.parent) == ((), None)

    def test_appending_published_items_unchanged_is_no_new_version(self):
        table = SIDTable([1, 2], [[0, 0], [1, 1]], spec=SPEC)
        assert table.append([2, 1], [[1, 1], [0, 0]]) is table
        grown = table.append([2, 5], [[1, 1], [3, 2]])
        assert grown.item_ids.tolist() == [1, 2, 5]

    def test_a_published_code_never_moves(self):
        table = SIDTable([1, 2, 3], [[0, 0], [1, 1], [2, 2]], spec=SPEC)
        with pytest.raises(
            SIDVersionError,
            match=r"codes of item 3 must stay \[2, 2\] as published in version 1, got \[2, 1\]",
        ):
            table.append([9, 3, 2], [[0, 0], [2, 1], [0, 1]])

    def test_version_and_ancestors_agree(self):
        with pytest.raises(ValueError, match="version must exceed the 1 ancestors, got 1"):
            SIDTable([1], [[0, 0]], spec=SPEC, version=1, ancestors=("a" * 64,))
        with pytest.raises(ValueError, match="version must exceed the 0 ancestors, got 0"):
            SIDTable([1], [[0, 0]], spec=SPEC, version=0)
        with pytest.raises(ValueError, match="ancestors must be 64 hexadecimal digits each"):
            SIDTable([1], [[0, 0]], spec=SPEC, version=2, ancestors=("../x",))
        with pytest.raises(TypeError, match="version must be an integer, got True"):
            SIDTable([1], [[0, 0]], spec=SPEC, version=True)


class TestImmutable:
    @pytest.mark.parametrize(
        "copied", [None, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
    )
    def test_arrays_cannot_be_written_or_made_writable(self, copied):
        table = SIDTable([1], [[0, 0]], spec=SPEC, version=4, ancestors=("a" * 64,))
        twin = table if copied is None else copied(table)
        assert (twin.content_hash, twin.version) == (table.content_hash, 4)
        assert twin.ancestors == ("a" * 64,)
        for array in (twin.item_ids, twin.codes):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
            with pytest.raises(ValueError, match="cannot set WRITEABLE"):
                array.flags.writeable = True

    def test_the_callers_arrays_may_change(self):
        ids, codes = np.array([1, 2]), np.array([[0, 0], [1, 1]], dtype=np.int32)
        table = SIDTable(ids, codes, spec=SPEC)
        ids[0], codes[0, 0] = 7, 3
        assert table.item_ids.tolist() == [1, 2]
        assert table.codes.tolist() == [[0, 0], [1, 1]]


class TestLookup:
    def test_a_tensor_gives_a_tensor(self, device):
        table = SIDTable([1], [[3, 2]], spec=SPEC)
        found = table.lookup(torch.tensor([2, 1], device=device))
        assert found.device.type == device.type
        assert found.dtype == torch.int32
        assert found.tolist() == [[-1, -1], [3, 2]]

    def test_an_empty_table_knows_nothing(self):
        table = SIDTable([], [], spec=SPEC)
        assert len(table) == 0
        assert table.lookup(np.array([0, -5])).tolist() == [[-1, -1], [-1, -1]]
        assert table.append([4], [[1, 1]]).lookup(np.array([4])).tolist() == [[1, 1]]

    def test_refuses_what_is_no_vector_of_integers(self):
        table = SIDTable([1], [[3, 2]], spec=SPEC)
        with pytest.raises(TypeError, match="ids must be integers, got float64"):
            table.lookup(np.array([1.0]))
        with pytest.raises(ValueError, match=r"ids must have shape \[n\], got \[1, 1\]"):
            table.lookup(np.array([[1]]))


class TestErrors:
    @pytest.mark.parametrize(
        ("ids", "codes", "message"),
        [
            ([[1]], [[0, 0]], r"item_ids must have shape \[V\], got \[1, 1\]"),
            ([1], [[0, 0, 0]], r"codes must have shape \[1, 2\], got \[1, 3\]"),
            ([1, 2], [[0, 0]], r"codes must have shape \[2, 2\], got \[1, 2\]"),
            ([1], [0], r"codes must have shape \[1, 2\], got \[1\]"),
            ([7, 5, 7], [[0, 0]] * 3, "item_ids must be distinct, got 7 more than once"),
            (
                [7, 5],
                [[0, 0], [0, 3]],
                r"codes of level 1 must be within \[0, 3\), got 3 for item 5",
            ),
            ([7], [[-1, 0]], r"codes of level 0 must be within \[0, 4\), got -1 for item 7"),
            (
                np.array([2**63], np.uint64),
                [[0, 0]],
                f"item_ids must be within the int64 range, got {2**63}",
            ),
        ],
    )
    def test_value(self, ids, codes, message):
        with pytest.raises(ValueError, match=message):
            SIDTable(ids, codes, spec=SPEC)
        with pytest.raises(ValueError, match=message):
            SIDTable([], [], spec=SPEC).append(ids, codes)

    def test_type(self):
        with pytest.raises(TypeError, match="item_ids must be integers, got float64"):
            SIDTable([1.5], [[0, 0]], spec=SPEC)
        with pytest.raises(TypeError, match="codes must be integers, got bool"):
            SIDTable([1], [[True, False]], spec=SPEC)

    def test_repr_names_what_tells_tables_apart(self):
        table = SIDTable([1], [[0, 0]], spec=SPEC)
        assert repr(table).startswith("SIDTable(items=1, codebook_sizes=(4, 3), version=1")
        assert table.content_hash[:12] in repr(table)


def _fit(items, sizes):
    """The same items with codes of other codebooks."""
    return {i: tuple((i + level) % size for level, size in enumerate(sizes)) for i in items}
