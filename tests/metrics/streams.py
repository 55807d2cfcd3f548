"""Rows split into batches and shards, for the tests of what must not depend on it."""

import itertools

import numpy as np
from hypothesis import strategies as st

# Ties, both zeros, both infinities, and scores that only 64 bits hold.
SCORES = st.sampled_from(
    [-np.inf, -1.0, -5e-324, -0.0, 0.0, 5e-324, 0.1, np.float32(0.1).item(), 0.5, 1e308, np.inf]
)
WEIGHTS = st.sampled_from([0.0, 0.1, 0.25, 1.0, 1.0, 3.0, 1e-3])


@st.composite
def columns(draw, max_rows=40):
    """Labels of both classes, scores, weights that leave both some mass, and groups."""
    row = st.tuples(st.booleans(), SCORES, WEIGHTS, st.integers(-2, 4))
    rows = draw(st.lists(row, max_size=max_rows))
    rows += [(False, draw(SCORES), 1.0, 3), (True, draw(SCORES), 0.5, 3)]
    rows = draw(st.permutations(rows))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@st.composite
def batches(draw, rows):
    """Row numbers in any order, cut into batches that are not empty."""
    order = np.array(draw(st.permutations(range(rows))))
    cuts = draw(st.lists(st.integers(1, max(1, rows - 1)), max_size=12))
    edges = sorted({0, rows, *cuts})
    return [order[start:stop] for start, stop in itertools.pairwise(edges)]


def merged(draw, shards):
    """One state from many, merged in a tree that is drawn."""
    shards = list(shards)
    while len(shards) > 1:
        taken = shards.pop(draw(st.integers(0, len(shards) - 1)))
        shards[draw(st.integers(0, len(shards) - 1))].merge(taken)
    return shards[0]
