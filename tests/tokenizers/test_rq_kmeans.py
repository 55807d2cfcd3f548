import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from sidrank.semantic_ids import SIDSpec, SIDTable, load_bundle, quality, save_bundle
from sidrank.tokenizers import NotFittedError, RQKMeans
from tests import reference


def vectors(count=400, width=8, seed=0, centres=20):
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(centres, width, generator=generator)
    pick = torch.randint(0, centres, (count,), generator=generator)
    return means[pick] + torch.randn(count, width, generator=generator)


def mse(tokenizer, x):
    return float((tokenizer.decode(tokenizer.encode(x)) - x).square().mean())


@pytest.fixture(scope="module")
def fitted():
    return RQKMeans(levels=(16, 8, 4)).fit(vectors())


def codebooks_of(tokenizer):
    return [book.tolist() for book in tokenizer.state_dict().values()]


class TestAgainstReference:
    def test_encode_is_greedy_at_every_level(self, fitted):
        x = vectors(count=60, seed=1)
        expected = [
            reference.greedy_codes(row, codebooks_of(fitted), lambda v: float(np.float32(v)))
            for row in x.tolist()
        ]
        assert fitted.encode(x).tolist() == expected

    @given(st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=15))
    def test_encode_on_a_grid_full_of_ties(self, rows):
        x = torch.tensor(rows).float()
        tokenizer = RQKMeans(levels=(3, 2, 2), iterations=3).fit(x)
        expected = [
            reference.greedy_codes(row, codebooks_of(tokenizer), lambda v: float(np.float32(v)))
            for row in x.tolist()
        ]
        assert tokenizer.encode(x).tolist() == expected

    def test_decode_sums_the_centroids(self, fitted):
        codes = fitted.encode(vectors(count=10, seed=2))
        books = codebooks_of(fitted)
        for row, vector in zip(codes.tolist(), fitted.decode(codes), strict=True):
            parts = [torch.tensor(book[code]) for book, code in zip(books, row, strict=True)]
            torch.testing.assert_close(vector, sum(parts))

    @pytest.mark.parametrize(("centres", "size"), [(20, 32), (50, 64)])
    def test_as_good_as_a_chain_of_scikit_learns_k_means(self, centres, size):
        x = vectors(count=1500, width=12, centres=centres)
        ours, theirs = [], []
        for seed in range(4):
            ours.append(mse(RQKMeans(levels=(size,) * 3, seed=seed).fit(x), x))
            residual = x.numpy()
            for _ in range(3):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model = KMeans(size, n_init=1, max_iter=20, random_state=seed).fit(residual)
                residual = residual - model.cluster_centers_[model.predict(residual)]
            theirs.append(float(np.square(residual).mean()))
        assert np.mean(ours) <= 1.02 * np.mean(theirs)


