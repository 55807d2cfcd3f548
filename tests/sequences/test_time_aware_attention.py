"""Attention that knows the time and has a gate."""

import datetime
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from sidrank.sequences.time_aware_attention import (
    TimeAwareGatedAttention,
    TimeEncoding,
    calendar_features,
)

D, P = 8, 3


def attention(alive=True, **settings):
    torch.manual_seed(0)
    module = TimeAwareGatedAttention(
        time=TimeEncoding(num_features=P, dim=D), num_heads=2, **settings
    )
    if alive:
        torch.nn.init.normal_(module.time.out.weight)
        torch.nn.init.normal_(module.query_norm.weight)
        torch.nn.init.normal_(module.key_norm.weight)
    return module


def given_inputs(rows=2, length=6):
    mask = torch.rand(rows, length) < 0.8
    return torch.randn(rows, length, D), mask, torch.randn(rows, length, P)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rotary", [None, RotaryEmbedding(head_dim=D // 2)])
def test_open_gate_is_plain_attention(causal, rotary):
    module = attention(causal=causal, rotary=rotary)
    torch.nn.init.constant_(module.gate.bias, 100.0)
    plain = SelfAttention(dim=D, num_heads=2, qk_norm=True, rotary=rotary)
    plain.load_state_dict(module.state_dict(), strict=False)
    x, _, times = given_inputs()
    mask = torch.ones(2, 6).bool()
    visible = None if causal else torch.ones(6, 6).bool()
    expected = plain(module.time(x, times), mask, visible=visible)
    torch.testing.assert_close(module(x, mask, times), expected)


def test_shut_gate_lets_nothing_through():
    module = attention()
    torch.nn.init.constant_(module.gate.bias, -200.0)
    assert (module(*given_inputs()) == 0).all()


