import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss

from sidrank.metrics import log_loss, normalized_entropy
from tests import reference

ROWS = st.lists(st.tuples(st.integers(0, 1), st.floats(1e-12, 1 - 1e-12)), min_size=1, max_size=30)


@given(ROWS)
def test_equals_the_slow_definition(rows):
    labels, probabilities = zip(*rows, strict=True)
    expected = reference.mean_log_loss(labels, probabilities)
    assert log_loss(labels, probabilities) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(weighted):
    generator = np.random.default_rng(0)
    labels = generator.random(5000) < 0.1
    probabilities = generator.random(5000)
    probabilities[:20] = np.repeat([0.0, 1.0], 10)  # both clip at the epsilon of float64
    weights = generator.exponential(size=5000) if weighted else None
    expected = sklearn_log_loss(labels, probabilities, sample_weight=weights)
    assert log_loss(labels, probabilities, weights) == pytest.approx(expected, rel=1e-12)


def test_clipping_is_what_the_argument_says():
    assert log_loss([1], [0.0]) == pytest.approx(-math.log(np.finfo(np.float64).eps))
    assert log_loss([1], [0.0], clip=1e-3) == pytest.approx(-math.log(1e-3))
    assert log_loss([0], [1.0], clip=1e-3) == pytest.approx(-math.log(1e-3))
    assert log_loss([0, 1], [0.0, 1.0]) == pytest.approx(0.0, abs=1e-15)


def test_tiny_losses_keep_their_digits_and_their_sign():
    assert log_loss([0], [1e-18], clip=1e-20) == pytest.approx(1e-18, rel=1e-12, abs=0.0)
    assert math.copysign(1.0, log_loss([1], [1.0], clip=1e-300)) == 1.0


def test_many_blocks_add_up_and_row_order_is_irrelevant():
    generator = np.random.default_rng(0)
    probabilities = generator.random(700_000, dtype=np.float32)
    labels = generator.random(700_000) < 0.1
    expected = sklearn_log_loss(labels, probabilities.astype(np.float64))
    assert log_loss(labels, probabilities) == pytest.approx(expected, rel=1e-13)
    order = generator.permutation(700_000)
    for metric in (log_loss, normalized_entropy):
        shuffled = metric(labels[order], probabilities[order])
        assert shuffled == pytest.approx(metric(labels, probabilities), rel=1e-14)


def test_weights_are_copies():
    labels, probabilities, copies = [0, 1, 1], [0.2, 0.7, 0.4], [3, 0, 2]
    repeated = np.repeat(labels, copies), np.repeat(probabilities, copies)
    assert log_loss(labels, probabilities, copies) == pytest.approx(log_loss(*repeated))


def test_normalized_entropy_divides_by_the_entropy_of_the_base_rate():
    generator = np.random.default_rng(0)
    labels = generator.random(1000) < 0.2
    probabilities = generator.random(1000)
    rate = labels.mean()
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    expected = log_loss(labels, probabilities) / entropy
    assert normalized_entropy(labels, probabilities) == pytest.approx(expected, rel=1e-12)
    assert normalized_entropy(labels, np.full(1000, rate)) == pytest.approx(1.0, rel=1e-12)


def test_normalized_entropy_uses_the_weighted_base_rate():
    labels, weights = [0, 1, 1], [6.0, 1.0, 1.0]
    assert normalized_entropy(labels, [0.25] * 3, weights) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("metric", [log_loss, normalized_entropy])
def test_tensors_in_float_out(metric):
    probabilities = torch.tensor([0.25, 0.75, 0.5], dtype=torch.bfloat16)
    labels = torch.tensor([0.0, 1.0, 1.0], requires_grad=True)
    result = metric(labels, probabilities)
    assert type(result) is float
    assert result == metric([0, 1, 1], [0.25, 0.75, 0.5])


@pytest.mark.parametrize("metric", [log_loss, normalized_entropy])
@pytest.mark.parametrize(
    ("labels", "probabilities", "options", "message"),
    [
        ([0, 1], [0.5, math.nan], {}, "probabilities must not be NaN, got nan in row 1"),
        ([0, 1], [0.5, 1.5], {}, r"probabilities must be in \[0, 1\], got 1.5 in row 1"),
        ([0, 1], [-1e-9, 0.5], {}, r"probabilities must be in \[0, 1\], got -1e-09 in row 0"),
        ([0, 1], [0.5, math.inf], {}, r"probabilities must be in \[0, 1\], got inf in row 1"),
        ([0, 3], [0.5, 0.5], {}, "labels must be 0 or 1, got 3 in row 1"),
        ([], [], {}, "labels must not be empty"),
        ([0, 1], [0.5], {}, "probabilities must have one row per label"),
        ([0, 1], [0.5, 0.5], {"weights": [1, -1]}, "weights must be finite and not negative"),
        ([0, 1], [0.5, 0.5], {"clip": 0.0}, r"clip must be in \(0, 0.5\), got 0.0"),
        ([0, 1], [0.5, 0.5], {"clip": 0.5}, r"clip must be in \(0, 0.5\), got 0.5"),
    ],
)
def test_bad_input_is_refused(metric, labels, probabilities, options, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, probabilities, **options)


def test_one_class_has_a_log_loss_but_no_normalized_entropy():
    assert log_loss([1, 1], [0.5, 0.5]) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="labels must contain both classes, got a base rate of 1"):
        normalized_entropy([1, 1], [0.5, 0.5])
