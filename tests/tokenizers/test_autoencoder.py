"""What holds for every tokenizer that is an autoencoder."""

import json
import re

import numpy as np
import pytest
import torch

from sidrank.semantic_ids import SIDSpec, SIDTable, load_bundle, save_bundle
from sidrank.tokenizers import NotFittedError
from sidrank.tokenizers._autoencoder import Autoencoder, Network
from sidrank.tokenizers._epochs import Training
from sidrank.tokenizers.r3_vae import R3VAE
from sidrank.tokenizers.rq_kmeans import RQKMeans
from sidrank.tokenizers.rq_vae import RQVAE, RQVAECodebook
from tests.tokenizers.test_rq_vae import clustered, error

QUICK = {"network": Network(hidden=(16,), latent=6), "training": Training(3, 64, 3e-3)}


class WithRandomLevel(RQVAE):
    """An RQ-VAE whose last level is drawn."""

    def __init__(self, **arguments):
        super().__init__(codebook=RQVAECodebook(random_last_m=1), **arguments)


@pytest.fixture(params=[RQVAE, R3VAE, WithRandomLevel], scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(kind):
    learned = kind(levels=(16, 8, 4), network=QUICK["network"], training=Training(20, 64, 3e-3))
    return learned.fit(clustered(count=400)[0])


class TestEncode:
    @pytest.mark.parametrize("size", [1, 2, 7, 399, 1000])
    def test_a_code_does_not_depend_on_the_batch(self, fitted, size):
        count = 150 if size == 1 else 900
        x = torch.cat([clustered(count=count, seed=1)[0], clustered(count=100)[0].round()])
        parts = torch.cat([fitted.encode(part) for part in x.split(size)])
        assert torch.equal(parts, fitted.encode(x))

    def test_a_code_does_not_depend_on_its_neighbours_or_threads(self, fitted):
        x = clustered(count=3000, seed=1)[0]
        order = torch.randperm(len(x))
        try:
            torch.set_num_threads(2)
            shuffled = fitted.encode(x[order])
        finally:
            torch.set_num_threads(1)
        assert torch.equal(shuffled, fitted.encode(x)[order])

    def test_blocks_do_not_show(self, fitted, monkeypatch):
        x = clustered(count=300)[0]
        codes, vectors = fitted.encode(x), fitted.decode(fitted.encode(x))
        monkeypatch.setattr("sidrank.tokenizers._autoencoder._BLOCK", 100)
        assert torch.equal(fitted.encode(x), codes)
        assert torch.equal(fitted.decode(codes), vectors)

    def test_decode_does_not_depend_on_the_batch(self, fitted):
        codes = fitted.encode(clustered(count=200)[0])
        assert torch.equal(
            torch.cat([fitted.decode(c) for c in codes.split(7)]), fitted.decode(codes)
        )

    def test_says_more_than_shuffled_codes(self, fitted):
        x = clustered(count=400)[0]
        codes = fitted.encode(x)
        right = (fitted.decode(codes) - x).square().mean()
        wrong = (fitted.decode(codes[torch.randperm(len(x))]) - x).square().mean()
        assert right < 0.7 * wrong

    def test_numpy_and_tensors_that_need_gradients(self, fitted):
        x = clustered(count=20)[0]
        codes = fitted.encode(x)
        assert torch.equal(fitted.encode(x.numpy()), codes)
        assert torch.equal(fitted.encode(x.clone().requires_grad_()), codes)
        assert torch.equal(fitted.decode(codes.numpy()), fitted.decode(codes))
        assert not fitted.decode(codes).requires_grad
        assert fitted.encode(x).dtype == torch.int32

    def test_autocast_changes_nothing(self, fitted):
        x = clustered(count=50)[0]
        codes = fitted.encode(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(fitted.encode(x), codes)
            assert fitted.decode(codes).dtype == torch.float32

    def test_on_the_device(self, fitted, device):
        x = clustered(count=50)[0]
        codes = fitted.encode(x.to(device))
        assert codes.device.type == fitted.decode(codes).device.type == device.type
        assert torch.equal(codes.cpu(), fitted.encode(x))

    def test_nothing_to_encode(self, fitted):
        codes = fitted.encode(torch.zeros(0, 16))
        assert (codes.shape, codes.dtype) == ((0, 3), torch.int32)
        assert fitted.decode(codes).shape == (0, 16)


class TestFit:
    def test_the_seed_decides(self, kind):
        x = clustered(count=300)[0]
        first, again, other = (
            kind(levels=(8, 4), seed=seed, **QUICK).fit(x).state_dict() for seed in (5, 5, 6)
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["codebooks.0"], other["codebooks.0"])

    def test_leaves_global_state_alone(self, kind):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        with torch.no_grad():
            kind(levels=(4, 2), **QUICK).fit(clustered(count=80)[0])
            assert not torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()

    @pytest.mark.parametrize(
        "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")]
    )
    def test_modes_of_the_caller_change_nothing(self, kind, mode):
        x = clustered(count=200)[0]
        plain = kind(levels=(8, 4), **QUICK).fit(x).state_dict()
        with mode():
            inside = kind(levels=(8, 4), **QUICK).fit(x).state_dict()
        assert all(torch.equal(plain[name], inside[name]) for name in plain)

    def test_dtypes_are_computed_in_float32(self, kind):
        x = clustered(count=200)[0].half()
        half, plain = (kind(levels=(8, 4), **QUICK).fit(v) for v in (x, x.float()))
        assert torch.equal(half.encode(x), plain.encode(x.float()))

    def test_shift_and_scale_of_the_vectors_do_not_matter(self, kind):
        x = clustered(count=300)[0].double()
        plain = kind(levels=(8, 4), **QUICK).fit(x)
        # powers of two: nothing but the exponents changes
        scaled = kind(levels=(8, 4), **QUICK).fit(x * 2.0**60)
        if kind is not WithRandomLevel:
            assert torch.equal(plain.encode(x), scaled.encode(x * 2.0**60))
        torch.testing.assert_close(
            scaled.decode(plain.encode(x)) / 2.0**60, plain.decode(plain.encode(x))
        )

    def test_pairs_matter(self, kind):
        x = clustered(count=200)[0]
        pairs = np.random.default_rng(0).integers(0, 200, (500, 2))
        without, with_them = (
            kind(levels=(8, 4), **QUICK).fit(x, pairs=given).state_dict() for given in (None, pairs)
        )
        assert not torch.equal(without["encoder.0.weight"], with_them["encoder.0.weight"])

    def test_tells_of_its_progress(self, kind):
        told = []
        kind(levels=(8, 4), **QUICK).fit(
            clustered(count=90)[0], progress=lambda *step: told.append(step)
        )
        levels = 1 if kind is WithRandomLevel else 2
        expected = [("first codebooks", n + 1, levels) for n in range(levels)]
        assert told == expected + [("training epochs", n + 1, 3) for n in range(3)]

    def test_refitting_forgets(self, kind):
        tokenizer = kind(levels=(4, 2), **QUICK).fit(clustered(width=3, count=50)[0])
        tokenizer.fit(clustered(width=5, count=50)[0])
        assert tokenizer.decode(torch.zeros(1, 2).long()).shape == (1, 5)

    @pytest.mark.parametrize(
        ("count", "width", "levels"),
        [(1, 1, (1, 1)), (1, 4, (8, 8)), (3, 2, (256, 256)), (5, 1, (1, 2, 1)), (4, 3, (1, 9))],
    )
    def test_fewer_items_than_codes(self, kind, count, width, levels):
        x = clustered(count=count, width=width)[0]
        pairs = torch.zeros(1, 2).long()
        codes = kind(levels=levels, **QUICK).fit(x, pairs=pairs).encode(x)
        assert codes.shape == (count, len(levels))
        assert (codes < torch.tensor(levels)).all()

    @pytest.mark.parametrize("value", [0.0, 3.5, -1e30])
    def test_no_variance(self, kind, value):
        x = torch.full((50, 3), value)
        tokenizer = kind(levels=(4, 4), **QUICK).fit(x)
        codes = tokenizer.encode(x)
        assert (codes == codes[0]).all()
        torch.testing.assert_close(tokenizer.decode(codes), x)

    @pytest.mark.parametrize(("kind", "share"), [(RQVAE, 1.0), (R3VAE, 1.5)])
    def test_the_default_rebuilds_few_vectors_about_as_well_as_k_means(self, kind, share):
        x = 30 + 7 * clustered(count=1000)[0]
        peer = RQKMeans(levels=(16, 16)).fit(x)
        assert error(kind(levels=(16, 16)).fit(x), x) < share * error(peer, x)


