"""Masks with learned tokens between segments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.layers.segment_masks import condensation_mask, segment_mask
from tests.sequences import reference_compression as reference

steps = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=9)


@given(steps)
def test_equals_brute_force(tokens):
    segments, learned = [], [is_learned for _, is_learned in tokens]
    for step, _ in tokens:
        segments.append((segments[-1] if segments else 0) + step)
    mask = segment_mask(torch.tensor(segments, dtype=torch.int64), torch.tensor(learned).bool())
    assert mask.shape == (len(tokens), len(tokens))
    assert mask.tolist() == reference.segment_mask(segments, learned)


def test_rows_have_segments_of_their_own():
    segments, learned = torch.tensor([[0, 0, 1], [0, 1, 1]]), torch.tensor([[0, 1, 0]] * 2).bool()
    mask = segment_mask(segments, learned)
    for row in range(2):
        assert torch.equal(mask[row], segment_mask(segments[row], learned[row]))


@given(st.integers(0, 4), st.integers(0, 3), st.integers(0, 4))
def test_condensation_equals_brute_force(inputs, tokens, targets):
    mask = condensation_mask(inputs, tokens, targets)
    assert mask.tolist() == reference.condensation_mask(inputs, tokens, targets)


class TestErrors:
    def test_learned(self):
        zero = torch.zeros(3, dtype=torch.int64)
        with pytest.raises(ValueError, match=r"learned must be bool, got torch.int64"):
            segment_mask(zero, zero)
        with pytest.raises(ValueError, match=r"learned must have shape \[3\], got \[2\]"):
            segment_mask(zero, zero[:2].bool())

    @pytest.mark.parametrize("name", ["num_inputs", "num_tokens", "num_targets"])
    def test_sizes(self, name):
        sizes = {"num_inputs": 1, "num_tokens": 1, "num_targets": 1, name: -1}
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            condensation_mask(**sizes)
