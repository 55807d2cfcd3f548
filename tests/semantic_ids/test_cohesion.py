import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids.cohesion import preference_discrimination, semantic_cohesion
from tests import reference


@st.composite
def labelled(draw):
    """Vectors, some of them zero or equal, and a code for each."""
    width = draw(st.integers(1, 3))
    number = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0, 1e-20, 1e18])
    count = draw(st.integers(1, 8))
    row = st.lists(number, min_size=width, max_size=width)
    vectors = draw(st.lists(row, min_size=count, max_size=count))
    codes = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return torch.tensor(vectors), torch.tensor(codes)


def one_hot(codes):
    return torch.nn.functional.one_hot(codes, 4).tolist()


def blobs(count=300, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    home = torch.randint(0, 5, (count,), generator=generator)
    means = torch.randn(5, width, generator=generator)
    return means[home] + 0.3 * torch.randn(count, width, generator=generator), home


def rotation(width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, generator=generator))[0]


class TestSemanticCohesion:
    @given(labelled(), st.booleans())
    def test_equals_the_loop_over_pairs(self, case, minus_between):
        x, codes = case
        expected = reference.cohesion(x.tolist(), one_hot(codes), minus_between)
        found = float(semantic_cohesion(x, codes, minus_between=minus_between))
        assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)

    @given(labelled(), st.data())
    def test_soft_weights_equal_the_loop(self, case, data):
        x, codes = case
        share = st.sampled_from([0.0, 0.25, 0.5, 1.0])
        row = st.lists(share, min_size=3, max_size=3)
        weights = data.draw(st.lists(row, min_size=len(codes), max_size=len(codes)))
        for minus_between in (False, True):
            expected = reference.cohesion(x.tolist(), weights, minus_between)
            found = semantic_cohesion(x, torch.tensor(weights), minus_between=minus_between)
            assert float(found) == pytest.approx(expected, abs=1e-9, nan_ok=True)

    def test_several_columns_are_one_code(self):
        x, home = blobs(count=60)
        columns = torch.stack([home % 2, home // 2], dim=1)
        assert semantic_cohesion(x, columns) == semantic_cohesion(x, home)
        assert semantic_cohesion(x, columns[:, :1]) == semantic_cohesion(x, home % 2)

    def test_blocks_do_not_show(self, monkeypatch):
        x, home = blobs()
        whole = semantic_cohesion(x, home), preference_discrimination(x, torch.tensor([[0, 1]]))
        monkeypatch.setattr("sidrank.semantic_ids.cohesion._BLOCK", 7)
        parts = semantic_cohesion(x, home), preference_discrimination(x, torch.tensor([[0, 1]]))
        torch.testing.assert_close(parts, whole)

    @pytest.mark.parametrize("minus_between", [False, True])
    def test_names_of_codes_and_directions_do_not_matter(self, minus_between):
        x, home = blobs()
        found = semantic_cohesion(x, home, minus_between=minus_between)
        renamed = torch.tensor([90, -7, 3, 12, 5])[home]
        again = semantic_cohesion(x, renamed, minus_between=minus_between)
        turned = semantic_cohesion(x @ rotation(6), home, minus_between=minus_between)
        assert float(again) == pytest.approx(float(found), rel=1e-12)
        assert float(turned) == pytest.approx(float(found), rel=1e-5)

    def test_tells_meaning_from_chance(self):
        x, home = blobs()
        shuffled = home[torch.randperm(len(home), generator=torch.Generator().manual_seed(1))]
        assert semantic_cohesion(x, home) > 0.7 > 0.3 > semantic_cohesion(x, shuffled)
        assert abs(float(semantic_cohesion(x, shuffled, minus_between=True))) < 0.02

    @pytest.mark.parametrize("minus_between", [False, True])
    def test_gradient(self, minus_between):
        x, _ = blobs(count=12, width=3)
        scores = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)

        def soft(vectors, scores):
            weights = scores.softmax(dim=1)
            return semantic_cohesion(vectors, weights, minus_between=minus_between)

        assert torch.autograd.gradcheck(soft, (x.double().requires_grad_(), scores))

    def test_numpy(self):
        x, home = blobs()
        found = semantic_cohesion(x.numpy()[::-1], home.numpy()[::-1])
        assert float(found) == pytest.approx(float(semantic_cohesion(x, home)), rel=1e-12)

    def test_no_two_items_share_a_code(self):
        assert math.isnan(semantic_cohesion(torch.ones(3, 2), torch.arange(3)))
        assert math.isnan(semantic_cohesion(torch.ones(1, 2), torch.ones(1, 4)))

    @pytest.mark.parametrize(
        ("codes", "message"),
        [
            (torch.zeros(4).long(), r"codes must have shape \[3, \*\], got \[4\]"),
            (torch.zeros(3, 1, 1).long(), r"codes must have shape \[3, \*\], got \[3, 1, 1\]"),
            (torch.zeros(3), r"codes must be floating with two axes, got torch.float32 \[3\]"),
            (-torch.ones(3, 2), "codes must not be negative, got -1.0"),
            (torch.full((3, 2), torch.nan), "codes must be finite, got another number in row 0"),
        ],
    )
    def test_refuses_codes(self, codes, message):
        with pytest.raises(ValueError, match=message):
            semantic_cohesion(torch.ones(3, 2), codes)


class TestPreferenceDiscrimination:
    @given(labelled(), st.data())
    def test_equals_the_loop_over_pairs(self, case, data):
        x = torch.cat([case[0], torch.ones(1, case[0].shape[1])])
        rows = st.integers(0, len(x) - 1)
        different = st.tuples(rows, rows).filter(lambda pair: pair[0] != pair[1])
        pairs = data.draw(st.lists(different, min_size=1, max_size=6))
        found = float(preference_discrimination(x, torch.tensor(pairs)))
        expected = reference.discrimination(x.tolist(), pairs)
        assert found == pytest.approx(expected, abs=1e-9)

    def test_direction_does_not_matter(self):
        x, _ = blobs()
        pairs = torch.randint(0, 150, (40, 2)) + torch.tensor([0, 150])
        found = float(preference_discrimination(x, pairs))
        assert float(preference_discrimination(x @ rotation(6), pairs)) == pytest.approx(
            found, abs=1e-6
        )
        assert float(preference_discrimination(x, pairs.flip(1))) == pytest.approx(found, rel=1e-12)

    def test_tells_pairs_from_chance(self):
        x, home = blobs()
        order = home.argsort()
        pairs = torch.stack([order[:-1], order[1:]], dim=1)
        chance = torch.stack([order[:-1], torch.randperm(300)[:-1]], dim=1)
        chance = chance[chance[:, 0] != chance[:, 1]]
        assert preference_discrimination(x, pairs) > 0.5
        assert abs(float(preference_discrimination(x, chance))) < 0.1

    def test_gradient(self):
        x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        pairs = torch.tensor([[0, 1], [2, 5]])
        assert torch.autograd.gradcheck(lambda v: preference_discrimination(v, pairs), (x,))

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            ([[0, 3]], r"pairs must join two different rows of 3, got \[0, 3\]"),
            ([[0, 1], [-1, 1]], r"pairs must join two different rows of 3, got \[-1, 1\]"),
            ([[2, 2]], r"pairs must join two different rows of 3, got \[2, 2\]"),
            ([[0.0, 1.0]], r"pairs must be integers of shape \[P, 2\] with P >= 1, got torch.fl"),
            ([[0, 1, 2]], r"pairs must be integers of shape .* of shape \[1, 3\]"),
            (np.zeros((0, 2), dtype=np.int64), r"pairs must be integers of shape .*\[0, 2\]"),
        ],
    )
    def test_refuses_pairs(self, pairs, message):
        with pytest.raises(ValueError, match=message):
            preference_discrimination(torch.ones(3, 2), np.asarray(pairs))

    def test_refuses_vectors(self):
        with pytest.raises(ValueError, match="vectors must hold at least 2 items, got 1"):
            preference_discrimination(torch.ones(1, 2), torch.tensor([[0, 0]]))
        with pytest.raises(ValueError, match="vectors must be floating with two axes, got "):
            preference_discrimination(torch.ones(3), torch.tensor([[0, 1]]))
        with pytest.raises(ValueError, match="vectors must be finite, got another number in row 1"):
            semantic_cohesion(torch.tensor([[0.0], [torch.inf]]), torch.tensor([0, 0]))
