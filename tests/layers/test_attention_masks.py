"""Mask builders against loops."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.layers.attention_masks import window_mask
from tests.layers import reference_attention


@given(st.integers(0, 12), st.none() | st.integers(1, 15), st.booleans())
def test_a_window_is_what_the_loops_say(length: int, window: int | None, causal: bool) -> None:
    mask = window_mask(torch.zeros(2, length, 3), window, causal)
    assert mask.dtype == torch.bool
    assert mask.shape == (length, length)
    assert mask.tolist() == reference_attention.window_mask(length, window, causal)
