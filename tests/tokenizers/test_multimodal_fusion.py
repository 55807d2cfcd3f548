import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.tokenizers._exact_fusion import exp
from sidrank.tokenizers.fused_vectors import embed_views
from sidrank.tokenizers.multimodal_fusion import MultimodalFusion, concatenated_views
from tests.tokenizers import reference_fusion

WIDTHS = {"text": 5, "image": 3}


def module(seed=0, **arguments):
    fusion = MultimodalFusion(widths=WIDTHS, **{"dim": 8, "num_heads": 2} | arguments)
    fusion.reset_parameters(torch.Generator().manual_seed(seed))
    return fusion.requires_grad_(False)


def items(rows=6, tokens=4, seed=0):
    """A vector, and a set of tokens of which each item has one at least."""
    generator = torch.Generator().manual_seed(seed)
    views = {
        "text": torch.randn(rows, 5, generator=generator),
        "image": torch.randn(rows, tokens, 3, generator=generator),
    }
    there = torch.rand(rows, tokens, generator=generator) < 0.6
    there[:, 0] = True
    return views, {"image": there}


def ways():
    """The module, and what is published."""
    fusion = module()
    return [lambda v, m: fusion(v, m), lambda v, m: embed_views(fusion, v, masks=m)]


class TestAgainstReference:
    @given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([1, 2, 4]))
    def test_equals_the_loop(self, seed, queries, heads):
        fusion = module(seed, num_queries=queries, num_heads=heads).double()
        views, masks = items(rows=2, seed=seed)
        weights = {name: value.tolist() for name, value in fusion.state_dict().items()}
        found = fusion({name: view.double() for name, view in views.items()}, masks)
        for row in range(2):
            kept = views["image"][row][masks["image"][row]].double().tolist()
            tokens = {"text": [views["text"][row].double().tolist()], "image": kept}
            wanted = reference_fusion.fused_views(tokens, weights, heads)
            assert found[row].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)

    @given(st.integers(0, 10**6))
    def test_published_vectors_are_those_of_the_module(self, seed):
        fusion = module(seed)
        views, masks = items(seed=seed)
        unit = torch.nn.functional.normalize(fusion(views, masks), dim=1)
        torch.testing.assert_close(embed_views(fusion, views, masks=masks), unit)

    def test_exponential(self):
        x = torch.linspace(-700, 700, 20001, dtype=torch.float64)
        torch.testing.assert_close(exp(x), x.exp(), rtol=1e-12, atol=0)


class TestBlindness:
    """Law 4, of the module and of what is published."""

    @pytest.mark.parametrize("way", [0, 1])
    @pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
    def test_masked_tokens(self, way, garbage):
        fuse, (views, masks) = ways()[way], items()
        before = fuse(views, masks)
        views["image"][~masks["image"]] = garbage
        assert torch.equal(fuse(views, masks), before)

    def test_masked_tokens_reach_no_gradient(self):
        fusion, (views, masks) = module().requires_grad_(), items()
        views["image"][~masks["image"]] = torch.nan
        fusion(views, masks).square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())

    @pytest.mark.parametrize("way", [0, 1])
    def test_padding(self, way):
        fuse, (views, masks) = ways()[way], items()
        before = fuse(views, masks)
        views["image"] = torch.cat([views["image"], torch.randn(6, 3, 3)], dim=1)
        masks["image"] = torch.cat([masks["image"], torch.zeros(6, 3).bool()], dim=1)
        torch.testing.assert_close(fuse(views, masks), before)
        if way:
            assert torch.equal(fuse(views, masks), before)

    @pytest.mark.parametrize("way", [0, 1])
    def test_order_of_tokens(self, way):
        fuse, (views, masks) = ways()[way], items()
        before, order = fuse(views, masks), torch.tensor([2, 0, 3, 1])
        views["image"] = views["image"][:, order]
        assert (fuse(views, masks) - before).abs().max() > 1e-3  # the mask stayed
        masks["image"] = masks["image"][:, order]
        torch.testing.assert_close(fuse(views, masks), before)

    @pytest.mark.parametrize("way", [0, 1])
    def test_other_rows(self, way):
        fuse, (views, masks) = ways()[way], items()
        before = fuse(views, masks)[2]
        for name in views:
            views[name][[0, 1, 3, 4, 5]] = 100 * torch.randn(())
        assert torch.equal(fuse(views, masks)[2], before)

    @pytest.mark.parametrize("way", [0, 1])
    @pytest.mark.parametrize("missing", list(WIDTHS))
    def test_missing_view(self, way, missing):
        fuse, (views, masks) = ways()[way], items()
        whole, masks[missing] = fuse(views, masks), torch.ones(6).bool()
        masks[missing][3] = False
        found = fuse(views, masks)
        assert (found[3] - whole[3]).abs().max() > 1e-3
        views[missing][3] = torch.nan
        assert torch.equal(fuse(views, masks), found)
        assert found.isfinite().all()

    def test_nothing_at_all_is_finite_and_constant(self):
        fusion, (views, _) = module(), items()
        views["text"].requires_grad_()
        masks = {name: torch.zeros(6).bool() for name in WIDTHS}
        found = fusion(views, masks)
        assert torch.equal(found, found[:1].expand_as(found))
        assert found.isfinite().all()
        found.sum().backward()
        assert not views["text"].grad.any()

    def test_every_view_matters(self):
        fusion, (views, masks) = module(), items()
        for view in views.values():
            view.requires_grad_()
        fusion(views, masks).square().sum().backward()
        assert views["text"].grad.any(dim=1).all()
        assert torch.equal(views["image"].grad.any(dim=2), masks["image"])


