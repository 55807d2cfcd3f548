import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids.prefixes import number_prefixes


@given(st.lists(st.tuples(*[st.integers(-1, 3)] * 3), min_size=1, max_size=20))
def test_equals_the_ranks_of_all_prefixes(rows):
    for length, numbers in enumerate(number_prefixes(np.array(rows)), start=1):
        ordered = sorted({row[:length] for row in rows})
        assert numbers.tolist() == [ordered.index(row[:length]) for row in rows]


def test_no_items():
    assert number_prefixes(np.zeros((0, 3), dtype=np.int32)).shape == (3, 0)