class TestState:
    def test_names_and_shapes(self, fitted):
        shapes = {name: list(tensor.shape) for name, tensor in fitted.state_dict().items()}
        expected = {
            "shift": [16],
            "scale": [1],
            "encoder.0.weight": [16, 16],
            "encoder.0.bias": [16],
            "encoder.1.weight": [6, 16],
            "encoder.1.bias": [6],
            "decoder.0.weight": [16, 6],
            "decoder.0.bias": [16],
            "decoder.1.weight": [16, 16],
            "decoder.1.bias": [16],
            "codebooks.0": [16, 6],
            "codebooks.1": [8, 6],
        }
        if not isinstance(fitted, WithRandomLevel):
            expected["codebooks.2"] = [4, 6]
        if isinstance(fitted, R3VAE):
            expected |= {"reference": [6], "component": [1]}
        assert shapes == expected
        assert {tensor.dtype for tensor in fitted.state_dict().values()} == {torch.float32}

    def test_round_trip_through_a_bundle(self, kind, tmp_path):
        kind = RQVAE if kind is WithRandomLevel else kind
        x = clustered(count=200)[0]
        fitted = kind(levels=[8, 4], seed=3, **QUICK).fit(x)
        table = SIDTable(np.arange(len(x)), fitted.encode(x), spec=SIDSpec(fitted.levels))
        save_bundle(tmp_path / "b", table, tokenizer=fitted)
        found = load_bundle(tmp_path / "b")
        twin = kind(**found.manifest["tokenizer"]["arguments"])
        twin.load_state_dict(found.tokenizer_state)
        assert twin.arguments == fitted.arguments == json.loads(json.dumps(fitted.arguments))
        assert torch.equal(twin.encode(x), fitted.encode(x))
        assert torch.equal(twin.decode(twin.encode(x)), fitted.decode(fitted.encode(x)))

    def test_is_a_copy(self, kind, fitted):
        fitted.state_dict()["codebooks.0"].zero_()
        state = fitted.state_dict()
        twin = kind(levels=(16, 8, 4), **QUICK).load_state_dict(state)
        for tensor in state.values():
            tensor.zero_()
        assert all(t.any() for name, t in twin.state_dict().items() if "weight" in name)
        assert twin.state_dict()["codebooks.0"].any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"codebooks.1": None}, r"state must hold \[.*\], got "),
            ({"shift": None}, r"state must hold \[.*\], got "),
            ({"codebooks.9": torch.zeros(4, 6)}, r"state must hold \[.*\], got "),
            (
                {"codebooks.0": torch.zeros(15, 6)},
                r"codebooks.0 must have shape \[16, 6\], got \[15, 6\]",
            ),
            (
                {"shift": torch.zeros(5)},
                r"encoder.0.weight must have shape \[16, 5\], got \[16, 16\]",
            ),
            ({"shift": torch.zeros(0)}, r"shift must have shape \[1\], got \[0\]"),
            ({"shift": torch.zeros(4, 4)}, r"shift must have shape \[16\], got \[4, 4\]"),
            ({"scale": torch.ones(1).double()}, "scale must be float32, got torch.float64"),
            ({"encoder.0.bias": torch.full((16,), torch.nan)}, "encoder.0.bias must be finite and"),
        ],
    )
    def test_refuses_another_state(self, kind, fitted, change, message):
        state = {n: t for n, t in (fitted.state_dict() | change).items() if t is not None}
        with pytest.raises(ValueError, match=message):
            kind(levels=(16, 8, 4), **QUICK).load_state_dict(state)


