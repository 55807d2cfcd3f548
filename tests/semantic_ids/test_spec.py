import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import SIDSpec


@given(st.lists(st.integers(1, 2**31), min_size=1, max_size=6))
def test_keeps_its_sizes_in_order(sizes):
    spec = SIDSpec(tuple(sizes))
    assert list(spec.codebook_sizes) == sizes
    assert spec.num_levels == len(sizes)


def test_equal_sizes_are_equal_specs():
    assert SIDSpec((4, 2)) == SIDSpec((4, 2)) != SIDSpec((2, 4))
    assert SIDSpec([4, 2]) == SIDSpec((4, 2))  # a list is frozen to a tuple
    assert hash(SIDSpec([4, 2])) == hash(SIDSpec((4, 2)))


def test_refuses_no_level():
    with pytest.raises(ValueError, match=r"codebook_sizes must have at least one level, got \(\)"):
        SIDSpec(())


@pytest.mark.parametrize("size", [0, -3, 2**31 + 1])
def test_refuses_a_size_that_codes_cannot_have(size):
    with pytest.raises(ValueError, match=rf"must be within \[1, 2\*\*31\], got {size}"):
        SIDSpec((4, size))


@pytest.mark.parametrize("size", [2.0, "2", True, None])
def test_refuses_a_size_that_is_no_integer(size):
    with pytest.raises(TypeError, match=f"codebook_sizes must be integers, got {size!r}"):
        SIDSpec((4, size))
