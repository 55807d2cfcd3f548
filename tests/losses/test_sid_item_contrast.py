"""Semantic IDs and the items that carry them."""

import pytest
import torch

from sidrank.losses.contrastive import info_nce
from sidrank.losses.sid_item_contrast import SIDItemContrast


def test_is_info_nce_in_a_common_space():
    contrast = SIDItemContrast(sid_dim=3, item_dim=5, dim=4, temperature=0.2)
    sids, items, ids = torch.randn(6, 3), torch.randn(6, 5), torch.tensor([1, 2, 3, 1, 2, 9])
    h, v = sids @ contrast.sid.weight.t(), items @ contrast.item.weight.t()
    expected = info_nce(h, v, temperature=0.2, ids=ids)
    torch.testing.assert_close(contrast(sids, items, ids), expected)


def test_one_sid_cannot_tell_two_items_apart():
    contrast = SIDItemContrast(sid_dim=3, item_dim=5, dim=4)
    sids, items = torch.randn(1, 3).expand(2, 3), torch.randn(2, 5)
    assert contrast(sids, items, torch.tensor([4, 4])).item() == 0.0


@pytest.mark.parametrize("shuffled", [False, True])
def test_makes_codes_carry_what_items_do(shuffled):
    """Planted: items of one code behave alike. With shuffled codes there is nothing to learn."""
    code = torch.randint(0, 20, (1000,))
    vectors = torch.randn(20, 6)[code] + 0.3 * torch.randn(1000, 6)
    seen = code[torch.randperm(1000)] if shuffled else code
    table = torch.nn.Embedding(20, 8)
    contrast = SIDItemContrast(sid_dim=8, item_dim=6, dim=8, temperature=0.2)
    optimizer = torch.optim.Adam([*table.parameters(), *contrast.parameters()], lr=0.03)
    for _ in range(80):
        rows = torch.randint(0, 800, (128,))
        optimizer.zero_grad()
        contrast(table(seen[rows]), vectors[rows], seen[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        held_out = torch.arange(800, 1000)
        h = torch.nn.functional.normalize(contrast.sid(table.weight), dim=1)
        v = torch.nn.functional.normalize(contrast.item(vectors[held_out]), dim=1)
        hits = ((v @ h.t()).argmax(dim=1) == seen[held_out]).float().mean().item()
    if shuffled:
        assert hits < 0.15  # chance is 0.05
    else:
        assert hits > 0.8


def test_items_without_a_sid_do_not_count():
    contrast = SIDItemContrast(sid_dim=3, item_dim=5, dim=4)
    sids, items, ids = torch.randn(4, 3), torch.randn(4, 5), torch.arange(4)
    valid = torch.tensor([True, True, False, True])
    sids[2] = float("nan")
    loss = contrast(sids, items, ids, valid)
    torch.testing.assert_close(loss, contrast(sids[valid], items[valid], ids[valid]))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in contrast.parameters())


def test_weight_zero_teaches_nothing():
    contrast = SIDItemContrast(sid_dim=3, item_dim=5, dim=4)
    (0.0 * contrast(torch.randn(4, 3), torch.randn(4, 5), torch.arange(4))).backward()
    assert not any(p.grad.any() for p in contrast.parameters())


class TestErrors:
    @pytest.mark.parametrize("name", ["sid_dim", "item_dim", "dim"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SIDItemContrast(**{"sid_dim": 2, "item_dim": 2, "dim": 2, name: 0})

    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
    def test_temperature(self, value):
        with pytest.raises(
            ValueError, match=f"temperature must be positive and finite, got {value}"
        ):
            SIDItemContrast(sid_dim=2, item_dim=2, dim=2, temperature=value)

    def test_shapes(self):
        contrast = SIDItemContrast(sid_dim=3, item_dim=5, dim=4)
        with pytest.raises(ValueError, match=r"sids must have shape \[\*, 3\], got \[2, 4\]"):
            contrast(torch.zeros(2, 4), torch.zeros(2, 5), torch.arange(2))
        with pytest.raises(ValueError, match=r"items must have shape \[2, 5\], got \[1, 5\]"):
            contrast(torch.zeros(2, 3), torch.zeros(1, 5), torch.arange(2))
        with pytest.raises(ValueError, match=r"ids must be int32 or int64, got torch.float32"):
            contrast(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2))
