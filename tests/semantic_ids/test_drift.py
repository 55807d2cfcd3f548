import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids.drift import drift, usage_drift
from sidrank.tokenizers import RQKMeans
from tests import reference


class Grid:
    """Rounds two numbers to whole ones within [0, 20): an error of 1/12 each where data fill it."""

    def encode(self, x):
        return x.round().clamp(0, 19).int()

    def decode(self, codes):
        return codes.float()


class Exact(Grid):
    """Loses nothing as long as numbers are whole."""


def figures(found):
    return [found.error_ratio, found.far_items, *found.divergence, *found.dead_code_items]


def uniform(rng, rows, low, high):
    return rng.uniform(low, high, (rows, 2)).astype(np.float32)


class TestAgainstReference:
    WHOLE = st.lists(st.tuples(st.integers(-3, 22), st.integers(0, 5)), min_size=1, max_size=25)

    @given(WHOLE, WHOLE)
    def test_values(self, sample, new):
        x, y = np.array(sample) / 4, np.array(new) / 4
        found = drift(x, y, tokenizer=Grid(), splits=2)
        errors, codes = [], []
        for rows in (x.tolist(), y.tolist()):
            codes.append([[min(19, max(0, round(a))) for a in row] for row in rows])
            errors.append(
                [
                    sum((a - c) ** 2 for a, c in zip(row, code, strict=True))
                    for row, code in zip(rows, codes[-1], strict=True)
                ]
            )
        means = [sum(side) / len(side) for side in errors]
        if means[0] == 0:
            assert found.error_ratio is None
        else:
            assert found.error_ratio.value == pytest.approx(means[1] / means[0])
        limit = np.quantile(errors[0], 0.99)
        far = [error > limit for error in errors[1]]
        assert found.far_items.value == pytest.approx(sum(far) / len(far))
        for level in range(2):
            old, fresh = ([code[level] for code in side] for side in codes)
            expected = reference.jensen_shannon(old, fresh)
            assert found.divergence[level].value == pytest.approx(expected, abs=1e-12)
            dead = [code not in old for code in fresh]
            assert found.dead_code_items[level].value == pytest.approx(sum(dead) / len(dead))
        assert (found.sample_items, found.new_items) == (len(sample), len(new))

    def test_blocks_change_nothing(self, monkeypatch):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 100, 0, 19), uniform(rng, 50, 5, 25)
        whole = drift(x, y, tokenizer=Grid(), splits=5)
        monkeypatch.setattr(sys.modules[drift.__module__], "_BLOCK", 7)
        assert drift(x, y, tokenizer=Grid(), splits=5) == whole


class TestNull:
    def test_a_fresh_sample_of_the_same_items_is_within_chance(self):
        """Over many worlds without drift a figure is beyond the upper end in 2.5 % of them."""
        beyond, excess, worlds = 0, [], 150
        for world in range(worlds):
            rng = np.random.default_rng(world)
            x, y = uniform(rng, 400, 0, 19), uniform(rng, 200, 0, 19)
            found = figures(drift(x, y, tokenizer=Grid(), splits=80, seed=world))
            beyond += np.array([figure.value > figure.high for figure in found])
            excess.append([figure.excess for figure in found])
        assert (beyond <= 12).all()  # 3.75 are expected; 13 or more have a chance below 1e-4
        error = np.std(excess, axis=0) / np.sqrt(worlds)
        assert (np.abs(np.mean(excess, axis=0)) < 4 * error + 1e-12).all()

    def test_p_values_are_uniform(self):
        found = []
        for world in range(150):
            rng = np.random.default_rng(1000 + world)
            x, y = uniform(rng, 300, 0, 19), uniform(rng, 300, 0, 19)
            found.append(drift(x, y, tokenizer=Grid(), splits=80, seed=world).divergence[0].p_value)
        for level in (0.1, 0.5, 0.9):
            error = np.sqrt(level * (1 - level) / len(found))
            assert abs(np.mean(np.array(found) <= level) - level) < 4 * error

    def test_without_its_null_a_divergence_would_look_like_drift(self):
        rng = np.random.default_rng(0)
        found = drift(uniform(rng, 60, 0, 19), uniform(rng, 60, 0, 19), tokenizer=Grid())
        assert all(figure.value > 0.03 for figure in found.divergence)
        assert all(figure.value < figure.high for figure in found.divergence)

    def test_held_out_items_of_a_fitted_tokenizer_have_not_drifted(self):
        x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
        fitted = RQKMeans(levels=(16, 16), iterations=5).fit(x[:1000])
        found = drift(x[1000:2000], x[2000:], tokenizer=fitted)
        assert all(figure.p_value > 0.005 for figure in figures(found))
        # items of the fit are quantised better than others: no drift, and yet a ratio above 1
        optimistic = drift(x[:1000], x[2000:], tokenizer=fitted).error_ratio
        assert optimistic.value > optimistic.high


