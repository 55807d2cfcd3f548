import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics.multiplicity import benjamini_hochberg
from tests.metrics import reference_doubt

P_VALUES = st.lists(
    st.one_of(st.floats(0, 1), st.just(math.nan), st.sampled_from([0.0, 0.01, 0.5, 1.0])),
    max_size=12,
)


def test_rejects_what_the_step_up_procedure_rejects():
    generator = np.random.default_rng(0)
    for _ in range(100):
        p_values = generator.random(15) ** generator.uniform(1, 6)
        p_values[generator.random(15) < 0.2] = math.nan
        adjusted = benjamini_hochberg(p_values)
        for level in generator.random(20):
            rejected = set(np.flatnonzero(adjusted <= level).tolist())
            assert rejected == reference_doubt.step_up_rejections(p_values.tolist(), level)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_order_is_kept_and_nothing_falls(p_values, random):
    adjusted = benjamini_hochberg(p_values)
    given_order = np.array(p_values, float)
    assert np.array_equal(np.isnan(adjusted), np.isnan(given_order))
    tested = ~np.isnan(given_order)
    assert (adjusted[tested] >= given_order[tested]).all()
    assert (adjusted[tested] <= 1).all()
    in_order = adjusted[tested][np.argsort(given_order[tested])]
    assert (np.diff(in_order) >= 0).all()
    order = list(range(len(p_values)))
    random.shuffle(order)
    shuffled = benjamini_hochberg([p_values[place] for place in order])
    assert np.array_equal(shuffled, adjusted[np.array(order, int)], equal_nan=True)


def test_slices_without_a_test_do_not_count():
    alone = benjamini_hochberg([0.02, 0.04])
    with_gaps = benjamini_hochberg([None, 0.02, math.nan, 0.04, None])
    assert alone.tolist() == [0.04, 0.04]
    assert with_gaps[[1, 3]].tolist() == [0.04, 0.04]
    assert np.isnan(with_gaps[[0, 2, 4]]).all()
    assert np.isnan(benjamini_hochberg([None])).all()
    assert benjamini_hochberg([]).shape == (0,)
    assert benjamini_hochberg([0.3]).tolist() == [0.3]


def test_false_findings_stay_a_small_share():
    # 15 slices without and 5 with a difference, 2,000 times: the bound is 15 / 20 of the level.
    generator = np.random.default_rng(0)
    true_shares, raw_any = [], 0
    for _ in range(2000):
        p_values = generator.random(20)
        p_values[15:] /= 1000
        rejected = benjamini_hochberg(p_values) <= 0.1
        true_shares.append(rejected[:15].sum() / max(1, rejected.sum()))
        raw_any += (p_values[:15] <= 0.1).any()
    assert 0.06 < np.mean(true_shares) < 0.09
    assert raw_any > 1400  # without adjustment most tables hold a false finding


@pytest.mark.parametrize(("value", "name"), [(-0.1, "-0.1"), (1.5, "1.5"), (math.inf, "inf")])
def test_bad_input_is_refused(value, name):
    with pytest.raises(ValueError, match=rf"p_values must be in \[0, 1\], got {name} in place 1"):
        benjamini_hochberg([0.5, value, None])
