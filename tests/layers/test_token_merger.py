"""Codes of an item merged into one token."""

import pytest
import torch

from sidrank.layers import TokenMerger


@pytest.mark.parametrize("num_levels", [1, 2, 3, 5])
def test_mean_at_birth(num_levels):
    e = torch.randn(2, 6, num_levels, 4)
    torch.testing.assert_close(TokenMerger(dim=4, num_levels=num_levels)(e), e.mean(dim=2))


def test_is_the_linear_map_of_the_codes_in_order():
    merge = TokenMerger(dim=4, num_levels=3)
    torch.nn.init.normal_(merge.linear.weight)
    e = torch.randn(2, 6, 3, 4)
    blocks = merge.linear.weight.split(4, dim=1)
    expected = sum(e[:, :, level] @ blocks[level].t() for level in range(3))
    torch.testing.assert_close(merge(e), expected)


def test_tells_the_order_of_levels_which_a_sum_cannot():
    """With a shared table, (a, b) and (b, a) have one sum; a trained merger tells them apart."""
    table = torch.randn(5, 4)
    merge, head = TokenMerger(dim=4, num_levels=2), torch.nn.Linear(4, 1)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    label = (pairs[:, 0] > pairs[:, 1]).float()
    e = table[pairs].unsqueeze(1)
    swapped = e.flip(2)
    torch.testing.assert_close(merge(e), merge(swapped))  # the mean at birth
    optimizer = torch.optim.Adam([*merge.parameters(), *head.parameters()], lr=0.05)
    accuracy = {}
    for arm in ("sum", "merged"):
        for _ in range(200):
            token = merge(e) if arm == "merged" else e.sum(dim=2)
            logits = head(token).flatten()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy[arm] = ((logits > 0) == (label > 0)).float().mean().item()
    assert accuracy["sum"] == pytest.approx(0.5)
    assert accuracy["merged"] > 0.9
    assert not torch.allclose(merge(e), merge(swapped))


class TestStream:
    def test_halves_with_separators(self):
        merge = TokenMerger(dim=4, num_levels=3)
        stream, mask = torch.randn(2, 7 * 4, 4), torch.ones(2, 7 * 4).bool()
        tokens, real = merge.merge_stream(stream, mask)
        assert tokens.shape == (2, 7 * 2, 4)
        assert real.all()
        items = stream.view(2, 7, 4, 4)
        assert torch.equal(tokens[:, 0::2], merge(items[:, :, :3]))
        assert torch.equal(tokens[:, 1::2], items[:, :, 3])

    def test_token_is_real_if_all_its_codes_are(self):
        merge = TokenMerger(dim=1, num_levels=2)
        mask = torch.tensor([[True, True, True, True, False, True, False, False, False]])
        _, real = merge.merge_stream(torch.zeros(1, 9, 1), mask)
        assert real.tolist() == [[True, True, False, True, False, False]]

    def test_empty(self):
        merge = TokenMerger(dim=4, num_levels=3)
        tokens, real = merge.merge_stream(torch.zeros(2, 0, 4), torch.zeros(2, 0).bool())
        assert tokens.shape == (2, 0, 4)
        assert real.shape == (2, 0)


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "num_levels"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            TokenMerger(**{"dim": 2, "num_levels": 2, name: 0})

    def test_levels_and_lanes_exchanged(self):
        with pytest.raises(ValueError, match=r"embeddings must have shape \[\*, \*, 3, 4\]"):
            TokenMerger(dim=4, num_levels=3)(torch.zeros(2, 5, 4, 3))

    def test_stream(self):
        merge = TokenMerger(dim=4, num_levels=3)
        with pytest.raises(ValueError, match=r"stream must have shape \[\*, \*, 4\]"):
            merge.merge_stream(torch.zeros(1, 8, 3), torch.ones(1, 8).bool())
        with pytest.raises(ValueError, match=r"mask must have shape \[1, 8\], got \[1, 4\]"):
            merge.merge_stream(torch.zeros(1, 8, 4), torch.ones(1, 4).bool())
        with pytest.raises(ValueError, match=r"stream must have a multiple of 4 tokens, got 7"):
            merge.merge_stream(torch.zeros(1, 7, 4), torch.ones(1, 7).bool())
