"""Layers of sparse attention over behaviours and candidates."""

import pytest
import torch
from torch.nn import functional

from sidrank.sequences.evolutionary_attention import EvolutionarySparseAttention
from sidrank.sequences.rel_temporal_bias import RelTemporalBias
from sidrank.sequences.sparse_ctr_encoder import SparseCTREncoder
from sidrank.sequences.time_chunks import TimeChunker


def attention(dim=6):
    return EvolutionarySparseAttention(
        dim=dim,
        num_heads=2,
        chunker=TimeChunker(num_chunks=3),
        window=4,
        bias=RelTemporalBias(num_heads=2),
    )


def encode(layers=2):
    return SparseCTREncoder(attentions=[attention() for _ in range(layers)], hidden=10)


def batch(rows=3, length=9, candidates=2, dim=6):
    mask = torch.rand(rows, length) < 0.8
    times, now = 3600 * torch.randint(0, 200, (rows, length)), torch.full((rows,), 150 * 3600)
    vectors = torch.randn(rows, length, dim), torch.randn(rows, candidates, dim)
    return [*vectors, mask, times, now, torch.randn(rows, dim)]


def rms(x, norm):
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * norm.weight


def test_block_is_two_residual_layers_on_both_streams():
    module, (x, candidates, mask, times, now, user) = encode().blocks[0], batch()
    torch.nn.init.normal_(module.attention_norm.weight)
    torch.nn.init.normal_(module.ffn_norm.weight)
    known = mask & (times < now.unsqueeze(1))
    states, answers = module(x, candidates, mask, times, now, user)
    norm = module.attention_norm
    read = module.attention(rms(x, norm), rms(candidates, norm), mask, times, now, rms(user, norm))
    for before, branch, after in zip((x, candidates), read, (states, answers), strict=True):
        middle, ffn = before + branch, module.ffn
        h = rms(middle, module.ffn_norm)
        expected = middle + ffn.out(functional.silu(ffn.gate(h)) * ffn.up(h))
        if before is x:
            expected = expected.masked_fill(~known.unsqueeze(2), 0.0)
        torch.testing.assert_close(after, expected)


def test_last_block_alone_is_not_short_of_anything():
    encoder, given = encode(), batch()
    states, candidates = encoder.blocks[0](*given)
    whole = encoder.blocks[1](states, candidates, *given[2:])[1]
    torch.testing.assert_close(encoder(*given), rms(whole, encoder.norm))


def test_users_differ():
    encoder, given = encode(1), batch()
    other = [*given[:5], torch.randn(3, 6)]
    assert not torch.allclose(encoder(*other), encoder(*given))
    assert not torch.allclose(encoder(*given[:5]), encoder(*given))


def test_candidates_one_by_one():
    encoder, given = encode(), batch(candidates=4)
    together = encoder(*given)
    for c in range(4):
        one = [given[0], given[1][:, c : c + 1], *given[2:]]
        torch.testing.assert_close(encoder(*one), together[:, c : c + 1])


def test_the_future_and_the_padding_do_not_count():
    encoder, (x, candidates, mask, times, now, user) = encode(), batch(length=12)
    known = mask & (times < now.unsqueeze(1))
    assert (mask & ~known).any()
    expected = encoder(x, candidates, mask, times, now, user)
    other = x.masked_fill(~known.unsqueeze(2), 1e30)
    assert torch.equal(encoder(other, candidates, mask, times, now, user), expected)
    places = torch.tensor([1, 2, 5, 6, 7, 10, 14, 15, 16, 20, 21, 24])
    wide = torch.full((3, 40, 6), float("nan")).index_copy(1, places, x)
    real = torch.zeros(3, 40).bool().index_copy(1, places, known)
    when = torch.randint(0, 99, (3, 40)).index_copy(1, places, times)
    torch.testing.assert_close(encoder(wide, candidates, real, when, now, user), expected)


def test_padding_of_not_a_number_gives_finite_gradients():
    encoder, given = encode(), batch()
    plain = encoder(*given)
    given[0] = given[0].masked_fill(~given[2].unsqueeze(2), float("nan")).requires_grad_()
    answers = encoder(*given)
    assert torch.equal(answers, plain)
    answers.sum().backward()
    assert given[0].grad.isfinite().all()
    assert not given[0].grad[~given[2]].any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


class TestErrors:
    def test_attentions(self):
        with pytest.raises(ValueError, match=r"attentions must be one or more of one dim.*\[\]"):
            SparseCTREncoder(attentions=[], hidden=10)
        with pytest.raises(ValueError, match=r"one or more of one dim, got dims \[6, 8\]"):
            SparseCTREncoder(attentions=[attention(6), attention(8)], hidden=10)
        with pytest.raises(ValueError, match="attentions must be different modules"):
            SparseCTREncoder(attentions=[attention()] * 2, hidden=10)

    def test_hidden(self):
        with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
            SparseCTREncoder(attentions=[attention()], hidden=0)

    @pytest.mark.parametrize(("place", "name"), [(0, "behaviours"), (1, "candidates"), (5, "user")])
    def test_widths_of_the_batch(self, place, name):
        given = batch()
        given[place] = given[place][..., :5]
        for module in (encode(1), encode(2)):
            with pytest.raises(ValueError, match=rf"{name} must have shape .*6\], got .*5\]"):
                module(*given)
