import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given

from sidrank.semantic_ids import SIDSpec, SIDTable, quality
from tests import reference
from tests.strategies import sid_items


class Ladder:
    """Decodes a code to itself, in two dimensions."""

    def decode(self, codes):
        return torch.cat([codes, codes + 1], dim=1).float()


def table_of(codes, sizes):
    return SIDTable(np.arange(len(codes)), codes, spec=SIDSpec(sizes))


class TestAgainstReference:
    @given(sid_items(min_items=1))
    def test_collisions_and_use(self, case):
        sizes, items = case
        table = SIDTable(list(items), list(items.values()), spec=SIDSpec(sizes))
        found = quality(table).to_dict()
        expected = reference.sid_quality(list(items.values()), sizes)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12), name

    def test_reconstruction_error(self):
        table = table_of([[0], [2], [2]], (4,))
        vectors = [[0.0, 1.0], [2.0, 1.0], [-6.0, 0.0]]  # decoded: [0, 1], [2, 3], [2, 3]
        found = quality(table, vectors=torch.tensor(vectors), tokenizer=Ladder())
        assert found.reconstruction_error == pytest.approx(
            {"mse": (4 + 64 + 9) / 6, "relative": (2 / 3 + 8 / 6 + 3 / 3) / 6}
        )

    def test_reconstruction_error_does_not_depend_on_the_blocks(self, monkeypatch):
        rng = np.random.default_rng(0)
        table = table_of(rng.integers(0, 9, (50, 1)), (9,))
        vectors = rng.normal(size=(50, 2))
        whole = quality(table, vectors=vectors, tokenizer=Ladder()).reconstruction_error
        monkeypatch.setattr(sys.modules[quality.__module__], "_BLOCK", 7)
        parts = quality(table, vectors=vectors, tokenizer=Ladder()).reconstruction_error
        assert parts == pytest.approx(whole)


class TestProperties:
    def test_all_different(self):
        found = quality(table_of([[0, 0], [0, 1], [1, 0], [1, 1]], (2, 2)))
        assert (found.items_in_collision, found.excess, found.uniqueness) == (0, 0, 1)
        assert found.perplexity == pytest.approx((2, 2))

    def test_all_the_same(self):
        found = quality(table_of([[3]] * 4, (8,)))
        assert (found.items_in_collision, found.excess, found.largest_bucket) == (1, 0.75, 4)
        assert (found.utilisation, found.perplexity) == ((0.125,), (1.0,))

    def test_is_json_with_the_keys_of_inspect(self):
        parent = table_of([[0]], (2,))
        found = quality(parent.append([9], [[1]])).to_dict()
        assert json.loads(json.dumps(found)) == found
        assert list(found) == [
            *("items", "levels", "version", "parent", "hash", "items_in_collision", "excess"),
            *("uniqueness", "largest_bucket", "utilisation", "perplexity"),
            "reconstruction_error",
        ]
        assert (found["items"], found["levels"], found["version"]) == (2, [2], 2)
        assert found["parent"] == parent.content_hash
        assert found["reconstruction_error"] is None


class TestErrors:
    def test_an_empty_table(self):
        with pytest.raises(ValueError, match="table must hold at least one item, got 0"):
            quality(SIDTable([], [], spec=SIDSpec((4,))))

    def test_vectors_without_tokenizer(self):
        with pytest.raises(ValueError, match="vectors and tokenizer must be given together"):
            quality(table_of([[0]], (4,)), vectors=np.zeros((1, 2)))
        with pytest.raises(ValueError, match="vectors and tokenizer must be given together"):
            quality(table_of([[0]], (4,)), tokenizer=Ladder())

    @pytest.mark.parametrize("shape", [(2, 2), (1,), (1, 0)])
    def test_vectors_of_another_shape(self, shape):
        with pytest.raises(ValueError, match=r"vectors must have shape \[1, D\], got \["):
            quality(table_of([[0]], (4,)), vectors=np.zeros(shape), tokenizer=Ladder())

    def test_vectors_of_another_width(self):
        with pytest.raises(ValueError, match="vectors must have width 2, got 3"):
            quality(table_of([[0]], (4,)), vectors=np.zeros((1, 3)), tokenizer=Ladder())