class TestErrors:
    @pytest.mark.parametrize("method", ["encode", "decode", "state_dict"])
    def test_not_fitted(self, kind, method):
        given = {"encode": [torch.ones(1, 2)], "decode": [torch.zeros(1, 3).long()]}
        with pytest.raises(NotFittedError, match="VAE must be fitted or loaded first"):
            getattr(kind(), method)(*given.get(method, []))

    def test_weights(self, kind):
        name = "R3VAE" if kind is R3VAE else "RQVAE"
        with pytest.raises(ValueError, match=f"weights must be None for {name}, got some"):
            kind().fit(torch.randn(9, 2), weights=torch.ones(9))

    def test_numbers_that_are_none(self, kind, fitted):
        x = clustered(count=40)[0]
        x[17, 3] = torch.nan
        for call in (kind(levels=(2, 2)).fit, fitted.encode):
            with pytest.raises(ValueError, match=r"x must be finite .* got nan in row 17"):
                call(x)

    def test_nothing_to_fit(self, kind):
        with pytest.raises(ValueError, match=r"x must hold at least one number, got \[0, 4\]"):
            kind().fit(torch.zeros(0, 4))

    def test_other_widths_and_codes(self, fitted):
        with pytest.raises(ValueError, match=r"x must have shape \[n, 16\], got \[2, 7\]"):
            fitted.encode(torch.zeros(2, 7))
        with pytest.raises(ValueError, match=r"codes of level 2 must be within \[0, 4\), got 4"):
            fitted.decode(torch.tensor([[0, 0, 4]]))

    def test_pairs_outside(self, kind):
        with pytest.raises(ValueError, match=r"pairs must hold rows within \[0, 9\), got 9"):
            kind().fit(torch.randn(9, 2), pairs=torch.tensor([[0, 9]]))

    def test_a_loss_that_explodes_keeps_the_old_codes(self, kind):
        x = clustered(count=200)[0]
        tokenizer = kind(levels=(8, 4), **QUICK).fit(x)
        codes = tokenizer.encode(x)
        tokenizer.training = Training(50, 64, learning_rate=1e30)
        with pytest.raises(
            ValueError, match=r"learning_rate must keep the loss finite, got (nan|inf)"
        ):
            tokenizer.fit(x)
        assert torch.equal(tokenizer.encode(x), codes)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"levels": ()}, r"levels must be one or more sizes of at least 1, got \(\)"),
            ({"levels": (4, 0)}, r"levels must be one or more sizes of at least 1, got \(4, 0\)"),
            ({"seed": -1}, "seed must be at least 0, got -1"),
            (
                {"network": {"latent": 0}},
                r"hidden and latent must be at least 1, got \(128,\) and 0",
            ),
            (
                {"training": {"epochs": 0}},
                "epochs must be at least 1, got 0",
            ),
            (
                {"training": {"batch_size": 0}},
                "batch_size must be at least 1 or None, got 0",
            ),
            (
                {"training": {"learning_rate": 0}},
                "learning_rate must be positive and finite, got 0",
            ),
        ],
    )
    def test_arguments(self, kind, arguments, message):
        with pytest.raises(ValueError, match=message):
            kind(**arguments)

    def test_descriptions(self, kind):
        with pytest.raises(
            TypeError, match="Training must be given as such or as a dictionary, got int"
        ):
            kind(training=3)
        with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
            kind(network={"depth": 3})


