"""Learned tokens that must carry what predicts the next behaviours."""

import pytest
import torch
from torch.nn import functional

from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from sidrank.sequences.bottleneck_pool import BottleneckPool, CondensedPrediction
from tests.sequences import reference_compression as reference

D = 8


def stack(layers=2, dim=D, **settings):
    rotary = RotaryEmbedding(head_dim=dim // 2)
    return [
        DecoderBlock(
            attention=SelfAttention(dim=dim, num_heads=2, rotary=rotary, **settings), hidden=12
        )
        for _ in range(layers)
    ]


def predictor(num_tokens=3, **settings):
    torch.manual_seed(0)
    return CondensedPrediction(
        pool=BottleneckPool(blocks=stack(), num_tokens=num_tokens, **settings)
    )


def ones(x):
    return torch.ones(x.shape[:2]).bool()


def masked_pass(module, x, targets):
    """All in one sequence under the condensation mask of the reference."""
    pool = module.pool
    num_inputs, num_targets = x.shape[1], targets.shape[1]
    rows = [part.expand(len(x), -1, -1) for part in (pool.tokens, module.start.unsqueeze(0))]
    y = torch.cat([x, rows[0], rows[1], targets[:, : num_targets - 1]], dim=1)
    mask = reference.condensation_mask(num_inputs, pool.num_tokens, num_targets)
    for block in pool.blocks:
        y = block(y, ones(y), None, torch.tensor(mask))
    return y.split([num_inputs, pool.num_tokens, num_targets], dim=1)


def test_equals_the_masked_pass():
    module, x, targets = predictor(), torch.randn(2, 5, D), torch.randn(2, 4, D)
    vectors, states = module(x, ones(x), targets, ones(targets))
    _, tokens, expected = masked_pass(module, x, targets)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(vectors, tokens.mean(dim=1), atol=1e-5, rtol=0.0)


def test_projection_reads_the_tokens_side_by_side():
    module, x = predictor(projection=torch.nn.Linear(3 * D, 5)).pool, torch.randn(2, 4, D)
    states, _, _ = module.states(x, ones(x))
    expected = torch.stack([module.projection(torch.cat(list(row))) for row in states])
    torch.testing.assert_close(module(x, ones(x)), expected)
    assert expected.shape == (2, 5)


class TestBottleneck:
    def test_targets_reach_the_input_through_tokens_alone(self):
        module, targets = predictor(), torch.randn(2, 4, D)
        x, other = torch.randn(2, 2, 5, D)
        answers, open_answers = [], []
        for given in (x, other):
            _, memory, before = module.pool.states(given, ones(given))
            open_answers.append(module.predicted(targets, ones(targets), memory, before))
            shut = [(key, torch.zeros_like(value), seen) for key, value, seen in memory]
            shut = [(torch.zeros_like(key), value, seen) for key, value, seen in shut]
            answers.append(module.predicted(targets, ones(targets), shut, before))
        assert torch.equal(*answers)
        assert not torch.allclose(*open_answers)

    def test_targets_change_no_vector(self):
        module, x = predictor(), torch.randn(2, 5, D)
        alone = module.pool(x, ones(x))
        for length in (0, 1, 4):
            targets = torch.randn(2, length, D)
            vectors, states = module(x, ones(x), targets, ones(targets))
            assert torch.equal(vectors, alone)
            assert states.shape == targets.shape

    def test_no_target_is_read_by_its_own_prediction(self):
        module, x, targets = predictor(), torch.randn(1, 5, D), torch.randn(1, 4, D)
        states = module(x, ones(x), targets, ones(targets))[1]
        for place in range(4):
            other = targets.clone()
            other[:, place:] = torch.randn(1, 4 - place, D)
            again = module(x, ones(x), other, ones(other))[1]
            torch.testing.assert_close(again[:, : place + 1], states[:, : place + 1])
        other = targets.clone()
        other[:, 0] += 1.0
        assert not torch.allclose(module(x, ones(x), other, ones(other))[1][:, 1], states[:, 1])

    def test_every_behaviour_reaches_vector_and_predictions(self):
        module, targets = predictor(), torch.randn(1, 2, D)
        x = torch.randn(1, 5, D, requires_grad=True)
        for answer in module(x, ones(x), targets, ones(targets)):
            (gradient,) = torch.autograd.grad(answer.square().sum(), x, retain_graph=True)
            assert (gradient.abs().sum(dim=2) > 0).all()


def test_more_tokens_copy_more():
    """The targets repeat a history of three random items: a narrow token cannot hold them."""
    losses = [copying_loss(num_tokens) for num_tokens in (1, 3)]
    assert losses[1] < losses[0] - 0.1


def copying_loss(num_tokens, items=16, length=3):
    torch.manual_seed(0)
    embed, head = torch.nn.Embedding(items, D), torch.nn.Linear(D, items)
    predict = CondensedPrediction(pool=BottleneckPool(blocks=stack(), num_tokens=num_tokens))
    learned = torch.nn.ModuleList([embed, predict, head])
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
    real, last = torch.ones(64, length).bool(), []
    for step in range(150):
        ids = torch.randint(0, items, (64, length))
        x = embed(ids)
        _, states = predict(x, real, x, real)
        loss = functional.cross_entropy(head(states).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 130:  # every batch is new: this is the loss of what was never seen
            last.append(loss.item())
    return sum(last) / len(last)


class TestPadding:
    def test_may_stand_anywhere_and_hold_anything(self):
        module, x, targets = predictor(), torch.randn(2, 3, D), torch.randn(2, 2, D)
        wide, mask = torch.full((2, 7, D), float("nan")), torch.zeros(2, 7).bool()
        wide[:, [0, 3, 5]], mask[:, [0, 3, 5]] = x, True
        more, more_mask = torch.full((2, 5, D), float("inf")), torch.zeros(2, 5).bool()
        more[:, [1, 3]], more_mask[:, [1, 3]] = targets, True
        vectors, states = module(wide, mask, more, more_mask)
        expected = module(x, ones(x), targets, ones(targets))
        torch.testing.assert_close(vectors, expected[0], atol=1e-6, rtol=0.0)
        torch.testing.assert_close(states[:, [1, 3]], expected[1], atol=1e-6, rtol=0.0)
        assert (states[~more_mask] == 0).all()

    def test_rows_without_behaviours_are_alike(self):
        pool = predictor().pool
        y = pool(torch.full((2, 4, D), float("nan")), torch.zeros(2, 4).bool())
        empty = torch.zeros(2, 0, D)
        assert y.isfinite().all()
        torch.testing.assert_close(y, pool(empty, ones(empty)))


class TestErrors:
    def test_sizes(self):
        with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
            BottleneckPool(blocks=stack(), num_tokens=0)
        with pytest.raises(ValueError, match="projection must have 16 input features, got 8"):
            BottleneckPool(blocks=stack(), num_tokens=2, projection=torch.nn.Linear(8, 8))

    def test_blocks(self):
        with pytest.raises(ValueError, match="blocks must hold at least 1, got 0"):
            BottleneckPool(blocks=[], num_tokens=1)
        with pytest.raises(ValueError, match="pool must have at least 2 blocks, got 1"):
            CondensedPrediction(pool=BottleneckPool(blocks=stack(1), num_tokens=1))
        with pytest.raises(ValueError, match="blocks must have no window, got 3"):
            BottleneckPool(blocks=stack(window=3), num_tokens=1)

    def test_shapes(self):
        module, x = predictor(), torch.zeros(2, 3, D)
        with pytest.raises(ValueError, match=r"x must have shape \[\*, \*, 8\], got \[2, 3, 7\]"):
            module.pool(x[:, :, :7], ones(x))
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 3\], got \[2, 1\]"):
            module.pool(x, ones(x)[:, :1])
        with pytest.raises(ValueError, match=r"targets must have shape \[2, \*, 8\], got \[1, 3"):
            module(x, ones(x), x[:1], ones(x))
        with pytest.raises(ValueError, match=r"target_mask must be bool, got torch.float32"):
            module(x, ones(x), x, ones(x).float())
