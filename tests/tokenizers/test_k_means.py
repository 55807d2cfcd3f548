import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.tokenizers._residuals import Residuals
from sidrank.tokenizers.k_means import k_means, nearest
from tests import reference
from tests.tokenizers.allocations import LargestAllocation

MODULE = sys.modules[k_means.__module__]
CODEBOOK = sys.modules["sidrank.tokenizers._codebook"]
RESIDUALS = sys.modules[Residuals.__module__]


@st.composite
def vectors_and_centroids(draw):
    """Few distinct numbers, so that exact ties and equal centroids are common."""
    width = draw(st.integers(1, 4))
    number = st.sampled_from([-1.0, 0.0, 0.1, 0.25, 1.0, 3.0, 1e-20, 1e6, 3e18])
    row = st.lists(number, min_size=width, max_size=width)
    vectors = draw(st.lists(row, min_size=1, max_size=12))
    centroids = draw(st.lists(st.one_of(row, st.sampled_from(vectors)), min_size=1, max_size=12))
    return torch.tensor(vectors), torch.tensor(centroids)


def brute(x, centroids):
    return [reference.greedy_codes(row, [centroids.tolist()], float)[0] for row in x.tolist()]


def squared_error(x, centroids):
    return float(nearest(x, centroids)[1].mean())


