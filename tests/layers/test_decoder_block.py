"""The pre-norm block."""

import pytest
import torch

from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.nlir import NLIR
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from tests.layers import reference_decoder as reference


def module(*, gated=False, window=None):
    rotary = RotaryEmbedding(head_dim=4)
    attention = SelfAttention(dim=8, num_heads=2, window=window, rotary=rotary)
    residual = NLIR(dim=8) if gated else None
    block = DecoderBlock(attention=attention, hidden=12, residual=residual).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return block


def sequences():
    mask = torch.rand(3, 6) < 0.6
    mask[0], mask[-1] = False, True
    return torch.randn(3, 6, 8, dtype=torch.float64), mask


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("window", [None, 2])
def test_equals_the_paper(gated, window):
    block, (x, mask) = module(gated=gated, window=window), sequences()
    positions = torch.randint(0, 50, (3, 6))
    answers = block(x, mask, positions)
    for row in range(3):
        real = mask[row].tolist()
        answer = reference.block(
            list(x[row].numpy()),
            positions[row].tolist(),
            reference.weights_of(block),
            2,
            lambda i, j, real=real: real[j] and 0 <= i - j < (window or 99),
        )
        for t in range(6):
            expected = torch.from_numpy(answer[t]) if real[t] else torch.zeros(8).double()
            torch.testing.assert_close(answers[row, t], expected)


def test_padding_may_hold_anything_and_comes_out_as_zero():
    block, (x, mask) = module(gated=True), sequences()
    answers = block(x, mask)
    assert not answers[~mask].any()
    for value in (float("nan"), float("inf"), 1e300):
        spoilt = x.masked_fill(~mask.unsqueeze(2), value)
        assert torch.equal(block(spoilt, mask), answers)
        slopes = torch.autograd.grad(block(spoilt, mask).sum(), list(block.parameters()))
        assert all(slope.isfinite().all() for slope in slopes)


def test_padding_in_between_changes_nothing_but_places():
    block, (x, mask) = module(), sequences()
    positions = torch.arange(6)
    answers = block(x[1:2], mask[1:2], positions)[mask[1:2]]
    kept = mask[1]
    alone = block(x[1:2, kept], torch.ones(1, int(kept.sum())).bool(), positions[kept])
    torch.testing.assert_close(alone[0], answers)


def test_visible_and_memory_reach_the_attention():
    block, (x, mask) = module(), sequences()
    mask = torch.ones_like(mask)
    own = torch.eye(6).bool()
    alone = block(x[:, 2:3], mask[:, 2:3], torch.tensor([2]))
    torch.testing.assert_close(block(x, mask, visible=own)[:, 2:3], alone)
    normed = block.attention_norm(x)
    memory = (*block.attention.keys_values(normed[:, :5], torch.arange(5)), mask[:, :5])
    last = block(x[:, 5:], mask[:, 5:], torch.tensor([5]), memory=memory)
    torch.testing.assert_close(last, block(x, mask)[:, 5:])


def test_born_gated_is_born_plain():
    plain, gated = module(), module(gated=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    gated.residual.gate.reset_parameters()
    x, mask = sequences()
    assert torch.equal(gated(x, mask), plain(x, mask))


class TestErrors:
    def test_hidden(self):
        with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
            DecoderBlock(attention=SelfAttention(dim=4), hidden=0)

    def test_shapes(self):
        block, (x, mask) = module(), sequences()
        with pytest.raises(ValueError, match=r"mask must be bool, got torch\.float32"):
            block(x, mask.float())
        with pytest.raises(ValueError, match=r"mask must have shape \[\*, \*\], got \[6\]"):
            block(x, mask[0])
