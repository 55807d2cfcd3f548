"""A history of any length as one token of tier counts."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from sidrank.sequences import SIDTierToken, TierHistogram, bucket_means
from tests.sequences import reference_sequences as reference

small = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
vectors = st.lists(small, max_size=6)


def tiers(num_tiers=5, size=6, dim=4):
    return TierHistogram(prototypes=torch.randn(size, dim), num_tiers=num_tiers)


def full(history):
    return torch.ones(history.shape[:2]).bool()


@given(st.lists(small, min_size=1, max_size=4), vectors, st.integers(1, 6))
def test_equals_counting(prototypes, behaviours, num_tiers):
    """Small integers meet zero vectors and the borders of tiers, where cosines round both ways."""
    module = TierHistogram(prototypes=torch.tensor(prototypes), num_tiers=num_tiers)
    history = torch.tensor(behaviours, dtype=torch.float32).view(1, -1, 3)
    counts = module(history, full(history))
    assert counts[0].tolist() == reference.tier_counts(prototypes, behaviours, num_tiers)
    assert counts.sum() == len(prototypes) * len(behaviours)


def test_borders_of_tiers_are_exact():
    """With four tiers the borders are -1/2, 0 and 1/2, which whole numbers can decide."""
    whole = [v for v in itertools.product(range(-2, 3), repeat=3) if any(v)]
    vectors = torch.tensor(whole, dtype=torch.float32)
    counts = TierHistogram(prototypes=vectors, num_tiers=4)(
        vectors.unsqueeze(1), torch.ones(len(whole), 1).bool()
    )

    def tier(p, q):
        dot = sum(a * b for a, b in zip(p, q, strict=True))
        squares = sum(a * a for a in p) * sum(b * b for b in q)
        if dot >= 0:
            return 3 if 4 * dot * dot >= squares else 2
        return 0 if 4 * dot * dot > squares else 1

    expected = torch.tensor([[tier(p, q) for p in whole] for q in whole])
    assert torch.equal(counts.argmax(dim=2), expected)


@given(st.lists(small, min_size=1, max_size=6))
def test_one_by_one_equals_together(behaviours):
    module = TierHistogram(prototypes=torch.tensor([[1, 1, 0], [0, 1, 1], [2, 0, -1]]), num_tiers=4)
    history = torch.tensor(behaviours).float().view(1, -1, 3)
    counts = module(history[:, :0], full(history[:, :0]))
    for place in range(len(behaviours)):
        counts = module.add(counts, history[:, place])
        past = history[:, : place + 1]
        assert torch.equal(counts, module(past, full(past)))
    for place in range(len(behaviours)):
        counts = module.remove(counts, history[:, place])
        rest = history[:, place + 1 :]
        assert torch.equal(counts, module(rest, full(rest)))


def test_random_vectors_one_by_one_and_in_any_order():
    module, history = tiers(num_tiers=10, size=32, dim=24), torch.randn(3, 400, 24)
    counts = module(history, full(history))
    moved = module(history[:, :1], full(history[:, :1]))
    for place in range(1, 400):
        moved = module.add(moved, history[:, place])
    assert torch.equal(moved, counts)
    order = torch.randperm(400)
    assert torch.equal(module(history[:, order], full(history)), counts)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(history, full(history)), counts)


def test_cost_of_an_update_is_that_of_one_behaviour():
    module = tiers(num_tiers=10, size=32, dim=24)

    def cost(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    costs = {}
    for length in (1, 10, 1000):
        history = torch.randn(2, length, 24)
        costs[length] = cost(lambda history=history: module(history, full(history)))
    assert costs[1000] == 1000 * costs[1] == 100 * costs[10]
    counts = module(history, full(history))
    assert cost(lambda: module.add(counts, history[:, 0])) == costs[1] > 0


class TestSoftTiers:
    def test_same_mass(self):
        module, history = tiers(), torch.randn(2, 7, 4)
        mask = torch.rand(2, 7) < 0.6
        mass = module.soft(history, mask).sum(dim=2)
        torch.testing.assert_close(mass, mask.sum(1, keepdim=True).float().expand(2, 6))

    def test_center_of_a_tier_is_all_its_own(self):
        module = TierHistogram(prototypes=torch.tensor([[1.0, 0.0]]), num_tiers=4)
        angles = torch.acos(torch.tensor([-0.75, -0.25, 0.25, 0.75, 1.0]))
        history = torch.stack([angles.cos(), angles.sin()], dim=1).unsqueeze(0)
        soft = module.soft(history, full(history))
        torch.testing.assert_close(soft, torch.tensor([[[1.0, 1.0, 1.0, 2.0]]]))

    def test_halfway_is_shared(self):
        module = TierHistogram(prototypes=torch.tensor([[1.0, 0.0]]), num_tiers=2)
        history = torch.tensor([[[0.0, 3.0]]], requires_grad=True)
        soft = module.soft(history, full(history))
        assert soft.tolist() == [[[0.5, 0.5]]]
        soft[0, 0, 1].backward()
        assert history.grad[0, 0, 0] > 0  # towards the prototype, up the tiers

    def test_gradient_reaches_the_history_only_when_soft(self):
        for soft in (False, True):
            history = torch.randn(2, 5, 4, requires_grad=True)
            token = SIDTierToken(histogram=tiers(), dim=8, soft=soft)
            token(history, full(history)).sum().backward()
            assert (history.grad is not None and bool(history.grad.any())) == soft


class TestToken:
    @pytest.mark.parametrize("scale", ["length", "log1p"])
    @pytest.mark.parametrize("length", [0, 1, 3, 500])
    def test_one_token_for_any_length(self, length, scale):
        token = SIDTierToken(histogram=tiers(), dim=8, scale=scale)
        history = torch.randn(2, length, 4)
        answer = token(history, full(history))
        assert answer.shape == (2, 1, 8)
        assert answer.isfinite().all()

    def test_cached_counts_make_the_same_token(self):
        token, history = SIDTierToken(histogram=tiers(), dim=8), torch.randn(2, 9, 4)
        counts = token.histogram(history[:, :8], full(history[:, :8]))
        counts = token.histogram.add(counts, history[:, 8])
        assert torch.equal(token.from_counts(counts), token(history, full(history)))

    def test_scale_by_length_forgets_it_and_log1p_does_not(self):
        history = torch.randn(1, 6, 4)
        twice = history.repeat(1, 2, 1)
        for scale, same in (("length", True), ("log1p", False)):
            token = SIDTierToken(histogram=tiers(), dim=8, scale=scale)
            answers = token(history, full(history)), token(twice, full(twice))
            assert torch.allclose(*answers, atol=1e-5) == same


class TestBucketMeans:
    def test_equals_a_loop(self):
        vectors, codes = torch.randn(50, 3), torch.randint(-1, 6, (50,))
        codes[codes == 4] = 0
        means = bucket_means(vectors, codes, 6)
        for code in range(6):
            own = vectors[codes == code]
            expected = own.mean(0) if len(own) else torch.zeros(3)
            torch.testing.assert_close(means[code], expected)

    @pytest.mark.parametrize("code", [-2, 3])
    def test_code_out_of_range(self, code):
        with pytest.raises(ValueError, match=rf"codes must be in \[-1, 3\), got {code}"):
            bucket_means(torch.zeros(2, 1), torch.tensor([0, code]), 3)


class TestErrors:
    def test_prototypes(self):
        with pytest.raises(ValueError, match=r"finite numbers, got shape \[4\]"):
            TierHistogram(prototypes=torch.zeros(4), num_tiers=2)
        with pytest.raises(ValueError, match="finite numbers, got a meta tensor"):
            TierHistogram(prototypes=torch.zeros(4, 2, device="meta"), num_tiers=2)
        with pytest.raises(ValueError, match=r"finite numbers, got shape \[1, 1\]"):
            TierHistogram(prototypes=torch.tensor([[float("nan")]]), num_tiers=2)

    def test_sizes(self):
        with pytest.raises(ValueError, match="num_tiers must be at least 1, got 0"):
            tiers(num_tiers=0)
        for name in ("dim", "hidden"):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
                SIDTierToken(**{"histogram": tiers(), "dim": 2, name: 0})

    def test_scale(self):
        with pytest.raises(ValueError, match="scale must be 'length' or 'log1p', got 'none'"):
            SIDTierToken(histogram=tiers(), dim=2, scale="none")

    def test_shapes(self):
        with pytest.raises(
            ValueError, match=r"history must have shape \[\*, \*, 4\], got \[1, 2, 3\]"
        ):
            tiers()(torch.zeros(1, 2, 3), torch.ones(1, 2).bool())
        with pytest.raises(
            ValueError, match=r"counts must have shape \[1, 6, 5\], got \[1, 6, 4\]"
        ):
            tiers().add(torch.zeros(1, 6, 4), torch.zeros(1, 4))
        with pytest.raises(ValueError, match=r"event must have shape \[\*, 4\], got \[1, 3\]"):
            tiers().remove(torch.zeros(1, 6, 5), torch.zeros(1, 3))
        with pytest.raises(
            ValueError, match=r"counts must have shape \[\*, 6, 5\], got \[1, 5, 6\]"
        ):
            SIDTierToken(histogram=tiers(), dim=2).from_counts(torch.zeros(1, 5, 6))
