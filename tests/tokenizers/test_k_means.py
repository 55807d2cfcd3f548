import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sidrank.tokenizers.k_means import k_means, nearest
from tests import reference

MODULE = sys.modules[k_means.__module__]


@st.composite
def vectors_and_centroids(draw):
    """Few distinct numbers, so that exact ties and equal centroids are common."""
    width = draw(st.integers(1, 4))
    number = st.sampled_from([-1.0, 0.0, 0.1, 0.25, 1.0, 3.0, 1e-20, 1e6, 3e18])
    row = st.lists(number, min_size=width, max_size=width)
    vectors = draw(st.lists(row, min_size=1, max_size=12))
    centroids = draw(st.lists(st.one_of(row, st.sampled_from(vectors)), min_size=1, max_size=12))
    return torch.tensor(vectors), torch.tensor(centroids)


def squared_error(x, centroids):
    return float(nearest(x, centroids)[1].mean())


def blobs(count=600, width=8, centres=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = 6 * torch.randn(centres, width, generator=generator)
    pick = torch.randint(0, centres, (count,), generator=generator)
    return means[pick] + torch.randn(count, width, generator=generator)


class TestNearest:
    @given(vectors_and_centroids())
    def test_equals_brute_force_also_on_ties(self, case):
        x, centroids = case
        indices, distances = nearest(x, centroids)
        for row, index, distance in zip(x, indices, distances, strict=True):
            expected = reference.greedy_codes(row.tolist(), [centroids.tolist()], float)
            assert [int(index)] == expected
            exact = float((row.double() - centroids[index].double()).square().sum())
            scale = float(row.double().square().sum() + centroids.double().square().max())
            assert float(distance) == pytest.approx(exact, abs=1e-13 * scale)

    def test_equals_brute_force_where_a_product_in_float32_would_not(self):
        # far from the origin the distances drown in the rounding of |x|^2 - 2 x.c
        generator = torch.Generator().manual_seed(0)
        x = 4000 + torch.randn(60, 5, generator=generator)
        centroids = 4000 + torch.randn(20, 5, generator=generator)
        found = nearest(x, centroids)[0].tolist()
        assert found == [
            reference.greedy_codes(row.tolist(), [centroids.tolist()], float)[0] for row in x
        ]
        single = (centroids.square().sum(1) - 2 * x @ centroids.T).argmin(1).tolist()
        assert found != single

    def test_what_only_rounding_tells_apart_is_summed_in_order(self):
        # the same squares in another order: one distance on paper, several in float64
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(37, generator=generator)
        orders = [torch.randperm(37, generator=generator) for _ in range(40)]
        for start in range(0, 40, 5):
            centroids = torch.stack([values[order] for order in orders[start : start + 5]])
            expected = reference.greedy_codes([0.0] * 37, [centroids.tolist()], float)
            assert nearest(torch.zeros(1, 37), centroids)[0].tolist() == expected

    @given(vectors_and_centroids(), st.integers(1, 40))
    def test_does_not_depend_on_the_blocks(self, case, block):
        x, centroids = case
        whole = nearest(x, centroids)[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MODULE, "_BLOCK", block)
            assert torch.equal(nearest(x, centroids)[0], whole)

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
        x = blobs(centres=6) * torch.tensor(1.0)
        assert squared_error(x, k_means(x, num_codes=6, iterations=20, seed=[0])) < 1.2 * 8

    @pytest.mark.parametrize("num_codes", [3, 40])
    def test_as_many_codes_as_distinct_vectors_leave_no_error(self, num_codes):
        x = torch.arange(num_codes).repeat(7).float().unsqueeze(1) * 3
        centroids = k_means(x, num_codes=num_codes, iterations=20, seed=[0])
        assert sorted(centroids.squeeze(1).tolist()) == [3.0 * n for n in range(num_codes)]

    def test_empty_clusters_are_reseeded(self):
        # Beyond 1024 codes the seeds are a plain sample: of 1100 seeds from 2200 vectors,
        # each vector present twice, about a quarter repeat another.
        x = torch.arange(1100).repeat(2).float().unsqueeze(1)
        centroids = k_means(x, num_codes=1100, iterations=20, seed=[0])
        assert sorted(centroids.squeeze(1).tolist()) == list(range(1100))

    def test_the_worst_served_vectors_are_taken_first_and_only_once(self):
        x = torch.tensor([[0.0], [1.0], [90.0], [90.0], [50.0]])
        sums, counts = torch.zeros(3, 1, dtype=torch.float64), torch.tensor([5, 0, 0])
        sums[0] = x.sum()
        indices, distances = torch.zeros(5, dtype=torch.int64), x.double().square().squeeze(1)
        MODULE._reseed(sums, counts, x, indices, distances)
        assert sums.squeeze(1).tolist() == [91.0, 90.0, 50.0]
        assert counts.tolist() == [3, 1, 1]

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

    @pytest.mark.parametrize("num_codes", [16, 1100])
    def test_does_not_depend_on_blocks_or_threads(self, num_codes, monkeypatch):
        x = blobs(count=2000)
        one = k_means(x, num_codes=num_codes, iterations=5, seed=[0])
        monkeypatch.setattr(MODULE, "_BLOCK", 100_003)
        try:
            torch.set_num_threads(2)
            two = k_means(x, num_codes=num_codes, iterations=5, seed=[0])
        finally:
            torch.set_num_threads(1)
        assert torch.equal(one, two)

    def test_memory_does_not_grow_with_items_times_codes(self, monkeypatch):
        monkeypatch.setattr(MODULE, "_BLOCK", 4096)
        x = blobs(count=3000, width=4)
        with _LargestTensor() as largest:
            k_means(x, num_codes=500, iterations=2, seed=[0])
        assert x.numel() <= largest.numel < 40_000 < 3000 * 500


class _LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            # an expanded tensor takes no more memory than what it expands
            if isinstance(tensor, torch.Tensor) and 0 not in tensor.stride():
                self.numel = max(self.numel, tensor.numel())
        return result