class TestProperties:
    def test_every_level_lowers_the_error(self, fitted):
        x = vectors()
        residual, errors = x, [float(x.square().mean())]
        for level, book in enumerate(fitted.state_dict().values()):
            residual = residual - book[fitted.encode(x)[:, level].long()]
            errors.append(float(residual.square().mean()))
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == pytest.approx(mse(fitted, x), rel=1e-5)
        assert errors[1] < 0.5 * errors[0]

    @pytest.mark.parametrize("size", [1, 2, 7, 37, 399, 400])
    def test_a_code_does_not_depend_on_the_batch(self, fitted, size):
        x = torch.cat([vectors(count=300), vectors(count=100).round()])
        parts = torch.cat([fitted.encode(part) for part in x.split(size)])
        assert torch.equal(parts, fitted.encode(x))

    def test_a_code_does_not_depend_on_its_neighbours_or_threads(self, fitted):
        x = vectors()
        order = torch.randperm(len(x))
        try:
            torch.set_num_threads(2)
            shuffled = fitted.encode(x[order])
        finally:
            torch.set_num_threads(1)
        assert torch.equal(shuffled, fitted.encode(x)[order])

    def test_the_seed_decides(self):
        x = vectors()
        first = RQKMeans(levels=(16, 8), seed=5).fit(x).state_dict()
        again = RQKMeans(levels=(16, 8), seed=5).fit(x).state_dict()
        other = RQKMeans(levels=(16, 8), seed=6).fit(x).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)

    def test_leaves_global_random_states_alone(self):
        x = vectors()
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        RQKMeans(levels=(4,)).fit(x)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()

    def test_refitting_forgets(self, fitted):
        tokenizer = RQKMeans(levels=(4,)).fit(vectors(width=3))
        tokenizer.fit(vectors(width=5))
        assert tokenizer.decode(torch.zeros(1, 1, dtype=torch.int64)).shape == (1, 5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_dtypes_are_computed_in_float32(self, dtype):
        x = vectors().to(dtype)
        tokenizer = RQKMeans(levels=(8, 4)).fit(x)
        plain = RQKMeans(levels=(8, 4)).fit(x.float())
        for name, book in plain.state_dict().items():
            assert torch.equal(tokenizer.state_dict()[name], book)
        assert torch.equal(tokenizer.encode(x), plain.encode(x.float()))
        assert tokenizer.decode(tokenizer.encode(x)).dtype == torch.float32

    def test_numpy_and_tensors_that_need_gradients(self, fitted):
        x = vectors(count=20)
        codes = fitted.encode(x)
        assert torch.equal(fitted.encode(x.numpy()), codes)
        assert torch.equal(fitted.encode(x.clone().requires_grad_()), codes)
        assert torch.equal(fitted.decode(codes.numpy()), fitted.decode(codes))
        backwards = x.numpy()[::-1]
        backwards.flags.writeable = False
        assert torch.equal(fitted.encode(backwards), codes.flip(0))
        table = SIDTable(np.arange(20), codes, spec=SIDSpec(fitted.levels))
        assert torch.equal(fitted.decode(table.codes), fitted.decode(codes))

    def test_autocast_changes_nothing(self, fitted):
        x = vectors(count=50)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            codes = fitted.encode(x)
        assert torch.equal(codes, fitted.encode(x))

    def test_on_the_device(self, fitted, device):
        x = vectors(count=50)
        codes = fitted.encode(x.to(device))
        assert codes.device.type == fitted.decode(codes).device.type == device.type
        assert torch.equal(codes.cpu(), fitted.encode(x))


class TestSmallInputs:
    @pytest.mark.parametrize(
        ("count", "width", "levels"),
        [(1, 1, (1,)), (1, 4, (8, 8)), (3, 2, (256, 256)), (5, 1, (1, 1, 1)), (4, 3, (1, 9))],
    )
    def test_fewer_items_than_codes(self, count, width, levels):
        x = vectors(count=count, width=width)
        tokenizer = RQKMeans(levels=levels).fit(x)
        codes = tokenizer.encode(x)
        assert codes.shape == (count, len(levels))
        assert codes.dtype == torch.int32
        if max(levels) >= count:
            torch.testing.assert_close(tokenizer.decode(codes), x)

    def test_one_code_is_the_mean(self):
        x = vectors()
        tokenizer = RQKMeans(levels=(1,)).fit(x)
        torch.testing.assert_close(tokenizer.state_dict()["codebooks.0"][0], x.mean(dim=0))
        assert (tokenizer.encode(x) == 0).all()

    @pytest.mark.parametrize("value", [0.0, 3.5, -1e30])
    def test_no_variance(self, value):
        x = torch.full((50, 3), value)
        tokenizer = RQKMeans(levels=(4, 4)).fit(x)
        assert (tokenizer.encode(x) == 0).all()
        assert torch.equal(tokenizer.decode(tokenizer.encode(x)), x)

    def test_nothing_to_encode(self, fitted):
        codes = fitted.encode(torch.zeros(0, 8))
        assert (codes.shape, codes.dtype) == ((0, 3), torch.int32)
        assert fitted.decode(codes).shape == (0, 8)


class TestState:
    def test_names_and_shapes(self, fitted):
        shapes = {name: list(book.shape) for name, book in fitted.state_dict().items()}
        assert shapes == {"codebooks.0": [16, 8], "codebooks.1": [8, 8], "codebooks.2": [4, 8]}

    def test_round_trip_through_a_bundle(self, fitted, tmp_path):
        x = vectors()
        table = SIDTable(np.arange(len(x)), fitted.encode(x), spec=SIDSpec(fitted.levels))
        report = quality(table, vectors=x, tokenizer=fitted)
        assert report.reconstruction_error["mse"] == pytest.approx(mse(fitted, x), rel=1e-5)
        save_bundle(tmp_path / "b", table, tokenizer=fitted, quality=report)
        found = load_bundle(tmp_path / "b")
        assert found.manifest["tokenizer"]["name"] == "RQKMeans"
        twin = RQKMeans(**found.manifest["tokenizer"]["arguments"])
        twin.load_state_dict(found.tokenizer_state)
        assert twin.arguments == fitted.arguments
        assert torch.equal(twin.encode(x), fitted.encode(x))

    def test_is_a_copy(self, fitted):
        fitted.state_dict()["codebooks.0"].zero_()
        state = fitted.state_dict()
        twin = RQKMeans(levels=(16, 8, 4)).load_state_dict(state)
        state["codebooks.0"].zero_()
        assert twin.state_dict()["codebooks.0"].any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"codebooks.1": None}, "state must hold .*, got "),
            ({"codebooks.9": torch.zeros(4, 8)}, "state must hold .*, got "),
            (
                {"codebooks.0": torch.zeros(15, 8)},
                "codebooks.0 must have shape [16, 8], got [15, 8]",
            ),
            ({"codebooks.2": torch.zeros(4, 7)}, "codebooks.2 must have shape [4, 8], got [4, 7]"),
            ({"codebooks.0": torch.zeros(16)}, "codebooks.0 must have shape [16, D], got [16]"),
            ({"codebooks.0": torch.tensor(1.0)}, "codebooks.0 must have shape [16, D], got []"),
            ({"codebooks.1": torch.zeros(8, 8).double()}, "codebooks.1 must be float32, got "),
            (
                {"codebooks.2": torch.full((4, 8), torch.nan)},
                "codebooks.2 must be finite and within",
            ),
        ],
    )
    def test_refuses_another_shape(self, fitted, change, message):
        state = fitted.state_dict() | change
        state = {name: tensor for name, tensor in state.items() if tensor is not None}
        pattern = re.escape(message).replace(r"\.\*", ".*")
        with pytest.raises(ValueError, match=pattern):
            RQKMeans(levels=(16, 8, 4)).load_state_dict(state)