class TestBatches:
    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_published_vectors_do_not_depend_on_the_batch(self, size, threads):
        fusion, (views, masks) = module(), items(rows=60)
        whole, before = embed_views(fusion, views, masks=masks), torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            parts = [
                embed_views(
                    fusion,
                    {name: view[start : start + size] for name, view in views.items()},
                    masks={"image": masks["image"][start : start + size]},
                )
                for start in range(0, 60, size)
            ]
        finally:
            torch.set_num_threads(before)
        assert torch.equal(torch.cat(parts), whole)

    def test_numpy_and_float16(self):
        fusion, (views, masks) = module(), items()
        halves = {name: view.half() for name, view in views.items()}
        whole = embed_views(fusion, {n: v.float() for n, v in halves.items()}, masks=masks)
        arrays = {name: view.numpy() for name, view in halves.items()}
        found = embed_views(fusion, arrays, masks={"image": masks["image"].numpy()})
        assert torch.equal(found, whole)
        assert not found.requires_grad


class TestConcat:
    def test_is_each_view_at_length_one(self):
        views, masks = items()
        masks["text"] = torch.tensor([True] * 5 + [False])
        found = concatenated_views(views, masks)
        assert found.shape == (6, 8)
        for row in range(6):
            kept = views["image"][row][masks["image"][row]].mean(dim=0)
            torch.testing.assert_close(found[row, 5:], kept / kept.norm())
            text = views["text"][row] / views["text"][row].norm()
            torch.testing.assert_close(found[row, :5], text if row < 5 else torch.zeros(5))

    def test_blind_to_what_is_masked(self):
        views, masks = items()
        before = concatenated_views(views, masks)
        views["image"][~masks["image"]] = torch.nan
        assert torch.equal(concatenated_views(views, masks), before)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"widths": {}}, "widths must name one view or more"),
            ({"widths": {"a.b": 3}}, "widths must name one view or more, got .'a.b'."),
            ({"widths": {"a": 0}}, r"widths\['a'\] must be at least 1, got 0"),
            ({"dim": 0}, "dim must be at least 1, got 0"),
            ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
            ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
            ({"hidden": 0}, "hidden must be at least 1, got 0"),
            ({"dim": 9, "num_heads": 2}, "dim must be a multiple of num_heads 2, got 9"),
        ],
    )
    def test_arguments(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            MultimodalFusion(**{"widths": WIDTHS} | arguments)

    @pytest.mark.parametrize(
        ("views", "match"),
        [
            ({"text": torch.ones(2, 5)}, r"views must be \['image', 'text'\], got \['text'\]"),
            ({"image": torch.ones(2, 4)}, r"views\['image'\] must have shape \[2, 3\], got"),
            ({"image": torch.ones(2, 4, 4)}, r"views\['image'\] must have shape \[2, \*, 3\]"),
            ({"image": torch.ones(3, 3)}, r"views\['image'\] must have shape \[2, 3\], got"),
            ({"image": torch.ones(2, 3).long()}, r"views\['image'\] must be floating point"),
        ],
    )
    def test_views(self, views, match):
        views = views if "text" in views else {"text": torch.ones(2, 5)} | views
        with pytest.raises(ValueError, match=match):
            module()(views)

    @pytest.mark.parametrize(
        ("masks", "match"),
        [
            ({"sound": torch.ones(6).bool()}, r"masks must be of .*, got \['sound'\]"),
            ({"image": torch.ones(6, 4)}, r"masks\['image'\] must be bool, got torch.float32"),
            ({"image": torch.ones(6, 3).bool()}, r"masks\['image'\] must have shape \[6, 4\]"),
            ({"text": torch.ones(5).bool()}, r"masks\['text'\] must have shape \[6\], got \[5\]"),
        ],
    )
    def test_masks(self, masks, match):
        with pytest.raises(ValueError, match=match):
            module()(items()[0], masks)
        with pytest.raises(ValueError, match=match):
            concatenated_views(items()[0], masks)

    def test_concat_of_nothing(self):
        with pytest.raises(ValueError, match="views must hold one view or more, got none"):
            concatenated_views({})
