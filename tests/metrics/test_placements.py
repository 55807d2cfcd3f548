import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics import _placements
from sidrank.metrics._placements import exact_dot, sorted_runs, twice_placements
from sidrank.metrics.delong import delong, paired_delong

ANY = st.integers(-(2**63) + 1, 2**63 - 1)
NUMBERS = st.one_of(ANY, st.sampled_from([0, -1, 2**21, 2**21 - 1, -(2**21), 2**42, -(2**42) - 1]))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_sums_of_products_are_exact(pairs):
    left, right = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    assert exact_dot(left, right) == sum(a * b for a, b in pairs)


def test_sums_of_the_largest_products_do_not_overflow():
    largest = np.full(1 << 18, 2**63 - 1)
    assert exact_dot(largest, -largest) == -((2**63 - 1) ** 2) << 18


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("rows_at_once", [50, 1 << 24])
def test_runs_are_whole_and_ascend(monkeypatch, dtype, rows_at_once):
    monkeypatch.setattr(_placements, "_PIECE", rows_at_once)
    generator = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    keys = generator.integers(0, top, 1000, dtype, endpoint=True)
    keys[generator.random(1000) < 0.4] = top // 3  # one value too many for a piece
    keys[:10], keys[10:20] = 0, top
    seen, runs = [], []
    for rows, starts in sorted_runs(keys):
        assert starts[0] == 0
        for run in np.split(rows, starts[1:]):
            assert len(set(keys[run])) == 1
            runs.append(keys[run[0]])
            seen += run.tolist()
    assert sorted(seen) == list(range(1000))
    assert runs == np.unique(keys).tolist()


def test_pieces_change_no_bit(monkeypatch):
    generator = np.random.default_rng(0)
    labels, groups = generator.random(3000) < 0.3, generator.integers(0, 2**62, 40)
    groups = groups[generator.integers(0, 40, 3000)]
    scores = np.round(labels + generator.standard_normal(3000), 1)
    control = generator.random(3000)

    def results():
        return (
            delong(labels, scores, groups=groups),
            paired_delong(labels, scores, control, groups=groups),
        )

    whole = results()
    monkeypatch.setattr(_placements, "_PIECE", 64)
    assert results() == whole


def test_placements_of_either_class():
    positive = np.array([True, False, True, False, False])
    # Positive 0.5 beats 0.1 and ties 0.5; positive 0.9 beats all.
    placements = twice_placements(positive, np.array([0.5, 0.1, 0.9, 0.5, 0.7]))
    assert placements.tolist() == [3, 4, 6, 3, 2]
    assert placements.dtype == np.int32
    constant = twice_placements(positive, np.zeros(5))
    difference = twice_placements(positive, np.array([0.5, 0.1, 0.9, 0.5, 0.7]), np.zeros(5))
    assert (difference == placements - constant).all()
