import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import homogeneity_completeness_v_measure

from sidrank.semantic_ids.purity import prefix_purity, v_measure

LABELS = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 4)), min_size=1, max_size=30)


class TestAgainstScikitLearn:
    @given(LABELS)
    def test_v_measure(self, pairs):
        labels, groups = np.array(pairs).T
        expected = homogeneity_completeness_v_measure(labels, groups)[2]
        assert v_measure(labels, groups) == pytest.approx(expected, abs=1e-9)
        assert v_measure(groups, labels) == pytest.approx(expected, abs=1e-9)

    @given(LABELS, st.booleans())
    def test_prefixes(self, rows, by_level):
        codes = np.array(rows)
        labels = np.arange(len(rows) * 2).reshape(-1, 2) % 3 if by_level else codes[:, 0] % 2
        found = prefix_purity(codes, labels)
        for level in range(2):
            prefix = [str(row[: level + 1]) for row in rows]
            label = labels[:, level] if by_level else labels
            expected = homogeneity_completeness_v_measure(label, prefix)
            assert (
                found.homogeneity[level],
                found.completeness[level],
                found.v_measure[level],
            ) == pytest.approx(expected, abs=1e-9)

    def test_many_items(self):
        rng = np.random.default_rng(0)
        codes = rng.integers(0, 40, (30_000, 3))
        labels = codes[:, 0] // 4 + 10 * (rng.random(30_000) < 0.1)
        found = prefix_purity(codes, labels)
        for level in range(3):
            prefix = codes[:, : level + 1] @ 40 ** np.arange(level + 1)
            expected = homogeneity_completeness_v_measure(labels, prefix)[2]
            assert found.v_measure[level] == pytest.approx(expected, abs=1e-9)


class TestMeaning:
    def test_a_taxonomy_is_found_and_its_shuffled_twin_is_not(self):
        rng = np.random.default_rng(0)
        codes = rng.integers(0, 8, (4000, 2))
        found = prefix_purity(codes, codes * [1, 0] + [0, 3])
        assert found.v_measure[0] == 1
        assert found.shuffled[0] < 0.02
        null = prefix_purity(codes, rng.permutation(codes[:, 0]))
        assert null.v_measure == pytest.approx(null.shuffled, abs=0.01)

    def test_unique_ids_look_pure_and_chance_shows_it(self):
        codes = np.arange(500)[:, None]
        found = prefix_purity(codes, codes[:, 0] % 7)
        assert found.homogeneity == (1,)
        assert found.shuffled == pytest.approx(found.v_measure)

    def test_is_the_same_for_strings_tensors_and_any_names(self):
        codes = torch.tensor([[3, 1], [3, 2], [0, 1], [0, 1]])
        names = np.array(["a", "b", "b", "b"])
        kinds = [names, names.astype(object), np.array([5, -7, -7, -7]), torch.tensor([0, 1, 1, 1])]
        found = [prefix_purity(codes, labels) for labels in kinds]
        assert found[0].v_measure[1] > found[0].v_measure[0] > 0
        assert all(each.v_measure == found[0].v_measure for each in found)

    def test_the_seed_decides_the_shuffling(self):
        rng = np.random.default_rng(0)
        codes, labels = rng.integers(0, 5, (100, 2)), rng.integers(0, 4, 100)
        first, again, other = (prefix_purity(codes, labels, seed=seed) for seed in (1, 1, 2))
        assert first == again
        assert first.shuffled != other.shuffled

    def test_is_json(self):
        found = prefix_purity(np.array([[0, 1], [1, 0]]), np.array([0, 1])).to_dict()
        assert json.loads(json.dumps(found)) == found
        assert list(found) == ["homogeneity", "completeness", "v_measure", "shuffled"]


class TestErrors:
    def test_shapes(self):
        with pytest.raises(ValueError, match=r"codes must have shape \[V, N\], got \[3\]"):
            prefix_purity(np.zeros(3, int), np.zeros(3, int))
        with pytest.raises(ValueError, match=r"codes must have shape \[V, N\], got \[0, 2\]"):
            prefix_purity(np.zeros((0, 2), int), np.zeros(0, int))
        with pytest.raises(
            ValueError, match=r"categories must have shape \[3\] or \[3, 2\], got \[3, 3\]"
        ):
            prefix_purity(np.zeros((3, 2), int), np.zeros((3, 3), int))
        with pytest.raises(ValueError, match=r"one shape \[V\] with V >= 1, got \[2\] and \[3\]"):
            v_measure(np.zeros(2, int), np.zeros(3, int))
        with pytest.raises(ValueError, match=r"one shape \[V\] with V >= 1, got \[0\] and \[0\]"):
            v_measure(np.zeros(0, int), np.zeros(0, int))

    @pytest.mark.parametrize("labels", [np.zeros(2), np.array([None, "a"], dtype=object)])
    def test_kinds(self, labels):
        with pytest.raises(TypeError, match="categories must be integers or strings, got"):
            prefix_purity(np.zeros((2, 1), int), labels)
        with pytest.raises(TypeError, match="clusters must be integers or strings, got"):
            v_measure(np.zeros(2, int), labels)
