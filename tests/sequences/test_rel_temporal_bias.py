"""Bias of two moments: recency, hour, weekend."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.sequences.rel_temporal_bias import RelTemporalBias
from tests.sequences import reference_sparse as reference

HOUR, DAY = 3600, 86400
moment = st.integers(-(10**9), 3 * 10**9)
weight = st.floats(-3, 3)


def alive(num_heads=3, **options):
    bias = RelTemporalBias(num_heads=num_heads, **options)
    with torch.no_grad():
        for parameter in bias.parameters():
            parameter.copy_(torch.randn(num_heads))
    return bias


def only(name):
    """A bias where one part alone counts."""
    bias = RelTemporalBias(num_heads=1)
    with torch.no_grad():
        bias.recency.fill_(-math.inf)
        for part in (bias.hour, bias.weekend):
            part.zero_()
        getattr(bias, name).fill_(1.0)
    return bias


@given(
    st.lists(moment, min_size=1, max_size=4),
    st.lists(moment, min_size=1, max_size=4),
    st.tuples(weight, weight, weight),
    st.integers(-12 * HOUR, 14 * HOUR),
)
def test_equals_the_calendar(queries, keys, weights, utc_offset):
    bias = RelTemporalBias(num_heads=1, utc_offset=utc_offset).double()
    with torch.no_grad():
        for parameter, value in zip((bias.recency, bias.hour, bias.weekend), weights, strict=True):
            parameter.fill_(value)
    found = bias(torch.tensor([queries]), torch.tensor([keys]))
    assert found.shape == (1, 1, len(queries), len(keys))
    a, b, c = math.log1p(math.exp(weights[0])), weights[1], weights[2]
    for i, query in enumerate(queries):
        for j, key in enumerate(keys):
            expected = reference.bias(query, key, a, b, c, utc_offset)
            assert found[0, 0, i, j].item() == pytest.approx(expected, abs=1e-9)


def test_buckets_are_doublings_to_the_second():
    bias = only("recency")
    for doubling in range(1, 40):
        ago = torch.tensor([[2**doubling - 2, 2**doubling - 1]])
        slope = torch.nn.functional.softplus(bias.recency)
        found = bias(torch.zeros(1, 1).long(), -ago) / slope
        assert found.flatten().round(decimals=3).tolist() == [1 - doubling, -doubling]


def test_further_away_is_never_more():
    bias, ago = alive(), torch.arange(0, 10**6, 997)
    with torch.no_grad():
        bias.hour.zero_()
        bias.weekend.zero_()
        for raw in (-9.0, 0.0, 9.0):
            bias.recency.fill_(raw)
            assert (bias(torch.tensor([0]), -ago).diff(dim=-1) <= 0).all()


@given(st.lists(moment, min_size=2, max_size=4), st.integers(-(10**9), 10**9))
def test_recency_does_not_know_the_clock(times, shift):
    bias, times = only("recency"), torch.tensor([times])
    assert torch.equal(bias(times + shift, times + shift), bias(times, times))


@pytest.mark.parametrize(("name", "shift"), [("hour", HOUR // 2), ("weekend", 2 * DAY)])
def test_hour_and_weekend_know_it(name, shift):
    bias = only(name)
    times = torch.arange(0, 14 * DAY, 1234).unsqueeze(0)
    assert not torch.allclose(bias(times + shift, times + shift), bias(times, times), atol=1e-3)
    assert torch.allclose(bias(times + 7 * DAY, times), bias(times, times))


def test_hours_go_round():
    found = only("hour")(torch.tensor([0]), torch.tensor([HOUR * h for h in (0, 1, 6, 12, 23, 24)]))
    expected = [1.0, math.cos(math.pi / 12), 0.0, -1.0, math.cos(math.pi / 12), 1.0]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))


def test_weekend_takes_two():
    friday, saturday, sunday, monday = (DAY * days for days in (1, 2, 3, 4))
    times = torch.tensor([friday, saturday, sunday, monday])
    found = only("weekend")(times, times)[0]
    assert found.int().tolist() == [[-1, -1, -1, -1], [-1, 0, 0, -1], [-1, 0, 0, -1], [-1] * 4]


def test_units_and_clocks():
    times = torch.randint(0, 10**6, (2, 5))
    seconds, milliseconds = alive(), alive(per_second=1000)
    east = alive(utc_offset=9 * HOUR)
    for other in (milliseconds, east):
        other.load_state_dict(seconds.state_dict())
    expected = seconds(times, times)
    assert torch.equal(milliseconds(1000 * times + 999, 1000 * times + 999), expected)
    assert torch.equal(east(times - 9 * HOUR, times - 9 * HOUR), expected)
    assert torch.equal(seconds(times.int(), times.int()), expected)


def test_at_birth_heads_forget_at_slopes_and_nothing_else():
    bias = RelTemporalBias(num_heads=4)
    times = torch.tensor([0, DAY, 3 * DAY + HOUR])
    found = bias(times, times - 1)  # a second ago, and more
    slopes = torch.nn.functional.softplus(bias.recency)
    torch.testing.assert_close(slopes, torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]))
    torch.testing.assert_close(found[:, 0, 0], -slopes)
    found.sum().backward()
    assert all(parameter.grad.abs().min() > 0 for parameter in bias.parameters())


def test_any_number_of_axes_before():
    bias, queries, keys = alive(), torch.randint(0, 10**6, (2, 5, 3)), torch.arange(4)
    found = bias(queries, keys.expand(2, 5, 4))
    assert found.shape == (2, 5, 3, 3, 4)
    assert torch.equal(found[1, 2], bias(queries[1, 2], keys))


class TestErrors:
    def test_sizes(self):
        for name in ("num_heads", "per_second"):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
                RelTemporalBias(**{"num_heads": 2, name: 0})

    @pytest.mark.parametrize("name", ["query_times", "key_times"])
    def test_dtypes(self, name):
        given = {"query_times": torch.zeros(1, 2).long(), "key_times": torch.zeros(1, 2).long()}
        given[name] = given[name].float()
        with pytest.raises(ValueError, match=f"{name} must be int32 or int64, got torch.float32"):
            RelTemporalBias(num_heads=1)(**given)
