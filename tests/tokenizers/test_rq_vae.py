import numpy as np
import pytest
import torch

from sidrank.tokenizers._autoencoder import Autoencoder, Network
from sidrank.tokenizers._epochs import Batch, Training
from sidrank.tokenizers._residual_codebooks import MovingCodebook
from sidrank.tokenizers._rq_vae_step import RQVAEStep
from sidrank.tokenizers.rq_vae import RQVAE, RQVAECodebook, RQVAELosses
from tests import reference

SMALL = {"network": Network(hidden=(32,), latent=8), "training": Training(30, 128)}
STARTS = {"random": 1.0, "one point": 1e-3}


def clustered(count=1500, width=16, centres=40, seed=0):
    """Vectors of six factors, and the cluster of each."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(centres, 6, generator=generator)
    basis = torch.randn(6, width, generator=generator) / 6**0.5
    home = torch.randint(0, centres, (count,), generator=generator)
    return (means[home] + 0.25 * torch.randn(count, 6, generator=generator)) @ basis, home


def error(tokenizer, x):
    """Share of the variance that is lost."""
    lost = (tokenizer.decode(tokenizer.encode(x)) - x).square().mean()
    return float(lost / (x - x.mean(dim=0)).square().mean())


def uniqueness(codes):
    return len(torch.unique(codes, dim=0)) / len(codes)


def used(codes, level):
    return len(codes[:, level].unique())


def neighbour_purity(codes, x):
    """Of the items with the same codes, the share that is among the ten nearest vectors."""
    same = (codes.unsqueeze(0) == codes.unsqueeze(1)).all(dim=2).fill_diagonal_(False)
    gaps = torch.cdist(x, x).fill_diagonal_(torch.inf)
    near = torch.zeros_like(same).scatter_(1, gaps.topk(10, largest=False).indices, True)
    return float((same & near).sum() / same.sum())


@pytest.fixture(scope="module")
def fitted():
    return RQVAE(levels=(16, 8), **SMALL).fit(clustered()[0])


class TestAgainstReference:
    def test_encode_is_greedy_on_the_encoded_vectors(self, fitted):
        x = clustered(count=60, seed=1)[0]
        state = fitted.state_dict()
        books = [state[f"codebooks.{level}"].tolist() for level in range(2)]
        latents = torch.cat(
            [z for _, z in Autoencoder.of_state(state, SMALL["network"]).latents(x)]
        )
        expected = [
            reference.greedy_codes(row, books, lambda v: float(np.float32(v)))
            for row in latents.tolist()
        ]
        assert fitted.encode(x).tolist() == expected

    def test_decode_runs_the_decoder_on_the_sum_of_codewords(self, fitted):
        codes = fitted.encode(clustered(count=20)[0])
        state = fitted.state_dict()
        first, second = (state[f"codebooks.{level}"][codes[:, level].long()] for level in (0, 1))
        hidden = (first + second) @ state["decoder.0.weight"].T + state["decoder.0.bias"]
        standard = hidden.relu() @ state["decoder.1.weight"].T + state["decoder.1.bias"]
        expected = standard * state["scale"] + state["shift"]
        torch.testing.assert_close(fitted.decode(codes), expected, rtol=1e-4, atol=1e-5)

    def test_moving_averages(self):
        start = torch.tensor([[1.0], [5.0], [9.0]])
        book = MovingCodebook(
            start.clone(), RQVAECodebook(ema=0.9, reset_after=None), np.random.default_rng(0)
        )
        n, m = [1.0, 1.0, 1.0], [1.0, 5.0, 9.0]
        rng = np.random.default_rng(1)
        for _ in range(30):
            codes = rng.integers(0, 2, 6)
            values = rng.normal(size=6).astype(np.float32)
            book.observe(torch.from_numpy(values).unsqueeze(1), torch.from_numpy(codes))
            for k in range(3):
                n[k] = 0.9 * n[k] + 0.1 * sum(codes == k)
                m[k] = 0.9 * m[k] + 0.1 * float(values[codes == k].sum())
        expected = torch.tensor([[m[k] / n[k]] for k in range(3)], dtype=torch.float32)
        torch.testing.assert_close(book.codewords, expected)
        assert torch.equal(book.codewords[2], start[2])  # never used: it stays


class TestTraining:
    def test_the_error_falls_with_the_epochs(self):
        x = clustered()[0]
        errors = [
            error(
                RQVAE(levels=(16, 8), network=SMALL["network"], training=Training(n, 128)).fit(x), x
            )
            for n in (1, 5, 30)
        ]
        assert errors[0] > errors[1] > errors[2]
        assert errors[0] > 1.15 * errors[2]

    @pytest.mark.parametrize("ema", [0.99, None])
    def test_the_gradient_passes_straight_through(self, ema):
        step, x = one_step(RQVAECodebook(ema=ema), RQVAELosses(commitment=0.0))
        twin, _ = one_step(RQVAECodebook(ema=ema), RQVAELosses(commitment=0.0))
        step(Batch(x, None, None, 0.0)).backward()
        standard = twin.autoencoder.standardise(x)
        quantised, _ = twin.quantise(twin.autoencoder.encoder(standard))
        assert not quantised.requires_grad
        quantised.requires_grad_()
        torch.nn.functional.mse_loss(twin.autoencoder.decoder(quantised), standard).backward()
        # the last bias of the encoder sees the sum of the gradients of the latent vectors
        seen = step.autoencoder.encoder.biases[-1].grad
        torch.testing.assert_close(seen, quantised.grad.sum(dim=0))
        assert seen.any()

    def test_without_averages_only_chosen_codewords_have_a_gradient(self):
        step, x = one_step(RQVAECodebook(ema=None), RQVAELosses())
        for book in step.books:
            book.codewords.requires_grad_()
        step(Batch(x, None, None, 0.0)).backward()
        for book in step.books:
            moved = book.codewords.grad.abs().sum(dim=1) > 0
            assert torch.equal(moved, book.idle == 0)
            assert 0 < int(moved.sum()) < len(moved)

    @pytest.mark.parametrize("noise", STARTS.values(), ids=STARTS)
    def test_moving_averages_survive_a_bad_start_and_gradients_do_not(self, noise):
        with_them, without = [], []
        for seed in range(5):
            x = clustered(count=1000, seed=seed)[0]
            for ema, found in ((0.99, with_them), (None, without)):
                book = RQVAECodebook(ema=ema, reset_after=None, start_noise=noise)
                tokenizer = RQVAE(levels=(16, 16, 16), codebook=book, seed=seed, **SMALL)
                found.append(uniqueness(tokenizer.fit(x).encode(x)))
        assert all(a > 1.4 * b for a, b in zip(with_them, without, strict=True))
        assert sum(with_them) > 1.6 * sum(without)

    def test_random_last_levels_look_unique_and_mean_nothing(self):
        x = clustered(count=800, centres=20)[0]
        learned, drawn = (
            RQVAE(levels=(16, 64), codebook=RQVAECodebook(random_last_m=m), **SMALL).fit(x)
            for m in (0, 1)
        )
        assert uniqueness(drawn.encode(x)) > 1.25 * uniqueness(learned.encode(x))
        assert neighbour_purity(drawn.encode(x), x) < 0.5 * neighbour_purity(learned.encode(x), x)
        # no better than the level before it
        before = neighbour_purity(drawn.encode(x)[:, :1], x)
        assert neighbour_purity(drawn.encode(x), x) < 1.3 * before

    def test_diversity_evens_out_the_codes(self):
        x = clustered(centres=3)[0]
        entropies = []
        for weight in (0.0, 3.0):
            book = RQVAECodebook(ema=None, reset_after=None, start_noise=1.0)
            tokenizer = RQVAE(
                levels=(16,), codebook=book, losses=RQVAELosses(diversity=weight), **SMALL
            )
            share = tokenizer.fit(x).encode(x)[:, 0].bincount(minlength=16) / len(x)
            entropies.append(float(torch.special.entr(share).sum()))
        assert entropies[1] > entropies[0] + 0.5

    def test_pairs_share_prefixes_and_shuffled_pairs_do_not(self):
        x = clustered(count=1000, seed=3)[0]
        # co-engagement that the vectors know nothing of but can express
        liked = (x @ torch.randn(16, generator=torch.Generator().manual_seed(5))).argsort()
        pairs = torch.stack([liked[:-1], liked[1:]], dim=1)
        shuffled = torch.stack([pairs[:, 0], pairs[torch.randperm(len(pairs)), 1]], dim=1)
        together = []
        for given in (None, pairs, shuffled):
            tokenizer = RQVAE(levels=(16, 8), losses=RQVAELosses(contrastive=1.0), **SMALL)
            first = tokenizer.fit(x, pairs=given).encode(x)[:, 0]
            sizes = first.bincount().double()
            by_chance = float((sizes / len(x)).square().sum())
            shared = float((first[pairs[:, 0]] == first[pairs[:, 1]]).double().mean())
            together.append(shared / by_chance)
        assert together[1] > 1.5 * max(together[0], together[2])


class TestDeadCodes:
    def test_none_is_idle_for_longer_than_allowed(self):
        book = MovingCodebook(
            torch.randn(20, 2), RQVAECodebook(reset_after=4), np.random.default_rng(0)
        )
        idle, placed = np.zeros(20, dtype=int), book.codewords.clone()
        longest = 0
        for step in range(60):
            codes = torch.randint(0, 5 + step % 3, (8,))
            residual = torch.randn(8, 2)
            book.observe(residual, codes)
            moved = (book.codewords != placed).any(dim=1).numpy()
            placed = book.codewords.clone()
            idle = np.where(moved, 0, idle + 1)
            longest = max(longest, int(idle.max()))
            reset = moved & ~np.isin(np.arange(20), codes.numpy())
            for row in np.flatnonzero(reset):
                assert (residual == book.codewords[int(row)]).all(dim=1).any()
        assert longest == 3  # at the fourth step without use it moves

    def test_every_code_comes_into_use(self):
        x = clustered()[0]
        counts = []
        for reset_after in (20, None):
            book = RQVAECodebook(start_noise=3.0, reset_after=reset_after)
            codes = RQVAE(levels=(16, 16), codebook=book, **SMALL).fit(x).encode(x)
            counts.append([used(codes, level) for level in range(2)])
        assert min(counts[0]) >= 15
        assert max(counts[1]) <= 12

    def test_more_dead_codes_than_rows(self):
        book = MovingCodebook(
            torch.zeros(9, 2), RQVAECodebook(reset_after=1), np.random.default_rng(0)
        )
        residual = torch.tensor([[1.0, 2.0]])
        book.observe(residual, torch.tensor([0]))
        assert torch.equal(book.codewords[1:], residual.expand(8, -1))


class TestRandomLevels:
    def test_depend_on_the_vector_and_the_seed_alone(self):
        x = clustered(count=300)[0]
        x[7] = x[3]
        settings = {"codebook": RQVAECodebook(random_last_m=1), "training": Training(1)}
        tokenizer = RQVAE(levels=(4, 1000), **settings).fit(x)
        drawn = tokenizer.encode(x)[:, 1]
        assert drawn[7] == drawn[3]
        assert len(drawn.unique()) > 240
        other = RQVAE(levels=(4, 1000), **settings).fit(x[:100])
        assert torch.equal(other.encode(x)[:, 1], drawn)
        reseeded = RQVAE(levels=(4, 1000), seed=1, **settings).fit(x)
        assert (reseeded.encode(x)[:, 1] == drawn).double().mean() < 0.05

    def test_have_no_codebook_and_add_nothing(self):
        x = clustered(count=100)[0]
        settings = {"codebook": RQVAECodebook(random_last_m=1), "training": Training(1)}
        tokenizer = RQVAE(levels=(4, 9), **settings).fit(x)
        assert [name for name in tokenizer.state_dict() if "codebooks" in name] == ["codebooks.0"]
        codes = tokenizer.encode(x)
        elsewhere = codes.clone()
        elsewhere[:, 1] = (codes[:, 1] + 1) % 9
        assert torch.equal(tokenizer.decode(elsewhere), tokenizer.decode(codes))


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"ema": 1.0}, r"ema must be within \[0, 1\) or None, got 1.0"),
            ({"step": 0.0}, "step must be positive and finite, got 0.0"),
            ({"reset_after": 0}, "reset_after must be at least 1 or None, got 0"),
            ({"start_noise": -1.0}, "start_noise must be at least 0 or None, got -1.0"),
            ({"random_last_m": -1}, "random_last_m must be at least 0, got -1"),
        ],
    )
    def test_codebook(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            RQVAECodebook(**arguments)

    def test_losses(self):
        with pytest.raises(ValueError, match="weights of losses must be finite and at least 0"):
            RQVAELosses(diversity=torch.nan)
        with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
            RQVAELosses(temperature=0)

    def test_no_level_is_learned(self):
        with pytest.raises(ValueError, match="random_last_m must be less than the 2 levels, got 2"):
            RQVAE(levels=(4, 4), codebook={"random_last_m": 2})

    def test_pairs_without_their_loss(self):
        tokenizer = RQVAE(levels=(2,), losses=RQVAELosses(contrastive=0.0))
        with pytest.raises(ValueError, match=r"pairs must be None if losses.contrastive is 0"):
            tokenizer.fit(torch.randn(9, 2), pairs=torch.tensor([[0, 1]]))


def one_step(codebook, losses):
    x = clustered(count=40)[0]
    rng = np.random.default_rng(0)
    autoencoder = Autoencoder.untrained(x, SMALL["network"], rng)
    for parameter in autoencoder.parameters():
        parameter.requires_grad_()
    drawn = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    books = [MovingCodebook(codewords, codebook, rng) for codewords in drawn]
    return RQVAEStep(autoencoder, books, losses), x
