"""LeastSquaresRead against the normal equations, and what evidence does to it."""

import numpy as np
import pytest
import torch
from torch.export import Dim, export

from sidrank.towers.least_squares import LeastSquaresRead


def inputs(rows=4, candidates=3, length=9, dim=5, answers=2):
    mask = torch.rand(rows, length) < 0.6
    mask[0] = False
    shapes = (rows, candidates, dim), (rows, length, dim), (rows, length, answers)
    return *(torch.randn(shape) for shape in shapes), mask


@pytest.mark.parametrize("noise", [0.01, 1.0, 7.0])
@pytest.mark.parametrize("length", [3, 5, 6, 40])  # fewer than the directions, as many, and more
def test_it_is_ridge_regression_of_each_row(noise, length):
    target, history, answers, mask = inputs(length=length)
    mean, variance = LeastSquaresRead(dim=5, noise=noise)(target, history, answers, mask)
    for row in range(len(target)):
        x = history[row][mask[row]].double().numpy()
        y = answers[row][mask[row]].double().numpy()
        q = target[row].double().numpy()
        inverse = np.linalg.inv(x.T @ x + noise * np.eye(5))
        close = 1e-4 / min(noise, 1.0) ** 0.5  # float32 feels a small noise
        assert mean[row].detach().numpy() == pytest.approx(q @ inverse @ x.T @ y, abs=close)
        left = noise * np.einsum("cd,de,ce->c", q, inverse, q)
        assert variance[row].detach().numpy() == pytest.approx(left, abs=1e-4)


def test_without_a_history_nothing_is_expected_and_all_is_unknown():
    target, history, answers, mask = inputs()
    mean, variance = LeastSquaresRead(dim=5)(target, history, answers, mask)
    assert not mean[0].any()
    torch.testing.assert_close(variance[0], (target[0] ** 2).sum(dim=1))
    empty = history[:, :0], answers[:, :0], mask[:, :0]
    mean, _ = LeastSquaresRead(dim=5)(target, *empty)
    assert mean.shape == (4, 3, 2)
    assert not mean.any()
    assert (
        LeastSquaresRead(dim=5)(*(x[:0] for x in (target, history, answers, mask)))[0].numel() == 0
    )


def test_evidence_adds_up_and_repetitions_share_it():
    read = LeastSquaresRead(dim=2, noise=1.0)
    target, item = torch.tensor([[[1.0, 0.0]]]), torch.tensor([1.0, 0.0])
    found = []
    for times in (1, 2, 20):
        history = item.expand(1, times, 2)
        answers = torch.full((1, times, 1), 2.0)
        mean, variance = read(target, history, answers, torch.ones(1, times).bool())
        found.append((round(mean.item(), 4), round(variance.item(), 4)))
    assert found == [(1.0, 0.5), (1.3333, 0.3333), (1.9048, 0.0476)]


def test_padding_changes_nothing_whatever_it_holds():
    target, history, answers, mask = inputs()
    read = LeastSquaresRead(dim=5)
    plain = read(target, history, answers, mask)
    for odd in (float("nan"), float("inf"), 1e30):
        other = (
            history.masked_fill(~mask.unsqueeze(2), odd),
            answers.masked_fill(~mask.unsqueeze(2), odd),
        )
        for one, two in zip(plain, read(target, *other, mask), strict=True):
            assert torch.equal(one, two)
    pad = torch.nn.functional.pad
    for sides in ((0, 3), (3, 0), (0, -5), (0, -6)):  # to lengths solved the other way, too
        if min(sides) < 0:
            mask[:, 3:] = False
            plain = read(target, history, answers, mask)
        wide = [pad(x, (0, 0, *sides), value=5.0) for x in (history, answers)]
        for one, two in zip(plain, read(target, *wide, pad(mask, sides)), strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_is_exported_for_any_length():
    read, rows, length = LeastSquaresRead(dim=5).eval(), Dim("rows"), Dim("length", max=99)
    both = {0: rows, 1: length}
    program = export(read, inputs(), dynamic_shapes=({0: rows}, both, both, both))
    for found in (inputs(length=40), inputs(rows=2, length=3)):
        with torch.no_grad():
            for one, two in zip(program.module()(*found), read(*found), strict=True):
                torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_gradients_reach_everything():
    target, history, answers, mask = (x.double() if x.is_floating_point() else x for x in inputs())
    read = LeastSquaresRead(dim=5).double()
    for x in (target, history, answers):
        x.requires_grad_()

    def call(*given):
        return read(*given, mask)

    assert torch.autograd.gradcheck(call, (target, history, answers), atol=1e-5)
    sum(x.sum() for x in call(target, history, answers)).backward()
    assert read.log_noise.grad.abs() > 0


def test_halves_are_read_in_full_width():
    target, history, answers, mask = inputs()
    read = LeastSquaresRead(dim=5)
    full = read(target, history, answers, mask)
    with torch.autocast("cpu", torch.bfloat16):
        under = read(target, history, answers, mask)
    assert under[0].dtype == torch.float32
    torch.testing.assert_close(full, under)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"dim": 2, "noise": 0.0}, "noise must be positive and finite, got 0.0"),
        ({"dim": 2, "noise": float("nan")}, "noise must be positive and finite, got nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LeastSquaresRead(**options)


def test_bad_shapes():
    target, history, answers, mask = inputs()
    read = LeastSquaresRead(dim=5)
    with pytest.raises(ValueError, match="answers must have shape"):
        read(target, history, answers[:, 1:], mask)
    with pytest.raises(ValueError, match="history must have shape"):
        read(target, history[:, :, 1:], answers, mask)
    with pytest.raises(ValueError, match="mask must"):
        read(target, history, answers, mask.float())
