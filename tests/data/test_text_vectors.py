import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sidrank.data.text_vectors import svd_vectors, text_vectors

WORDS = ["red shoes", "red shoe", "a red shoe", "coffee mug", "coffee mugs", "tin coffee mug"]


def test_near_words_are_near():
    x = text_vectors(WORDS, dim=3)
    cosines = x @ x.T
    assert cosines[:3, :3].min() > cosines[:3, 3:].max() + 0.3
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1)


def test_same_seed_same_vectors():
    assert np.array_equal(text_vectors(WORDS, dim=3, seed=1), text_vectors(WORDS, dim=3, seed=1))


def test_a_text_without_words_is_zero():
    x = text_vectors([*WORDS, ""], dim=3)
    assert not x[-1].any()


def test_no_words_at_all():
    with pytest.raises(ValueError, match="words must hold a word, got 2 texts without any"):
        text_vectors(["", " "], dim=2)


@pytest.mark.parametrize(("words", "width"), [(["one"], 1), (["one", "two"], 1), (["same"] * 5, 4)])
def test_fewer_items_than_dimensions(words, width):
    assert text_vectors(words, dim=64).shape == (len(words), width)


def test_reduces_to_the_directions_of_most_mass():
    rng = np.random.default_rng(0)
    rank_two = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 20))
    x = svd_vectors(csr_matrix(rank_two), 2, 0)
    units = rank_two / np.linalg.norm(rank_two, axis=1, keepdims=True)
    np.testing.assert_allclose(x @ x.T, units @ units.T, atol=1e-8)
