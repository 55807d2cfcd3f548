import numpy as np
import pytest
import torch

from sidrank.losses import two_way_info_nce
from sidrank.tokenizers._epochs import Training
from sidrank.tokenizers.fused_vectors import FusionLosses, embed_views, fit_fusion
from sidrank.tokenizers.multimodal_fusion import MultimodalFusion, concatenated_views
from sidrank.tokenizers.rq_kmeans import RQKMeans
from tests.tokenizers import planted

SHORT = Training(6, 256, 4e-3)
ITEMS = 800
NEW = ITEMS // 2


def fusion(**arguments):
    arguments = {"dim": 16, "num_queries": 2, "num_heads": 2} | arguments
    return MultimodalFusion(widths={"text": 16, "image": 16}, **arguments)


def hit_rate(vectors, pairs, seed):
    """Share of new co-engaged pairs of which one is among the 10 nearest codes of the other.

    Among the new items alone; equal codes are in random order.
    """
    tokenizer = RQKMeans(levels=(16, 16, 16), seed=seed).fit(vectors)
    rebuilt = tokenizer.decode(tokenizer.encode(vectors[NEW:])).double()
    noise = torch.rand(NEW, NEW, generator=torch.Generator().manual_seed(seed))
    gaps = torch.cdist(rebuilt, rebuilt) + 1e-9 * noise
    near = gaps.fill_diagonal_(torch.inf).topk(10, largest=False).indices
    both = torch.cat([pairs, pairs.flip(1)]) - NEW
    return float((near[both[:, 0]] == both[:, 1:]).any(dim=1).float().mean())


def measure():
    """Five seeds of every arm; pairs to learn from join old items, pairs to find new ones."""
    found = {name: [] for name in ("fusion", "shuffled", "concat", "text", "image")}
    for seed in range(5):
        views, old, new = planted.two_views(seed, ITEMS)
        order = torch.randperm(len(old), generator=torch.Generator().manual_seed(seed))
        shuffled = torch.stack([old[:, 0], old[order, 1]], dim=1)
        arms = {"concat": concatenated_views(views)}
        arms |= {name: concatenated_views({name: views[name]}) for name in views}
        for name, pairs in (("fusion", old), ("shuffled", shuffled)):
            trained = fit_fusion(fusion(), views, pairs, training=SHORT, seed=seed)
            arms[name] = embed_views(trained, views)
        for name, vectors in arms.items():
            found[name].append(hit_rate(vectors, new, seed))
    return {name: np.array(rates) for name, rates in found.items()}


@pytest.fixture(scope="module")
def hits():
    return measure()


class TestClaim:
    def test_fusion_beats_concat_beats_one_view(self, hits):
        assert (hits["fusion"] > hits["concat"] + 0.2).all()
        assert (hits["concat"] > np.maximum(hits["text"], hits["image"]) + 0.1).all()

    def test_shuffled_pairs_take_the_gain_away(self, hits):
        assert (hits["shuffled"] < hits["concat"]).all()


