import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidrank.semantic_ids import exact_neighbours
from sidrank.semantic_ids.neighbours import neighbour_recall, query_recalls
from tests import reference


def squared_distances(rows):
    return [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def prefix_distances(codes):
    """Levels less the number of leading levels that agree."""
    distances = []
    for x in codes:
        agree = [[a == b for a, b in zip(x, y, strict=True)] for y in codes]
        distances.append([len(x) - [*same, False].index(False) for same in agree])
    return distances


def matrices(rows, low, high):
    """Whole numbers, so that ties are exact and many."""
    number = st.integers(low, high)
    return st.integers(1, 3).flatmap(
        lambda width: st.lists(st.tuples(*[number] * width), min_size=rows, max_size=rows)
    )


@st.composite
def cases(draw):
    rows = draw(st.integers(2, 7))
    offset = draw(st.sampled_from([0, 1000, -(10**6)]))
    x = [[a + offset for a in row] for row in draw(matrices(rows, 0, 3))]
    return x, draw(matrices(rows, 0, 2)), draw(st.integers(1, rows - 1))


class TestAgainstAllWaysToBreakTies:
    @settings(deadline=None)
    @given(cases(), st.sampled_from([torch.float32, torch.float64, torch.float16]))
    def test_by_vector_and_by_prefix(self, case, dtype):
        x, y, k = case
        dtype = torch.float32 if dtype == torch.float16 and abs(x[0][0]) > 2000 else dtype
        rebuilt = torch.tensor(y, dtype=dtype)
        found = query_recalls(torch.tensor(x, dtype=dtype), [rebuilt, torch.tensor(y)], k=k)
        for recalls, distances in zip(found, (squared_distances, prefix_distances), strict=True):
            expected = [
                reference.shared_neighbours(squared_distances(x), distances(y), query, k)
                for query in range(len(x))
            ]
            assert recalls.tolist() == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("block", [1, 50, 1 << 23])
    def test_without_ties_in_blocks_of_any_size(self, block, monkeypatch):
        monkeypatch.setattr(exact_neighbours, "_BLOCK", block)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(60, 5))
        y = x + rng.normal(size=(60, 5))
        lists = []
        for rows in (x, y):
            distances = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
            np.fill_diagonal(distances, np.inf)
            lists.append([set(row[:7]) for row in np.argsort(distances, axis=1)])
        expected = [len(a & b) / 7 for a, b in zip(*lists, strict=True)]
        assert query_recalls(x, [y], k=7)[0].tolist() == pytest.approx(expected)


