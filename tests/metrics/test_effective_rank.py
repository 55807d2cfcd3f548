"""Effective rank of a cloud of vectors."""

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidrank.metrics.effective_rank import StreamingEffectiveRank, effective_rank

# by its name: the room has a function of the same one
module = importlib.import_module("sidrank.metrics.effective_rank")


def slow(matrix):
    """From the singular values of the centred matrix itself."""
    x = np.asarray(matrix, dtype=np.float64)
    sigma = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    total = math.fsum(sigma)
    return math.exp(-math.fsum(s / total * math.log(s / total) for s in sigma if s > 0))


def orthogonal(size, seed):
    x = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double()
    return torch.linalg.qr(x).Q


def with_singular_values(values, rows=40, dim=9, seed=0):
    """A centred matrix with these singular values, turned at random."""
    columns = torch.randn(rows, len(values), generator=torch.Generator().manual_seed(seed)).double()
    left = torch.linalg.qr(columns - columns.mean(dim=0)).Q
    return left * torch.tensor(values).double() @ orthogonal(dim, seed + 1)[: len(values)]


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 99))
def test_equals_the_singular_values(rows, dim, seed):
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    x = x * torch.logspace(0, -3, dim)
    assert effective_rank(x) == pytest.approx(slow(x), rel=1e-6)


@pytest.mark.parametrize("rank", range(1, 10))
def test_equal_singular_values_give_their_number(rank):
    assert effective_rank(with_singular_values([3.0] * rank)) == pytest.approx(rank, rel=1e-6)


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=9))
def test_is_the_exponential_of_their_entropy(values):
    p = [value / math.fsum(values) for value in values]
    expected = math.exp(-math.fsum(x * math.log(x) for x in p))
    assert effective_rank(with_singular_values(values)) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 99), st.floats(-1e4, 1e4), st.floats(1e-3, 1e3))
def test_blind_to_shift_scale_turn_and_order(seed, shift, scale):
    x = with_singular_values([5.0, 2.0, 1.0], seed=seed)
    moved = (x @ orthogonal(9, seed + 5) * scale + shift).flip(0)
    assert effective_rank(moved) == pytest.approx(effective_rank(x), rel=1e-5)


def test_centred():
    """All rows at one place but for a small line: one direction, not two."""
    x = torch.zeros(50, 3).double()
    x[:, 0], x[:, 1] = 1e4, torch.linspace(-1.0, 1.0, 50)
    assert effective_rank(x) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_no_spread_at_all(value):
    assert effective_rank(torch.full((40, 3), value)) == 0.0
    assert effective_rank(torch.full((40, 3), value, dtype=torch.float64)) == 0.0
    rank = StreamingEffectiveRank()
    for rows in (7, 11, 22):  # means of blocks differ in the last bits
        rank.update(torch.full((rows, 3), value, dtype=torch.float64))
    assert rank.compute() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    x = torch.randn(60, 4).to(dtype)
    before = x.clone()
    assert effective_rank(x) == pytest.approx(slow(x.double().numpy()), rel=1e-6)
    assert torch.equal(x, before)


def test_numpy_arrays_of_any_kind():
    x = np.random.default_rng(0).normal(size=(60, 4))
    expected = slow(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (x, frozen, x[::-1], np.asfortranarray(x), x.astype(">f8")):
        assert effective_rank(array) == pytest.approx(expected, rel=1e-9)


class TestStreaming:
    @settings(max_examples=30)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.floats(-1e6, 1e6))
    def test_any_split_of_the_rows(self, sizes, shift):
        rows = sum(sizes)
        if rows < 2:
            return
        x = (torch.randn(rows, 3) * torch.tensor([1.0, 0.1, 0.01])).double() + shift
        ranks = StreamingEffectiveRank(), StreamingEffectiveRank()
        for part, block in enumerate(x.split(sizes)):
            ranks[part % 2].update(block)
        ranks[0].merge(ranks[1])
        assert ranks[0].rows == rows
        assert ranks[0].compute() == pytest.approx(slow(x), rel=1e-4)

    def test_blocks(self, monkeypatch):
        x = torch.randn(100, 4) + 5.0
        expected = effective_rank(x)
        monkeypatch.setattr(module, "_BLOCK", 30)  # 7 rows
        assert effective_rank(x) == pytest.approx(expected, rel=1e-12)

    def test_merge_leaves_the_other_alone(self):
        one, other = StreamingEffectiveRank(), StreamingEffectiveRank()
        other.update(torch.randn(30, 4))
        before = other.compute()
        one.merge(other)
        one.update(torch.randn(30, 4))
        assert (other.rows, other.compute()) == (30, before)


class TestErrors:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
    def test_row_that_is_not_finite(self, value, kind, monkeypatch):
        monkeypatch.setattr(module, "_BLOCK", 10)
        x = np.zeros((30, 2))
        x[17, 1] = x[25, 0] = value
        with pytest.raises(
            ValueError, match=rf"matrix must be finite, got \[0.0, {value}\] in row 17"
        ):
            effective_rank(kind(x))

    @pytest.mark.parametrize("rows", [0, 1])
    def test_rows(self, rows):
        with pytest.raises(ValueError, match=f"matrix must have at least 2 rows, got {rows}"):
            effective_rank(torch.zeros(rows, 3))

    @pytest.mark.parametrize("shape", [(3,), (3, 0), (2, 3, 4)])
    def test_shape(self, shape):
        with pytest.raises(ValueError, match=r"matrix must have shape \[n, D\], D at least 1, got"):
            effective_rank(torch.zeros(shape))

    @pytest.mark.parametrize("matrix", [torch.zeros(3, 2).long(), np.zeros((3, 2), np.int32)])
    def test_integers(self, matrix):
        with pytest.raises(TypeError, match=r"matrix must hold floating point numbers, got .*int"):
            effective_rank(matrix)

    def test_widths(self):
        one, other = StreamingEffectiveRank(), StreamingEffectiveRank()
        one.update(torch.zeros(3, 2))
        other.update(torch.zeros(3, 4))
        with pytest.raises(ValueError, match="matrix must have 2 columns, got 4"):
            one.update(torch.zeros(3, 4))
        with pytest.raises(ValueError, match="other must have 2 columns, got 4"):
            one.merge(other)

    def test_squares_that_overflow(self):
        with pytest.raises(ValueError, match="matrix must have squares that fit float64"):
            effective_rank(torch.tensor([[1e200], [-1e200]], dtype=torch.float64))
