"""Cosines of a target and a history, softly discretised and pooled."""

import pytest
import torch

from sidrank.layers import SoftDiscretization
from sidrank.sequences import InterestAlignment
from tests.sequences import reference_sequences as reference


def alignment(**settings):
    module = InterestAlignment(discretization=SoftDiscretization(dim=3, bins=4, **settings))
    torch.nn.init.normal_(module.default)
    return module


def test_equals_the_paper():
    module = alignment(temperature=0.5)
    parts = module.discretization
    with torch.no_grad():
        parts.vectors[:, 0] -= 5.0  # a lane whose largest is negative, below what padding is
    target, history = torch.randn(4, 2, 5), torch.randn(4, 6, 5)
    mask = torch.rand(4, 6) < 0.6
    mask[0] = False

    def embed(value):
        return reference.soft_bins(
            value,
            (parts.hidden.weight[:, 0].tolist(), parts.hidden.bias.tolist()),
            parts.head.weight.tolist(),
            parts.vectors.tolist(),
            0.5,
        )

    features = module(target, history, mask)
    for row in range(4):
        for c in range(2):
            expected = reference.alignment(
                target[row, c].tolist(), history[row][mask[row]].tolist(), embed
            )
            expected = module.default.tolist() if expected is None else expected
            torch.testing.assert_close(features[row, c].tolist(), expected, rtol=1e-4, atol=1e-5)


def test_order_of_behaviours_does_not_matter():
    module, order = alignment(), torch.randperm(9)
    target, history, mask = torch.randn(3, 2, 5), torch.randn(3, 9, 5), torch.rand(3, 9) < 0.7
    one, other = module(target, history, mask), module(target, history[:, order], mask[:, order])
    torch.testing.assert_close(one, other)


def test_length_of_vectors_does_not_matter():
    module = alignment()
    target, history, mask = torch.randn(3, 2, 5), torch.randn(3, 9, 5), torch.ones(3, 9).bool()
    for scale in (1e-18, 1e18):
        other = module(target * scale, history * scale, mask)
        torch.testing.assert_close(other, module(target, history, mask), rtol=1e-4, atol=1e-5)


def test_empty_history_reads_the_default_and_teaches_it():
    module = alignment()
    features = module(
        torch.randn(2, 3, 5), torch.randn(2, 4, 5), torch.tensor([[False], [True]]).expand(2, 4)
    )
    assert torch.equal(features[0], module.default.expand(3, 6))
    features[0].sum().backward()
    assert torch.equal(module.default.grad, torch.full((6,), 3.0))
    assert not module.discretization.vectors.grad.any()


def test_zero_vector_has_no_direction_and_no_gradient():
    module, history = alignment(), torch.randn(1, 2, 5)
    history[0, 0] = 0
    target = torch.zeros(1, 1, 5, requires_grad=True)
    history.requires_grad_()
    module(target, history, torch.ones(1, 2).bool()).sum().backward()
    assert not target.grad.any()
    assert not history.grad.any()
    live = torch.randn(1, 1, 5, requires_grad=True)
    module(live, history, torch.ones(1, 2).bool()).sum().backward()
    assert live.grad.any()
    assert not history.grad[0, 0].any()
    assert history.grad[0, 1].any()


def test_tells_likes_from_strangers_and_shuffled_codes_do_not():
    """Planted: a click is a target of a taste the history holds; one linear layer reads it."""
    accuracy = {}
    for arm in ("planted", "shuffled"):
        torch.manual_seed(3)
        tastes = torch.nn.functional.normalize(torch.randn(16, 8), dim=1)
        own, other = torch.randint(0, 16, (2, 3000))
        label = torch.rand(3000) < 0.5
        wanted = torch.where(label, own, other)
        history = tastes[own].unsqueeze(1) + 0.3 * torch.randn(3000, 6, 8)
        if arm == "shuffled":
            history = history[torch.randperm(3000)]
        target = tastes[wanted].unsqueeze(1) + 0.3 * torch.randn(3000, 1, 8)
        label = (label | (own == other)).float()
        module, head = alignment(), torch.nn.Linear(6, 1)
        optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.05)
        mask = torch.ones(2000, 6).bool()
        for _ in range(60):
            logits = head(module(target[:2000], history[:2000], mask)).flatten()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label[:2000])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        logits = head(module(target[2000:], history[2000:], mask[:1000])).flatten()
        accuracy[arm] = ((logits > 0) == (label[2000:] > 0)).float().mean().item()
    assert accuracy["planted"] > 0.9
    assert accuracy["shuffled"] < 0.58


class TestErrors:
    def test_widths(self):
        with pytest.raises(
            ValueError, match=r"history must have shape \[2, \*, 5\], got \[2, 3, 4\]"
        ):
            alignment()(torch.zeros(2, 1, 5), torch.zeros(2, 3, 4), torch.ones(2, 3).bool())

    def test_target(self):
        with pytest.raises(
            ValueError, match=r"target must have shape \[\*, \*, \*\], got \[2, 5\]"
        ):
            alignment()(torch.zeros(2, 5), torch.zeros(2, 3, 5), torch.ones(2, 3).bool())

    def test_mask(self):
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 3\], got \[1, 3\]"):
            alignment()(torch.zeros(2, 1, 5), torch.zeros(2, 3, 5), torch.ones(1, 3).bool())
