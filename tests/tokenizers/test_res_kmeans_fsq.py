import numpy as np
import pytest
import torch

from sidrank.semantic_ids import SIDSpec, SIDTable, load_bundle, quality, save_bundle
from sidrank.semantic_ids.collisions import collisions
from sidrank.semantic_ids.neighbours import neighbour_recall
from sidrank.tokenizers import NotFittedError, RQKMeans
from sidrank.tokenizers.fsq import FSQTail
from sidrank.tokenizers.res_kmeans_fsq import ResKMeansFSQ


def catalogue(zipf, seed, count=1200, width=12):
    """Categories of categories whose sizes fall like 1 / rank**zipf, items around each."""
    rng = np.random.default_rng(seed)
    upper, lower = rng.normal(size=(20, width)), 0.6 * rng.normal(size=(160, width))
    share = 1 / np.arange(1, 161) ** zipf
    leaf = rng.choice(160, count, p=rng.permutation(share / share.sum()))
    spread = 1 / np.sqrt(np.arange(1, width + 1))
    return torch.from_numpy(
        upper[leaf // 8] + lower[leaf] + rng.normal(size=(count, width)) * spread
    ).float()


@pytest.fixture(scope="module")
def fitted():
    return ResKMeansFSQ(levels=(8, 8, 16)).fit(catalogue(1, 0))


class TestClaim:
    def test_fewer_collisions_than_k_means_and_more_meaning_than_chance(self):
        fewer = nearer = closer = 0
        for zipf in (0, 1, 1.5):
            for seed in range(3):
                x = catalogue(zipf, seed)
                plain = RQKMeans(levels=(16, 16, 16), iterations=8, seed=seed).fit(x).encode(x)
                tokenizer = ResKMeansFSQ(levels=(16, 16, 16), iterations=8, seed=seed).fit(x)
                codes = tokenizer.encode(x)
                # the control: the same codes on the last level, dealt out at random, and
                # rebuilt as well as random codes can be
                dealt = codes.clone()
                dealt[:, -1] = codes[torch.randperm(len(x)), -1]
                residual = x - tokenizer._head.decode(codes[:, :-1])
                means = torch.stack([residual[dealt[:, -1] == k].mean(0) for k in range(16)])
                control = tokenizer._head.decode(codes[:, :-1]) + means[dealt[:, -1].long()]
                rebuilt = tokenizer.decode(codes)
                shared = [collisions(c.numpy()).items_in_collision for c in (plain, codes)]
                recall = [neighbour_recall(x, y, sample=300) for y in (rebuilt, control)]
                error = [float((y - x).square().mean()) for y in (rebuilt, control)]
                fewer += shared[1] < shared[0]
                nearer += recall[0] > recall[1]
                closer += error[0] < error[1]
        assert (fewer, nearer, closer) >= (9, 9, 9)


class TestComposition:
    def test_is_k_means_and_then_the_tail(self, fitted):
        x = catalogue(1, 0)
        head = RQKMeans(levels=(8, 8)).fit(x)
        residual = x - head.decode(head.encode(x))
        tail = FSQTail(bins=(2,) * 4).fit(residual)
        codes = fitted.encode(x)
        assert torch.equal(codes, torch.cat([head.encode(x), tail.encode(residual)], dim=1))
        assert torch.equal(
            fitted.decode(codes), head.decode(codes[:, :2]) + tail.decode(codes[:, 2:])
        )

    def test_what_k_means_is_told(self):
        x = catalogue(1, 0)
        head = RQKMeans(levels=(8,), iterations=9, tolerance=0.01, sample=400, seed=3).fit(x)
        tokenizer = ResKMeansFSQ(
            levels=(8, 4), iterations=9, tolerance=0.01, sample=400, seed=3
        ).fit(x)
        assert torch.equal(tokenizer.encode(x)[:, :1], head.encode(x))
        twin = ResKMeansFSQ(**tokenizer.arguments).fit(x)
        assert torch.equal(twin.encode(x), tokenizer.encode(x))

    def test_bins_of_other_sizes(self):
        x = catalogue(0, 1)
        tokenizer = ResKMeansFSQ(levels=(8, 12), bins=(3, 4)).fit(x)
        assert tokenizer.arguments["bins"] == [3, 4]
        assert tokenizer.encode(x)[:, 1].unique().tolist() == list(range(12))

    def test_the_tail_lowers_the_error(self, fitted):
        x = catalogue(1, 0)
        codes = fitted.encode(x)
        head = fitted._head.decode(codes[:, :-1])
        assert (fitted.decode(codes) - x).square().mean() < 0.95 * (head - x).square().mean()

    def test_tells_of_its_progress(self):
        told = []
        ResKMeansFSQ(levels=(4, 4, 4)).fit(
            catalogue(0, 0), progress=lambda *step: told.append(step)
        )
        assert told[-1] == ("FSQ tail", 2, 2)
        assert len(told) >= 4


class TestProperties:
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_code_does_not_depend_on_batch_or_threads(self, fitted, size, threads, monkeypatch):
        x = catalogue(1, 0)
        whole = fitted.encode(x)
        monkeypatch.setattr("sidrank.tokenizers.res_kmeans_fsq._BLOCK", 999)
        try:
            torch.set_num_threads(threads)
            parts = torch.cat([fitted.encode(part) for part in x[:60].split(size)])
        finally:
            torch.set_num_threads(1)
        assert torch.equal(parts, whole[:60])

    def test_the_seed_decides_and_global_states_stay(self):
        x = catalogue(0, 0)
        before = torch.get_rng_state()
        first, again, other = (
            ResKMeansFSQ(levels=(8, 4), seed=seed).fit(x).encode(x) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (40, 1)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_small_inputs(self, count, width, dtype):
        x = torch.randn(count, width).to(dtype)
        tokenizer = ResKMeansFSQ(levels=(16, 16, 8)).fit(x)
        codes = tokenizer.encode(x)
        assert (codes.shape, codes.dtype) == ((count, 3), torch.int32)
        torch.testing.assert_close(tokenizer.decode(codes), x.float(), atol=0.2, rtol=0)

    def test_no_variance(self):
        x = torch.full((50, 3), 2.5)
        tokenizer = ResKMeansFSQ(levels=(4, 4)).fit(x)
        assert len(tokenizer.encode(x).unique(dim=0)) == 1
        assert torch.equal(tokenizer.decode(tokenizer.encode(x)), x)

    def test_on_the_device(self, fitted, device):
        x = catalogue(1, 3)[:50]
        codes = fitted.encode(x.to(device))
        assert codes.device.type == fitted.decode(codes).device.type == device.type
        assert torch.equal(codes.cpu(), fitted.encode(x))


class TestState:
    def test_round_trip_through_a_bundle(self, fitted, tmp_path):
        x = catalogue(1, 0)
        table = SIDTable(np.arange(len(x)), fitted.encode(x), spec=SIDSpec(fitted.levels))
        report = quality(table, vectors=x, tokenizer=fitted)
        save_bundle(tmp_path / "b", table, tokenizer=fitted, quality=report)
        found = load_bundle(tmp_path / "b")
        twin = ResKMeansFSQ(**found.manifest["tokenizer"]["arguments"])
        twin.load_state_dict(found.tokenizer_state)
        assert twin.arguments == fitted.arguments
        assert torch.equal(twin.encode(x), fitted.encode(x))
        assert torch.equal(twin.decode(table.codes), fitted.decode(table.codes))

    def test_names(self, fitted):
        names = ["head.codebooks.0", "head.codebooks.1"]
        names += ["tail.directions", "tail.thresholds", "tail.codebook"]
        assert list(fitted.state_dict()) == names

    def test_refuses_another(self, fitted):
        state = fitted.state_dict()
        twin = ResKMeansFSQ(levels=(8, 8, 16))
        with pytest.raises(ValueError, match=r"state must hold head\.\* and tail\.\* alone, got x"):
            twin.load_state_dict(state | {"x": torch.zeros(1)})
        with pytest.raises(ValueError, match=r"state must have one width in head and tail, got"):
            twin.load_state_dict(
                state | {"tail.directions": torch.zeros(4, 3), "tail.codebook": torch.zeros(16, 3)}
            )
        with pytest.raises(
            ValueError, match=r"codebook must have shape \[16, 12\], got \[15, 12\]"
        ):
            twin.load_state_dict(state | {"tail.codebook": torch.zeros(15, 12)})
        with pytest.raises(NotFittedError, match="ResKMeansFSQ must be fitted or loaded first"):
            twin.encode(catalogue(0, 0))


class TestErrors:
    @pytest.mark.parametrize("method", ["encode", "decode", "state_dict"])
    def test_not_fitted(self, method):
        arguments = {"encode": [torch.zeros(1, 2)], "decode": [torch.zeros(1, 3).long()]}
        with pytest.raises(NotFittedError, match="ResKMeansFSQ must be fitted or loaded first"):
            getattr(ResKMeansFSQ(), method)(*arguments.get(method, []))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"levels": (256,)}, r"levels must be two or more sizes of at least 1, got \(256,\)"),
            ({"levels": (0, 2)}, r"levels must be two or more sizes of at least 1, got \(0, 2\)"),
            ({"levels": (4, 12)}, r"levels must end in a power of two unless bins are given, got"),
            ({"levels": (4, 1)}, r"levels must end in a power of two unless bins are given, got"),
            ({"levels": (4, 12), "bins": (3, 3)}, r"bins must have the product 12, got \(3, 3\)"),
            ({"levels": (4, 2), "bins": (1, 2)}, r"bins must be one or more numbers of at least 2"),
            ({"iterations": 0}, "iterations must be at least 1, got 0"),
            ({"tolerance": 1.0}, r"tolerance must be within \[0, 1\), got 1\.0"),
            ({"sample": 0}, "sample must be at least 1 or None, got 0"),
            ({"seed": -1}, "seed must be at least 0, got -1"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ResKMeansFSQ(**arguments)

    def test_what_it_has_no_use_for(self):
        x = catalogue(0, 0)
        with pytest.raises(ValueError, match="weights must be None for ResKMeansFSQ, got some"):
            ResKMeansFSQ().fit(x, weights=torch.ones(len(x)))
        with pytest.raises(ValueError, match="pairs must be None for ResKMeansFSQ, got some"):
            ResKMeansFSQ().fit(x, pairs=torch.zeros(1, 2).long())

    def test_bad_vectors(self, fitted):
        x = catalogue(0, 0)
        x[17, 3] = torch.inf
        for call in (ResKMeansFSQ().fit, fitted.encode):
            with pytest.raises(ValueError, match=r"x must be finite and within .* in row 17"):
                call(x)
        with pytest.raises(ValueError, match=r"x must hold at least one number, got \[0, 4\]"):
            ResKMeansFSQ().fit(torch.zeros(0, 4))
        with pytest.raises(ValueError, match=r"codes must have shape \[n, 3\], got \[2, 2\]"):
            fitted.decode(torch.zeros(2, 2).long())
