"""How RQKMeans is fitted: on samples, with weights, warm, cut short, in little memory."""

import numpy as np
import pytest
import torch

from sidrank.tokenizers import NotFittedError, RQKMeans
from tests.tokenizers.allocations import LargestAllocation

LEVELS = (16, 8, 4)


def vectors(count=800, width=8, seed=0, centres=20):
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(centres, width, generator=generator)
    pick = torch.randint(0, centres, (count,), generator=generator)
    return means[pick] + torch.randn(count, width, generator=generator)


def nested(seed, count=40_000, width=6):
    """Stable clusters at both levels: every upper centre has the same 8 lower ones around it."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    upper, lower = torch.zeros(2, 8, width)
    upper[:, :3], lower[:, 3:] = 30 * corners, 6 * corners
    pick = torch.randint(0, 8, (2, count), generator=generator)
    return upper[pick[0]] + lower[pick[1]] + torch.randn(count, width, generator=generator)


def mse(tokenizer, x):
    return float((tokenizer.decode(tokenizer.encode(x)) - x).square().mean())


def same(first, second):
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class TestSample:
    @pytest.mark.parametrize("seed", range(5))
    def test_of_a_tenth_serves_the_rest_nearly_as_well(self, seed):
        x = nested(seed)
        whole = RQKMeans(levels=(8, 8), seed=seed).fit(x)
        tenth = RQKMeans(levels=(8, 8), seed=seed, sample=4000).fit(x)
        assert not same(whole, tenth)
        assert mse(tenth, x) <= 1.1 * mse(whole, x)
        # the control: a tenth that is not drawn from all over
        corner = RQKMeans(levels=(8, 8), seed=seed).fit(x[x[:, 0].argsort()[:4000]])
        assert mse(corner, x) > 1.1 * mse(whole, x)

    def test_is_drawn_from_all_over(self):
        x = vectors(count=4000)
        x[2000:] += 50
        assert mse(RQKMeans(levels=(2,), sample=400).fit(x), x) < 2 * float(x[:2000].var())

    @pytest.mark.parametrize("sample", [800, 10_000])
    def test_of_all_items_is_all_items(self, sample):
        x = vectors()
        assert same(RQKMeans(levels=LEVELS, sample=sample).fit(x), RQKMeans(levels=LEVELS).fit(x))


class TestWeights:
    def test_of_one_change_nothing(self):
        x = vectors()
        plain = RQKMeans(levels=LEVELS).fit(x)
        assert same(plain, RQKMeans(levels=LEVELS).fit(x, weights=np.ones(800)))

    def test_lower_the_error_of_what_is_shown_often(self):
        x = vectors(centres=300)
        weights = torch.ones(800)
        weights[:80] = 50.0
        plain = RQKMeans(levels=LEVELS).fit(x)
        weighted = RQKMeans(levels=LEVELS).fit(x, weights=weights)
        assert mse(weighted, x[:80]) < 0.8 * mse(plain, x[:80])
        shuffled = weights[torch.randperm(800)]
        assert mse(RQKMeans(levels=LEVELS).fit(x, weights=shuffled), x[:80]) > mse(weighted, x[:80])

    @pytest.mark.parametrize("sample", [None, 100])
    def test_of_zero_leave_an_item_out(self, sample):
        x = vectors()
        x[::2] += 1e6
        weights = torch.ones(800)
        weights[::2] = 0
        tokenizer = RQKMeans(levels=LEVELS, sample=sample).fit(x, weights=weights)
        assert max(float(book.abs().max()) for book in tokenizer.state_dict().values()) < 100

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (torch.ones(799), r"weights must have shape \[800\], got \[799\]"),
            (torch.zeros(800), "weights must not all be zero, got 800 zeros"),
            (
                torch.full((800,), -1.0),
                "weights must be finite and not negative, got -1.0 in row 0",
            ),
        ],
    )
    def test_refused(self, weights, message):
        with pytest.raises(ValueError, match=message):
            RQKMeans(levels=LEVELS).fit(vectors(), weights=weights)

    def test_pairs_are_refused(self):
        with pytest.raises(ValueError, match="pairs must be None for RQKMeans, got some"):
            RQKMeans(levels=LEVELS).fit(vectors(), pairs=torch.zeros(1, 2).long())


class TestProgress:
    def test_tells_of_every_level(self):
        told = []
        RQKMeans(levels=LEVELS, iterations=5).fit(
            vectors(count=3000, centres=500), progress=lambda *step: told.append(step)
        )
        stages = [f"level {level} of 3" for level in (1, 2, 3)]
        assert told == [(stage, done, 5) for stage in stages for done in range(1, 6)]

    def test_a_level_that_stops_early_ends_all_the_same(self):
        told = []
        RQKMeans(levels=(2,), iterations=50).fit(
            torch.tensor([[0.0], [1.0], [5.0]]), progress=lambda *step: told.append(step)
        )
        assert told[-1] == ("level 1 of 1", 50, 50)
        assert len(told) < 10

    def test_tolerance_saves_iterations(self):
        x = vectors(count=3000, centres=500)
        counts = []
        for tolerance in (0.0, 1e-2):
            told = []
            RQKMeans(levels=(16,), iterations=40, tolerance=tolerance).fit(
                x, progress=lambda *step, told=told: told.append(step)
            )
            counts.append(len(told))
        assert counts[1] < counts[0]


class TestResume:
    def cut(self, tokenizer, x, level, **arguments):
        def stop(stage, done, total):
            if stage == f"level {level} of 3" and done == total:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tokenizer.fit(x, progress=stop, **arguments)

    @pytest.mark.parametrize("level", [1, 2, 3])
    def test_ends_where_an_uncut_fit_ends(self, level):
        x, weights = vectors(), torch.rand(800)
        arguments = {"levels": LEVELS, "iterations": 4, "sample": 500, "seed": 3}
        tokenizer = RQKMeans(**arguments)
        self.cut(tokenizer, x, level, weights=weights)
        state = tokenizer.state_dict()
        assert list(state) == [f"codebooks.{n}" for n in range(level)]
        other = RQKMeans(**arguments).load_state_dict(state)
        other.fit(x, weights=weights, resume=True)
        assert same(other, RQKMeans(**arguments).fit(x, weights=weights))
        assert all(torch.equal(other.state_dict()[name], book) for name, book in state.items())

    def test_of_a_warm_start_keeps_it_warm(self):
        x, yesterday = vectors(), RQKMeans(levels=LEVELS).fit(vectors(seed=1)).state_dict()
        tokenizer = RQKMeans(levels=LEVELS, iterations=2)
        self.cut(tokenizer, x, 1, start=yesterday)
        tokenizer.fit(x, start=yesterday, resume=True)
        assert same(tokenizer, RQKMeans(levels=LEVELS, iterations=2).fit(x, start=yesterday))

    def test_with_nothing_to_go_on_from_is_a_fit(self):
        x = vectors()
        assert same(RQKMeans(levels=LEVELS).fit(x, resume=True), RQKMeans(levels=LEVELS).fit(x))

    def test_a_part_is_not_used(self):
        tokenizer = RQKMeans(levels=LEVELS)
        self.cut(tokenizer, vectors(), 2)
        message = r"RQKMeans must have all 3 levels, got 2: fit\(\.\.\., resume=True\)"
        with pytest.raises(NotFittedError, match=message):
            tokenizer.encode(vectors())
        with pytest.raises(NotFittedError, match=message):
            tokenizer.decode(torch.zeros(1, 3).long())

    def test_another_width_is_refused(self):
        tokenizer = RQKMeans(levels=LEVELS).fit(vectors())
        with pytest.raises(ValueError, match=r"x must have the width 8 of the levels .* got 5"):
            tokenizer.fit(vectors(width=5), resume=True)

    def test_without_it_everything_is_learned_anew(self):
        tokenizer = RQKMeans(levels=LEVELS).fit(vectors(seed=1))
        assert same(tokenizer.fit(vectors()), RQKMeans(levels=LEVELS).fit(vectors()))


class TestWarmStart:
    def test_keeps_most_codes(self):
        x, new = vectors(count=3000), vectors(count=300, seed=5)
        yesterday = RQKMeans(levels=LEVELS).fit(x)
        today = torch.cat([x, new])
        warm = RQKMeans(levels=LEVELS, iterations=5).fit(today, start=yesterday.state_dict())
        cold = RQKMeans(levels=LEVELS, iterations=5, seed=1).fit(today)

        def kept(tokenizer):
            return (tokenizer.encode(x) == yesterday.encode(x)).float().mean(dim=0)

        assert (kept(warm) > torch.tensor([0.9, 0.7, 0.7])).all()
        assert (kept(cold) < 0.4).all()
        assert mse(warm, today) < 1.05 * mse(cold, today)

    def test_from_itself_with_nothing_left_to_gain_changes_nothing(self):
        x = vectors()
        tokenizer = RQKMeans(levels=(6,), iterations=200).fit(x)
        again = RQKMeans(levels=(6,), iterations=200).fit(x, start=tokenizer.state_dict())
        assert same(tokenizer, again)

    @pytest.mark.parametrize(
        ("levels", "width", "message"),
        [
            ((16, 8), 8, "state must hold"),
            ((16, 8, 5), 8, r"codebooks.2 must have shape \[4, 8\], got \[5, 8\]"),
            (LEVELS, 5, r"codebooks.0 must have shape \[16, 8\], got \[16, 5\]"),
        ],
    )
    def test_of_another_shape_is_refused(self, levels, width, message):
        other = RQKMeans(levels=levels).fit(vectors(width=width)).state_dict()
        tokenizer = RQKMeans(levels=LEVELS).fit(vectors())
        before = tokenizer.state_dict()
        with pytest.raises(ValueError, match=message):
            tokenizer.fit(vectors(), start=other)
        assert tokenizer.state_dict().keys() == before.keys()


class TestMemory:
    @pytest.mark.parametrize("sample", [None, 20_000])
    def test_of_a_fit_is_no_second_copy(self, sample):
        x = vectors(count=60_000, width=64)
        with LargestAllocation(x) as largest:
            RQKMeans(levels=LEVELS, iterations=2, sample=sample).fit(x)
        assert 100_000 < largest.numel < 0.4 * x.numel()

    def test_of_encoding_does_not_grow_with_items_times_width(self):
        x = vectors(count=60_000, width=64)
        tokenizer = RQKMeans(levels=LEVELS, iterations=2).fit(x[:1000])
        with LargestAllocation(x) as largest:
            tokenizer.encode(x)
        assert largest.numel < 0.4 * x.numel()
