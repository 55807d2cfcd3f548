import numpy as np
import pytest
import torch

from sidrank.semantic_ids.cohesion import preference_discrimination, semantic_cohesion
from sidrank.tokenizers._autoencoder import Autoencoder, Network
from sidrank.tokenizers._epochs import Batch, Training
from sidrank.tokenizers._r3_vae_step import R3VAEStep, project, rate
from sidrank.tokenizers.r3_vae import R3VAE, R3VAELosses, R3VAERating
from sidrank.tokenizers.rq_vae import RQVAE, RQVAECodebook
from tests import reference
from tests.tokenizers.test_rq_vae import clustered, error, used

SMALL = {"network": Network(hidden=(32,), latent=16), "training": Training(30, 128, 3e-3)}
QUICK = R3VAELosses(cohesion=0.0)


def many(seed=0):
    return clustered(count=2000, width=32, centres=100, seed=seed)[0]


@pytest.fixture(scope="module")
def fitted():
    return R3VAE(levels=(32, 32), **SMALL).fit(many())


class TestAgainstReference:
    def test_encode_takes_the_highest_cosine(self, fitted):
        x = many(seed=1)[:80]
        state = fitted.state_dict()
        latents = torch.cat(
            [z for _, z in Autoencoder.of_state(state, SMALL["network"]).latents(x)]
        )
        anchor = state["reference"].double()
        for latent, codes in zip(latents.double(), fitted.encode(x).tolist(), strict=True):
            residual = latent - (latent @ anchor) * anchor
            for level, code in enumerate(codes):
                book = state[f"codebooks.{level}"].double()
                cosines = [reference.cosine(residual.tolist(), row.tolist()) for row in book]
                assert cosines[code] >= max(cosines) - 1e-6
                residual = residual - book[code]

    def test_decode_adds_the_mean_component_along_the_reference(self, fitted):
        x = many()
        codes = fitted.encode(x)
        state = fitted.state_dict()
        net = Autoencoder.of_state(state, SMALL["network"])
        latents = torch.cat([z for _, z in net.latents(x)])
        component = (latents @ state["reference"]).mean()
        assert float(state["component"]) == pytest.approx(float(component), abs=1e-5)
        total = state["codebooks.0"][codes[:, 0].long()] + state["codebooks.1"][codes[:, 1].long()]
        standard = net.decoder(total + component * state["reference"])
        expected = standard * state["scale"] + state["shift"]
        torch.testing.assert_close(fitted.decode(codes), expected, rtol=1e-3, atol=1e-4)

    def test_rating_is_a_softmax_of_cosines(self):
        residual, book = torch.randn(3, 4), torch.randn(5, 4)
        for row, weights in zip(residual.tolist(), rate(residual, book, 0.3), strict=True):
            scores = np.exp([reference.cosine(row, c.tolist()) / 0.3 for c in book])
            assert weights.tolist() == pytest.approx((scores / scores.sum()).tolist(), rel=1e-4)

    def test_nothing_is_left_along_the_reference(self, fitted):
        unit = fitted.state_dict()["reference"]
        assert float(unit.norm()) == pytest.approx(1, rel=1e-6)
        left = project(torch.randn(50, 16), unit)
        assert float((left @ unit).abs().max()) < 1e-5

    def test_temperature_falls_geometrically_and_stays(self):
        rating = R3VAERating(hot=1.0, cold=0.01)
        found = [rating.temperature(elapsed) for elapsed in (0.0, 0.2, 0.4, 0.8, 0.9, 1.0)]
        assert found == pytest.approx([1.0, 10**-0.5, 0.1, 0.01, 0.01, 0.01])