class TestRounding:
    """Rows that a float32 product cannot tell apart are told apart all the same."""

    def check(self, x, first=0):
        rng = np.random.default_rng(1)
        y = rng.integers(0, 4, (len(x), 2)).astype(np.float64)
        exact = [[(a - b) for b in x] for a in x]
        distances = np.array([[float((d * d).sum()) for d in row] for row in exact])
        np.fill_diagonal(distances, np.inf)
        others = ((y[:, None] - y[None]) ** 2).sum(axis=2)
        np.fill_diagonal(others, np.inf)
        expected = []
        for query, row in enumerate(distances):
            nearest = np.argsort(row, kind="stable")[:3]
            places = np.sort(others[query])[2]
            closer, tied = others[query] < places, others[query] == places
            share = (3 - closer.sum()) / tied.sum()
            expected.append((closer[nearest] + share * tied[nearest]).sum() / 3)
        assert query_recalls(x, [y], k=3)[0, first:].tolist() == pytest.approx(expected[first:])

    def test_far_from_the_origin(self):
        self.check(1e6 + np.random.default_rng(0).normal(size=(200, 3)))

    def test_two_clusters_far_from_each_other(self):
        x = np.random.default_rng(0).normal(size=(200, 3))
        x[::2] += 1e7
        self.check(x)

    def test_one_row_far_from_all(self):
        x = np.random.default_rng(0).normal(size=(200, 3))
        x[17] = 1e9
        self.check(x)

    def test_rows_around_a_centre_at_almost_one_distance(self):
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(20, 8)) * 50
        around = rng.normal(size=(20, 15, 8))
        around /= np.linalg.norm(around, axis=2, keepdims=True)
        around *= 1 + 1e-9 * rng.permutation(300).reshape(20, 15, 1)
        self.check(np.concatenate([centres, (centres[:, None] + around).reshape(-1, 8)]))

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_very_small_and_very_large_numbers(self, scale):
        self.check(scale * np.random.default_rng(0).normal(size=(100, 3)))

    @pytest.mark.parametrize("scale", [1e-25, 1e-22, 1e-20])
    def test_small_numbers_beside_large_ones(self, scale):
        x = np.random.default_rng(0).normal(size=(100, 3)) * scale
        x[:2] = [[1.0], [-1.0]]
        self.check(x, first=2)  # from these two all others are equally far in float64

    def test_autocast_and_fast_products_change_nothing(self):
        x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
        y = x.round()
        expected = query_recalls(x, [y], k=5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert np.array_equal(query_recalls(x, [y], k=5), expected)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            assert np.array_equal(query_recalls(x, [y], k=5), expected)
        finally:
            torch.set_float32_matmul_precision(before)


class TestMeaning:
    def test_the_vectors_themselves_have_recall_one(self):
        x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
        assert neighbour_recall(x, x) == 1
        rotated = x @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator()))[0]
        assert neighbour_recall(x.double(), rotated.double() * 3) == 1

    def test_codes_that_are_all_the_same_have_the_recall_of_chance(self):
        x = torch.randn(101, 4, generator=torch.Generator().manual_seed(0))
        same = torch.ones(101, 3)
        found = query_recalls(x, [same, same.int()], k=10)
        assert found.tolist() == [pytest.approx([0.1] * 101)] * 2

    def test_random_codes_have_the_recall_of_chance_and_true_ones_far_more(self):
        rng = np.random.default_rng(0)
        group = rng.integers(0, 50, 2000)
        x = rng.normal(size=(50, 8))[group] + 0.1 * rng.normal(size=(2000, 8))
        random = rng.integers(0, 50, (2000, 1))
        true, null = query_recalls(x, [group[:, None], random], k=10, sample=2000).mean(axis=1)
        assert null == pytest.approx(10 / 1999, abs=0.003)
        assert true > 0.2

    def test_a_random_last_level_does_not_beat_none(self):
        rng = np.random.default_rng(0)
        group = rng.integers(0, 50, 2000)
        x = rng.normal(size=(50, 8))[group] + 0.1 * rng.normal(size=(2000, 8))
        finer = np.stack([group, rng.integers(0, 50, 2000)], axis=1)
        one, two = query_recalls(x, [group[:, None], finer], k=10, sample=2000)
        difference = two - one
        error = difference.std() / np.sqrt(len(difference))
        assert len(np.unique(finer, axis=0)) > 10 * 50  # and yet collides far less
        assert difference.mean() < 3 * error

    def test_bijections_of_the_codes_change_nothing(self):
        rng = np.random.default_rng(0)
        x, codes = rng.normal(size=(200, 4)), rng.integers(0, 3, (200, 3))
        renamed = np.stack([rng.permutation(3)[level] for level in codes.T], axis=1)
        assert np.array_equal(*query_recalls(x, [codes, renamed], k=5))


