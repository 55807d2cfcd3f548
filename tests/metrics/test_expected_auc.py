import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics import auc
from sidrank.metrics.expected_auc import bayes_auc, expected_auc
from tests.metrics import reference_expected as reference

CHANCES = st.sampled_from([0.0, 1e-9, 0.1, 0.3, 0.3, 0.5, 0.9, 1.0])
SCORES = st.sampled_from([-1.0, 0.0, 0.25, 2.0])
WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 3.0])


def rows(least, most):
    """Probabilities, scores and weights with at least one mixed pair."""
    row = st.tuples(CHANCES, SCORES, WEIGHTS)
    ends = st.tuples(st.just((0.2, 0.0, 1.0)), st.tuples(st.just(0.6), SCORES, st.just(2.0)))
    both = st.tuples(st.lists(row, min_size=least, max_size=most - 2), ends)
    return both.map(lambda pair: list(zip(*pair[0], *pair[1], strict=True)))


@given(rows(0, 20))
def test_equals_the_pairwise_definition(data):
    chances, scores, weights = data
    for weight in (None, weights):
        expected = reference.expected_auc(chances, scores, weight)
        assert expected_auc(chances, scores, weight) == pytest.approx(expected, abs=1e-12)
        best = reference.expected_auc(chances, chances, weight)
        assert bayes_auc(chances, weight) == pytest.approx(best, abs=1e-12)


@given(rows(0, 6))
def test_is_the_ratio_of_the_means_over_all_labels(data):
    chances, scores, _ = data
    won, total = reference.expected_pairs(chances, scores)
    assert expected_auc(chances, scores) == pytest.approx(won / total, abs=1e-12)


@given(rows(0, 15))
def test_nothing_ranks_better_than_the_probabilities(data):
    chances, scores, weights = data
    assert bayes_auc(chances, weights) >= expected_auc(chances, scores, weights) - 1e-12
    assert bayes_auc(chances) >= 0.5


def test_no_order_of_a_few_rows_is_better():
    chances = [0.1, 0.4, 0.45, 0.8]
    orders = [expected_auc(chances, order) for order in itertools.permutations(range(4))]
    assert max(orders) == orders[0] == pytest.approx(bayes_auc(chances))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_is_the_mean_auc_over_redrawn_labels(noise):
    draws = np.random.default_rng(3)
    logit = 1.5 * draws.standard_normal(2000) - 1
    chances = 1 / (1 + np.exp(-logit))
    scores = logit + noise * draws.standard_normal(2000)
    realised = [auc(draws.random(2000) < chances, scores) for _ in range(400)]
    error = np.std(realised) / np.sqrt(len(realised))
    assert abs(np.mean(realised) - expected_auc(chances, scores)) < 4 * error
    assert error < 0.001


def test_certain_labels_give_the_auc_itself():
    labels, scores, weights = [1, 0, 1, 0], [0.2, 0.2, 3.0, 1.0], [1.0, 2.0, 0.5, 1.0]
    assert expected_auc(labels, scores) == pytest.approx(auc(labels, scores))
    expected = auc(labels, scores, weights)
    assert expected_auc(labels, scores, weights) == pytest.approx(expected)
    assert bayes_auc(labels) == 1.0


def test_a_mask_is_a_slice():
    draws = np.random.default_rng(0)
    chances, scores, mask = draws.random(50), draws.random(50), draws.random(50) < 0.4
    sliced = expected_auc(chances[mask], scores[mask])
    assert expected_auc(chances, scores, mask) == pytest.approx(sliced, abs=1e-13)


def test_tensors_of_low_precision():
    chances = torch.tensor([0.25, 0.5, 0.75], dtype=torch.bfloat16)
    assert bayes_auc(chances) == pytest.approx(bayes_auc([0.25, 0.5, 0.75]))


class TestErrors:
    @pytest.mark.parametrize("chances", [[1.0, 1.0], [0.0, 0.0], [0.5]])
    def test_no_mixed_pair(self, chances):
        with pytest.raises(ValueError, match="probabilities must allow two rows of different"):
            bayes_auc(chances)

    def test_no_mixed_pair_of_weight(self):
        with pytest.raises(ValueError, match="got 1 rows that count, 1 of them possibly positive"):
            bayes_auc([0.5, 0.5], weights=[1, 0])

    def test_empty(self):
        with pytest.raises(ValueError, match="probabilities must not be empty, got 0 rows"):
            bayes_auc([])

    def test_out_of_range(self):
        with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\], got 1.5 in row"):
            expected_auc([0.5, 1.5], [1, 2])

    def test_lengths(self):
        with pytest.raises(ValueError, match=r"scores must have one row per label \(2\), got 3"):
            expected_auc([0.5, 0.5], [1, 2, 3])
