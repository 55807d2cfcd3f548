"""Windowed attention against loops and against the dense definition."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from sidrank.layers.attention import attend
from sidrank.layers.attention_masks import window_mask
from sidrank.layers.windowed_attention import jagged_windowed_attention, windowed_attention
from tests.layers import reference_attention

# a tracer sees a wrapped function only when it is called through its module
ways = importlib.import_module("sidrank.layers.windowed_attention")


def inputs(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=source, dtype=dtype).requires_grad_() for _ in range(3)]


def some(rows: int, length: int, share: float, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(rows, length, generator=source) < share


def dense(x: list[Tensor], window: int | None, mask: Tensor | None, causal: bool) -> Tensor:
    visible = window_mask(x[0], window, causal)
    if mask is not None:
        visible = visible & mask[:, None, None]
    return attend(*x, visible=visible)


class Reader(nn.Module):
    def __init__(self, window: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.window = window
        self.dropout = dropout
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = (self.scale * x).unflatten(2, (2, 4)).transpose(1, 2)
        return ways.windowed_attention(
            heads, heads, heads, window=self.window, mask=mask, dropout=self.dropout
        )


class JaggedReader(nn.Module):
    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        heads = x.unflatten(1, (2, 4))
        return ways.jagged_windowed_attention(heads, heads, heads, offsets, window=5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "window"), [(7, None), (7, 3), (7, 50), (60, 1), (150, 4)])
def test_it_equals_loops(length: int, window: int | None, causal: bool) -> None:
    x = [part.detach() for part in inputs(2, 1, length, 3)]
    real = some(2, length, 0.6)
    context = windowed_attention(*x, window=window, mask=real, causal=causal)
    slow = reference_attention.windowed_attention(*x, window, real.tolist(), causal)
    torch.testing.assert_close(context, slow, rtol=0, atol=1e-12)


LENGTHS = [0, 1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 193, 256, 300]


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(LENGTHS),
    st.none() | st.sampled_from([1, 2, 16, 31, 32, 33, 63, 64, 65, 500]),
    st.none() | st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    st.booleans(),
    st.integers(0, 3),
)
def test_it_and_its_gradients_equal_the_dense_definition(
    length: int, window: int | None, share: float | None, causal: bool, rows: int
) -> None:
    x = inputs(rows, 2, length, 3, seed=length)
    mask = None if share is None else some(rows, length, share)
    fast = windowed_attention(*x, window=window, mask=mask, causal=causal)
    slow = dense(x, window, mask, causal)
    assert fast.shape == slow.shape
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    weights = torch.randn(slow.shape, dtype=slow.dtype)
    for got, expected in zip(
        torch.autograd.grad(fast, x, weights), torch.autograd.grad(slow, x, weights), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", ["heads first", "places first"])
@pytest.mark.parametrize("window", [8, 64, 300])
def test_float32_agrees_for_either_layout(layout: str, window: int) -> None:
    x = inputs(2, 4, 1000, 16, dtype=torch.float32)
    if layout == "places first":
        x = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in x]
    difference = windowed_attention(*x, window=window) - dense(x, window, None, True)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("length", "window", "causal"), [(97, 2, True), (20, 3, True), (97, 2, False)]
)
def test_gradients_equal_finite_differences(length: int, window: int, causal: bool) -> None:
    x, mask = inputs(1, 1, length, 2), some(1, length, 0.7)

    def read(*parts: Tensor) -> Tensor:
        return windowed_attention(*parts, window=window, mask=mask, causal=causal)

    assert torch.autograd.gradcheck(read, x, fast_mode=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "window"), [(20, 4), (150, 1), (150, 4), (150, 40)])
def test_the_receptive_field_is_exactly_the_visible_pairs(
    length: int, window: int, causal: bool
) -> None:
    query, key, value = (part.detach() for part in inputs(1, 1, length, 1))
    real = some(1, length, 0.8)

    def read(value: Tensor) -> Tensor:
        return windowed_attention(query, key, value, window=window, mask=real, causal=causal)

    field = torch.autograd.functional.jacobian(read, value).view(length, length) != 0
    assert torch.equal(field, window_mask(query, window, causal) & real)


@pytest.mark.parametrize("length", [20, 200])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_what_sees_nothing_reads_zero_and_has_no_gradient(length: int, dropout: float) -> None:
    x = inputs(3, 2, length, 4, dtype=torch.float32)
    mask = torch.ones(3, length).bool()
    mask[1] = False
    mask[2, :10] = False
    context = windowed_attention(*x, window=5, mask=mask, dropout=dropout)
    assert torch.equal(context[1], torch.zeros_like(context[1]))
    assert torch.equal(context[2, :, :10], torch.zeros_like(context[2, :, :10]))
    for gradient in torch.autograd.grad(context.square().sum(), x):
        assert torch.isfinite(gradient).all()
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
        assert bool(gradient[0].any())


@pytest.mark.parametrize("length", [20, 200])
def test_whatever_padding_holds_changes_no_bit(length: int) -> None:
    query, key, value = (part.detach() for part in inputs(2, 2, length, 4, dtype=torch.float32))
    real = some(2, length, 0.7)
    other = [part.masked_fill(~real[:, None, :, None], 1e6) for part in (key, value)]
    expected = windowed_attention(query, key, value, window=6, mask=real)
    assert torch.equal(windowed_attention(query, *other, window=6, mask=real), expected)


def test_places_beyond_the_end_change_nothing() -> None:
    x = [part.detach() for part in inputs(2, 2, 150, 4)]
    longer = [functional.pad(part, (0, 0, 0, 77), value=3.0) for part in x]
    real = (torch.arange(227) < 150).expand(2, -1)
    context = windowed_attention(*longer, window=6, mask=real)[:, :, :150]
    torch.testing.assert_close(context, windowed_attention(*x, window=6), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [20, 150])
def test_dropout_drops_only_visible_weights_and_keeps_their_mean(length: int) -> None:
    query, key, _ = (part.detach() for part in inputs(1, 1, length, 2))
    value = torch.eye(length, dtype=torch.float64)[None, None]  # what is read is the weights
    weights = windowed_attention(query, key, value, window=4)
    torch.manual_seed(0)
    draws = [windowed_attention(query, key, value, window=4, dropout=0.25) for _ in range(400)]
    for draw in draws[:5]:
        kept = draw != 0
        assert not torch.any(kept & (weights == 0))
        torch.testing.assert_close(draw[kept], weights[kept] / 0.75)
    visible = weights != 0
    share = torch.stack([draw[visible] == 0 for draw in draws]).double().mean()
    assert abs(share - 0.25) < 0.01
    mean = torch.stack(draws).mean(0)
    assert (mean - weights).abs().max() < 5 * (0.25 / 0.75 / 400) ** 0.5


@pytest.mark.parametrize("length", [3, 200])
def test_a_window_of_nothing_is_refused(length: int) -> None:
    query, key, value = inputs(1, 1, length, 2)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        windowed_attention(query, key, value, window=0)
    with pytest.raises(ValueError, match="window must be at least 1, got -2"):
        jagged_windowed_attention(query[0], key[0], value[0], torch.tensor([0, 1]), window=-2)


def test_bf16_is_close() -> None:
    x = [part.detach() for part in inputs(2, 2, 200, 8, dtype=torch.float32)]
    exact = windowed_attention(*x, window=6)
    low = windowed_attention(*(part.bfloat16() for part in x), window=6)
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().max() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        cast = windowed_attention(*x, window=6)
    assert (cast.float() - exact).abs().max() < 0.05


def test_fx_keeps_it_whole() -> None:
    reader = Reader(5)
    traced = torch.fx.symbolic_trace(reader)
    for length in (20, 200):
        x, mask = torch.randn(2, length, 8), some(2, length, 0.7)
        assert torch.equal(traced(x, mask), reader(x, mask))


@pytest.mark.parametrize(("dropout", "lengths"), [(0.0, (200, 333)), (0.3, (200,))])
def test_it_compiles_whole(dropout: float, lengths: tuple[int, ...]) -> None:
    reader = Reader(5, dropout)
    fast = torch.compile(reader, fullgraph=True, backend="aot_eager")
    for length in lengths:
        x, mask = torch.randn(3, length, 8), some(3, length, 0.7)
        mask[0] = False
        context = fast(x, mask)
        (gradient,) = torch.autograd.grad(context.square().sum(), [reader.scale])
        assert torch.isfinite(gradient)
        assert not context[0].any()
        if not dropout:
            torch.testing.assert_close(context, reader(x, mask))


def test_it_exports_with_any_batch_and_length() -> None:
    reader = Reader(5)
    # below 96 places a window of 5 takes the dense way, which is another program
    sizes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length", min=97)}
    example = (torch.randn(3, 200, 8), some(3, 200, 0.7))
    program = torch.export.export(reader, example, dynamic_shapes=(sizes, sizes)).module()
    for rows, length in ((3, 200), (1, 97), (5, 500)):
        x, mask = torch.randn(rows, length, 8), some(rows, length, 0.7)
        torch.testing.assert_close(program(x, mask), reader(x, mask))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 3, 64, 1000])
@pytest.mark.parametrize("lengths", [[], [0], [3], [0, 5, 0, 70, 1, 33, 0], [100, 100]])
def test_jagged_equals_every_row_by_itself(lengths: list[int], window: int, causal: bool) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    x = inputs(sum(lengths), 2, 4)
    packed = jagged_windowed_attention(*x, offsets, window=window, causal=causal)
    assert packed.shape == (sum(lengths), 2, 4)
    parts = zip(*(part.split(lengths) for part in x), strict=True) if lengths else []
    alone = [
        dense([part.transpose(0, 1).unsqueeze(0) for part in row], window, None, causal)
        for row in parts
    ]
    expected = torch.cat([row[0].transpose(0, 1) for row in alone]) if alone else x[0]
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(packed)
    if lengths:
        for got, want in zip(
            torch.autograd.grad(packed, x, weights),
            torch.autograd.grad(expected, x, weights),
            strict=True,
        ):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_jagged_dropout_drops_only_visible_weights() -> None:
    query, key, _ = (part.detach() for part in inputs(40, 1, 2))
    value = torch.eye(40, dtype=torch.float64).unsqueeze(1)
    offsets = torch.tensor([0, 13, 40])
    weights = jagged_windowed_attention(query, key, value, offsets, window=4)
    torch.manual_seed(0)
    draw = jagged_windowed_attention(query, key, value, offsets, window=4, dropout=0.25)
    kept = draw != 0
    assert 0 < kept.sum() < (weights != 0).sum()
    torch.testing.assert_close(draw[kept], weights[kept] / 0.75)


def test_jagged_takes_offsets_of_any_integer_type() -> None:
    x = inputs(9, 1, 2)
    offsets = torch.tensor([0, 4, 9])
    expected = jagged_windowed_attention(*x, offsets, window=3)
    assert torch.equal(jagged_windowed_attention(*x, offsets.int(), window=3), expected)


def test_jagged_traces_compiles_and_exports() -> None:
    reader = JaggedReader()
    example = (torch.randn(200, 8), torch.tensor([0, 20, 200]))
    sizes = ({0: torch.export.Dim("places", min=64)}, {0: torch.export.Dim("ends", min=2)})
    program = torch.export.export(reader, example, dynamic_shapes=sizes).module()
    fast = torch.compile(reader, fullgraph=True, backend="aot_eager")
    traced = torch.fx.symbolic_trace(reader)
    for ends in ([0, 20, 200], [0, 0, 33, 90], [0, 4, 5, 6, 500]):
        x, offsets = torch.randn(ends[-1], 8), torch.tensor(ends)
        expected = reader(x, offsets)
        for way in (program, fast, traced):
            torch.testing.assert_close(way(x, offsets), expected)
