import numpy as np
import pytest
import torch

from sidrank.sequences.future import refuse_future_behaviours


def test_past_is_accepted_whatever_stands_at_padding():
    refuse_future_behaviours([[1, 8], [2, 99]], [[True, True], [True, False]], [9, 3])
    refuse_future_behaviours(torch.zeros(2, 0).long(), torch.zeros(2, 0).bool(), [9, 3])


@pytest.mark.parametrize("time", [9, 10, 2**62])
def test_the_moment_of_the_request_and_later_are_not(time):
    times, mask = torch.tensor([[1, 2], [1, time]]), torch.ones(2, 2).bool()
    message = f"times of row 1 must be earlier than its request at 9, got {time}"
    with pytest.raises(ValueError, match=message):
        refuse_future_behaviours(times, mask, torch.tensor([9, 9]))


def test_errors():
    mask = np.ones((1, 1), dtype=bool)
    with pytest.raises(ValueError, match=r"now must have shape \[1\], got \[2\]"):
        refuse_future_behaviours([[1]], mask, [1, 2])
    with pytest.raises(ValueError, match=r"mask must have the shape \[B, L\] of times, got \[1\]"):
        refuse_future_behaviours([[1]], [True], [1])
    with pytest.raises(ValueError, match="mask must be bool, got int64"):
        refuse_future_behaviours([[1]], [[1]], [1])
    with pytest.raises(TypeError, match="now must be integers, got float64"):
        refuse_future_behaviours([[1]], mask, [1.0])
