import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sidrank.metrics._keys import float_keys, key_floats, narrow, score_keys, widen_keys


def floats(width):
    kind = {32: np.float32, 64: np.float64}[width]
    return hnp.arrays(kind, st.integers(1, 20), elements=st.floats(allow_nan=False, width=width))


def assert_same_order(values, keys):
    np.testing.assert_array_equal(keys[:, None] < keys, values[:, None] < values)
    np.testing.assert_array_equal(keys[:, None] == keys, values[:, None] == values)


@given(st.one_of(floats(32), floats(64)))
def test_keys_order_floats_and_lead_back(scores):
    keys = float_keys(scores)
    assert keys.dtype.itemsize == scores.dtype.itemsize
    assert_same_order(scores, keys)
    np.testing.assert_array_equal(key_floats(keys), scores)
    assert_same_order(scores, widen_keys(keys))
    np.testing.assert_array_equal(key_floats(widen_keys(keys)), scores)


@given(
    st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.uint64]).flatmap(
        lambda kind: hnp.arrays(kind, st.integers(1, 20))
    )
)
def test_keys_order_integers_beyond_float_precision(scores):
    assert_same_order(scores, score_keys(scores))


@pytest.mark.parametrize(
    ("scores", "bits"),
    [
        (np.array([0.5, 0.25]), 32),
        (np.array([0.1, 0.25]), 64),
        (np.array([1e300, -np.inf]), 64),
        (np.array([5e-324]), 64),
        (np.array([np.inf, -np.inf]), 32),
        (np.array([0, 2**32 - 1]), 32),
        (np.array([0, 2**32]), 64),
        (np.array([True, False]), 32),
        (np.array([0.1], np.float16), 32),
    ],
)
def test_keys_are_as_narrow_as_they_may_be(scores, bits):
    assert score_keys(scores).dtype.itemsize * 8 == bits


@given(st.one_of(floats(32), floats(64)))
def test_narrowing_changes_no_value(scores):
    np.testing.assert_array_equal(narrow(scores), scores)
