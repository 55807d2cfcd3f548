"""Rows of requests, wherever they stand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.losses.joint_ranking import jrc
from sidrank.losses.listwise import listnet
from sidrank.losses.neural_ndcg import neural_ndcg
from sidrank.losses.pairwise import pairwise_logistic
from sidrank.losses.request_lists import blocks, list_numbers, log_shares, request_ids

IDS = st.lists(st.sampled_from([-(2**63), -1, 0, 2**53, 2**53 + 1, 2**63 - 1]), max_size=30)
LOSSES = [neural_ndcg, pairwise_logistic, listnet, jrc]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


class TestNumbers:
    @given(IDS)
    def test_equal_where_the_requests_are(self, ids):
        found = list_numbers(torch.tensor(ids, dtype=torch.int64)).tolist()
        assert found == [sorted(set(ids)).index(request) for request in ids]

    def test_shares_of_a_list(self):
        x = torch.tensor([1000.0, -3.0, 1001.0, -1000.0])
        found = log_shares(x, torch.tensor([0, 1, 0, 2]))
        wanted = x[[0, 2]].log_softmax(dim=0)
        torch.testing.assert_close(found, torch.stack([wanted[0], x[0] * 0, wanted[1], x[0] * 0]))


class TestBlocks:
    @given(IDS)
    def test_every_row_is_in_one_place_with_its_list(self, ids):
        requests = torch.tensor(ids, dtype=torch.int64)
        seen = []
        for block in blocks(requests):
            assert torch.equal(block.real.sum(dim=1), block.lengths)
            for rows, real in zip(block.rows, block.real, strict=True):
                own = rows[real].tolist()
                seen += own
                assert {ids[row] for row in own} == {ids[own[0]]}
                assert len(own) == ids.count(ids[own[0]])
        assert sorted(seen) == list(range(len(ids)))

    def test_short_lists_are_not_padded_to_the_longest(self):
        requests = torch.cat([torch.zeros(3000), torch.arange(1, 5001)]).long()
        places = [block.rows.numel() for block in blocks(requests)]
        assert sum(places) == 8000

    @given(st.lists(st.integers(1, 200), min_size=1, max_size=40))
    def test_padding_is_at_most_half(self, lengths):
        requests = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        for block in blocks(requests):
            assert 2 * block.lengths.min() >= block.rows.shape[1]
            cells = len(block.rows) * block.rows.shape[1] ** 2
            assert cells <= 1 << 18 or len(block.rows) == 1


class TestOffsets:
    def test_rows_of_each_list(self):
        assert request_ids(torch.tensor([0, 0, 3, 4], dtype=torch.int32)).tolist() == [1, 1, 1, 2]
        assert request_ids(torch.tensor([0])).tolist() == []

    @pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2], []])
    def test_what_is_none(self, offsets):
        with pytest.raises(ValueError, match="offsets must start at 0 and never go down, got"):
            request_ids(torch.tensor(offsets, dtype=torch.int64))

    def test_dtype(self):
        with pytest.raises(ValueError, match=r"offsets must be int32 or int64, got torch\.float32"):
            request_ids(torch.zeros(2))


def column(rows=23, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (rows,), generator=generator)
    requests = torch.randint(-3, 3, (rows,), generator=generator)
    return logits, labels, requests


@each_loss
class TestEachLoss:
    def test_any_names_in_any_order(self, loss):
        logits, labels, requests = column()
        plain = loss(logits, labels, requests)
        order = torch.randperm(len(logits))
        names = (-(2**61) * requests + 5)[order]
        torch.testing.assert_close(loss(logits[order], labels[order], names), plain)
        torch.testing.assert_close(loss(logits, labels.bool(), requests.int()), plain)

    def test_lists_matter(self, loss):
        logits, labels, requests = column()
        other = loss(logits, labels, requests.roll(1))
        assert abs(other - loss(logits, labels, requests)) > 1e-4

    def test_offsets(self, loss):
        logits, labels, _ = column()
        requests = request_ids(torch.tensor([0, 4, 4, 19, 23]))
        parts = [slice(0, 4), slice(4, 19), slice(19, 23)]
        values = [loss(logits[own], labels[own], requests[own]) for own in parts]
        lengths = [4, 15, 4] if loss is jrc else [1, 1, 1]
        wanted = sum(v * n for v, n in zip(values, lengths, strict=True)) / sum(lengths)
        torch.testing.assert_close(loss(logits, labels, requests), wanted)

    def test_weight_zero_teaches_nothing(self, loss):
        logits, labels, requests = column()
        (0.0 * loss(logits.requires_grad_(), labels, requests)).backward()
        assert not logits.grad.any()

    def test_no_rows(self, loss):
        logits = torch.zeros(0, requires_grad=True)
        value = loss(logits, torch.zeros(0), torch.zeros(0).long())
        value.backward()
        assert float(value.detach()) == 0
        assert logits.grad.shape == (0,)

    def test_halves_are_widened(self, loss):
        logits, labels, requests = column()
        short = logits.bfloat16()
        found = loss(short, labels, requests)
        assert found.dtype == torch.float32
        assert torch.equal(found, loss(short.float(), labels, requests))

    def test_gradient(self, loss):
        logits, labels, requests = column()
        assert torch.autograd.gradcheck(
            lambda s: loss(s, labels, requests), (logits.requires_grad_(),)
        )

    def test_labels_get_no_gradient(self, loss):
        logits, labels, requests = column()
        labels = labels.double().requires_grad_()
        loss(logits.requires_grad_(), labels, requests).backward()
        assert labels.grad is None

    def test_shapes(self, loss):
        logits, labels, requests = column()
        with pytest.raises(ValueError, match=r"labels must have shape \[23\], got \[22\]"):
            loss(logits, labels[1:], requests)
        with pytest.raises(ValueError, match=r"requests must have shape \[23\], got \[22\]"):
            loss(logits, labels, requests[1:])
        with pytest.raises(ValueError, match=r"logits must have shape"):
            loss(logits.view(1, 23, 1), labels, requests)

    def test_dtypes(self, loss):
        logits, labels, requests = column()
        with pytest.raises(ValueError, match="requests must be int32 or int64, got"):
            loss(logits, labels, requests.float())
        with pytest.raises(ValueError, match=r"logits must be floating point, got torch\.int64"):
            loss(labels, labels, requests)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 2000.0])
def test_a_label_without_a_gain(value):
    logits, labels, requests = column()
    labels = labels.double()
    labels[7] = value
    rule = rf"labels must not be negative and must have a finite gain, got {value} in row 7"
    with pytest.raises(ValueError, match=rule):
        neural_ndcg(logits, labels, requests)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_label_that_is_no_number(value):
    logits, labels, requests = column()
    labels = labels.double()
    labels[7] = value
    with pytest.raises(ValueError, match=rf"labels must be finite, got {value} in row 7"):
        pairwise_logistic(logits, labels, requests)


@pytest.mark.parametrize("loss", [neural_ndcg, pairwise_logistic])
def test_no_second_derivative(loss):
    logits, labels, requests = column()
    value = loss(logits.requires_grad_(), labels, requests)
    (slope,) = torch.autograd.grad(value, logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="has no gradient of its own"):
        slope.square().sum().backward()


@each_loss
def test_compiles_whole_with_gradients(loss):
    torch._dynamo.reset()
    whole = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for rows in (23, 31):
        logits, labels, requests = column(rows)
        one, other = (logits.clone().requires_grad_() for _ in range(2))
        loss(one, labels, requests).backward()
        whole(other, labels, requests).backward()
        torch.testing.assert_close(one.grad, other.grad)