def blobs(count=600, width=8, centres=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = 6 * torch.randn(centres, width, generator=generator)
    pick = torch.randint(0, centres, (count,), generator=generator)
    return means[pick] + torch.randn(count, width, generator=generator)


def almost_ties(count=300, width=24, codes=40):
    """Vectors half way between two centroids, off by less than float32 can tell in a product."""
    generator = torch.Generator().manual_seed(0)
    centroids = torch.randn(codes, width, generator=generator)
    pairs = torch.randint(0, codes, (count, 2), generator=generator)
    noise = 1e-7 * torch.randn(count, width, generator=generator)
    return centroids[pairs].mean(dim=1) + noise, centroids


class TestNearest:
    @given(vectors_and_centroids())
    def test_equals_brute_force_also_on_ties(self, case):
        x, centroids = case
        indices, distances = nearest(x, centroids)
        assert indices.tolist() == brute(x, centroids)
        exact = (x.double() - centroids[indices].double()).square().sum(dim=1)
        torch.testing.assert_close(distances, exact)

    def test_what_float32_cannot_tell_apart_is_settled(self):
        x, centroids = almost_ties()
        expected = brute(x, centroids)
        assert nearest(x, centroids)[0].tolist() == expected
        book = CODEBOOK.Codebook(centroids)
        book._bound = 0.0  # trust the product in float32
        assert book.search(x).tolist() != expected

    def test_equals_brute_force_where_a_product_in_float32_would_not(self):
        # far from the origin the distances drown in the rounding of |x|^2 - 2 x.c
        generator = torch.Generator().manual_seed(0)
        x = 4000 + torch.randn(60, 5, generator=generator)
        centroids = 4000 + torch.randn(20, 5, generator=generator)
        found = nearest(x, centroids)[0].tolist()
        assert found == brute(x, centroids)
        single = (centroids.square().sum(1) - 2 * x @ centroids.T).argmin(1).tolist()
        assert found != single

    def test_equals_brute_force_in_many_dimensions(self):
        x, centroids = almost_ties(count=40, width=1100, codes=9)
        assert x.shape[1] > 2 * CODEBOOK._PIECE
        assert nearest(x, centroids)[0].tolist() == brute(x, centroids)

    def test_what_only_rounding_tells_apart_is_summed_in_order(self):
        # the same squares in another order: one distance on paper, several in float64
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(37, generator=generator)
        orders = [torch.randperm(37, generator=generator) for _ in range(40)]
        for start in range(0, 40, 5):
            centroids = torch.stack([values[order] for order in orders[start : start + 5]])
            zero = torch.zeros(1, 37)
            assert nearest(zero, centroids)[0].tolist() == brute(zero, centroids)

    @pytest.mark.parametrize("exponent", [-120, -70, -45, 45, 70, 110])
    def test_scale_changes_nothing(self, exponent):
        x, centroids = blobs(count=100), blobs(count=30, seed=1)
        scaled = nearest(x * 2.0**exponent, centroids * 2.0**exponent)[0]
        assert torch.equal(scaled, nearest(x, centroids)[0])

    @given(vectors_and_centroids(), st.integers(1, 40), st.integers(1, 3), st.integers(1, 9))
    def test_does_not_depend_on_the_blocks(self, case, block, piece, group):
        x, centroids = case
        whole = nearest(x, centroids)[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CODEBOOK, "_SCORES", block)
            patch.setattr(CODEBOOK, "_WIDE", block)
            patch.setattr(CODEBOOK, "_LEAST_ROWS", 1)
            patch.setattr(CODEBOOK, "_PIECE", piece)
            patch.setattr(CODEBOOK, "_GROUP", group)
            assert torch.equal(nearest(x, centroids)[0], whole)

    @pytest.mark.parametrize("precision", ["medium", "high"])
    def test_does_not_trust_products_of_rounded_factors(self, precision):
        x, centroids = almost_ties(count=900, width=128, codes=300)
        whole = nearest(x, centroids)[0]
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision(precision)
            assert not CODEBOOK.Codebook(centroids)._single
            assert torch.equal(nearest(x, centroids)[0], whole)
        finally:
            torch.set_float32_matmul_precision(before)
        assert CODEBOOK.Codebook(centroids)._single

    def test_a_centre_is_taken_off_where_there_is_one(self):
        x, centroids = blobs(count=60), blobs(count=20, seed=1)
        for shift, taken in ((0, False), (1000, True)):
            near = centroids - centroids.mean(dim=0) + shift
            assert (CODEBOOK.Codebook(near)._centre is not None) == taken
            assert nearest(x + shift, near)[0].tolist() == brute(x + shift, near)

    def test_no_vectors(self):
        indices, distances = nearest(torch.zeros(0, 3), torch.zeros(2, 3))
        assert (indices.shape, distances.shape) == ((0,), (0,))


class TestKMeans:
    def test_a_point_of_rest_is_a_mean_of_its_vectors(self):
        x = blobs()
        centroids = k_means(x, num_codes=12, iterations=100, seed=[0])
        indices = nearest(x, centroids)[0]
        for code in range(12):
            mine = x[indices == code].double()
            torch.testing.assert_close(centroids[code], mine.mean(dim=0).float())

    def test_more_iterations_never_lose(self):
        x = blobs()
        errors = [
            squared_error(x, k_means(x, num_codes=20, iterations=n, seed=[3]))
            for n in (1, 2, 5, 20)
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0]

    def test_finds_separated_blobs(self):
        x = blobs(centres=6)
        assert squared_error(x, k_means(x, num_codes=6, iterations=20, seed=[0])) < 1.2 * 8

    @pytest.mark.parametrize("num_codes", [3, 40])
    def test_as_many_codes_as_distinct_vectors_leave_no_error(self, num_codes):
        x = torch.arange(num_codes).repeat(7).float().unsqueeze(1) * 3
        centroids = k_means(x, num_codes=num_codes, iterations=20, seed=[0])
        assert sorted(centroids.squeeze(1).tolist()) == [3.0 * n for n in range(num_codes)]

    def test_codes_left_over_come_last_and_are_never_chosen(self):
        x = torch.tensor([[5.0, 1.0], [7.0, 2.0], [5.0, 1.0]])
        centroids = k_means(x, num_codes=6, iterations=20, seed=[0])
        indices = nearest(x, centroids)[0]
        assert sorted(set(indices.tolist())) == [0, 1]
        assert torch.equal(centroids[indices], x)
        assert torch.equal(centroids[2:], centroids[:1].expand(4, 2))

    def test_stops_early_and_changes_nothing_by_it(self):
        x = blobs(count=100)
        few = k_means(x, num_codes=4, iterations=60, seed=[0])
        assert torch.equal(few, k_means(x, num_codes=4, iterations=600, seed=[0]))

    @pytest.mark.parametrize("num_codes", [16, 200])
    def test_does_not_depend_on_blocks_or_threads(self, num_codes, monkeypatch):
        x = blobs(count=5000)
        arguments = {"num_codes": num_codes, "iterations": 6, "seed": [0], "tolerance": 1e-3}
        one = k_means(x, **arguments)
        monkeypatch.setattr(CODEBOOK, "_SCORES", 100_003)
        monkeypatch.setattr(RESIDUALS, "_BLOCK", 10_007)
        monkeypatch.setattr(MODULE, "_WIDE", 3001)
        try:
            torch.set_num_threads(2)
            two = k_means(x, **arguments)
        finally:
            torch.set_num_threads(1)
        assert torch.equal(one, two)

    def test_memory_does_not_grow_with_items_times_codes(self, monkeypatch):
        monkeypatch.setattr(CODEBOOK, "_SCORES", 4096)
        monkeypatch.setattr(CODEBOOK, "_WIDE", 4096)
        monkeypatch.setattr(CODEBOOK, "_LEAST_ROWS", 1)
        x = blobs(count=3000, width=4)
        with LargestAllocation(x) as largest:
            k_means(x, num_codes=500, iterations=2, seed=[0])
        assert 1000 < largest.numel < 40_000 < 3000 * 500


class TestFirstIterations:
    def stages(self, num_codes, weights=None, iterations=20):
        x, rng = Residuals(blobs(count=4000)), np.random.default_rng(0)
        return MODULE._stages(x, weights, num_codes, iterations, rng)

    @pytest.mark.parametrize(
        ("num_codes", "sizes"),
        [(4, [1000, 2000]), (20, [1280, 2000]), (40, [2560, 2560]), (63, []), (62, [3968, 3968])],
    )
    def test_read_a_quarter_and_then_half_or_64_per_code(self, num_codes, sizes):
        *parts, (rows, _) = self.stages(num_codes)
        assert rows is None
        assert [len(rows) for rows, _ in parts] == sizes
        for rows, _ in parts:
            assert torch.equal(rows, rows.unique())

    @pytest.mark.parametrize(
        ("iterations", "counts"), [(20, [10, 5, 5]), (7, [3, 2, 2]), (2, [1, 0, 1]), (1, [0, 0, 1])]
    )
    def test_are_half_of_them_and_a_quarter(self, iterations, counts):
        assert [count for _, count in self.stages(4, iterations=iterations)] == counts
        assert [count for _, count in self.stages(63, iterations=iterations)] == [iterations]

    def test_hardly_change_the_error(self, monkeypatch):
        x = blobs(count=6000, centres=100)
        short = squared_error(x, k_means(x, num_codes=20, iterations=20, seed=[0]))
        monkeypatch.setattr(MODULE, "_FEWEST_PER_CODE", 6000)
        whole = squared_error(x, k_means(x, num_codes=20, iterations=20, seed=[0]))
        assert short != whole
        assert short <= 1.02 * whole

    def test_progress_counts_them_all(self):
        x = blobs(count=6000, centres=100)
        told = []
        k_means(x, num_codes=20, iterations=9, seed=[0], progress=told.append)
        assert told == list(range(1, 10))

    def test_a_vector_without_weight_is_not_among_them(self):
        weights = torch.zeros(4000, dtype=torch.float64)
        weights[1::2] = 1.0
        *parts, _ = self.stages(4, weights)
        assert [len(rows) for rows, _ in parts] == [500, 1000]
        assert all((rows % 2 == 1).all() for rows, _ in parts)

    def test_read_everything_from_a_given_start(self, monkeypatch):
        x, arguments = blobs(count=6000), {"num_codes": 5, "iterations": 4, "seed": [0]}
        start = blobs(count=5, seed=4)
        found = k_means(x, start=start, **arguments)
        monkeypatch.setattr(MODULE, "_FEWEST_PER_CODE", 6000)
        assert torch.equal(k_means(x, start=start, **arguments), found)


class TestWeights:
    def test_count_like_repeats(self):
        x, start = blobs(count=200), blobs(count=5, seed=4)
        counts = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))
        arguments = {"num_codes": 5, "iterations": 30, "seed": [0], "start": start}
        weighted = k_means(x, weights=counts.double(), **arguments)
        torch.testing.assert_close(weighted, k_means(x.repeat_interleave(counts, 0), **arguments))
        assert not torch.allclose(weighted, k_means(x, **arguments))

    @pytest.mark.parametrize("scale", [2.0**-900, 4.0, 2.0**1000])
    def test_scale_changes_nothing(self, scale):
        x = blobs(count=200)
        weights = torch.rand(200, dtype=torch.float64)
        one = k_means(x, num_codes=8, iterations=5, seed=[0], weights=weights)
        other = k_means(x, num_codes=8, iterations=5, seed=[0], weights=weights * scale)
        assert torch.equal(one, other)

    def test_without_any_a_vector_has_no_say(self):
        x = blobs(count=300)
        noisy = torch.cat([x, 1e6 * torch.ones(5, 8)])
        weights = torch.cat([torch.ones(300), torch.zeros(5)]).double()
        centroids = k_means(noisy, num_codes=12, iterations=20, seed=[0], weights=weights)
        assert float(centroids.abs().max()) < 100
        assert squared_error(x, centroids) < 1.5 * 8

    def test_pull_codes_to_where_they_are(self):
        x = blobs(count=1000)
        weights = torch.ones(1000, dtype=torch.float64)
        weights[:100] = 100.0
        plain = k_means(x, num_codes=8, iterations=20, seed=[0])
        pulled = k_means(x, num_codes=8, iterations=20, seed=[0], weights=weights)
        assert squared_error(x[:100], pulled) < squared_error(x[:100], plain)
        assert squared_error(x, pulled) > squared_error(x, plain)


