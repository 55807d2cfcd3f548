"""Numbering of groups, and the radix sorts beneath it."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sidrank.metrics._groups import GroupNumbers
from sidrank.metrics._words import ranks, sort_in_place, stable_order

INTEGERS = st.one_of(
    *(hnp.arrays(kind, st.integers(1, 30)) for kind in (np.int8, np.uint8, np.int64, np.uint64))
)
STRINGS = st.lists(st.text("aé😀 ", max_size=3), min_size=1, max_size=30).map(np.array)


@given(st.one_of(INTEGERS, STRINGS))
def test_numbers_follow_the_order_of_the_ids_and_lead_back(groups):
    numbers = GroupNumbers.of(groups)
    number = numbers.numbers(slice(0, len(groups)))
    assert int(number.max()) < 2**31
    distinct, inverse = np.unique(groups, return_inverse=True)
    np.testing.assert_array_equal(np.unique(number, return_inverse=True)[1], inverse)
    back = numbers.ids(np.unique(number))
    np.testing.assert_array_equal(back, distinct)
    assert back.dtype.kind == groups.dtype.kind


def test_strings_of_one_hash_are_not_one_group(monkeypatch):
    module = sys.modules["sidrank.metrics._groups"]
    monkeypatch.setattr(module, "_hashes", lambda strings: np.zeros(len(strings), np.uint64))
    groups = np.array(["b", "a", "b", "c"])
    numbers = GroupNumbers.of(groups)
    assert numbers.numbers(slice(0, 4)).tolist() == [1, 0, 1, 2]
    assert numbers.ids(np.array([0, 1, 2], np.uint64)).tolist() == ["a", "b", "c"]


def test_hashes_tell_a_million_strings_apart():
    hashes = sys.modules["sidrank.metrics._groups"]._hashes
    names = np.array([f"user_{place}" for place in range(1_000_000)])
    assert len(np.unique(hashes(names))) == 1_000_000


@given(INTEGERS)
def test_ranks_number_distinct_values_from_the_smallest(values):
    values = values.astype(np.int64) if values.dtype.itemsize == 1 else values
    number, rows = ranks(values)
    distinct, inverse = np.unique(values, return_inverse=True)
    np.testing.assert_array_equal(number, inverse)
    np.testing.assert_array_equal(values[rows], distinct)


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.uint64])
def test_stable_order_keeps_equal_values_as_they_are(kind):
    edges = np.array([np.iinfo(kind).min, np.iinfo(kind).max, 0, 1], kind)
    values = np.random.default_rng(0).choice(edges, 1000)
    np.testing.assert_array_equal(stable_order(values), np.argsort(values, stable=True))


@pytest.mark.parametrize("threads", [1, 3])
def test_sort_in_place(monkeypatch, threads):
    words = sys.modules["sidrank.metrics._words"]
    monkeypatch.setattr(words, "BLOCK", 100)
    monkeypatch.setattr(words.torch, "get_num_threads", lambda: threads)
    values = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    expected = np.sort(values)
    sort_in_place(values)
    np.testing.assert_array_equal(values, expected)
