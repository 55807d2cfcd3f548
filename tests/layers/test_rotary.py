"""Rotary position embedding."""

import pytest
import torch

from sidrank.layers.rotary import RotaryEmbedding
from tests.layers import reference_decoder as reference


@pytest.mark.parametrize(("head_dim", "base"), [(2, 10000.0), (6, 10000.0), (8, 50.0)])
def test_equals_turning_complex_numbers(head_dim, base):
    x = torch.randn(2, 3, 5, head_dim, dtype=torch.float64)
    positions = torch.randint(0, 1000, (2, 5))
    answers = RotaryEmbedding(head_dim=head_dim, base=base)(x, positions)
    for row in range(2):
        for head in range(3):
            for t in range(5):
                expected = reference.turned(
                    x[row, head, t].numpy(), int(positions[row, t]), base=base
                )
                torch.testing.assert_close(answers[row, head, t], torch.from_numpy(expected))


def test_scores_depend_on_distance_alone():
    rotary = RotaryEmbedding(head_dim=8)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).unbind(0)

    def score(p, q_at):
        return (rotary(q, torch.tensor([q_at])) * rotary(k, torch.tensor([p]))).sum()

    torch.testing.assert_close(score(3, 10), score(50_003, 50_010))
    assert (score(3, 10) - score(3, 11)).abs() > 1e-3


def test_lengths_stay_and_place_zero_is_as_it_was():
    x = torch.randn(2, 3, 5, 6)
    answer = RotaryEmbedding(head_dim=6)(x, torch.arange(5) * 100)
    torch.testing.assert_close(answer.norm(dim=3), x.norm(dim=3))
    assert torch.equal(answer[:, :, 0], x[:, :, 0])


def test_one_row_of_positions_serves_all_rows():
    rotary, x = RotaryEmbedding(head_dim=4), torch.randn(2, 3, 5, 4)
    assert torch.equal(rotary(x, torch.arange(5)), rotary(x, torch.arange(5).expand(2, 5)))


@pytest.mark.parametrize("shape", [(5,), (2, 5)])
def test_turns_serve_for_positions(shape):
    rotary, x = RotaryEmbedding(head_dim=4), torch.randn(2, 3, 5, 4)
    positions = torch.randint(0, 99, shape)
    assert torch.equal(rotary(x, rotary.turns(positions)), rotary(x, positions))


def test_half_precision_is_as_exact_at_a_far_place_as_its_own_rounding():
    rotary, positions = RotaryEmbedding(head_dim=8), torch.arange(60_000, 60_016)
    x = torch.randn(1, 1, 16, 8).bfloat16()
    answer = rotary(x, positions)
    assert answer.dtype == torch.bfloat16
    exact = rotary(x.double(), positions)
    torch.testing.assert_close(answer.double(), exact, rtol=2**-8, atol=1e-6)


def test_places_may_lie_between_integers():
    rotary, x = RotaryEmbedding(head_dim=4), torch.randn(1, 1, 1, 4)
    half, whole, two = (rotary(x, torch.tensor([place])) for place in (0.5, 1.0, 2.0))
    assert not torch.equal(half, whole)
    torch.testing.assert_close(rotary(rotary(x, torch.tensor([1.5])), torch.tensor([0.5])), two)


class TestErrors:
    @pytest.mark.parametrize("head_dim", [0, 1, 3])
    def test_head_dim(self, head_dim):
        with pytest.raises(ValueError, match=f"head_dim must be even.*got {head_dim}"):
            RotaryEmbedding(head_dim=head_dim)

    @pytest.mark.parametrize("base", [1.0, -2.0, float("nan")])
    def test_base(self, base):
        with pytest.raises(ValueError, match=f"base must be above 1, got {base}"):
            RotaryEmbedding(head_dim=2, base=base)

    def test_shapes(self):
        rotary = RotaryEmbedding(head_dim=4)
        with pytest.raises(ValueError, match=r"x must have shape \[\*, \*, \*, 4\]"):
            rotary(torch.zeros(1, 1, 3, 6), torch.arange(3))
        with pytest.raises(ValueError, match="positions must be 3 a row, got 1"):
            rotary(torch.zeros(1, 1, 3, 4), torch.arange(1))