class TestStart:
    def test_a_code_keeps_its_index(self):
        x = blobs(count=2000)
        first = k_means(x, num_codes=12, iterations=20, seed=[0])
        order = torch.randperm(12)
        again = k_means(x + 0.05, num_codes=12, iterations=20, seed=[0], start=first[order])
        assert torch.equal(nearest(again, first)[0], order)

    def test_also_after_codes_that_are_not_used(self):
        x = torch.tensor([[5.0], [9.0], [5.0]])
        start = torch.tensor([[100.0], [5.0], [100.0], [9.0], [5.0]])
        found = k_means(x, num_codes=5, iterations=20, seed=[0], start=start)
        assert found.squeeze(1).tolist() == [100.0, 5.0, 5.0, 9.0, 5.0]

    def test_is_left_as_it_was(self):
        start = blobs(count=5, seed=4)
        copy = start.clone()
        k_means(blobs(), num_codes=5, iterations=3, seed=[0], start=start)
        assert torch.equal(start, copy)


class TestTolerance:
    def test_stops_when_little_is_gained(self):
        x = blobs(count=3000, centres=60)
        counts, errors = [], []
        for tolerance in (0.0, 1e-3, 0.5):
            told = []
            found = k_means(
                x, num_codes=20, iterations=50, seed=[0], start=x[:20], tolerance=tolerance,
                progress=told.append,
            )  # fmt: skip
            counts.append(len(told))
            errors.append(squared_error(x, found))
        assert counts[0] > counts[1] > counts[2] == 2
        assert errors[0] < errors[1] < errors[2]
        assert errors[1] < 1.02 * errors[0]

    @pytest.mark.parametrize("weighted", [False, True])
    def test_the_error_is_the_sum_over_the_vectors(self, weighted):
        x, centroids = blobs(), blobs(count=12, seed=9)
        weights = torch.rand(600, dtype=torch.float64) if weighted else None
        clusters = MODULE._Clusters(Residuals(x), weights, 12)
        clusters.assign(centroids)
        distances = nearest(x, centroids)[1]
        expected = (distances if weights is None else distances * weights).sum()
        assert clusters.error(centroids) == pytest.approx(float(expected), rel=1e-12)


