import numpy as np
import pytest
import torch

from sidrank.tokenizers._vector_codes import vector_codes


def vectors(count=20000, width=5, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_equals_the_definition():
    x = torch.tensor([[1.5, -2.0], [0.0, 3e-40]])
    drawn = np.random.default_rng((3, 1)).integers(-(2**63), 2**63 - 1, 3, endpoint=True)
    for row, code in zip(x.numpy(), vector_codes(x, size=11, seed=(3, 1)), strict=True):
        words = np.frombuffer(row.tobytes(), dtype=np.uint32)
        mixed = sum(int(w) * int(m) for w, m in zip(words, drawn, strict=False)) + int(drawn[-1])
        assert int(code) == (mixed % 2**64 >> 32) * 11 >> 32


@pytest.mark.parametrize("size", [1, 2, 100, 2**31 - 1])
def test_within_the_codebook(size):
    codes = vector_codes(vectors(), size=size, seed=(0,))
    assert 0 <= int(codes.min()) <= int(codes.max()) < size


def test_uniform_and_independent():
    x = vectors()
    x[:, 1:] = 0  # differing in one number is enough
    first = vector_codes(x, size=10, seed=(0, 1))
    second = vector_codes(x, size=10, seed=(0, 2))
    expected = len(x) / 100
    cells = (first * 10 + second).bincount(minlength=100)
    # 99 degrees of freedom: the statistic is 99 on average, 149 once in a thousand
    assert float(((cells - expected) ** 2 / expected).sum()) < 149


def test_equal_vectors_get_equal_codes():
    x = vectors(count=50).repeat(3, 1)
    codes = vector_codes(x, size=1000, seed=(0,))
    assert torch.equal(codes[:50], codes[50:100])
    assert len(codes.unique()) > 40
    zeros = torch.tensor([[0.0], [-0.0]])
    assert vector_codes(zeros, size=2**30, seed=(0,)).unique().numel() == 1


def test_a_code_does_not_depend_on_the_batch():
    x = vectors(count=1000, width=3000)
    whole = vector_codes(x, size=2**20, seed=(0,))
    parts = [vector_codes(part, size=2**20, seed=(0,)) for part in x.split(7)]
    assert torch.equal(torch.cat(parts), whole)
    backwards = vector_codes(x.T.contiguous().T, size=2**20, seed=(0,))
    assert torch.equal(backwards, whole)