class TestTraining:
    def test_the_gradient_reaches_every_codeword_in_one_step(self):
        # through the weighted sums alone: the other losses reach them all too
        step, x = one_step(R3VAELosses(distortion=0.0, cohesion=0.0))
        step(Batch(x, None, None, 0.0)).backward()
        for book in step.books:
            assert (book.grad.abs().sum(dim=1) > 0).all()
        # of 64 codewords, 40 vectors can select 40 at the most
        with torch.no_grad():
            selected = rate(step.autoencoder.encoder(x), step.books[0], 1.0).argmax(dim=1)
        assert len(selected.unique()) < 40 < len(step.books[0])

    def test_every_part_has_a_gradient(self):
        step, x = one_step(R3VAELosses(distortion=0.0, cohesion=0.0))
        step(Batch(x, None, None, 0.5)).backward()
        for tensor in [*step.autoencoder.parameters(), step.reference, *step.books]:
            assert tensor.grad is not None
            assert tensor.grad.abs().sum() > 0

    @pytest.mark.parametrize("seed", range(5))
    def test_a_bad_start_costs_it_fewer_codes_than_straight_through(self, seed):
        x = many(seed)
        settings = {
            "levels": (128, 128),
            "network": Network(hidden=(64,), latent=16),
            "training": Training(12, 128),
            "seed": seed,
        }
        ours = R3VAE(rating=R3VAERating(start_noise=1e-3), losses=QUICK, **settings).fit(x)
        # steps of codewords as long as ours: with the usual ones it uses fewer still
        bad = RQVAECodebook(ema=None, step=2.0, reset_after=None, start_noise=1e-3)
        theirs = RQVAE(codebook=bad, **settings).fit(x)
        for level in (0, 1):
            assert used(ours.encode(x), level) > 1.2 * used(theirs.encode(x), level)
        assert error(ours, x) < error(theirs, x)
        assert ours.soft_hard_gap(x) < 0.05

    @pytest.mark.parametrize("seed", range(5))
    def test_it_survives_a_start_from_one_point(self, seed):
        x = many(seed)
        same = R3VAERating(hot=0.1, step=5.0, start_noise=0.0)
        tokenizer = R3VAE(levels=(32, 32), rating=same, losses=QUICK, seed=seed, **SMALL).fit(x)
        codes = tokenizer.encode(x)
        assert min(used(codes, 0), used(codes, 1)) >= 28
        assert error(tokenizer, x) < 0.25
        assert tokenizer.soft_hard_gap(x) < 0.05

    def test_cooling_closes_the_gap(self):
        x = many()
        gaps = []
        for cold in (0.1, 0.03, 0.002):
            tokenizer = R3VAE(
                levels=(32, 32), rating=R3VAERating(hot=0.1, cold=cold), losses=QUICK, **SMALL
            )
            gaps.append(tokenizer.fit(x).soft_hard_gap(x))
        assert min(gaps[:2]) > 0.05 > 2 * gaps[2]

    def test_the_error_falls_with_the_epochs(self):
        x = many()
        errors = [
            error(
                R3VAE(
                    levels=(32, 32),
                    network=SMALL["network"],
                    losses=QUICK,
                    training=Training(n, 128, 3e-3),
                ).fit(x),
                x,
            )
            for n in (1, 5, 30)
        ]
        assert errors[0] > errors[1] > errors[2]
        assert errors[0] > 1.3 * errors[2]

    def test_pairs_are_told_from_others_and_shuffled_pairs_are_not(self):
        x = many()[:800]
        # co-engagement that the vectors know nothing of but can express
        liked = (x @ torch.randn(32, generator=torch.Generator().manual_seed(5))).argsort()
        pairs = torch.stack([liked[:-1], liked[1:]], dim=1)
        shuffled = torch.stack([pairs[:, 0], pairs[torch.randperm(len(pairs)), 1]], dim=1)
        shuffled = shuffled[shuffled[:, 0] != shuffled[:, 1]]
        found = []
        for given in (None, pairs, shuffled):
            losses = R3VAELosses(cohesion=0.0, discrimination=1.0)
            tokenizer = R3VAE(levels=(32, 32), losses=losses, **SMALL).fit(x, pairs=given)
            found.append(float(preference_discrimination(latent_sums(tokenizer, x), pairs)))
        assert found[1] > max(found[0], found[2]) + 0.1

    @pytest.mark.parametrize("temperature", [1.0, 0.1, 0.001])
    def test_the_cohesion_loss_is_one_minus_the_metric(self, temperature):
        residual, book = torch.randn(50, 6), torch.randn(5, 6)
        weights = rate(residual, book, temperature)
        step, _ = one_step(R3VAELosses(distortion=0.0, cohesion=1.0))
        step.books = [book]
        expected = 1 - semantic_cohesion(residual, weights)
        assert step.penalty(residual, weights, book).item() == pytest.approx(
            float(expected), abs=1e-3
        )

    @pytest.mark.parametrize("temperature", [1.0, 0.1])
    def test_the_distortion_loss_is_its_definition(self, temperature):
        residual, book = torch.randn(2, 20, 6)
        weights = rate(residual, book, temperature)
        step, _ = one_step(R3VAELosses(distortion=1.0, cohesion=0.0))
        gaps = (residual.unsqueeze(1) - book).square().mean(dim=2)
        # codewords see all of it and the encoder a quarter
        expected = 1.25 * (weights * gaps).sum(dim=1).mean()
        assert step.penalty(residual, weights, book).item() == pytest.approx(
            float(expected), rel=1e-4
        )

    def test_the_cohesion_loss_raises_cohesion_of_what_is_rated(self):
        step, x = one_step(R3VAELosses(distortion=0.0, cohesion=1.0))
        with torch.no_grad():
            latents = step.autoencoder.encoder(step.autoencoder.standardise(x))
        optimizer = torch.optim.Adam([step.books[0]], lr=0.02)
        found = []
        for _ in range(60):
            weights = rate(latents, step.books[0], 0.1)
            cohesion = semantic_cohesion(latents, weights)
            found.append(cohesion.item())
            optimizer.zero_grad()
            (1 - cohesion).backward()
            optimizer.step()
        assert found[-1] > found[0] + 0.1


