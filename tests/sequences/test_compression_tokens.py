"""Learned tokens between old behaviours and recent ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from sidrank.sequences.compression_tokens import CompressionTokens
from sidrank.sequences.token_kv_cache import TokenStates
from tests.sequences import reference_compression as reference

D = 8


def stack(layers=2, dim=D, heads=2, **settings):
    rotary = RotaryEmbedding(head_dim=dim // heads)
    return [
        DecoderBlock(
            attention=SelfAttention(dim=dim, num_heads=heads, rotary=rotary, **settings), hidden=12
        )
        for _ in range(layers)
    ]


def encoder(*insert, layers=2):
    torch.manual_seed(0)
    return CompressionTokens(blocks=stack(layers), insert=list(insert))


def ones(x):
    return torch.ones(x.shape[:2]).bool()


def by_definition(module, x, real):
    """One row: lay out its tokens, attend under the mask of the reference, keep the items."""
    placed = reference.layout(real, module.insert)
    if not placed:
        return torch.zeros_like(x)
    tokens = torch.stack([x[n] if kind == "item" else module.tokens[n] for kind, n, _ in placed])
    segments = [segment for _, _, segment in placed]
    learned = [kind == "token" for kind, _, _ in placed]
    visible = torch.tensor(reference.segment_mask(segments, learned))
    y = tokens.unsqueeze(0)
    for block in module.blocks:
        y = block(y, ones(y), torch.arange(len(placed)), visible)
    out = torch.zeros_like(x)
    for place, (kind, n, _) in enumerate(placed):
        if kind == "item":
            out[n] = y[0, place]
    return out


inserts = st.one_of(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(-9, -1), st.integers(0, 2)), min_size=1, max_size=3),
).map(lambda pairs: sorted(dict(pairs).items()))


@settings(max_examples=40, deadline=None)
@given(inserts, st.lists(st.booleans(), max_size=9))
def test_equals_the_definition(insert, real):
    module = encoder(*insert)
    x, mask = torch.randn(1, len(real), D), torch.tensor([real]).bool()
    with torch.no_grad():
        expected = by_definition(module, x[0], real).unsqueeze(0)
        torch.testing.assert_close(module(x, mask), expected, atol=1e-5, rtol=0.0)
        torch.testing.assert_close(module.masked(x, mask), expected, atol=1e-5, rtol=0.0)


def test_gradients_equal_those_of_the_masked_pass():
    module, x = encoder((-5, 2), (-2, 1)), torch.randn(3, 9, D)
    mask = torch.rand(3, 9) < 0.8
    weights = torch.randn(3, 9, D)
    runs = [
        torch.autograd.grad((path(x, mask) * weights).sum(), list(module.parameters()))
        for path in (module.forward, module.masked)
    ]
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other)


class TestCache:
    """Training sees whole histories, a request the compressed one and what came since."""

    @pytest.mark.parametrize("insert", [[(6, 3)], [(2, 1), (6, 2)], [(-4, 3)], [(-7, 2), (-4, 1)]])
    def test_equals_the_full_masked_pass(self, insert):
        module, x = encoder(*insert), torch.randn(3, 10, D)
        states = module.compress(x[:, :6], ones(x[:, :6]))
        online = module.recent(x[:, 6:], ones(x[:, 6:]), states)
        for whole in (module.masked, module.forward):
            torch.testing.assert_close(online, whole(x, ones(x))[:, 6:], atol=1e-5, rtol=0.0)

    def test_ragged_histories(self):
        module = encoder((-7, 2), (-4, 1))
        x, mask = torch.randn(4, 20, D), torch.rand(4, 20) < 0.6
        mask[0] = False
        mask[1, :14] = False  # nothing old
        mask[:, 16:] = torch.tensor([False, True, True, True]).unsqueeze(1)
        states = module.compress(x[:, :16], mask[:, :16])
        online = module.recent(x[:, 16:], mask[:, 16:], states)
        whole = module.masked(x, mask)[:, 16:]
        torch.testing.assert_close(online[[0, 2, 3]], whole[[0, 2, 3]], atol=1e-5, rtol=0.0)

    def test_positions_continue(self):
        module, x = encoder((3, 2)), torch.randn(2, 5, D)
        mask = torch.tensor([[True] * 5, [True, False, True, False, False]])
        states = module.compress(x, mask)
        assert states.length.tolist() == [5 + 2, 2 + 2]
        moved = states._replace(length=states.length + 1)
        recent = torch.randn(2, 2, D)
        answers = [module.recent(recent, ones(recent), given) for given in (states, moved)]
        assert not torch.allclose(*answers)

    def test_a_user_without_a_past_is_read_as_one(self):
        module, x = encoder((-4, 2)), torch.randn(1, 4, D)
        nothing = module.compress(torch.randn(1, 3, D), torch.zeros(1, 3).bool())
        assert not nothing.mask.any()
        alone = x
        for block in module.blocks:
            alone = block(alone, ones(x))
        torch.testing.assert_close(module.recent(x, ones(x), nothing), alone)

    def test_traces_and_exports_with_any_number_of_rows(self):
        module, x = encoder((6, 3)), torch.randn(5, 4, D)
        states = module.compress(torch.randn(5, 6, D), torch.ones(5, 6).bool())
        expected = module.recent(x, ones(x), states)
        torch._dynamo.reset()
        compiled = torch.compile(module.recent, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, ones(x), states), expected)
        rows = torch.export.Dim("rows", min=1, max=512)
        shapes = ({0: rows}, {0: rows}, ({1: rows}, {1: rows}, {0: rows}, {0: rows}))
        program = torch.export.export(
            Online(module), (x[:3].clone(), ones(x[:3]), cut(states, 3)), dynamic_shapes=shapes
        )
        torch.testing.assert_close(program.module()(x, ones(x), tuple(states)), expected)

    def test_online_cost_is_flat_in_the_old_length(self):
        module, recent = encoder((6, 3)), torch.randn(1, 4, D)
        costs = set()
        for length in (6, 60, 600):
            old = torch.randn(1, length, D)
            states = module.compress(old, ones(old))
            with FlopCounterMode(display=False) as counter:
                module.recent(recent, ones(recent), states)
            costs.add(counter.get_total_flops())
        assert len(costs) == 1
        assert costs.pop() > 0


class Online(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.inner = module

    def forward(self, x, mask, states):
        return self.inner.recent(x, mask, TokenStates(*states))


def cut(states, rows):
    keys, values, mask, length = states
    parts = (keys[:, :rows], values[:, :rows], mask[:rows], length[:rows])
    return tuple(part.clone() for part in parts)  # a view would tie them to the size of its base


class TestBottleneck:
    def test_old_behaviours_pass_through_tokens_alone(self):
        module = encoder((6, 2))
        old, recent = torch.randn(2, 6, D, requires_grad=True), torch.randn(2, 3, D)
        states = module.compress(old, ones(old))
        through = module.recent(recent, ones(recent), states).square().sum()
        (gradient,) = torch.autograd.grad(through, old)
        assert (gradient.abs().sum(dim=2) > 0).all()
        held = TokenStates(*(part.detach() for part in states))
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(module.recent(recent, ones(recent), held).sum(), old)

    def test_tokens_see_tokens_of_earlier_segments(self):
        # a layer each: behaviours to token, token to token, and its keys at the next
        module, x = encoder((3, 1), (6, 1), layers=3), torch.randn(1, 6, D, requires_grad=True)
        keys = module.compress(x, ones(x)).keys[-1, :, :, 1]  # the second token
        (gradient,) = torch.autograd.grad(keys.square().sum(), x)
        assert (gradient.abs().sum(dim=2) > 0).all()

    @pytest.mark.parametrize("path", ["forward", "masked"])
    def test_without_tokens_only_recent_behaviours_count(self, path):
        module, x = encoder((-4, 0)), torch.randn(2, 9, D)
        recent = module.recent(x[:, 5:], ones(x[:, 5:]), module.compress(x[:, :0], ones(x[:, :0])))
        torch.testing.assert_close(getattr(module, path)(x, ones(x))[:, 5:], recent)

    def test_no_behaviour_sees_a_later_one(self):
        module, x = encoder((3, 1), (6, 1)), torch.randn(1, 9, D)
        for place in range(9):
            other = x.clone()
            other[:, place:] = torch.randn(1, 9 - place, D)
            one, two = (module(given, ones(x))[:, :place] for given in (x, other))
            torch.testing.assert_close(one, two)


class TestPadding:
    @pytest.mark.parametrize("insert", [[(2, 1), (4, 2)], [(-4, 1), (-2, 2)]])
    def test_may_stand_anywhere_and_hold_anything(self, insert):
        module, x = encoder(*insert), torch.randn(2, 6, D)
        wide, mask = torch.full((2, 11, D), float("nan")), torch.zeros(2, 11).bool()
        places = [0, 2, 3, 6, 7, 9]
        wide[:, places], mask[:, places] = x, True
        y = module(wide, mask)
        torch.testing.assert_close(y[:, places], module(x, ones(x)), atol=1e-6, rtol=0.0)
        assert (y[~mask] == 0).all()

    def test_of_recent_behaviours(self):
        module, x = encoder((4, 2)), torch.randn(2, 3, D)
        states = module.compress(torch.randn(2, 4, D), torch.ones(2, 4).bool())
        wide, mask = torch.full((2, 6, D), float("inf")), torch.zeros(2, 6).bool()
        wide[:, 1::2], mask[:, 1::2] = x, True
        y = module.recent(wide, mask, states)
        expected = module.recent(x, ones(x), states)
        torch.testing.assert_close(y[:, 1::2], expected, atol=1e-6, rtol=0.0)
        assert (y[~mask] == 0).all()

    @pytest.mark.parametrize("insert", [[(2, 1)], [(-2, 1)]])
    def test_no_rows_and_no_behaviours(self, insert):
        module = encoder(*insert)
        for rows, length in ((0, 5), (2, 0), (0, 0)):
            x = torch.zeros(rows, length, D)
            assert module(x, ones(x)).shape == x.shape
            states = module.compress(x, ones(x))
            assert module.recent(x, ones(x), states).shape == x.shape


class TestErrors:
    @pytest.mark.parametrize(
        "insert", [[], [(0, 1)], [(3, 1), (3, 1)], [(4, 1), (2, 1)], [(-2, 1), (3, 1)]]
    )
    def test_offsets(self, insert):
        with pytest.raises(ValueError, match=r"insert must have ascending offsets of one sign"):
            CompressionTokens(blocks=stack(), insert=insert)

    def test_number_of_tokens(self):
        with pytest.raises(ValueError, match=r"insert must not have a negative k, got \[\(2, -1\)"):
            CompressionTokens(blocks=stack(), insert=[(2, -1)])

    def test_blocks(self):
        with pytest.raises(ValueError, match="blocks must hold at least 2, got 1"):
            CompressionTokens(blocks=stack(1), insert=[(2, 1)])
        with pytest.raises(ValueError, match="blocks must all have 2 heads and width 8, got 2 and"):
            CompressionTokens(blocks=[*stack(), *stack(dim=4)], insert=[(2, 1)])
        with pytest.raises(ValueError, match="blocks must have no window, got 3"):
            CompressionTokens(blocks=stack(window=3), insert=[(2, 1)])

    def test_states_of_another_number_of_layers(self):
        x = torch.zeros(1, 2, D)
        states = encoder((2, 1), layers=3).compress(x, ones(x))
        with pytest.raises(ValueError, match=r"states.keys must have shape \[2, 1, 2, \*, 4\]"):
            encoder((2, 1)).recent(x, ones(x), states)

    def test_shapes(self):
        module, x = encoder((2, 1)), torch.zeros(1, 2, D)
        with pytest.raises(ValueError, match=r"x must have shape \[\*, \*, 8\], got \[1, 2, 7\]"):
            module(x[:, :, :7], ones(x))
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.float32"):
            module(x, ones(x).float())
        with pytest.raises(ValueError, match=r"mask must have shape \[1, 2\], got \[1, 1\]"):
            module.masked(x, ones(x)[:, :1])
        states = module.compress(x, ones(x))
        for name, bad in (("values", states.values[:0]), ("mask", states.mask[:, :0])):
            with pytest.raises(ValueError, match=f"states.{name} must have shape"):
                module.recent(x, ones(x), states._replace(**{name: bad}))
        with pytest.raises(ValueError, match=r"states.length must be int32 or int64"):
            module.recent(x, ones(x), states._replace(length=states.length.float()))