class TestFit:
    def test_loss_falls_and_progress_is_told(self):
        views, pairs, _ = planted.two_views(0, 200)
        told, losses = [], []

        def progress(*step):
            told.append(step)
            left, right = (embed_views(module, views)[side] for side in pairs.T)
            losses.append(float(two_way_info_nce(left, right, pairs=pairs)))

        module = fusion()
        fit_fusion(module, views, pairs, training=Training(4, 64), progress=progress)
        assert told == [("training epochs", epoch, 4) for epoch in (1, 2, 3, 4)]
        assert losses[-1] < losses[0] - 0.1
        assert all(parameter.grad is None for parameter in module.parameters())

    def test_one_step_lowers_info_nce_of_the_pairs_of_both_ends(self):
        """One step of Adam moves every number by the rate against its gradient's sign."""
        views, pairs, _ = planted.two_views(0, 60)
        one, other = fusion(), fusion()
        fit_fusion(one, views, pairs, training=Training(1, 10**6, 1e-3), seed=3)
        other.reset_parameters(torch.Generator().manual_seed(3))
        start = {name: value.detach().clone() for name, value in other.named_parameters()}
        left, right = (
            other({name: view[side] for name, view in views.items()}) for side in pairs.T
        )
        two_way_info_nce(left, right, pairs=pairs).backward()
        for name, value in one.named_parameters():
            gradient = other.get_parameter(name).grad
            clear = gradient.abs() > 1e-5
            moved = (value.detach() - start[name])[clear]
            torch.testing.assert_close(moved, -1e-3 * gradient.sign()[clear], atol=2e-5, rtol=2e-2)

    def test_alignment_brings_the_views_of_an_item_together(self):
        views, pairs, _ = planted.two_views(0, 300)
        views["image"] = views["text"] @ torch.linalg.qr(torch.randn(16, 16))[0]
        gaps = []
        for alignment in (0.0, 1.0):
            module = fusion()
            losses = FusionLosses(alignment=alignment)
            fit_fusion(module, views, pairs, losses=losses, training=Training(10, 128))
            text, image = (module.view(name, views)[0][:, 0] for name in ("text", "image"))
            gaps.append(float(two_way_info_nce(text, image).detach()))
        assert gaps[1] < gaps[0] - 1

    def test_alignment_is_of_items_that_have_both_views(self):
        views, pairs, _ = planted.two_views(0, 100)
        even = torch.arange(100) % 2 == 0
        for masks, same in (({"text": even, "image": ~even}, True), ({"text": even}, False)):
            vectors = []
            for alignment in (0.0, 1.0):
                module, losses = fusion(), FusionLosses(alignment=alignment)
                training = Training(2, 64)
                fit_fusion(module, views, pairs, masks=masks, losses=losses, training=training)
                vectors.append(embed_views(module, views, masks=masks))
            assert torch.equal(*vectors) == same

    def test_what_is_masked_may_be_anything(self):
        views, pairs, _ = planted.two_views(0, 100)
        masks = {"image": torch.arange(100) % 3 > 0}
        vectors = []
        for garbage in (torch.nan, 7.0):
            views["image"][~masks["image"]] = garbage
            module, losses = fusion(), FusionLosses(alignment=1.0)
            training = Training(2, 64)
            fit_fusion(module, views, pairs, masks=masks, losses=losses, training=training)
            vectors.append(embed_views(module, views, masks=masks))
        assert torch.equal(*vectors)
        assert vectors[0].isfinite().all()

    def test_all_pairs_of_one_item_teach_nothing(self):
        views, _, _ = planted.two_views(0, 50)
        pairs = torch.stack([torch.zeros(49).long(), torch.arange(1, 50)], dim=1)
        module = fit_fusion(fusion(), views, pairs, training=Training(2, 16), seed=5)
        untrained = fusion()
        untrained.reset_parameters(torch.Generator().manual_seed(5))
        for one, other in zip(module.parameters(), untrained.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_same_seed_same_weights_and_nothing_global_moves(self):
        views, pairs, _ = planted.two_views(0, 100)
        first, second = fusion(), fusion()  # drawn from the global generator
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        one = embed_views(fit_fusion(first, views, pairs, training=Training(2, 64)), views)
        with torch.inference_mode(), torch.autocast("cpu"):
            fit_fusion(second, views, pairs, training=Training(2, 64))
        assert torch.equal(embed_views(second, views), one)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()
        other = fit_fusion(fusion(), views, pairs, training=Training(2, 64), seed=1)
        assert not torch.equal(embed_views(other, views), one)

    def test_numpy(self):
        views, pairs, _ = planted.two_views(0, 60)
        arrays = {name: view.numpy() for name, view in views.items()}
        training = Training(1, 64)
        one = fit_fusion(fusion(), views, pairs, training=training)
        two = fit_fusion(fusion(), arrays, pairs.numpy(), training=training)
        assert torch.equal(embed_views(one, views), embed_views(two, arrays))


class TestErrors:
    VIEWS, PAIRS, _ = planted.two_views(0, 40)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
            ({"alignment": -1.0}, "alignment must be finite and at least 0, got -1.0"),
        ],
    )
    def test_losses(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            FusionLosses(**arguments)

    def test_pairs(self):
        for pairs, match in (
            (torch.tensor([[0, 40]]), r"pairs must hold rows within \[0, 40\), got 40"),
            (torch.zeros(0, 2).long(), r"pairs must have shape \[P, 2\] with P >= 1"),
            (None, "pairs must be given, got None"),
        ):
            with pytest.raises(ValueError, match=match):
                fit_fusion(fusion(), self.VIEWS, pairs)
        with pytest.raises(TypeError, match="pairs must be integers"):
            fit_fusion(fusion(), self.VIEWS, torch.ones(3, 2))

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e38])
    def test_numbers(self, value):
        views = {name: view.clone() for name, view in self.VIEWS.items()}
        views["image"][7, 2] = value
        match = r"views\['image'\] must be finite and within ±1e37 .* in row 7"
        with pytest.raises(ValueError, match=match):
            embed_views(fusion(), views)
        with pytest.raises(ValueError, match=match):
            fit_fusion(fusion(), views, self.PAIRS)

    def test_an_item_without_anything(self):
        masks = {name: torch.arange(40) != 9 for name in self.VIEWS}
        match = "masks must leave every item one token or more, got none in row 9"
        with pytest.raises(ValueError, match=match):
            embed_views(fusion(), self.VIEWS, masks=masks)

    def test_shapes_and_names(self):
        with pytest.raises(ValueError, match=r"views must be \['image', 'text'\], got \['text'\]"):
            embed_views(fusion(), {"text": self.VIEWS["text"]})
        with pytest.raises(ValueError, match=r"masks\['text'\] must have shape \[40\], got \[3\]"):
            embed_views(fusion(), self.VIEWS, masks={"text": torch.ones(3).bool()})

    def test_device(self):
        with torch.device("meta"):
            elsewhere = fusion()
        with pytest.raises(ValueError, match="views must be on the device of the fusion, meta"):
            embed_views(elsewhere, self.VIEWS)

    def test_seed_and_rate(self):
        with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
            fit_fusion(fusion(), self.VIEWS, self.PAIRS, seed=-1)
        training = Training(20, 64, 1e30)
        with pytest.raises(ValueError, match="learning_rate must keep the loss finite"):
            fit_fusion(fusion(), self.VIEWS, self.PAIRS, training=training)
