"""Attention over what is visible, where it may be nothing."""

import pytest
import torch
from torch import Tensor

from sidrank.layers.attention import attend
from tests.layers import reference_attention


def inputs(keys: int = 7, queries: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    sizes = ((queries, 3), (keys, 3), (keys, 4))
    query, key, value = (
        torch.randn(2, 2, *size, generator=source, dtype=torch.float64) for size in sizes
    )
    return query, key, value


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(2, 2, 5, 7), (2, 1, 5, 7), (5, 7), (2, 1, 1, 7)])
def test_it_equals_loops(shape: tuple[int, ...], share: float) -> None:
    query, key, value = inputs()
    visible = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < share
    expected = reference_attention.attend(query, key, value, visible.expand(2, 2, 5, 7))
    torch.testing.assert_close(attend(query, key, value, visible=visible), expected)


def test_without_a_mask_all_keys_are_visible() -> None:
    query, key, value = inputs()
    expected = reference_attention.attend(query, key, value, torch.ones(2, 2, 5, 7).bool())
    torch.testing.assert_close(attend(query, key, value), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_sees_nothing_reads_zero_and_has_no_gradient(dropout: float) -> None:
    x = [part.requires_grad_() for part in inputs()]
    visible = torch.ones(5, 7).bool()
    visible[2] = False
    visible[:, 3] = False
    context = attend(*x, visible=visible, dropout=dropout)
    assert not context[:, :, 2].any()
    query, key, value = torch.autograd.grad(context.square().sum(), x)
    assert not query[:, :, 2].any()
    assert not key[:, :, 3].any()
    assert not value[:, :, 3].any()
    for gradient in (query, key, value):
        assert torch.isfinite(gradient).all()
        assert gradient.any()


def test_no_bit_depends_on_a_key_that_is_not_visible() -> None:
    query, key, value = inputs()
    visible = torch.ones(5, 7).bool()
    visible[:, 3] = False
    expected = attend(query, key, value, visible=visible)
    key[:, :, 3], value[:, :, 3] = 1e6, -1e6
    assert torch.equal(attend(query, key, value, visible=visible), expected)


@pytest.mark.parametrize(("keys", "queries"), [(0, 5), (7, 0), (0, 0)])
def test_nothing_to_read_or_nobody_to_read_it(keys: int, queries: int) -> None:
    query, key, value = inputs(keys, queries)
    context = attend(query, key, value, visible=torch.ones(queries, keys).bool())
    assert torch.equal(context, torch.zeros(2, 2, queries, 4, dtype=torch.float64))