class TestReseed:
    def test_empty_clusters_are_reseeded(self):
        x = torch.arange(1100).repeat(2).float().unsqueeze(1)
        start = x[torch.arange(1100) // 2]  # half of the codes repeat another
        centroids = k_means(x, num_codes=1100, iterations=20, seed=[0], start=start)
        assert sorted(centroids.squeeze(1).tolist()) == list(range(1100))

    @pytest.mark.parametrize("weight", [None, 2.0])
    def test_the_worst_served_vectors_are_taken_first_and_only_once(self, weight):
        x = torch.tensor([[0.0], [3.0], [90.0], [90.0], [50.0]])
        weights = None if weight is None else torch.full((5,), weight, dtype=torch.float64)
        clusters = MODULE._Clusters(Residuals(x), weights, 3)
        centroids = torch.zeros(3, 1)
        clusters.assign(centroids)
        clusters.reseed(centroids)
        assert clusters.means(centroids).squeeze(1).tolist() == [31.0, 90.0, 50.0]
        assert clusters.indices.tolist() == [0, 0, 1, 0, 2]

    def test_weight_says_who_is_served_worst(self):
        x = torch.tensor([[0.0], [1.0], [90.0], [50.0]])
        weights = torch.tensor([1.0, 1.0, 1e-3, 1.0], dtype=torch.float64)
        clusters = MODULE._Clusters(Residuals(x), weights, 2)
        clusters.assign(torch.zeros(2, 1))
        clusters.reseed(torch.zeros(2, 1))
        assert clusters.indices.tolist() == [0, 0, 0, 1]