class TestGap:
    def test_equals_its_definition(self, fitted):
        x = many()[:30]
        state = fitted.state_dict()
        net = Autoencoder.of_state(state, SMALL["network"])
        soft = project(torch.cat([z for _, z in net.latents(x)]), state["reference"])
        hard = latent_sums(fitted, x)
        total = torch.zeros_like(soft)
        for level in range(2):
            book = state[f"codebooks.{level}"]
            total += rate(soft - total, book, fitted.rating.cold) @ book
        expected = (total - hard).norm(dim=1).mean() / hard.norm(dim=1).mean()
        assert fitted.soft_hard_gap(x) == pytest.approx(float(expected), rel=1e-3)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"cold": 0.0}, "temperatures must satisfy 0 < cold <= hot, got 0.0 and 0.05"),
            ({"cold": 0.2}, "temperatures must satisfy 0 < cold <= hot, got 0.2 and 0.05"),
            ({"step": 0.0}, "step must be positive and finite, got 0.0"),
            ({"noise": -1.0}, "noise must be finite and at least 0, got -1.0"),
            ({"noise": 0.0, "start_noise": 0.0}, "start_noise must be positive if noise is 0"),
            ({"start_noise": torch.inf}, "start_noise must be at least 0 or None, got inf"),
        ],
    )
    def test_rating(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            R3VAERating(**arguments)

    def test_losses(self):
        with pytest.raises(ValueError, match="weights of losses must be finite and at least 0"):
            R3VAELosses(cohesion=-1.0)
        with pytest.raises(ValueError, match="margin must be finite, got nan"):
            R3VAELosses(margin=torch.nan)

    def test_nothing_would_be_left_of_one_dimension(self):
        with pytest.raises(ValueError, match=r"network.latent must be at least 2, got 1"):
            R3VAE(network={"latent": 1})

    def test_pairs_without_their_loss(self):
        tokenizer = R3VAE(levels=(2,), losses=R3VAELosses(discrimination=0.0))
        with pytest.raises(ValueError, match=r"pairs must be None if losses.discrimination is 0"):
            tokenizer.fit(torch.randn(9, 2), pairs=torch.tensor([[0, 1]]))


def latent_sums(tokenizer, x):
    codes, state = tokenizer.encode(x).long(), tokenizer.state_dict()
    return sum(state[f"codebooks.{level}"][codes[:, level]] for level in range(codes.shape[1]))


def one_step(losses=None):
    x = many()[:40]
    autoencoder = Autoencoder.untrained(
        x, Network(hidden=(32,), latent=32), np.random.default_rng(0)
    )
    reference_vector = torch.randn(32)
    books = [torch.randn(64, 32) for _ in range(2)]
    for tensor in [*autoencoder.parameters(), reference_vector, *books]:
        tensor.requires_grad_()
    rating = R3VAERating()
    return R3VAEStep(autoencoder, reference_vector, books, rating, losses or R3VAELosses(), 0), x
