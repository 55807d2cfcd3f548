"""Real numbers by where they fall among boundaries."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.layers.piecewise_linear_encoding import (
    PiecewiseLinearEmbedding,
    PiecewiseLinearEncoding,
)


def slowly(x, boundaries):
    """The definition, a piece at a time."""
    last = len(boundaries) - 2
    found = []
    for piece in range(last + 1):
        low, high = boundaries[piece], boundaries[piece + 1]
        share = (x - low) / (high - low)
        if x < low:
            share = max(share, -1.0) if piece == 0 else 0.0
        elif x > high:
            share = min(share, 2.0) if piece == last else 1.0
        found.append(share)
    return found


@st.composite
def ascending(draw):
    steps = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    return [float(b) for b in np.cumsum([draw(st.integers(-50, 50)), *steps])]


@given(st.lists(ascending(), min_size=1, max_size=4), st.data())
def test_is_the_definition(boundaries, data):
    encode = PiecewiseLinearEncoding(boundaries=boundaries)
    count = len(boundaries)
    x = torch.tensor(data.draw(st.lists(st.integers(-400, 400), min_size=count, max_size=count)))
    found = encode((x / 2.0).unsqueeze(0))[0]
    for number, own in enumerate(boundaries):
        wanted = torch.tensor(slowly(x[number].item() / 2.0, own))
        torch.testing.assert_close(found[number, : len(wanted)], wanted)
        assert not found[number, len(wanted) :].any()


def test_grows_with_the_number_and_never_jumps():
    encode = PiecewiseLinearEncoding(boundaries=[[-1.0, 0.0, 0.5, 3.0]])
    codes = encode(torch.linspace(-4, 7, 2001).unsqueeze(1)).squeeze(1)
    steps = codes.diff(dim=0)
    assert (steps >= 0).all()
    assert steps.max() < 0.02
    assert codes[0].tolist() == [-1.0, 0.0, 0.0]
    assert codes[-1].tolist() == [1.0, 1.0, 2.0]


def test_quantiles_hold_as_many_rows_each():
    values = torch.randn(10_000, 2).exp()
    encode = PiecewiseLinearEncoding.of(values, pieces=8)
    assert encode.boundaries.shape == (2, 9)
    inside = (encode(values) > 0) & (encode(values) < 1)
    assert inside.float().mean(dim=0).sub(1 / 8).abs().max() < 0.01


def test_repeated_values_make_fewer_pieces():
    values = torch.tensor([[0.0, 7.0, 1.0], [0.0, 7.0, 2.0], [0.0, 7.0, 3.0], [1.0, 7.0, 4.0]])
    encode = PiecewiseLinearEncoding.of(values, pieces=3)
    real = encode.boundaries.diff(dim=1) > 0
    assert real.sum(dim=1).tolist() == [1, 1, 3]
    codes = encode(values)
    assert codes.isfinite().all()
    assert not codes[:, 1].any()
    assert codes[:, 0, 0].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_linear_layer_behind_it_is_any_curve_between_the_boundaries():
    """The middle of a range, of which a line through it explains nothing."""
    values = torch.linspace(-1, 1, 201).unsqueeze(1)
    wanted = (values[:, 0].abs() < 0.5).float()
    encode = PiecewiseLinearEncoding.of(values, pieces=16)

    def left(x):
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
        fit = x @ torch.linalg.lstsq(x, wanted.double().unsqueeze(1)).solution
        return (fit[:, 0] - wanted).square().mean() / wanted.var(unbiased=False)

    assert left(values) > 0.99
    assert left(encode(values).flatten(1)) < 0.15


def test_embedding_is_a_table_of_pieces():
    encoding = PiecewiseLinearEncoding(boundaries=[[0.0, 1.0], [0.0, 1.0, 2.0]])
    embed = PiecewiseLinearEmbedding(encoding=encoding, dim=3)
    x = torch.tensor([[0.25, 1.5]])
    found = embed(x)[0]
    torch.testing.assert_close(found[0], 0.25 * embed.weight[0, 0])
    torch.testing.assert_close(found[1], embed.weight[1, 0] + 0.5 * embed.weight[1, 1])


def test_boundaries_stay_exact_in_half_precision_and_in_a_checkpoint():
    values = torch.randn(50, 2) * 1000
    embed = PiecewiseLinearEmbedding(encoding=PiecewiseLinearEncoding.of(values), dim=2)
    before = embed.encoding.boundaries.clone()
    embed.to(torch.bfloat16)
    assert torch.equal(embed.encoding.boundaries, before)
    other = PiecewiseLinearEncoding.of(torch.rand(50, 2))
    other.load_state_dict(embed.encoding.state_dict())
    assert torch.equal(other(values), embed.encoding(values))


class TestErrors:
    def test_no_number(self):
        with pytest.raises(
            ValueError, match="boundaries must hold at least one number's, got none"
        ):
            PiecewiseLinearEncoding(boundaries=[])

    @pytest.mark.parametrize(
        "bad", [[1.0], [], [1.0, 1.0], [2.0, 1.0], [0.0, float("nan")], [0.0, float("inf")]]
    )
    def test_boundaries(self, bad):
        said = "boundaries must be at least two finite numbers in ascending order .* for number 1"
        with pytest.raises(ValueError, match=said):
            PiecewiseLinearEncoding(boundaries=[[0.0, 1.0], bad])

    @pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 2, 2)])
    def test_values_to_learn_from(self, shape):
        with pytest.raises(ValueError, match="values must be a matrix of finite numbers"):
            PiecewiseLinearEncoding.of(torch.zeros(shape))

    def test_not_finite(self):
        with pytest.raises(ValueError, match=r"got shape \[2, 1\], 1 not finite"):
            PiecewiseLinearEncoding.of(torch.tensor([[0.0], [float("nan")]]))

    def test_sizes(self):
        with pytest.raises(ValueError, match="pieces must be at least 1, got 0"):
            PiecewiseLinearEncoding.of(torch.rand(3, 1), pieces=0)
        encoding = PiecewiseLinearEncoding(boundaries=[[0.0, 1.0]])
        with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
            PiecewiseLinearEmbedding(encoding=encoding, dim=0)
        with pytest.raises(ValueError, match=r"values must have shape \[\*, 1\], got \[2, 3\]"):
            encoding(torch.zeros(2, 3))
