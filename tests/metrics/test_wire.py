import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics._wire import pack, unpack

DTYPES = [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float64]


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 9)), max_size=5))
def test_what_is_packed_comes_back(vectors):
    state = {
        f"{place}/ä": torch.arange(rows).sub(4).abs().to(dtype)
        for place, (dtype, rows) in enumerate(vectors)
    }
    back = unpack(pack(state))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert all(back[name].dtype == state[name].dtype for name in state)


def _wire(head, body=b""):
    head = json.dumps(head).encode()
    data = np.array([len(head)], np.int64).tobytes() + head + body
    return torch.tensor(list(data), dtype=torch.uint8)


@pytest.mark.parametrize(
    "wire",
    [
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(7, dtype=torch.uint8),
        torch.full((50,), 255, dtype=torch.uint8),
        _wire({"a": ["int64", 2]}, b"\0" * 15),
        _wire({"a": ["int64", -1]}),
        _wire({"a": ["object", 1]}, b"\0" * 8),
        _wire({"a": 3}),
        _wire([1, 2]),
    ],
)
def test_other_bytes_are_refused(wire):
    with pytest.raises(ValueError, match=f"bytes of a streaming metric, got {len(wire)} others"):
        unpack(wire)
