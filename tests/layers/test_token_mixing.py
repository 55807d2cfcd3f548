"""Token mixing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.layers.token_mixing import token_mixing
from tests.layers import reference_mixing as reference

SIZES = st.tuples(*[st.integers(1, 4)] * 4)  # rows, tokens, heads, width of a head


@given(SIZES)
def test_equals_the_loops(sizes):
    rows, tokens, heads, width = sizes
    x = torch.randn(rows, tokens, heads * width)
    expected = [reference.mix(row.tolist(), heads) for row in x]
    assert token_mixing(x, heads).tolist() == expected


@given(SIZES)
def test_is_a_permutation_of_the_entries(sizes):
    rows, tokens, heads, width = sizes
    x = torch.arange(float(rows * tokens * heads * width)).view(rows, tokens, heads * width)
    mixed = token_mixing(x, heads)
    assert mixed.shape == (rows, heads, tokens * width)
    assert torch.equal(mixed.flatten(1).sort().values, x.flatten(1))


@given(SIZES)
def test_keeps_the_norm(sizes):
    rows, tokens, heads, width = sizes
    x = torch.randn(rows, tokens, heads * width)
    norms = token_mixing(x, heads).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, x.flatten(1).norm(dim=1))


@given(st.integers(1, 5), st.integers(1, 3))
def test_is_its_own_inverse_with_as_many_heads_as_tokens(tokens, width):
    x = torch.randn(2, tokens, tokens * width)
    assert torch.equal(token_mixing(token_mixing(x, tokens), tokens), x)
    if tokens > 1:
        assert not torch.equal(token_mixing(x, tokens), x)


def test_heads_undo_tokens_otherwise():
    x = torch.randn(2, 3, 8)
    assert torch.equal(token_mixing(token_mixing(x, 4), 3), x)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_every_new_token_reads_every_old_one(heads):
    x = torch.randn(1, 3, 8, requires_grad=True)
    mixed = token_mixing(x, heads)
    for token in range(heads):
        gradient = torch.autograd.grad(mixed[0, token].sum(), x, retain_graph=True)[0][0]
        assert (gradient.abs().sum(dim=1) == 8 // heads).all()


class TestErrors:
    @pytest.mark.parametrize("heads", [0, 3])
    def test_heads(self, heads):
        with pytest.raises(ValueError, match=f"num_heads must divide the width 8, got {heads}"):
            token_mixing(torch.zeros(2, 3, 8), heads)

    def test_shape(self):
        with pytest.raises(ValueError, match=r"x must have shape \[\*, \*, \*\], got \[3, 8\]"):
            token_mixing(torch.zeros(3, 8), 2)
