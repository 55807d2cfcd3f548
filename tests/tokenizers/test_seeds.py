import sys

import numpy as np
import pytest
import torch

from sidrank.tokenizers._residuals import Residuals
from sidrank.tokenizers._seeds import k_means_seeds
from sidrank.tokenizers.k_means import nearest

MODULE = sys.modules[k_means_seeds.__module__]


def blobs(count, centres, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = 9 * torch.randn(centres, width, generator=generator)
    pick = torch.randint(0, centres, (count,), generator=generator)
    return means[pick] + torch.randn(count, width, generator=generator)


def seeds(x, num_codes, weights=None, seed=0):
    return k_means_seeds(Residuals(x), num_codes, weights, np.random.default_rng(seed))


@pytest.mark.parametrize("count", [300, 9000])
def test_are_distinct_vectors(count):
    x = blobs(count, 20)
    found = seeds(x, 50)
    assert len(found.unique(dim=0)) == 50
    assert (nearest(found, x)[1] == 0).all()


@pytest.mark.parametrize("count", [300, 9000])
def test_few_distinct_vectors_are_all_taken_then_the_first_repeats(count):
    x = torch.arange(7).float().repeat(count).unsqueeze(1)
    found = seeds(x, 12).squeeze(1).tolist()
    assert sorted(found[:7]) == list(range(7))
    assert found[7:] == [found[0]] * 5


@pytest.mark.parametrize("count", [1000, 9000])
def test_serve_vectors_far_better_than_random_ones(count):
    x = blobs(count, 40)
    error = nearest(x, seeds(x, 40))[1].mean()
    drawn = [x[torch.randperm(count)[:40]] for _ in range(5)]
    chance = torch.stack([nearest(x, each)[1].mean() for each in drawn])
    assert error < 0.5 * chance.min()


def test_candidates_serve_as_well_as_the_whole_sample(monkeypatch):
    x = blobs(9000, 60)
    short = [float(nearest(x, seeds(x, 60, seed=seed))[1].mean()) for seed in range(5)]
    monkeypatch.setattr(MODULE, "_LEAST_SAMPLE", 10_000)  # greedy k-means++ among them all
    whole = [float(nearest(x, seeds(x, 60, seed=seed))[1].mean()) for seed in range(5)]
    assert short != whole
    assert np.mean(short) < 1.15 * np.mean(whole)


def test_candidates_weigh_what_is_nearest_to_them():
    x = blobs(5000, 20)
    mass = np.random.default_rng(1).random(5000)
    rng = np.random.default_rng(0)
    rows, weights = MODULE._candidates(Residuals(x), np.arange(5000), mass, 60, rng)
    owner = nearest(x, x[torch.from_numpy(rows)])[0].numpy()
    np.testing.assert_allclose(weights, np.bincount(owner, mass, len(rows)))


@pytest.mark.parametrize("count", [300, 9000])
def test_a_vector_without_weight_is_never_chosen(count):
    x = blobs(count, 20)
    weights = torch.ones(count, dtype=torch.float64)
    weights[: count // 2] = 0
    x[: count // 2] += 1000  # far away, and so the first to be drawn
    assert float(seeds(x, 30, weights).abs().max()) < 500


@pytest.mark.parametrize("exponent", [-110, -60, 60, 110])
def test_scale_changes_nothing(exponent):
    x = blobs(9000, 20)
    assert torch.equal(seeds(x * 2.0**exponent, 30), seeds(x, 30) * 2.0**exponent)
