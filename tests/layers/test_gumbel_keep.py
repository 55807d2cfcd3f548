"""Keep or drop: the concrete distribution, its limits, its gradient, its budget."""

import math

import pytest
import torch

from sidrank.layers.gumbel_keep import GumbelKeep, keep_share

DRAWS = 200_000


def everywhere(logit, **options):
    """Many draws at one logit."""
    torch.manual_seed(0)
    keep = GumbelKeep(**options)
    return keep(torch.full((1, 1, DRAWS), logit), torch.ones(1, DRAWS).bool()).flatten()


class TestTraining:
    @pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
    @pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
    def test_above_one_half_as_often_as_the_logit_says(self, logit, temperature):
        share = float((everywhere(logit, temperature=temperature) > 0.5).float().mean())
        chance = 1 / (1 + math.exp(-logit))
        assert share == pytest.approx(chance, abs=4 * 0.5 / math.sqrt(DRAWS))

    def test_its_mean_is_something_else(self):
        # at a temperature of 3 all draws are pulled to one half
        mean, chance = float(everywhere(2.0, temperature=3.0).mean()), 1 / (1 + math.exp(-2.0))
        assert mean < chance - 0.15

    def test_follows_the_formula(self):
        torch.manual_seed(3)
        uniform = torch.rand(2, 3, 5)
        noise = torch.log(uniform) - torch.log1p(-uniform)
        logits = torch.randn(2, 3, 5)
        torch.manual_seed(3)
        kept = GumbelKeep(temperature=0.7)(logits, torch.ones(2, 5).bool())
        torch.testing.assert_close(kept, torch.sigmoid((logits + noise) / 0.7))

    def test_the_same_seed_draws_the_same(self):
        logits, mask = torch.randn(2, 3, 5), torch.ones(2, 5).bool()
        keep, found = GumbelKeep(), []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(keep(logits, mask))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    def test_at_temperature_zero_a_decided_choice_is_that_of_evaluation(self):
        logits = torch.randn(4, 3, 50).sign() * (20 + torch.rand(4, 3, 50))
        mask, keep = torch.ones(4, 50).bool(), GumbelKeep(temperature=1e-4)
        assert torch.equal(keep(logits, mask), keep.eval()(logits, mask))

    def test_at_temperature_zero_a_draw_is_zero_or_one(self):
        kept = everywhere(0.3, temperature=1e-6)
        assert float(((kept == 0) | (kept == 1)).float().mean()) > 0.9999

    def test_gradient_reaches_the_logits(self):
        for options in ({}, {"hard": True}):
            logits = torch.zeros(1, 1, 50, requires_grad=True)
            GumbelKeep(**options)(logits, torch.ones(1, 50).bool()).sum().backward()
            assert (logits.grad > 0).all()

    def test_hard_draws_are_zero_or_one_as_often(self):
        kept = everywhere(1.0, hard=True)
        assert set(kept.tolist()) == {0.0, 1.0}
        assert float(kept.mean()) == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.005)


class TestEvaluation:
    def test_keeps_what_is_positive_and_draws_nothing(self):
        keep, logits = GumbelKeep().eval(), torch.tensor([[[-1.0, 0.0, 1e-6, 5.0]]])
        state = torch.get_rng_state()
        assert keep(logits, torch.ones(1, 4).bool()).tolist() == [[[0.0, 0.0, 1.0, 1.0]]]
        assert torch.equal(torch.get_rng_state(), state)

    def test_has_the_gradient_of_the_soft_choice(self):
        logits = torch.linspace(-2, 2, 9).view(1, 1, 9).requires_grad_()
        GumbelKeep(temperature=0.5).eval()(logits, torch.ones(1, 9).bool()).sum().backward()
        soft = torch.sigmoid(logits.detach() / 0.5)
        torch.testing.assert_close(logits.grad, soft * (1 - soft) / 0.5)


@pytest.mark.parametrize("training", [True, False])
def test_padding_is_never_kept(training):
    logits = torch.full((1, 2, 3), 9.0)
    logits[:, :, 1] = torch.nan
    mask = torch.tensor([[True, False, True]])
    kept = GumbelKeep().train(training)(logits, mask)
    assert (kept[:, :, 1] == 0).all()
    assert (kept[:, :, [0, 2]] > 0.5).all()


class TestBudget:
    def test_share_of_a_row(self):
        kept = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], [[0.0] * 3] * 2])
        mask = torch.tensor([[True, True, False], [False, False, False]])
        assert keep_share(kept, mask).tolist() == [0.5, 0.0]

    def test_pushes_logits_down_and_a_weight_of_zero_does_not(self):
        found = []
        for budget in (1.0, 0.0):
            torch.manual_seed(0)
            logits = torch.zeros(2, 1, 4, requires_grad=True)
            mask = torch.ones(2, 4).bool()
            (budget * keep_share(GumbelKeep()(logits, mask), mask).mean()).backward()
            found.append(logits.grad)
        assert (found[0] > 0).all()
        assert (found[1] == 0).all()


class TestErrors:
    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
    def test_temperature(self, temperature):
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            GumbelKeep(temperature=temperature)

    def test_mask(self):
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 4\], got \[2, 3\]"):
            GumbelKeep()(torch.zeros(2, 1, 4), torch.ones(2, 3).bool())
        with pytest.raises(ValueError, match=r"mask must be bool, got torch\.float32"):
            keep_share(torch.zeros(2, 1, 3), torch.ones(2, 3))

    def test_logits(self):
        with pytest.raises(
            ValueError, match=r"logits must have shape \[\*, \*, \*\], got \[2, 3\]"
        ):
            GumbelKeep()(torch.zeros(2, 3), torch.ones(2, 3).bool())
        with pytest.raises(ValueError, match=r"kept must have shape \[\*, \*, \*\], got \[2, 3\]"):
            keep_share(torch.zeros(2, 3), torch.ones(2, 3).bool())
