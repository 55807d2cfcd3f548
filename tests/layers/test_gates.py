"""The two gates and the attention over resolutions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.layers import ConvexGate, ResidualGate, ResolutionAttention
from tests import reference

GATES = [ResidualGate, ConvexGate]
counts = st.lists(st.integers(0, 10**9), min_size=2, max_size=2)


def ones(rows):
    return torch.ones(rows, dtype=torch.bool)


@pytest.mark.parametrize("form", GATES)
@given(st.lists(counts, min_size=1, max_size=4))
def test_equals_the_paper(form, statistics):
    gate = form(statistics=["shown", "liked"])
    fuse = ResolutionAttention(dim=4, num_resolutions=3)
    rows = torch.tensor(statistics)
    hid, sids = torch.randn(len(rows), 4), torch.randn(len(rows), 3, 4)
    trust = gate.weight(rows)
    mixed = gate(hid, fuse(sids), rows, ones(len(rows)))
    for row in range(len(rows)):
        expected = reference.gated(
            hid[row].tolist(),
            sids[row].tolist(),
            (fuse.own.weight.tolist(), fuse.own.bias.tolist()),
            fuse.mean.weight.tolist(),
            fuse.query.tolist(),
            trust[row].item(),
            convex=form is ConvexGate,
        )
        torch.testing.assert_close(mixed[row].tolist(), expected, rtol=1e-5, atol=1e-5)


def test_weight_is_an_mlp_of_log_counts():
    gate = ResidualGate(statistics=["shown"], hidden=2)
    first, last = gate.mlp[0], gate.mlp[2]
    inside = [
        w * math.log1p(90) + b
        for (w,), b in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
    ]
    silu = [x / (1 + math.exp(-x)) for x in inside]
    logit = sum(w * x for w, x in zip(last.weight.tolist()[0], silu, strict=True))
    expected = 1 / (1 + math.exp(-logit - last.bias.item()))
    assert gate.weight(torch.tensor([[90]])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", GATES)
def test_one_gate_a_bag_within_bounds(form):
    weight = form(statistics=["a", "b"]).weight(torch.tensor([[0, 0], [10**12, 5], [-1, 2]]))
    assert weight.shape == (3, 1)
    assert ((weight >= 0) & (weight <= 1)).all()


def test_negative_count_is_nothing_known():
    gate = ResidualGate(statistics=["a"])
    assert torch.equal(gate.weight(torch.tensor([[-7]])), gate.weight(torch.tensor([[0]])))


def test_convex_form_lies_between_its_inputs():
    gate = ConvexGate(statistics=["shown"])
    hid, sid = torch.randn(50, 4), torch.randn(50, 4)
    mixed = gate(hid, sid, torch.randint(0, 100, (50, 1)), ones(50))
    low, high = torch.minimum(hid, sid), torch.maximum(hid, sid)
    assert ((mixed >= low - 1e-6) & (mixed <= high + 1e-6)).all()


@pytest.mark.parametrize("form", GATES)
def test_bag_without_sid_keeps_the_host_value(form):
    hid, sid = torch.randn(2, 4), torch.randn(2, 4)
    mixed = form(statistics=[])(hid, sid, torch.zeros(2, 0), torch.tensor([True, False]))
    assert torch.equal(mixed[1], hid[1])
    assert not torch.equal(mixed[0], hid[0])


@pytest.mark.parametrize("autocast", [False, True])
def test_residual_form_is_exact_while_the_sid_is_zero(autocast):
    gate, hid = ResidualGate(statistics=["shown"]), torch.randn(64, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mixed = gate(hid, torch.zeros(64, 8), torch.randint(0, 10**6, (64, 1)), ones(64))
    assert torch.equal(mixed, hid)


@pytest.mark.parametrize("form", GATES)
def test_rows_do_not_see_each_other(form):
    gate, hid, sid = form(statistics=["shown"]), torch.randn(5, 4), torch.randn(5, 4)
    statistics = torch.arange(5).unsqueeze(1)
    together = gate(hid, sid, statistics, ones(5))
    for row in range(5):
        one = slice(row, row + 1)
        alone = gate(hid[one], sid[one], statistics[one], ones(1))
        torch.testing.assert_close(alone, together[one])


def test_attention_weights_sum_to_one_and_zero_stays_zero():
    fuse = ResolutionAttention(dim=4, num_resolutions=5)
    same = torch.randn(7, 1, 4).expand(7, 5, 4)
    torch.testing.assert_close(fuse(same), same[:, 0])
    zero = torch.zeros(7, 5, 4, requires_grad=True)
    fuse(zero).sum().backward()
    assert (zero.grad != 0).all()  # alive at birth


class TestErrors:
    @pytest.mark.parametrize("form", GATES)
    def test_single_string(self, form):
        with pytest.raises(TypeError, match="statistics must be a sequence of names"):
            form(statistics="shown")

    def test_hidden(self):
        with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
            ResidualGate(statistics=[], hidden=0)

    def test_number_of_statistics(self):
        with pytest.raises(ValueError, match=r"statistics must have shape \[\*, 2\], got \[3, 1\]"):
            ResidualGate(statistics=["a", "b"]).weight(torch.zeros(3, 1))

    def test_widths_differ(self):
        with pytest.raises(ValueError, match=r"sid must have shape \[3, 4\], got \[3, 2\]"):
            ConvexGate(statistics=[])(
                torch.zeros(3, 4), torch.zeros(3, 2), torch.zeros(3, 0), ones(3)
            )

    @pytest.mark.parametrize("form", GATES)
    @pytest.mark.parametrize("name", ["sid", "statistics", "present"])
    def test_nothing_is_broadcast(self, form, name):
        parts = {"sid": torch.zeros(3, 4), "statistics": torch.zeros(3, 1), "present": ones(3)}
        parts[name] = parts[name][:1]
        with pytest.raises(ValueError, match=rf"{name} must have shape \[3.*got \[1"):
            form(statistics=["shown"])(torch.zeros(3, 4), **parts)

    @pytest.mark.parametrize("name", ["dim", "num_resolutions", "hidden"])
    def test_attention_sizes(self, name):
        sizes = {"dim": 2, "num_resolutions": 2, "hidden": 2, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            ResolutionAttention(**sizes)

    def test_attention_shape(self):
        with pytest.raises(ValueError, match=r"embeddings must have shape \[\*, 5, 4\]"):
            ResolutionAttention(dim=4, num_resolutions=5)(torch.zeros(2, 4, 4))