def test_gate_works_lane_by_lane_before_the_last_layer():
    module, (x, mask, times) = attention(), given_inputs()
    torch.nn.init.eye_(module.out.weight)
    gate = torch.sigmoid(module.gate(module.time(x, times)))
    shut = module(x, mask, times)
    torch.nn.init.constant_(module.gate.bias, 100.0)
    torch.testing.assert_close(shut, gate * module(x, mask, times))


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("rotary", [None, RotaryEmbedding(head_dim=D // 2)])
def test_scores_are_bounded_whatever_the_inputs(scale, rotary):
    module, (x, mask, times) = attention(rotary=rotary), given_inputs(rows=20)
    with torch.no_grad():
        module.query_norm.weight.fill_(1.5)
        module.key_norm.weight.fill_(-0.7)
    scores = module.scores(scale * x, mask, scale * times)
    bound = math.sqrt(D // 2) * 1.5 * 0.7
    assert scores.abs().max() <= bound * (1 + 1e-5)
    assert scores.abs().max() > 0.7 * bound
    assert module(scale * x, mask, scale * times).isfinite().all()


def test_scores_are_what_the_softmax_gets():
    module, (x, _, times) = attention(causal=False), given_inputs(rows=1)
    mask = torch.ones(1, 6).bool()
    weights = module.scores(x, mask, times).softmax(dim=3)
    timed = module.time(x, times)
    values = module.value(timed).view(1, 6, 2, 4).transpose(1, 2)
    context = (weights @ values).transpose(1, 2).reshape(1, 6, D)
    expected = module.out(context * torch.sigmoid(module.gate(timed)))
    torch.testing.assert_close(module(x, mask, times), expected)


class TestTime:
    def test_no_part_at_birth_and_learns(self):
        module, (x, mask, times) = attention(alive=False), given_inputs()
        before = module(x, mask, times)
        torch.testing.assert_close(module(x, mask, torch.randn_like(times)), before, rtol=0, atol=0)
        before.sum().backward()
        assert module.time.out.weight.grad.any()

    def test_changes_what_is_read(self):
        module, (x, _, times) = attention(), given_inputs()
        mask = torch.ones(2, 6).bool()
        other = times.clone()
        other[:, 2] += 1.0
        one, two = module(x, mask, times), module(x, mask, other)
        changed = (one - two).abs().amax(dim=2) > 1e-4
        assert changed.tolist() == [[False, False, True, True, True, True]] * 2

    def test_of_the_token_that_begins_a_sequence(self):
        encode = TimeEncoding(num_features=6, dim=D)
        torch.nn.init.normal_(encode.out.weight)
        bos, now = torch.randn(3, D), torch.tensor([0, 3600, 7 * 86400])
        y = encode(bos, calendar_features(now))
        expected = bos + encode.out(torch.nn.functional.silu(encode.hidden(calendar_features(now))))
        torch.testing.assert_close(y, expected)
        assert not torch.allclose((y - bos)[0], (y - bos)[1])


class TestPadding:
    @pytest.mark.parametrize("rotary", [None, RotaryEmbedding(head_dim=D // 2)])
    def test_may_stand_anywhere_and_hold_anything(self, rotary):
        module = attention(rotary=rotary)
        x, _, times = given_inputs(length=3)
        wide, late = torch.full((2, 7, D), float("nan")), torch.full((2, 7, P), float("inf"))
        mask, places = torch.zeros(2, 7).bool(), [1, 2, 5]
        wide[:, places], late[:, places], mask[:, places] = x, times, True
        y = module(wide, mask, late)
        expected = module(x, torch.ones(2, 3).bool(), times)
        torch.testing.assert_close(y[:, places], expected, atol=1e-6, rtol=0.0)
        assert (y[~mask] == 0).all()

    def test_no_behaviours(self):
        module = attention()
        for rows, length in ((2, 0), (0, 4)):
            x, mask, times = given_inputs(rows, length)
            assert module(x, mask, times).shape == (rows, length, D)
        assert (
            module(torch.ones(1, 3, D), torch.zeros(1, 3).bool(), torch.ones(1, 3, P)) == 0
        ).all()


class TestCalendar:
    @given(st.integers(0, 4_000_000_000), st.sampled_from([0.0, 8.0, -3.5]))
    def test_equals_the_calendar(self, seconds, offset):
        zone = datetime.timezone(datetime.timedelta(hours=offset))
        local = datetime.datetime.fromtimestamp(seconds, zone)
        day = (local.hour + local.minute / 60 + local.second / 3600) / 24
        week = (local.weekday() + day) / 7
        features = calendar_features(torch.tensor([seconds]), utc_offset=offset)[0]
        expected = []
        for share in (day, week):
            expected += [math.sin(2 * math.pi * share), math.cos(2 * math.pi * share)]
        assert features[:4].tolist() == pytest.approx(expected, abs=1e-5)

    def test_year_comes_round(self):
        spring = [
            datetime.datetime(year, 4, 2, tzinfo=datetime.UTC).timestamp() for year in (1970, 2026)
        ]
        one, other = calendar_features(torch.tensor(spring, dtype=torch.float64))[:, 4:]
        torch.testing.assert_close(one, other, atol=0.03, rtol=0.0)
        assert one.tolist() == pytest.approx([1.0, 0.0], abs=0.03)  # a quarter of the year

    def test_shape_and_dtype(self):
        features = calendar_features(torch.zeros(2, 3, dtype=torch.int64))
        assert features.shape == (2, 3, 6)
        assert features.dtype == torch.float32


class TestErrors:
    @pytest.mark.parametrize("name", ["num_features", "dim", "hidden"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            TimeEncoding(**{"num_features": 1, "dim": 2, name: 0})

    def test_heads(self):
        time = TimeEncoding(num_features=1, dim=4)
        with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
            TimeAwareGatedAttention(time=time, num_heads=0)
        with pytest.raises(ValueError, match="num_heads must divide the width 4, got 3"):
            TimeAwareGatedAttention(time=time, num_heads=3)

    def test_shapes(self):
        module, (x, mask, times) = attention(), given_inputs()
        with pytest.raises(ValueError, match=r"x must have shape \[\*, \*, 8\], got \[2, 6, 3\]"):
            module(times, mask, times)
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.float32"):
            module(x, mask.float(), times)
        with pytest.raises(ValueError, match=r"times must have shape \[2, 6, 3\], got \[2, 6, 8\]"):
            module(x, mask, x)
