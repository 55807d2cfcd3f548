"""Hypothesis strategies that several rooms share."""

from hypothesis import strategies as st

EDGES = [-(2**63), 2**63 - 1, -(2**32), 2**32, -1, 0, 1, 2**31 - 1, 2**31, 1023, 1024]
COMPACT_IDS = st.integers(0, 40)
ANY_IDS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(EDGES),
    st.integers(-(2**31), 2**31 - 1).map(lambda i: i << 32),
)


@st.composite
def sid_items(draw, ids=None, min_items=0, max_items=25):
    """Codebook sizes and a dictionary from item id to codes; compact ids or any 64-bit ones."""
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    ids = draw(st.sampled_from([COMPACT_IDS, ANY_IDS])) if ids is None else ids
    codes = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    # left to itself, hypothesis makes half of the dictionaries empty
    least = draw(st.integers(min_items, max_items))
    return sizes, draw(st.dictionaries(ids, codes, min_size=least, max_size=max_items))
