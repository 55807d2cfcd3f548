import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.cache.miss_ratio_curve import MissRatioCurve

GOOD = {
    "rows": 8,
    "batches": 10,
    "accesses": 40.0,
    "cold": 4.0,
    "slots": np.array([1, 2, 4]),
    "misses": np.array([30.0, 20.0, 4.0]),
}


@st.composite
def curves(draw):
    """Any curve: points anywhere, falling anyhow."""
    rows = draw(st.integers(1, 50))
    cold = draw(st.integers(0, rows))
    accesses = cold + draw(st.integers(0, 100))
    slots = sorted(draw(st.sets(st.integers(0, rows), max_size=8)))
    values = st.floats(cold, accesses)
    misses = sorted(draw(st.lists(values, min_size=len(slots), max_size=len(slots))), reverse=True)
    return MissRatioCurve(
        rows=rows,
        batches=3,
        accesses=float(accesses),
        cold=float(cold),
        slots=np.array(slots, dtype=np.int64),
        misses=np.array(misses),
    )


class TestMissesAt:
    def test_points_and_between(self):
        found = MissRatioCurve(**GOOD).misses_at([[0, 0.5, 1], [1.5, 3, 4]])
        assert found.tolist() == [[40, 35, 30], [25, 12, 4]]

    def test_without_points(self):
        curve = MissRatioCurve(**GOOD | {"slots": [], "misses": []})
        assert curve.misses_at([0, 2, 4, 8]).tolist() == [40, 22, 4, 4]

    def test_points_that_end_early_fall_to_the_cold_ones(self):
        curve = MissRatioCurve(**GOOD | {"slots": [1, 2], "misses": [30.0, 20.0]})
        assert curve.misses_at([2, 3, 4, 8]).tolist() == [20, 12, 4, 4]

    @given(curves(), st.data())
    def test_falls_from_all_accesses_to_the_cold_ones(self, curve, data):
        sizes = sorted(data.draw(st.lists(st.floats(0, curve.rows), min_size=2)))
        found = curve.misses_at(sizes)
        assert (np.diff(found) <= 1e-9).all()
        assert (found >= curve.cold).all()
        assert (found <= curve.accesses).all()
        assert curve.misses_at(0) == curve.accesses
        assert curve.misses_at([curve.rows, 2 * curve.rows]).tolist() == [curve.cold] * 2

    @given(curves())
    def test_goes_through_its_points(self, curve):
        inner = (curve.slots > 0) & (curve.slots < curve.rows)
        found = curve.misses_at(curve.slots[inner])
        assert np.allclose(found, curve.misses[inner], rtol=0, atol=1e-9)

    @pytest.mark.parametrize("size", [-1, float("nan")])
    def test_sizes_out_of_range(self, size):
        with pytest.raises(ValueError, match=r"slots must be at least 0, got (-1|nan)"):
            MissRatioCurve(**GOOD).misses_at([1, size])


class TestMissRate:
    def test_with_and_without_first_accesses(self):
        curve = MissRatioCurve(**GOOD)
        assert curve.miss_rate(0.25) == 0.5
        assert curve.miss_rate(0.25, cold=False) == 16 / 36
        assert curve.miss_rate([0, 0.25, 1]).tolist() == [1, 0.5, 0.1]
        assert curve.miss_rate(np.array([0.0, 1.0]), cold=False).tolist() == [1, 0]

    def test_no_access_misses_nothing(self):
        none = GOOD | {"accesses": 0.0, "cold": 0.0, "misses": np.zeros(3), "batches": 0}
        curve = MissRatioCurve(**none)
        assert (curve.miss_rate(0.0), curve.unique_per_batch) == (0.0, 0.0)

    def test_only_first_accesses(self):
        curve = MissRatioCurve(**GOOD | {"cold": 40.0, "misses": np.full(3, 40.0)})
        assert (curve.miss_rate(0.5), curve.miss_rate(0.5, cold=False)) == (1.0, 0.0)

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_load_factor_out_of_range(self, share):
        with pytest.raises(ValueError, match=r"load_factor must lie in \[0, 1\], got"):
            MissRatioCurve(**GOOD).miss_rate(share)


class TestConstruction:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"rows": 0}, "rows must be at least 1, got 0"),
            ({"batches": -1}, "batches must be at least 0, got -1"),
            ({"accesses": float("nan")}, "accesses must be finite and at least 0, got nan"),
            ({"cold": 41.0}, r"cold must lie in \[0, accesses = 40.0\], got 41.0"),
            ({"slots": np.array([1.0, 2, 4])}, "slots must be a column of integers, got float64"),
            ({"slots": np.array([[1, 2, 4]])}, r"slots must be a column of integers.*\(1, 3\)"),
            ({"misses": np.array([30.0])}, r"misses must have shape \(3,\), got \(1,\)"),
            ({"slots": np.array([1, 2, 9])}, r"slots must lie in \[0, rows = 8\], got 1 to 9"),
            ({"slots": np.array([1, 4, 2])}, r"slots must ascend, got \[1, 4, 2\]"),
            ({"misses": np.array([41.0, 20, 4])}, r"misses must lie in \[cold.*, got 41.0"),
            ({"misses": np.array([30.0, np.nan, 4])}, r"misses must lie in \[cold.*, got nan"),
            ({"misses": np.array([20.0, 30, 4])}, "misses must not grow with slots, got"),
        ],
    )
    def test_refused(self, changed, message):
        with pytest.raises(ValueError, match=message):
            MissRatioCurve(**GOOD | changed)

    def test_columns_are_its_own(self):
        misses = GOOD["misses"].copy()
        curve = MissRatioCurve(**GOOD | {"misses": misses})
        misses[:] = 0
        assert curve.misses.tolist() == [30, 20, 4]
        with pytest.raises(ValueError, match="read-only"):
            curve.misses[0] = 1
