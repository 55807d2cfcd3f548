"""The gated feed-forward layer."""

import pytest
import torch

from sidrank.layers.swiglu import SwiGLU
from tests.layers import reference_decoder as reference


def test_equals_the_paper():
    module = SwiGLU(dim=4, hidden=6).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    weights = reference.weights_of(module)
    answers = module(x)
    for row in range(2):
        for t in range(3):
            expected = reference.swiglu(x[row, t].numpy(), weights)
            torch.testing.assert_close(answers[row, t], torch.from_numpy(expected))


def test_nothing_in_nothing_out():
    assert not SwiGLU(dim=4, hidden=6)(torch.zeros(2, 4)).any()


@pytest.mark.parametrize("name", ["dim", "hidden"])
def test_sizes(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SwiGLU(**{"dim": 2, "hidden": 2, name: 0})