class TestNetworks:
    def test_standard_vectors(self):
        x = 100 + 7 * clustered()[0]
        net = Autoencoder.untrained(x, Network(), np.random.default_rng(0))
        standard = net.standardise(x)
        assert standard.mean(dim=0).abs().max() < 1e-4
        assert float(standard.square().mean()) == pytest.approx(1, rel=1e-4)

    @pytest.mark.parametrize("hidden", [(), (20,), (40, 14, 30)])
    @pytest.mark.parametrize("latent", [1, 7, 30])
    def test_begins_with_the_principal_components(self, hidden, latent):
        x = 3 + clustered(count=300)[0]
        net = Autoencoder.untrained(x, Network(hidden, latent), np.random.default_rng(0))
        latents = torch.cat([part for _, part in net.latents(x)])
        kept = min(latent, 16, *(width // 2 for width in hidden))
        centred = (x - x.mean(dim=0)).double()
        left, sizes, right = torch.linalg.svd(centred, full_matrices=False)
        expected = (left[:, :kept] * sizes[:kept]) @ right[:kept]
        rebuilt = (net.rebuild(latents) - x.mean(dim=0)).double()
        torch.testing.assert_close(rebuilt, expected, rtol=1e-3, atol=1e-4)
        assert float(latents.square().mean()) == pytest.approx(1, rel=1e-3)

    def test_no_hidden_layer_is_linear(self):
        x = clustered(count=50)[0]
        network = Network(hidden=(), latent=3)
        state = RQVAE(levels=(4,), network=network, training=Training(1)).fit(x).state_dict()
        assert re.findall(r"\w+\.\d\.weight", " ".join(state)) == [
            "encoder.0.weight",
            "decoder.0.weight",
        ]
