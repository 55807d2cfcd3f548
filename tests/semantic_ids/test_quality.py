import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given

from sidrank.semantic_ids import SIDSpec, SIDTable, quality
from sidrank.semantic_ids.cohesion import preference_discrimination, semantic_cohesion
from sidrank.semantic_ids.neighbours import neighbour_recall
from sidrank.semantic_ids.purity import prefix_purity
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

    @given(sid_items(min_items=1))
    def test_colliding_sids_and_evenness(self, case):
        sizes, items = case
        table = SIDTable(list(items), list(items.values()), spec=SIDSpec(sizes))
        found = quality(table)
        rows = [tuple(row) for row in items.values()]
        colliding = [rows.count(row) for row in set(rows) if rows.count(row) > 1]
        mean = sum(colliding) / len(colliding) if colliding else None
        assert found.items_per_colliding_sid == pytest.approx(mean)
        for level, size in enumerate(sizes):
            column = [row[level] for row in rows]
            expected = reference.gini([column.count(code) for code in range(size)])
            assert found.gini[level] == pytest.approx(expected, abs=1e-12)

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


class TestVectors:
    """Items at the corners of a grid; their codes say where."""

    def grid(self, items=400):
        rng = np.random.default_rng(0)
        codes = rng.integers(0, 9, (items, 1))
        x = np.concatenate([codes, codes + 1], axis=1) + 0.1 * rng.normal(size=(items, 2))
        return table_of(codes, (9,)), x

    def test_neighbour_recall_is_that_of_the_function(self):
        table, x = self.grid()
        found = quality(table, vectors=x, tokenizer=Ladder(), neighbours=7).neighbour_recall
        rebuilt = Ladder().decode(torch.from_numpy(table.codes.copy()))
        assert (found["k"], found["chance"]) == (7, 7 / 399)
        assert found["by_vector"] == neighbour_recall(x, rebuilt, k=7)
        assert found["by_prefix"] == neighbour_recall(x, table.codes, k=7)
        assert (found["by_vector_error"], found["by_prefix_error"]) == (0, 0)  # all are queries
        assert found["by_vector"] > 3 * found["chance"]

    def test_its_error_is_that_of_the_sample(self, monkeypatch):
        table, x = self.grid()
        whole = quality(table, vectors=x, tokenizer=Ladder()).neighbour_recall
        monkeypatch.setattr(sys.modules[quality.__module__], "_QUERIES", 100)
        part = quality(table, vectors=x, tokenizer=Ladder()).neighbour_recall
        for name in ("by_vector", "by_prefix"):
            error = part[f"{name}_error"]
            assert 0 < error < 0.05
            assert abs(part[name] - whole[name]) < 4 * error

    def test_cohesion_and_discrimination_are_those_of_the_functions(self):
        table, x = self.grid()
        pairs = np.array([[0, 1], [5, 9], [3, 300]])
        found = quality(table, vectors=x, tokenizer=Ladder(), pairs=pairs)
        rebuilt = Ladder().decode(torch.from_numpy(table.codes.copy()))
        cohesion = float(semantic_cohesion(x, table.codes.copy()))
        assert found.semantic_cohesion == pytest.approx((cohesion,))
        expected = float(preference_discrimination(rebuilt, pairs))
        assert found.preference_discrimination == pytest.approx(expected)

    def test_cohesion_of_each_prefix(self):
        class Flat(Ladder):
            def decode(self, codes):
                return super().decode(codes[:, :1])

        table = table_of([[0, 0], [0, 1], [1, 0], [1, 1]], (2, 2))
        x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        found = quality(table, vectors=x, tokenizer=Flat())
        # half of the pairs of the first level agree; no two items share a whole SID
        assert found.semantic_cohesion == (0.5, None)

    def test_cohesion_does_not_depend_on_the_blocks(self, monkeypatch):
        rng = np.random.default_rng(0)
        table = table_of(rng.integers(0, 30, (100, 1)), (30,))
        x = rng.normal(size=(100, 2))
        whole = quality(table, vectors=x, tokenizer=Ladder()).semantic_cohesion
        assert whole == pytest.approx((float(semantic_cohesion(x, table.codes.copy())),))
        for block in (1, 7, 64):
            monkeypatch.setattr(sys.modules[quality.__module__], "_BLOCK", block)
            parts = quality(table, vectors=x, tokenizer=Ladder()).semantic_cohesion
            assert parts == pytest.approx(whole)

    def test_fewer_items_than_neighbours(self):
        table, x = self.grid(items=4)
        found = quality(table, vectors=x, tokenizer=Ladder()).neighbour_recall
        assert (found["k"], found["by_vector"], found["chance"]) == (3, 1, 1)
        table, x = self.grid(items=1)
        found = quality(table, vectors=x, tokenizer=Ladder())
        assert (found.neighbour_recall, found.semantic_cohesion) == (None, (None,))

    def test_no_neighbours(self):
        table, x = self.grid()
        found = quality(table, vectors=x, tokenizer=Ladder(), neighbours=0)
        assert found.neighbour_recall is None
        assert found.reconstruction_error is not None

    def test_purity(self):
        table, _ = self.grid()
        labels = np.where(table.codes[:, 0] < 4, "low", "high")
        assert quality(table, categories=labels).purity == prefix_purity(table.codes, labels)

    def test_all_figures_are_json(self):
        table, x = self.grid()
        found = quality(
            table,
            vectors=x,
            tokenizer=Ladder(),
            categories=table.codes[:, 0] % 2,
            pairs=np.array([[0, 1]]),
        )
        complete, promised = found.to_dict(complete=True), found.to_dict()
        assert json.loads(json.dumps(complete, allow_nan=False)) == complete
        assert [name for name, value in complete.items() if value is None] == ["parent"]
        assert list(complete)[: len(promised)] == list(promised)
        assert {name: complete[name] for name in promised} == promised
        assert list(complete)[len(promised) :] == [
            *("items_per_colliding_sid", "gini", "neighbour_recall", "purity"),
            *("semantic_cohesion", "preference_discrimination"),
        ]
        bare = quality(table).to_dict(complete=True)
        assert json.loads(json.dumps(bare, allow_nan=False)) == bare


class TestErrors:
    def test_pairs_without_vectors(self):
        with pytest.raises(ValueError, match="pairs must come with vectors and tokenizer, got"):
            quality(table_of([[0]], (4,)), pairs=np.array([[0, 0]]))

    def test_neighbours(self):
        with pytest.raises(ValueError, match="neighbours must be at least 0, got -1"):
            quality(table_of([[0]], (4,)), neighbours=-1)

    def test_categories_of_another_shape(self):
        with pytest.raises(ValueError, match=r"categories must have shape \[1\] or \[1, 1\], got"):
            quality(table_of([[0]], (4,)), categories=np.array([1, 2]))

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
