import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics.hierarchical_recall import hierarchical_recall
from tests.metrics import reference_review as reference


@st.composite
def lists(draw):
    """Targets and candidates of few codes, some unknown; the first target is known."""
    levels, kept = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    code = st.integers(-1, 2)
    sid = st.lists(code, min_size=levels, max_size=levels)
    rows = draw(st.integers(0, 8))
    targets = [draw(st.lists(st.integers(0, 2), min_size=levels, max_size=levels))]
    targets += [draw(sid) for _ in range(rows)]
    candidates = [[draw(sid) for _ in range(kept)] for _ in targets]
    return targets, candidates


@pytest.mark.parametrize("unknown", ["skip", "miss"])
@given(data=lists(), k=st.integers(1, 6))
def test_equals_the_slow_definition(unknown, data, k):
    result = hierarchical_recall(*data, k=k, unknown=unknown)
    assert result.tolist() == reference.hierarchical_recall(*data, k, unknown)
    assert (np.diff(result) <= 0).all()


@given(lists(), st.integers(1, 5))
def test_more_candidates_never_lose_a_target(data, k):
    fewer = hierarchical_recall(*data, k=k, unknown="miss")
    assert (hierarchical_recall(*data, k=k + 1, unknown="miss") >= fewer).all()


def test_an_oracle_finds_every_prefix_it_keeps():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 50, (3000, 3))
    candidates = generator.integers(50, 100, (3000, 200, 3))  # several blocks, no chance hit
    places = generator.integers(0, 200, 3000)
    for depth in range(4):  # the oracle keeps a prefix of this length
        candidates[np.arange(3000), places, :depth] = targets[:, :depth]
        expected = [1.0] * depth + [0.0] * (3 - depth)
        assert hierarchical_recall(targets, candidates).tolist() == expected
    share = (places < 50).mean()
    assert hierarchical_recall(targets, candidates, k=50).tolist() == [share] * 3


def test_padding_matches_nothing_not_even_an_unknown_target():
    padded = [[[-1, -1], [1, -1]], [[-1, -1], [-1, -1]]]
    assert hierarchical_recall([[1, 2], [-1, -1]], padded, unknown="miss").tolist() == [0.5, 0.0]
    assert hierarchical_recall([[1, 2], [-1, -1]], padded, unknown="skip").tolist() == [1.0, 0.0]
    empty = np.zeros((2, 0, 2), int)
    assert hierarchical_recall([[1, 2], [0, 0]], empty).tolist() == [0.0, 0.0]


def test_tensors_and_narrow_integers():
    targets = torch.tensor([[1, 2]], dtype=torch.int16)
    candidates = np.array([[[1, 3]]], np.uint8)
    assert hierarchical_recall(targets, candidates).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("targets", "candidates", "options", "message"),
    [
        ([[1, 2]], [[[1, 2]]], {"unknown": "drop"}, "unknown must be 'raise', 'skip' or 'miss'"),
        ([[1, 2]], [[[1, 2]]], {"k": 0}, "k must be at least 1, got 0"),
        ([1, 2], [[[1, 2]]], {}, r"targets must have shape \[n, N\], got \[2\]"),
        ([[1, 2]], [[1, 2]], {}, r"candidates must have shape \[n, K, N\], got \[1, 2\]"),
        ([[1, 2]], [[[1]]], {}, r"candidates must have shape \[1, K, 2\], got \[1, 1, 1\]"),
        ([[1]], [[[1]], [[1]]], {}, r"candidates must have shape \[1, K, 1\], got \[2, 1, 1\]"),
        (np.zeros((0, 2), int), np.zeros((0, 1, 2), int), {}, "targets must hold a row and a"),
        ([[1, -2]], [[[1, 2]]], {}, r"targets must be in \[-1, 2\*\*31\), got -2"),
        ([[1, 2]], [[[1, 2**31]]], {}, r"candidates must be in \[-1, 2\*\*31\), got 2147483648"),
        ([[1, 2], [0, -1]], [[[1, 2]]] * 2, {}, r"targets must be known, got \[0, -1\] in row 1"),
        ([[-1]], [[[1]]], {"unknown": "skip"}, "targets must include a known one, got 1 unknown"),
    ],
)
def test_bad_input_is_refused(targets, candidates, options, message):
    with pytest.raises(ValueError, match=message):
        hierarchical_recall(targets, candidates, **options)


def test_codes_are_integers():
    with pytest.raises(TypeError, match="targets must be integers, got float64"):
        hierarchical_recall([[1.0]], [[[1]]])
