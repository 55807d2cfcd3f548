"""Smoothed NDCG against its formula, against NDCG, and what must not change it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.losses import request_lists
from sidrank.losses.neural_ndcg import _neural_sort, _sinkhorn, neural_ndcg
from sidrank.metrics import ndcg
from tests.losses import reference_listwise

ROWS = st.lists(st.tuples(st.integers(-3, 2), st.integers(0, 3)), min_size=1, max_size=14)


def batch(rows, seed=0):
    """Scores that are distinct, at least 0.05 apart, and grades; requests of 64 bits."""
    generator = torch.Generator().manual_seed(seed)
    requests, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    scores = 0.1 * torch.randperm(len(rows), generator=generator).double()
    scores += 0.05 * torch.rand(len(rows), generator=generator, dtype=torch.float64)
    return scores, labels, requests * 2**61 + 1


def large(lists=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [(q, 0) for q in range(lists) for _ in range(1 + 7 * q)]
    scores, labels, requests = batch(rows, seed)
    labels = (torch.rand(len(rows), generator=generator) < 0.3) * torch.arange(len(rows)) % 4
    return scores, labels, requests


class TestValue:
    @given(ROWS, st.sampled_from([0.01, 0.3, 1.0, 5.0]), st.sampled_from([None, 1, 3]))
    def test_equals_the_loop(self, rows, temperature, k):
        scores, labels, requests = batch(rows)
        found = neural_ndcg(scores, labels, requests, temperature=temperature, k=k)
        columns = (scores.tolist(), labels.tolist(), requests.tolist())
        assert float(found) == pytest.approx(
            reference_listwise.neural_ndcg(*columns, temperature, k), abs=1e-9
        )

    @pytest.mark.parametrize("k", [None, 1, 5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_goes_to_the_exact_metric(self, k, dtype):
        scores, labels, requests = large()
        found = neural_ndcg(scores.to(dtype), labels, requests, temperature=1e-3, k=k)
        exact = ndcg(labels, scores, requests, k=k, gain="exponential")
        assert exact < 0.9
        assert -float(found) == pytest.approx(exact, abs=1e-3)
        # the check can fail: warm, it is another number
        warm = -float(neural_ndcg(scores, labels, requests, temperature=30.0, k=k))
        assert abs(exact - warm) > 0.01

    def test_order_of_rows_and_a_shift_of_a_list_change_nothing(self):
        scores, labels, requests = large()
        plain = neural_ndcg(scores, labels, requests)
        order = torch.randperm(len(scores))
        other = neural_ndcg(scores[order], labels[order], requests[order])
        torch.testing.assert_close(other, plain)
        shifts = torch.randn(9, dtype=torch.float64)[request_lists.list_numbers(requests)]
        torch.testing.assert_close(neural_ndcg(scores + 9 * shifts, labels, requests), plain)

    def test_a_list_does_not_feel_the_others(self):
        scores, labels, requests = large()
        alone, count = 0.0, 0
        for request in requests.unique():
            own = requests == request
            if labels[own].any():
                alone, count = (
                    alone + neural_ndcg(scores[own], labels[own], requests[own]),
                    count + 1,
                )
        together = neural_ndcg(scores, labels, requests)
        torch.testing.assert_close(together, alone / count, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("cells", [1, 500, 1 << 22])
    def test_size_of_the_blocks_changes_nothing(self, cells, monkeypatch):
        scores, labels, requests = large()
        scores.requires_grad_()
        plain = neural_ndcg(scores, labels, requests)
        monkeypatch.setattr(request_lists, "_CPU_CELLS", cells)
        other = neural_ndcg(scores, labels, requests)
        torch.testing.assert_close(other, plain)
        slopes = [torch.autograd.grad(loss, scores)[0] for loss in (plain, other)]
        torch.testing.assert_close(*slopes)

    def test_the_matrix_is_doubly_stochastic(self):
        scores = torch.randn(3, 12, dtype=torch.float64)
        real = torch.arange(12) < torch.tensor([[12], [7], [1]])
        weight = real.sum(dim=1, keepdim=True) + 1 - 2 * torch.arange(1.0, 13).double()
        p = _neural_sort(torch.where(real, scores / 5, 0), weight, real)
        scales = _sinkhorn(p, p.mT.contiguous())
        assert 1 < len(scales.moved) < 50
        found = scales.u[-1].unsqueeze(2) * p * scales.v[-1].unsqueeze(1)
        ones = torch.ones(3, 12, dtype=torch.float64)
        torch.testing.assert_close(found.sum(dim=2), ones, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.sum(dim=1), ones, atol=1e-6, rtol=0)
        assert (p.sum(dim=1) - 1).abs().max() > 0.01  # before, it is not
        for matrix, length in zip(found, (12, 7, 1), strict=True):
            assert torch.equal(matrix[length:, length:], torch.eye(12 - length).double())
            assert not matrix[:length, length:].any()
            assert (matrix[:length, :length] >= 0).all()


class TestGradient:
    @pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])  # the last stops early, per list
    @pytest.mark.parametrize("k", [None, 2])
    def test_equals_finite_differences(self, temperature, k):
        rows = [(0, 1), (0, 0), (0, 2), (1, 0), (2, 1), (1, 1), (1, 0), (1, 3), (3, 0), (3, 0)]
        scores, labels, requests = batch(rows)
        scores.mul_(3).requires_grad_()

        def loss(s):
            return neural_ndcg(s, labels, requests, temperature=temperature, k=k)

        assert torch.autograd.gradcheck(loss, (scores,))

    def test_where_lists_stop_at_different_iterations(self):
        """Flat lists converge at once, others never."""
        scores, labels, requests = large(4)
        scores = (scores * (requests % 3 == 1)).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: neural_ndcg(s, labels, requests), (scores,))

    def test_a_shift_of_a_list_has_no_slope(self):
        scores, labels, requests = large()
        neural_ndcg(scores.requires_grad_(), labels, requests).backward()
        numbers = request_lists.list_numbers(requests)
        totals = torch.zeros(9, dtype=torch.float64).index_add(0, numbers, scores.grad)
        assert totals.abs().max() < 1e-12
        assert scores.grad.abs().max() > 1e-4

    def test_learns_to_sort(self):
        _, labels, requests = large(5)
        scores = torch.zeros(len(labels), requires_grad=True)
        with torch.no_grad():
            scores += 0.01 * torch.randn(len(labels), generator=torch.Generator().manual_seed(3))
        optimizer = torch.optim.Adam([scores], lr=0.1)
        before = ndcg(labels, scores.detach(), requests, gain="exponential")
        for _ in range(60):
            optimizer.zero_grad()
            neural_ndcg(scores, labels, requests).backward()
            optimizer.step()
        after = ndcg(labels, scores.detach(), requests, gain="exponential")
        assert before < 0.7
        assert after > 0.97

    def test_no_gradient_is_made_where_none_is_wanted(self):
        scores, labels, requests = large()
        assert not neural_ndcg(scores, labels, requests).requires_grad
        with torch.no_grad():
            assert not neural_ndcg(scores.requires_grad_(), labels, requests).requires_grad


class TestListsThatSayNothing:
    @pytest.mark.parametrize("labels", [[0, 0, 0], [0], []])
    def test_all_zero_is_zero_without_slope(self, labels):
        scores = torch.arange(float(len(labels))).requires_grad_()
        requests = torch.zeros(len(labels), dtype=torch.int64)
        loss = neural_ndcg(scores, torch.tensor(labels), requests)
        loss.backward()
        assert float(loss.detach()) == 0
        assert not scores.grad.any()
        assert scores.grad.isfinite().all()

    def test_a_list_of_zeros_counts_nothing(self):
        scores, labels, requests = large()
        plain = neural_ndcg(scores, labels, requests)
        more = torch.cat([scores, scores[:6]]).requires_grad_()
        loss = neural_ndcg(
            more, torch.cat([labels, torch.zeros(6)]), torch.cat([requests, torch.zeros(6).long()])
        )
        loss.backward()
        torch.testing.assert_close(loss.detach(), plain)
        assert not more.grad[-6:].any()

    def test_a_list_of_one(self):
        scores = torch.tensor([3.0], requires_grad=True)
        loss = neural_ndcg(scores, torch.tensor([2]), torch.tensor([-5]))
        loss.backward()
        assert float(loss.detach()) == -1
        assert float(scores.grad) == 0

    def test_equal_scores(self):
        """No order: NDCG is the mean over all orders."""
        labels, requests = torch.tensor([1, 0, 0, 0]), torch.zeros(4).long()
        scores = torch.zeros(4, requires_grad=True)
        loss = neural_ndcg(scores, labels, requests)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(-ndcg(labels, [0] * 4, [0] * 4))
        assert scores.grad.isfinite().all()


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_halves_are_widened(self, dtype):
        scores, labels, requests = large()
        short = scores.to(dtype)
        found = neural_ndcg(short, labels, requests)
        assert found.dtype == torch.float32
        assert torch.equal(found, neural_ndcg(short.float(), labels, requests))

    def test_full_precision_under_autocast(self):
        scores, labels, requests = large()
        one, other = (scores.float().requires_grad_() for _ in range(2))
        neural_ndcg(one, labels, requests).backward()
        with torch.autocast("cpu", torch.bfloat16):
            neural_ndcg(other, labels, requests).backward()
        assert torch.equal(one.grad, other.grad)

    def test_far_scores(self):
        scores, labels, requests = large()
        scores = (1e4 * scores).float().requires_grad_()
        neural_ndcg(scores, labels, requests, temperature=1e-3).backward()
        assert scores.grad.isfinite().all()

    def test_nan_is_not_hidden(self):
        scores, labels, requests = large()
        scores[5] = torch.nan
        assert neural_ndcg(scores, labels, requests).isnan()


class TestErrors:
    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
    def test_temperature(self, temperature):
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            neural_ndcg(*large(), temperature=temperature)

    def test_k(self):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            neural_ndcg(*large(), k=0)
