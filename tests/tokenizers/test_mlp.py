from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.tokenizers._mlp import MLP, exact_linear


def layer(inputs=24, outputs=7, rows=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    # rows of very different sizes, so that sums in another order would differ
    x *= 10.0 ** torch.randint(-6, 7, (rows, 1), generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    return x, weight, torch.randn(outputs, generator=generator)


@pytest.mark.parametrize("inputs", [1, 2, 3, 64, 100, 1000])
def test_close_to_the_plain_product(inputs):
    x, weight, bias = layer(inputs)
    plain = x @ weight.double().T + bias.double()
    scale = x.abs().amax(dim=1, keepdim=True) * weight.abs().amax(dim=1).double() * inputs
    assert ((exact_linear(x, weight, bias) - plain).abs() <= 2.0**-20 * scale + 1e-12).all()


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_every_sum_is_exact(inputs, random):
    """Python's fractions agree with the rounded factors to the last bit, in any order."""
    x, weight, _ = layer(inputs, outputs=2, rows=2, seed=random.randrange(100))
    found = exact_linear(x, weight, torch.zeros(2))
    order = torch.randperm(inputs, generator=torch.Generator().manual_seed(random.randrange(9)))
    assert torch.equal(exact_linear(x[:, order], weight[:, order], torch.zeros(2)), found)
    bits = 53 - (inputs - 1).bit_length()
    for row in range(2):
        for column in range(2):
            left = on_grid(x[row].tolist(), bits // 2)
            right = on_grid(weight[column].tolist(), bits - bits // 2)
            exact = sum(a * b for a, b in zip(left, right, strict=True))
            assert Fraction(float(found[row, column])) == exact


def on_grid(numbers, bits):
    """Round to multiples of the power of two above the largest, over ``2**bits``."""
    power = Fraction(1)
    largest = max(abs(Fraction(v)) for v in numbers)
    while power <= largest:
        power *= 2
    while power > 2 * largest:
        power /= 2
    unit = power / 2**bits
    return [round(Fraction(v) / unit) * unit for v in numbers]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 299])
def test_rows_stand_alone(size):
    x, weight, bias = layer(inputs=100, outputs=33)
    whole = exact_linear(x, weight, bias)
    parts = torch.cat([exact_linear(part, weight, bias) for part in x.split(size)])
    assert torch.equal(parts, whole)
    order = torch.randperm(len(x))
    assert torch.equal(exact_linear(x[order], weight, bias), whole[order])


def test_zeros():
    x, weight, bias = layer()
    found = exact_linear(torch.zeros_like(x), weight, bias)
    assert torch.equal(found, bias.double().expand(len(x), -1))
    assert torch.equal(exact_linear(x, torch.zeros_like(weight), bias), found)


def test_exact_layers_equal_the_trained_ones():
    net = MLP.random((9, 20, 4), np.random.default_rng(0))
    x = torch.randn(50, 9)
    torch.testing.assert_close(net.exact(x.double()).float(), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (6,), (20, 7, 30)])
def test_carries_a_linear_map(hidden):
    net = MLP.random((9, *hidden, 5), np.random.default_rng(0))
    first, last = torch.randn(3, 9), torch.randn(5, 3)
    net.carry(first, last)
    x = torch.randn(50, 9)
    torch.testing.assert_close(net(x), x @ first.T @ last.T, rtol=1e-4, atol=1e-5)


def test_units_beside_those_that_carry_stay_random():
    net = MLP.random((9, 20, 4), np.random.default_rng(0))
    other = MLP.random((9, 20, 4), np.random.default_rng(0))
    net.carry(torch.randn(2, 9), torch.randn(4, 2))
    assert torch.equal(net.weights[0][4:], other.weights[0][4:])
    assert net.weights[0][4:].any(dim=1).all()
    assert not net.weights[1][:, 4:].any()