class TestPlanted:
    def check(self, drifted, still):
        for figure in drifted:
            assert figure.value > figure.high
            assert figure.p_value == pytest.approx(1 / 201)
        for figure in still:
            assert figure.value <= figure.high

    def test_another_use_of_the_same_codes(self):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 2000, 0, 19), uniform(rng, 1000, 0, 19)
        y[:, 0] = rng.uniform(2, 8, 1000)
        found = drift(x, y, tokenizer=Grid())
        still = [found.error_ratio, found.far_items, found.divergence[1], *found.dead_code_items]
        self.check([found.divergence[0]], still)

    def test_items_where_the_sample_had_none(self):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 2000, 0, 9), uniform(rng, 1000, 0, 9)
        y[:, 1] += 5
        found = drift(x, y, tokenizer=Grid())
        still = [found.far_items, found.divergence[0], found.dead_code_items[0]]
        self.check([found.divergence[1], found.dead_code_items[1]], still)
        assert found.dead_code_items[1].value == pytest.approx(5 / 9, abs=0.05)

    def test_items_beyond_the_codebooks(self):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 2000, 0, 19), uniform(rng, 1000, 0, 19)
        y[:100, 0] += 19
        found = drift(x, y, tokenizer=Grid())
        self.check([found.error_ratio, found.far_items], found.dead_code_items)
        assert found.far_items.value == pytest.approx(0.1 + 0.009, abs=0.02)

    def test_the_more_drift_the_larger_the_figures(self):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 1000, 0, 12), uniform(rng, 1000, 0, 12)
        found = [drift(x, y + shift, tokenizer=Grid(), splits=2) for shift in (0, 2, 4, 8)]
        for name in ("divergence", "dead_code_items"):
            values = [getattr(each, name)[0].value for each in found]
            assert values == sorted(values)


class TestReport:
    def test_is_json(self):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 30, 0, 19), uniform(rng, 20, 0, 19)
        found = drift(x, y, tokenizer=Grid(), splits=5)
        report = found.to_dict()
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        assert list(report) == list(found.__dataclass_fields__)
        assert report["far_items"]["excess"] == found.far_items.value - found.far_items.expected
        assert [level["value"] for level in report["divergence"]] == [
            level.value for level in found.divergence
        ]

    def test_a_sample_without_error(self):
        x = np.arange(10.0).repeat(2).reshape(-1, 2)
        found = drift(x, x + 0.25, tokenizer=Exact(), splits=5)
        assert found.error_ratio is None
        assert found.far_items.value == 1
        assert json.dumps(found.to_dict(), allow_nan=False)

    def test_one_item_on_each_side(self):
        found = drift(np.zeros((1, 2)), np.ones((1, 2)), tokenizer=Grid(), splits=5)
        assert [level.value for level in found.divergence] == [1, 1]
        assert all(level.p_value == 1 for level in found.divergence)  # any split is as far

    def test_the_seed_decides_the_splits(self):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 50, 0, 19), uniform(rng, 40, 0, 19)
        first, again, other = (
            drift(x, y, tokenizer=Grid(), splits=20, seed=seed) for seed in (1, 1, 2)
        )
        assert first == again
        assert first.divergence[0].value == other.divergence[0].value
        assert first.divergence[0].expected != other.divergence[0].expected

    def test_nothing_of_the_caller_is_touched(self):
        rng = np.random.default_rng(0)
        x, y = uniform(rng, 50, 0, 19), uniform(rng, 40, 0, 19)
        before = x.copy(), y.copy(), np.random.get_state()[1].copy(), torch.get_rng_state()
        drift(x, y, tokenizer=Grid(), splits=5)
        assert np.array_equal(x, before[0])
        assert np.array_equal(y, before[1])
        assert np.array_equal(np.random.get_state()[1], before[2])
        assert torch.equal(torch.get_rng_state(), before[3])


class TestErrors:
    X = np.zeros((3, 2))

    @pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 2)), np.zeros((3, 2), int)])
    def test_shapes(self, bad):
        with pytest.raises(ValueError, match=r"sample must be floating of shape \[n, D\] with n"):
            drift(bad, self.X, tokenizer=Grid())
        with pytest.raises(ValueError, match=r"new must be floating of shape \[n, D\] with n"):
            drift(self.X, bad, tokenizer=Grid())

    def test_widths(self):
        with pytest.raises(ValueError, match="new must have width 2, got 3"):
            drift(self.X, np.zeros((3, 3)), tokenizer=Grid())

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_numbers(self, bad):
        x = self.X.copy()
        x[1, 0] = bad
        with pytest.raises(ValueError, match="new must be finite, got another number in row 1"):
            drift(self.X, x, tokenizer=Grid())

    def test_splits(self):
        with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
            drift(self.X, self.X, tokenizer=Grid(), splits=0)


class TestUsageAlone:
    def test_values_are_those_with_vectors(self):
        rng = np.random.default_rng(0)
        sample, new = uniform(rng, 300, 0, 6), uniform(rng, 80, 3, 9)
        found = drift(sample, new, tokenizer=Grid())
        codes = [Grid().encode(torch.as_tensor(x)) for x in (sample, new)]
        divergence, dead = usage_drift(*codes)
        assert [each.value for each in divergence] == [each.value for each in found.divergence]
        assert [each.value for each in dead] == [each.value for each in found.dead_code_items]
        assert divergence[0].value > divergence[0].high

    def test_without_drift_it_is_within_chance(self):
        rng = np.random.default_rng(0)
        divergence, dead = usage_drift(
            rng.integers(0, 50, (400, 2)), rng.integers(0, 50, (100, 2)), seed=3
        )
        for figure in (*divergence, *dead):
            assert figure.p_value > 0.02
        assert divergence[0].value > 0.02  # and yet not zero

    def test_errors(self):
        codes = np.zeros((3, 2), dtype=np.int64)
        with pytest.raises(ValueError, match=r"new must have shape \[n, 2\] with n >= 1"):
            usage_drift(codes, codes[:, :1])
        with pytest.raises(ValueError, match="new must have shape"):
            usage_drift(codes, codes[:0])
        with pytest.raises(ValueError, match=r"codes must have shape \[V, N\] with V >= 1"):
            usage_drift(codes[:0], codes)
        with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
            usage_drift(codes, codes, splits=0)
        with pytest.raises(TypeError, match="new must be integers"):
            usage_drift(codes, codes.astype(float))