class TestErrors:
    @pytest.mark.parametrize("method", ["encode", "decode", "state_dict"])
    def test_not_fitted(self, method):
        arguments = {"encode": [vectors()], "decode": [torch.zeros(1, 3).long()], "state_dict": []}
        with pytest.raises(NotFittedError, match="RQKMeans must be fitted or loaded first"):
            getattr(RQKMeans(), method)(*arguments[method])

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 2e37])
    def test_numbers_that_are_none(self, fitted, bad):
        x = vectors()
        x[17, 3] = bad
        for call in (RQKMeans(levels=(2,)).fit, fitted.encode):
            with pytest.raises(
                ValueError, match=r"x must be finite and within ±1e37, got .* in row 17"
            ):
                call(x)

    def test_a_double_that_overflows_float32(self, fitted):
        with pytest.raises(ValueError, match="got inf in row 0"):
            fitted.encode(torch.full((1, 8), 1e300, dtype=torch.float64))

    def test_a_failed_fit_keeps_the_old_codebooks(self):
        tokenizer = RQKMeans(levels=(2,)).fit(vectors())
        with pytest.raises(ValueError, match="got nan in row 0"):
            tokenizer.fit(torch.full((3, 8), torch.nan))
        assert tokenizer.encode(vectors()).shape == (400, 1)

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
    def test_nothing_to_fit(self, shape):
        with pytest.raises(ValueError, match=r"x must hold at least one number, got \[\d, \d\]"):
            RQKMeans().fit(torch.zeros(shape))

    def test_shapes(self, fitted):
        with pytest.raises(ValueError, match=r"x must have shape \[V, D\], got \[8\]"):
            RQKMeans().fit(torch.zeros(8))
        with pytest.raises(ValueError, match=r"x must have shape \[n, 8\], got \[2, 7\]"):
            fitted.encode(torch.zeros(2, 7))
        with pytest.raises(ValueError, match=r"codes must have shape \[n, 3\], got \[2, 2\]"):
            fitted.decode(torch.zeros(2, 2).long())

    def test_kinds(self, fitted):
        with pytest.raises(ValueError, match=r"x must be floating point, got torch\.int64"):
            fitted.encode(torch.zeros(2, 8).long())
        with pytest.raises(TypeError, match=r"codes must be integers, got torch\.float32"):
            fitted.decode(torch.zeros(2, 3))

    @pytest.mark.parametrize(("level", "code"), [(0, 16), (1, 8), (2, -1)])
    def test_codes_outside_their_codebook(self, fitted, level, code):
        codes = torch.zeros(2, 3, dtype=torch.int32)
        codes[1, level] = code
        with pytest.raises(
            ValueError, match=rf"codes of level {level} must be within .* got {code}"
        ):
            fitted.decode(codes)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"levels": ()}, r"levels must be one or more sizes of at least 1, got \(\)"),
            ({"levels": (4, 0)}, r"levels must be one or more sizes of at least 1, got \(4, 0\)"),
            ({"iterations": 0}, "iterations must be at least 1, got 0"),
            ({"tolerance": 1.0}, r"tolerance must be within \[0, 1\), got 1.0"),
            ({"tolerance": torch.nan}, r"tolerance must be within \[0, 1\), got nan"),
            ({"sample": 0}, "sample must be at least 1 or None, got 0"),
            ({"seed": -1}, "seed must be at least 0, got -1"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            RQKMeans(**arguments)
