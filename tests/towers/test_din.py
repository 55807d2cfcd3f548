"""DIN against loops, against its own definition, and block by block."""

import pytest
import torch

from sidrank.sequences.selection import earlier
from sidrank.towers import _activation_blocks, _activation_unit
from sidrank.towers.din import DIN
from tests.towers import reference_din


def tower(dim=6, hidden=(9, 5), **options):
    """Away from birth: slopes that differ, also below zero."""
    module = DIN(dim=dim, hidden=hidden, **options)
    with torch.no_grad():
        for place, layer in enumerate(module.mlp):
            if isinstance(layer, torch.nn.PReLU):
                layer.weight.fill_(0.3 - 0.2 * place)
    return module


def inputs(rows=5, candidates=3, length=12, dim=6, fill=0.6, dtype=torch.float32):
    mask = torch.rand(rows, length) < fill
    mask[0] = False
    shapes = (rows, candidates, dim), (rows, length, dim)
    target, history = (torch.randn(shape, dtype=dtype) for shape in shapes)
    return target, history, mask


def by_definition(module, target, history, mask):
    """With the concatenation, as the paper's authors wrote it."""
    candidates = target.shape[1]
    q = target.unsqueeze(2).expand(-1, -1, history.shape[1], -1)
    k = history.masked_fill(~mask.unsqueeze(2), 0.0).unsqueeze(1).expand(-1, candidates, -1, -1)
    scores = module.mlp(torch.cat([q, k, q - k, q * k], dim=3)).squeeze(3)
    hidden = ~mask.unsqueeze(1)
    if module.softmax:
        scores = torch.nan_to_num(scores.masked_fill(hidden, float("-inf")).softmax(dim=2))
    return (scores.masked_fill(hidden, 0.0).unsqueeze(3) * k).sum(dim=2)


def results(module, call, target, history, mask):
    target, history = target.clone().requires_grad_(), history.clone().requires_grad_()
    answer = call(target, history, mask)
    upstream = torch.randn(answer.shape, generator=torch.Generator().manual_seed(3))
    leaves = [target, history, *module.parameters()]
    return [answer, *torch.autograd.grad(answer, leaves, upstream.to(answer.dtype))]


@pytest.mark.parametrize("softmax", [False, True])
def test_equals_loops(softmax):
    module = tower(softmax=softmax)
    target, history, mask = inputs()
    answers = module(target, history, mask)
    layers = reference_din.layers_of(module.mlp)
    for row in range(5):
        keys = history[row][mask[row]].tolist()
        for c in range(3):
            expected = reference_din.din(target[row, c].tolist(), keys, layers, softmax=softmax)
            torch.testing.assert_close(answers[row, c].tolist(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("fill", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("block", [1, 400, 1 << 18])
def test_answers_and_gradients_are_those_of_the_definition(softmax, fill, block, monkeypatch):
    """At any size of a block, sorted by length or not, with three hidden layers."""
    monkeypatch.setattr(_activation_blocks, "_BLOCK", block)
    module = tower(hidden=(9, 5, 4), softmax=softmax).double()
    given = inputs(rows=11, fill=fill, dtype=torch.float64)
    ours = results(module, module, *given)
    wanted = results(module, lambda *x: by_definition(module, *x), *given)
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_all_at_once_is_the_same(monkeypatch):
    """What runs compiled, under autocast and on other devices."""
    module, given = tower(), inputs(rows=11)
    blocks = results(module, module, *given)

    def at_once(mask, softmax, *numbers):
        return _activation_unit._plain(*numbers[:6], list(numbers[6:]), mask, softmax)

    monkeypatch.setattr(_activation_blocks, "pooled", at_once)
    for one, other in zip(blocks, results(module, module, *given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_stop_where_nothing_is_asked():
    module, (target, history, mask) = tower(), inputs()
    module.mlp[0].weight.requires_grad_(False)
    module.mlp[1].weight.requires_grad_(False)
    module(target, history, mask).sum().backward()
    assert module.mlp[0].weight.grad is None
    assert module.mlp[1].weight.grad is None
    assert module.mlp[2].weight.grad.any()


def test_without_behaviours_it_is_exactly_zero():
    target, history, mask = inputs()
    answers = tower()(target, torch.full_like(history, float("nan")), mask & False)
    assert (answers == 0).all()
    assert (tower(softmax=True)(target, history, mask)[0] == 0).all()


@pytest.mark.parametrize(("rows", "candidates", "length"), [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_gradients_of_nothing(rows, candidates, length):
    target, history = torch.randn(rows, candidates, 6), torch.randn(rows, length, 6)
    given = [target, history, torch.ones(rows, length).bool()]
    module = tower()
    for gradient in results(module, module, *given):
        assert (gradient == 0).all()


def test_behaviours_in_any_layout():
    module, (target, history, mask) = tower(), inputs()
    strided = history.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for one, other in zip(
        results(module, module, target, strided, mask),
        results(module, module, target, history, mask),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_behaviours_of_the_request_itself_are_left_out_by_their_mask():
    module, (target, history, mask) = tower(), inputs()
    times, now = torch.arange(12).expand(5, 12), torch.full((5,), 6)
    spoilt = history.clone()
    spoilt[:, 6:] = 1e30
    known = earlier(mask, times, now)
    assert torch.equal(module(target, spoilt, known), module(target, history, known))
    assert not torch.equal(module(target, spoilt, mask), module(target, history, mask))


def test_length_is_the_strength_of_an_interest():
    """The same behaviour twice weighs twice; made to sum to one it cannot."""
    target, history, _ = inputs(rows=1, length=1)
    once, twice = torch.ones(1, 1).bool(), torch.ones(1, 2).bool()
    for softmax, times in ((False, 2.0), (True, 1.0)):
        module = tower(softmax=softmax)
        doubled = module(target, history.repeat(1, 2, 1), twice)
        torch.testing.assert_close(doubled, times * module(target, history, once))


def test_a_checkpoint_with_relus_has_slopes_of_zero():
    module, (target, history, mask) = tower(), inputs()
    peer = torch.nn.Sequential(
        torch.nn.Linear(24, 9), torch.nn.ReLU(), torch.nn.Linear(9, 5), torch.nn.ReLU(),
        torch.nn.Linear(5, 1),
    )  # fmt: skip
    slopes = {"1.weight": torch.zeros(1), "3.weight": torch.zeros(1)}
    module.mlp.load_state_dict(peer.state_dict() | slopes)
    answer = module(target, history, mask)
    module.mlp = peer
    torch.testing.assert_close(answer, by_definition(module, target, history, mask))


class TestErrors:
    def test_sizes(self):
        with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
            DIN(dim=0)
        with pytest.raises(ValueError, match=r"hidden must hold sizes of at least 1, got \[\]"):
            DIN(dim=4, hidden=[])
        with pytest.raises(ValueError, match=r"hidden must hold sizes of at least 1, got \[8, 0\]"):
            DIN(dim=4, hidden=[8, 0])

    def test_shapes(self):
        module, (target, history, mask) = tower(), inputs()
        with pytest.raises(ValueError, match=r"target must have shape \[\*, \*, 6\]"):
            module(target[:, 0], history, mask)
        with pytest.raises(ValueError, match=r"history must have shape \[5, \*, 6\]"):
            module(target, history[:4], mask)
        with pytest.raises(ValueError, match=r"mask must have shape \[5, 12\], got \[5, 11\]"):
            module(target, history, mask[:, 1:])
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.float32"):
            module(target, history, mask.float())
