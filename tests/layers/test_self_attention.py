"""Attention of a sequence on itself."""

import pytest
import torch

from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from tests.layers import reference_decoder as reference


def module(**options):
    return SelfAttention(dim=8, **{"num_heads": 2, **options}).double()


def sequences(rows=3, length=6, dim=8):
    """Tokens, zero at padding, and masks: nothing real, padding in between, everything real."""
    mask = torch.rand(rows, length) < 0.6
    mask[0], mask[-1] = False, True
    x = torch.randn(rows, length, dim, dtype=torch.float64)
    return x.masked_fill(~mask.unsqueeze(2), 0.0), mask


def expected(attention, x, positions, visible):
    tokens = reference.attention(
        list(x.numpy()),
        positions,
        reference.weights_of(attention),
        attention.num_heads,
        visible,
        rotary=attention.rotary is not None,
    )
    return torch.stack([torch.from_numpy(token) for token in tokens])


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("window", [None, 1, 3, 6, 9])
@pytest.mark.parametrize("rotary", [False, True])
def test_equals_the_paper(num_heads, window, rotary):
    turn = RotaryEmbedding(head_dim=8 // num_heads) if rotary else None
    attention = module(num_heads=num_heads, window=window, rotary=turn)
    x, mask = sequences()
    answers = attention(x, mask)
    for row in range(3):

        def visible(i, j, row=row):
            return bool(mask[row, j]) and 0 <= i - j < (window or 99)

        answer = expected(attention, x[row], range(6), visible)
        torch.testing.assert_close(answers[row], answer)


@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6)])
def test_reads_what_it_is_told_to_read(shape):
    attention, (x, mask), seen = module(), sequences(), torch.rand(shape) < 0.4
    answers = attention(x, mask, visible=seen)
    for row in range(3):
        told = seen.expand(3, 6, 6)[row] & mask[row]
        answer = expected(attention, x[row], range(6), lambda i, j, t=told: bool(t[i, j]))
        torch.testing.assert_close(answers[row], answer)
    assert not answers[0].any()  # nothing is real there


@pytest.mark.parametrize("window", [None, 2])
def test_a_memory_is_what_stood_before(window):
    attention = module(window=window, rotary=RotaryEmbedding(head_dim=4))
    x, mask = sequences(length=9)
    places = torch.arange(9)
    whole = torch.ones(9, 9).bool().tril()
    whole[4:, :4] = True  # a memory is read by all
    if window is not None:
        whole[4:, 4:] &= places[4:, None] - places[4:] < window
    answers = attention(x, mask, visible=whole)[:, 4:]
    old = attention.keys_values(x[:, :4], places[:4])
    recent = attention(x[:, 4:], mask[:, 4:], places[4:], memory=(*old, mask[:, :4]))
    torch.testing.assert_close(recent, answers)


def test_padding_may_hold_anything():
    attention, (x, mask) = module(), sequences()
    for value in (float("nan"), float("inf")):
        spoilt = x.masked_fill(~mask.unsqueeze(2), value)
        assert torch.equal(attention(spoilt, mask), attention(x, mask))


def test_a_memory_of_nothing_is_none():
    attention, (x, mask) = module(), sequences()
    keys = attention.keys_values(x)[0]
    for spoilt in (keys[:, :, :0], keys * float("nan")):
        held = torch.zeros(3, spoilt.shape[2]).bool()
        answer = attention(x, mask, memory=(spoilt, spoilt, held))
        torch.testing.assert_close(answer, attention(x, mask))


def test_qk_norm_bounds_the_scores():
    attention, x = module(qk_norm=True), torch.randn(1, 4, 8, dtype=torch.float64)
    query, key, _ = attention.project(1e6 * x)
    assert (query @ key.transpose(2, 3) / 2.0).abs().max() <= 4.0 / 2.0 + 1e-6
    torch.testing.assert_close(query.pow(2).mean(dim=3), torch.ones(1, 2, 4).double())


def test_turns_serve_for_positions():
    rotary = RotaryEmbedding(head_dim=4)
    attention, (x, mask), positions = module(rotary=rotary), sequences(), torch.arange(6) + 3
    torch.testing.assert_close(
        attention(x, mask, rotary.turns(positions)),
        attention(x, mask, positions),
        rtol=1e-6,
        atol=0,
    )


def test_parts_make_the_whole():
    attention, (x, mask) = module(), sequences()
    mask = torch.ones_like(mask)
    query, key, value = attention.project(x)
    seen = torch.ones(6, 6).bool().tril()
    scores = (query @ key.transpose(2, 3) / 2.0).masked_fill(~seen, -torch.inf)
    merged = attention.merge(scores.softmax(dim=3) @ value)
    torch.testing.assert_close(merged, attention(x, mask))


def test_dropout_is_for_training():
    attention, (x, mask) = module(dropout=0.5), sequences()
    assert not torch.equal(attention(x, mask), attention(x, mask))
    attention.eval()
    assert torch.equal(attention(x, mask), attention(x, mask))


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "num_heads", "window"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SelfAttention(**{"dim": 2, name: 0})

    def test_heads(self):
        with pytest.raises(ValueError, match="dim must be a multiple of num_heads 3, got 8"):
            SelfAttention(dim=8, num_heads=3)

    @pytest.mark.parametrize("dropout", [-0.1, 1.0])
    def test_dropout(self, dropout):
        with pytest.raises(ValueError, match=rf"dropout must be in \[0, 1\), got {dropout}"):
            SelfAttention(dim=8, dropout=dropout)

    def test_shapes(self):
        attention, (x, mask) = module(), sequences()
        with pytest.raises(ValueError, match=r"x must have shape \[\*, \*, 8\], got \[3, 6, 7\]"):
            attention(x[:, :, :7], mask)
        with pytest.raises(ValueError, match=r"mask must have shape \[3, 6\], got \[3, 5\]"):
            attention(x, mask[:, :5])
        with pytest.raises(ValueError, match=r"mask must be bool, got torch\.float32"):
            attention(x, mask.float())
        with pytest.raises(ValueError, match=r"visible must be bool and end in \[6, 6\].*\[3, 6\]"):
            attention(x, mask, visible=mask)
        with pytest.raises(ValueError, match=r"visible must be bool.* got torch.float32"):
            attention(x, mask, visible=torch.ones(6, 6))
