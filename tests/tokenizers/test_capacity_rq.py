import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import SIDSpec, SIDTable, load_bundle, save_bundle
from sidrank.tokenizers import NotFittedError, RQKMeans
from sidrank.tokenizers._capacity import assign_within, means_of
from sidrank.tokenizers.capacity_rq import CapacityConstrainedRQ


def catalogue(count=2000, width=8, seed=0):
    """Items of dense and sparse clusters, and exposures that depend on both item and cluster."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.normal(size=(60, width))
    share = 1 / np.arange(1, 61)
    cluster = rng.choice(60, count, p=share / share.sum())
    exposure = rng.permutation(1 / np.arange(1, count + 1) ** 0.7)
    exposure *= rng.lognormal(0, 1.5, 60)[cluster]
    return torch.from_numpy(means[cluster] + rng.normal(size=(count, width))).float(), exposure


def loads(codes, weights, size):
    return torch.as_tensor(codes).long().bincount(torch.as_tensor(weights).double(), size)


def squared_error(tokenizer, x, codes):
    return float((tokenizer.decode(codes) - x).square().mean())


def top_share(codes, weights):
    """Exposure of the top 1 % of the SIDs in use."""
    sid = np.unique(np.asarray(codes), axis=0, return_inverse=True)[1].reshape(-1)
    held = np.sort(np.bincount(sid, weights))[::-1]
    return held[: max(1, len(held) // 100)].sum() / held.sum()


def check_capacity(tokenizer, weights, tau):
    """What is promised: no code above the capacity but for what was flagged."""
    for level, (size, rows) in enumerate(zip(tokenizer.levels, tokenizer.infeasible, strict=True)):
        capacity = tau * weights.sum() / size
        held = loads(tokenizer.assigned[:, level], weights, size)
        flagged = weights[rows.numpy()]
        assert held.max() <= capacity * (1 + 1e-6) + flagged.max(initial=0)
        if len(flagged) == 0:
            assert held.max() <= capacity * (1 + 1e-6)
        # what outweighs the capacity is flagged and alone
        heavy = np.flatnonzero(weights > capacity * (1 + 1e-6))
        assert set(heavy) <= set(rows.tolist())
        mine = tokenizer.assigned[:, level]
        assert all((mine == mine[row]).sum() == 1 for row in heavy)
        assert rows.tolist() == sorted(set(rows.tolist()))


@pytest.fixture(scope="module")
def fitted():
    x, weights = catalogue()
    return CapacityConstrainedRQ(levels=(16, 8)).fit(x, weights=weights)


class TestClaim:
    @pytest.mark.parametrize("seed", range(3))
    def test_capacity_error_and_exposure_of_the_top(self, seed):
        x, weights = catalogue(seed=seed)
        tokenizer = CapacityConstrainedRQ(levels=(16, 16), seed=seed).fit(x, weights=weights)
        plain = RQKMeans(levels=(16, 16), seed=seed).fit(x)
        codes = plain.encode(x)
        check_capacity(tokenizer, weights, 1.05)
        # plain k-means is far from it
        assert loads(codes[:, 0], weights, 16).max() > 1.5 * 1.05 * weights.sum() / 16
        assert squared_error(tokenizer, x, tokenizer.assigned) <= 1.5 * squared_error(
            plain, x, codes
        )
        assert top_share(tokenizer.assigned, weights) < top_share(codes, weights)
        # the control: exposures that belong to other items balance these ones' less
        other = np.random.default_rng(seed).permutation(weights)
        control = CapacityConstrainedRQ(levels=(16, 16), seed=seed).fit(x, weights=other)
        assert loads(control.assigned[:, 0], weights, 16).max() > 1.05 * weights.sum() / 16

    def test_equal_weights_make_codes_of_equal_size(self):
        x, _ = catalogue(count=1600)
        tokenizer = CapacityConstrainedRQ(levels=(16, 8), tau=1.0).fit(x)
        assert tokenizer.assigned[:, 0].bincount().tolist() == [100] * 16
        assert tokenizer.assigned[:, 1].bincount().tolist() == [200] * 8
        assert [len(rows) for rows in tokenizer.infeasible] == [0, 0]

    def test_a_capacity_that_does_not_bind_is_plain_k_means(self):
        x, weights = catalogue()
        loose = CapacityConstrainedRQ(levels=(8, 8), tau=8.0, iterations=60).fit(x, weights=weights)
        plain = RQKMeans(levels=(8, 8), iterations=60).fit(x)
        assert torch.equal(loose.assigned[:, 0], plain.encode(x)[:, 0])
        # but for items that the last update of the means left on the border
        assert (loose.assigned == loose.encode(x)).float().mean() > 0.99


class TestAssignment:
    def test_the_cheaper_item_makes_room(self):
        centroids = torch.tensor([[0.0], [10.0]])
        x = torch.tensor([[0.0], [1.0], [4.0]])  # moving costs 100, 80 and 20
        codes, left = assign_within(x, torch.ones(3).double(), centroids, 2.0)
        assert (codes.tolist(), left.tolist()) == ([0, 0, 1], [])
        # now 100, 80 and 60, and per unit of weight 100, 53 and 60
        x[2] = 2.0
        codes, left = assign_within(x, torch.tensor([1.0, 1.5, 1.0]).double(), centroids, 3.0)
        assert (codes.tolist(), left.tolist()) == ([0, 1, 0], [])

    def test_two_that_cannot_share_choose_first(self):
        centroids = torch.tensor([[0.0], [10.0]])
        x = torch.tensor([[0.0], [0.1], [0.2], [4.0]])
        weights = torch.tensor([0.5, 0.5, 0.9, 0.9]).double()
        codes, left = assign_within(x, weights, centroids, 1.5)
        assert loads(codes, weights, 2).max() <= 1.5
        assert (codes[2].item(), codes[3].item(), left.tolist()) == (0, 1, [])

    def test_what_fits_nowhere_goes_where_most_room_is(self):
        centroids = torch.tensor([[0.0], [10.0]])
        x = torch.tensor([[0.0], [1.0], [2.0]])
        codes, left = assign_within(x, torch.tensor([1.0, 0.8, 0.9]).double(), centroids, 1.0)
        assert left.tolist() == [2]
        assert loads(codes, torch.tensor([1.0, 0.8, 0.9]), 2).tolist() == pytest.approx([1.0, 1.7])

    def test_one_by_one_the_heaviest_come_first(self, monkeypatch):
        monkeypatch.setattr("sidrank.tokenizers._capacity._ROUNDS", 0)
        weights = torch.tensor([0.25, 0.25, 0.75, 0.75]).double()
        centroids = torch.tensor([[0.0], [10.0]])
        codes, left = assign_within(torch.zeros(4, 1), weights, centroids, 1.0)
        assert (codes.tolist(), left.tolist()) == ([0, 1, 0, 1], [])

    def test_a_centroid_without_vectors_stays(self):
        x, indices = torch.tensor([[0.0], [2.0]]), torch.tensor([0, 0])
        means, error = means_of(x, indices, torch.tensor([[5.0], [7.0]]))
        assert (means.tolist(), error) == ([[1.0], [7.0]], 2.0)

    def test_the_best_repair_is_kept(self):
        fell_back = 0
        for seed in range(6):
            x, weights = catalogue(count=300, seed=seed)
            loads_ = torch.from_numpy(weights).clamp(max=float(weights.sum()) / 20)
            tokenizer = CapacityConstrainedRQ(levels=(8,)).fit(x, weights=loads_)
            book = RQKMeans(levels=(8,)).fit(x).state_dict()["codebooks.0"]
            errors = []
            while len(errors) < 20:
                codes, _ = assign_within(x, loads_, book, 1.05 * float(loads_.sum()) / 8)
                book, error = means_of(x, codes, book)
                errors.append(error)
                if len(errors) > 1 and errors[-2] - error <= 1e-3 * min(errors):
                    break
            found = squared_error(tokenizer, x, tokenizer.assigned) * x.numel()
            assert found == pytest.approx(min(errors), rel=1e-4)
            fell_back += errors[-1] > min(errors)
        assert fell_back > 0

    @pytest.mark.parametrize("rounds", [1, 64])
    def test_blocks_do_not_matter_and_rounds_only_a_little(self, rounds, monkeypatch):
        x, weights = catalogue(count=300)
        weights = torch.from_numpy(weights)
        centroids, capacity = x[:12], float(weights.sum()) / 12 * 1.2
        weights = weights.clamp(max=capacity)
        monkeypatch.setattr("sidrank.tokenizers._capacity._ROUNDS", rounds)
        whole, left = assign_within(x, weights, centroids, capacity)
        monkeypatch.setattr("sidrank.tokenizers._capacity._BLOCK", 100)
        parts, _ = assign_within(x, weights, centroids, capacity)
        assert torch.equal(parts, whole)
        assert loads(whole, weights, 12).max() <= capacity
        assert (whole.min(), whole.max(), len(left)) == (0, 11, 0)


class TestEnds:
    @given(
        st.lists(st.sampled_from([0.0, 1e-300, 0.1, 1.0, 3.0, 1e6, 1e30]), min_size=1, max_size=40),
        st.integers(1, 6),
        st.sampled_from([1.0, 1.05, 2.0]),
    )
    def test_whatever_the_weights(self, weights, size, tau):
        weights = np.array(weights)
        if not weights.any():
            weights[0] = 1.0
        x = torch.arange(len(weights)).unsqueeze(1).float().remainder(5)
        tokenizer = CapacityConstrainedRQ(levels=(size, size), tau=tau, iterations=3)
        tokenizer.fit(x, weights=weights)
        check_capacity(tokenizer, weights, tau)

    @pytest.mark.parametrize("kind", ["one has all", "equal", "zeros but one per cluster", "steps"])
    def test_adversaries(self, kind):
        x, _ = catalogue(count=500)
        weights = {
            "one has all": np.eye(500)[7],
            "equal": np.full(500, 0.1),
            "zeros but one per cluster": (np.arange(500) % 10 == 0) * 1.0,
            "steps": 2.0 ** -(np.arange(500) / 10),
        }[kind]
        tokenizer = CapacityConstrainedRQ(levels=(16, 4)).fit(x, weights=weights)
        check_capacity(tokenizer, weights, 1.05)
        if kind == "one has all":
            assert [rows.tolist() for rows in tokenizer.infeasible] == [[7], [7]]
            assert (tokenizer.decode(tokenizer.assigned)[7] - x[7]).abs().max() < 1e-5

    @pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (40, 1)])
    def test_small_inputs(self, count, width):
        x = torch.randn(count, width).half()
        tokenizer = CapacityConstrainedRQ(levels=(8, 8)).fit(x)
        check_capacity(tokenizer, np.ones(count), 1.05)
        codes = tokenizer.encode(x)
        assert (codes.shape, codes.dtype) == ((count, 2), torch.int32)
        assert tokenizer.decode(codes).isfinite().all()

    def test_no_variance(self):
        x = torch.full((64, 3), 2.5)
        tokenizer = CapacityConstrainedRQ(levels=(4,), tau=1.0).fit(x)
        assert tokenizer.assigned[:, 0].bincount().tolist() == [16] * 4
        assert torch.equal(tokenizer.decode(tokenizer.assigned), x)
        assert (tokenizer.encode(x) == 0).all()


class TestTokenizer:
    def test_encode_takes_the_nearest_centroids(self, fitted):
        x, _ = catalogue()
        plain = RQKMeans(levels=(16, 8)).load_state_dict(fitted.state_dict())
        assert torch.equal(fitted.encode(x), plain.encode(x))
        assert torch.equal(fitted.decode(fitted.assigned), plain.decode(fitted.assigned))
        assert not torch.equal(fitted.encode(x), fitted.assigned)
        assert (fitted.assigned.shape, fitted.assigned.dtype) == ((2000, 2), torch.int32)

    @pytest.mark.parametrize("size", [1, 7, 1000])
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_code_does_not_depend_on_batch_or_threads(self, fitted, size, threads):
        x = catalogue()[0][:60]
        whole = fitted.encode(x)
        try:
            torch.set_num_threads(threads)
            assert torch.equal(torch.cat([fitted.encode(part) for part in x.split(size)]), whole)
        finally:
            torch.set_num_threads(1)

    def test_fits_the_same_twice_and_leaves_random_states_alone(self, fitted):
        x, weights = catalogue()
        before = torch.get_rng_state()
        again = CapacityConstrainedRQ(levels=(16, 8)).fit(x.numpy(), weights=torch.tensor(weights))
        assert torch.equal(again.assigned, fitted.assigned)
        assert torch.equal(torch.get_rng_state(), before)
        # exposures in other units are the same exposures
        scaled = CapacityConstrainedRQ(levels=(16, 8)).fit(x, weights=weights * 2.0**40)
        assert torch.equal(scaled.assigned, fitted.assigned)

    def test_round_trip_through_a_bundle(self, fitted, tmp_path):
        table = SIDTable(np.arange(2000), fitted.assigned, spec=SIDSpec(fitted.levels))
        save_bundle(tmp_path / "b", table, tokenizer=fitted)
        found = load_bundle(tmp_path / "b")
        twin = CapacityConstrainedRQ(**found.manifest["tokenizer"]["arguments"])
        twin.fit(torch.eye(8)).load_state_dict(found.tokenizer_state)
        x, _ = catalogue(seed=4)
        assert twin.arguments == fitted.arguments
        assert torch.equal(twin.encode(x), fitted.encode(x))
        for name in ("assigned", "infeasible"):
            with pytest.raises(NotFittedError, match="CapacityConstrainedRQ must be fitted to"):
                getattr(twin, name)

    def test_tells_of_its_progress(self):
        told = []
        x, _ = catalogue(count=50)
        CapacityConstrainedRQ(levels=(2, 2)).fit(x, progress=lambda *step: told.append(step))
        assert told == [("capacity-constrained level", n, 2) for n in (1, 2)]

    def test_on_the_device(self, device):
        x, weights = catalogue(count=200)
        tokenizer = CapacityConstrainedRQ(levels=(4, 4)).fit(x.to(device), weights=weights)
        assert tokenizer.assigned.device.type == tokenizer.infeasible[0].device.type == device.type
        check_capacity(tokenizer, weights, 1.05)


class TestErrors:
    @pytest.mark.parametrize("method", ["encode", "decode", "state_dict"])
    def test_not_fitted(self, method):
        arguments = {"encode": [torch.zeros(1, 2)], "decode": [torch.zeros(1, 3).long()]}
        with pytest.raises(NotFittedError, match="CapacityConstrainedRQ must be fitted or loaded"):
            getattr(CapacityConstrainedRQ(), method)(*arguments.get(method, []))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"levels": ()}, r"levels must be one or more sizes of at least 1, got \(\)"),
            ({"tau": 0.99}, "tau must be at least 1 and finite, got 0.99"),
            ({"tau": float("nan")}, "tau must be at least 1 and finite, got nan"),
            ({"tau": float("inf")}, "tau must be at least 1 and finite, got inf"),
            ({"iterations": 0}, "iterations must be at least 1, got 0"),
            ({"seed": -1}, "seed must be at least 0, got -1"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            CapacityConstrainedRQ(**arguments)

    def test_bad_input(self):
        x, _ = catalogue(count=20)
        fit = CapacityConstrainedRQ(levels=(2,)).fit
        with pytest.raises(ValueError, match="pairs must be None for CapacityConstrainedRQ"):
            fit(x, pairs=torch.zeros(1, 2).long())
        with pytest.raises(ValueError, match="weights must not all be zero, got 20 zeros"):
            fit(x, weights=torch.zeros(20))
        with pytest.raises(ValueError, match=r"weights must be finite and not negative, got -1\.0"):
            fit(x, weights=-torch.ones(20))
        with pytest.raises(ValueError, match=r"weights must have shape \[20\], got \[19\]"):
            fit(x, weights=torch.ones(19))
        with pytest.raises(ValueError, match=r"x must hold at least one number, got \[0, 8\]"):
            fit(x[:0])
        x[3, 1] = torch.nan
        with pytest.raises(ValueError, match=r"x must be finite and within .* in row 3"):
            fit(x)