class TestSample:
    def test_the_queries_are_a_sample_of_all(self):
        rng = np.random.default_rng(0)
        x, codes = rng.normal(size=(300, 4)), rng.integers(0, 4, (300, 2))
        whole = query_recalls(x, [codes], sample=300)[0]
        part = query_recalls(x, [codes], sample=40, seed=7)[0]
        chosen = np.sort(np.random.default_rng(7).choice(300, 40, replace=False))
        assert np.array_equal(part, whole[chosen])
        assert neighbour_recall(x, codes, sample=40, seed=7) == part.mean()
        assert not np.array_equal(part, query_recalls(x, [codes], sample=40, seed=8)[0])

    @pytest.mark.parametrize("threads", [1, 2])
    def test_threads_change_nothing(self, threads):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2000, 16)).astype(np.float32)
        y = np.round(x, 1)
        expected = query_recalls(x, [y], sample=100)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert np.array_equal(query_recalls(x, [y], sample=100), expected)
        finally:
            torch.set_num_threads(before)

    def test_neither_the_arrays_nor_the_global_generators_are_touched(self):
        x = np.random.default_rng(0).normal(size=(50, 3))
        before, states = x.copy(), (torch.get_rng_state(), np.random.get_state()[1].copy())
        neighbour_recall(x, np.round(x))
        assert np.array_equal(x, before)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])


class TestDistinctRows:
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
    def test_equals_a_dictionary(self, rows):
        for dtype in (torch.float32, torch.float64):
            found = exact_neighbours.distinct_rows(torch.tensor(rows, dtype=dtype))
            groups = {}
            for row, point in enumerate(found.point):
                groups.setdefault(int(point), set()).add(rows[row])
            assert all(len(group) == 1 for group in groups.values())
            assert len(groups) == len(set(rows)) == len(found.counts)
            assert [rows.count(rows[row]) for row in found.first] == found.counts.tolist()

    def test_equal_hashes_of_different_rows_are_noticed(self, monkeypatch):
        words, calls = exact_neighbours._words, []

        def forgetful_at_first(x):
            calls.append(len(x))
            return words(x) * (len(calls) > 1)

        monkeypatch.setattr(exact_neighbours, "_words", forgetful_at_first)
        found = exact_neighbours.distinct_rows(torch.tensor([[1.0], [2.0], [1.0]]))
        assert sorted(found.counts.tolist()) == [1, 2]
        assert len(calls) == 2

    def test_minus_zero_is_zero(self):
        x = torch.tensor([[0.0, -0.0], [-0.0, 0.0]])
        assert exact_neighbours.distinct_rows(x).counts.tolist() == [2]


class TestErrors:
    X = np.zeros((5, 2))

    @pytest.mark.parametrize("k", [0, 5])
    def test_k(self, k):
        with pytest.raises(ValueError, match=rf"k must be within \[1, 4\], got {k}"):
            neighbour_recall(self.X, self.X, k=k)

    def test_sample(self):
        with pytest.raises(ValueError, match="sample must be at least 1, got 0"):
            neighbour_recall(self.X, self.X, k=1, sample=0)

    def test_rows(self):
        with pytest.raises(ValueError, match="codes_or_decoded must have 5 rows, got 4"):
            neighbour_recall(self.X, self.X[:4], k=1)

    @pytest.mark.parametrize("shape", [(5,), (5, 0), (5, 1, 1)])
    def test_shape(self, shape):
        with pytest.raises(ValueError, match=r"vectors must have shape \[V, \*\], got \[5"):
            neighbour_recall(np.zeros(shape), self.X, k=1)
        with pytest.raises(ValueError, match=r"codes_or_decoded must have shape \[V, \*\], got"):
            neighbour_recall(self.X, np.zeros(shape), k=1)

    def test_integer_vectors(self):
        with pytest.raises(ValueError, match=r"vectors must be floating point, got torch\.int64"):
            neighbour_recall(self.X.astype(np.int64), self.X, k=1)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -1e300])
    def test_numbers(self, bad):
        x = self.X.copy()
        x[3, 1] = bad
        with pytest.raises(
            ValueError, match=r"vectors must be finite and within ±1e37, got .* row 3"
        ):
            neighbour_recall(x, self.X, k=1)
        with pytest.raises(ValueError, match=r"codes_or_decoded must be finite .* row 3"):
            neighbour_recall(self.X, x, k=1)
