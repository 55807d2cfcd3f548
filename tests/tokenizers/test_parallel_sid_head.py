import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.tokenizers._descent import descend
from sidrank.tokenizers._epochs import Training
from sidrank.tokenizers.parallel_sid_head import (
    ParallelSIDHead,
    SummaryEmbeddingReconstruction,
    UniSIDWeights,
    nested_categories,
    sid_loss,
)
from tests import reference
from tests.losses import reference_contrastive
from tests.tokenizers import planted

LEVELS = (4, 6, 8)
PATHS = st.lists(
    st.tuples(st.integers(-1, 1), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=8
)


def nested(rows):
    """Paths of one tree: ids of a level are numbered under those above, -1 stays -1."""
    return torch.tensor([[a, -1, -1] if a < 0 else [a, 3 * a + b, 9 * a + 3 * b + c]
                         for a, b, c in rows])  # fmt: skip


def logits(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, size, generator=generator, dtype=torch.float64) for size in LEVELS]


class TestHead:
    @pytest.mark.parametrize("hidden", [None, 5])
    @pytest.mark.parametrize("level", [0, 1, 2])
    def test_levels_are_independent(self, level, hidden):
        head, h = ParallelSIDHead(dim=5, levels=LEVELS, hidden=hidden), torch.randn(200, 5)
        before = head.codes(h)
        with torch.no_grad():
            for parameter in head.heads[level].parameters():
                parameter.normal_()
        changed = (head.codes(h) != before).any(dim=0).tolist()
        assert changed == [other == level for other in range(3)]

    def test_codes_and_soft_codes_follow_the_logits(self):
        head, h = ParallelSIDHead(dim=5, levels=LEVELS), torch.randn(20, 5, requires_grad=True)
        z, codes = head(h), head.codes(h)
        assert codes.dtype == torch.int32
        for level, weight in enumerate(head.soft_codes(h, temperature=0.5)):
            assert codes[:, level].tolist() == [row.index(max(row)) for row in z[level].tolist()]
            for row, expected in zip(weight.tolist(), z[level].tolist(), strict=True):
                mass = sum(math.exp(2 * value) for value in expected)
                assert row == pytest.approx([math.exp(2 * v) / mass for v in expected], rel=1e-4)
        sharp = torch.stack([w.argmax(1) for w in head.soft_codes(h, temperature=1e-3)], dim=1)
        assert torch.equal(sharp.int(), codes)
        head.soft_codes(h)[1][:, 0].sum().backward()
        assert h.grad.any()

    def test_usage(self):
        head = ParallelSIDHead(dim=1, levels=(4, 4))
        even = head.usage(torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0]]))
        assert even == pytest.approx([1.0, 0.25])
        halves = head.usage(torch.tensor([[0, 0], [0, 0], [0, 0], [3, 1]]))
        entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        assert halves == pytest.approx([math.exp(entropy) / 4] * 2)

    def test_own_generator(self):
        before = torch.get_rng_state()
        head = ParallelSIDHead(dim=5, levels=LEVELS)
        assert not torch.equal(torch.get_rng_state(), before)
        head.reset_parameters(torch.Generator().manual_seed(3))
        one, before = head.heads[0].weight.clone(), torch.get_rng_state()
        head.reset_parameters(torch.Generator().manual_seed(3))
        assert torch.equal(head.heads[0].weight, one)
        assert torch.equal(torch.get_rng_state(), before)


class TestSIDLoss:
    @given(PATHS, st.integers(0, 10**6))
    def test_equals_the_loop(self, rows, seed):
        paths, z = nested(rows), logits(len(rows), seed)
        wanted = 0.0
        for level in range(3):
            prefix = [tuple(path[: level + 1]) for path in paths.tolist()]
            sets = [
                {j for j, other in enumerate(prefix) if other == own and -1 not in own}
                for own in prefix
            ]
            wanted += reference_contrastive.many_positives(z[level].tolist(), sets, 0.2) / 3
        found = sid_loss(z, paths, temperature=0.2)
        assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-9)

    def test_positives_are_nested_even_where_ids_are_not(self):
        """Level 1 has one id, below different ids of level 0: no positive there."""
        z = [level.requires_grad_() for level in logits(4)]
        sid_loss(z, torch.tensor([[0, 5, 7], [1, 5, 7], [2, 5, 7], [0, 6, 8]])).backward()
        assert [bool(level.grad.any()) for level in z] == [True, False, False]

    def test_items_without_positive_or_category_add_nothing(self):
        z = [level.requires_grad_() for level in logits(3)]
        loss = sid_loss(z, torch.tensor([[0, 0, 0], [1, 1, 1], [-1, -1, -1]]))
        loss.backward()
        assert float(loss.detach()) == 0
        assert not any(level.grad.any() for level in z)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"categories must have shape \[\*, 3\], got \[2, 2\]"):
            sid_loss(logits(2), torch.zeros(2, 2).long())
        with pytest.raises(ValueError, match="categories must be int32 or int64"):
            sid_loss(logits(2), torch.zeros(2, 3))
        with pytest.raises(ValueError, match="temperature must be positive"):
            sid_loss(logits(2), torch.zeros(2, 3).long(), temperature=0.0)


class TestNestedCategories:
    @given(PATHS)
    def test_a_tree_passes_unchanged(self, rows):
        paths = nested(rows)
        assert torch.equal(nested_categories(paths), paths)
        assert torch.equal(nested_categories(paths.int().numpy()), paths)

    def test_one_id_below_two(self):
        with pytest.raises(ValueError, match=r"got 7 of level 2 below 3 \(row 1\) and 4 \(row 2\)"):
            nested_categories([[0, 2, 6], [1, 3, 7], [1, 4, 7]])
        with pytest.raises(ValueError, match=r"got 2 of level 1 below 0 \(row 0\) and 1 \(row 1\)"):
            nested_categories([[0, 2], [1, 2]])

    def test_known_below_unknown(self):
        match = "unknown below an unknown one, got 4 of level 1 in row 1"
        with pytest.raises(ValueError, match=match):
            nested_categories([[0, 2], [-1, 4]])

    def test_values_shapes_and_dtypes(self):
        with pytest.raises(ValueError, match="categories must be at least -1, got -2"):
            nested_categories([[-2, 0]])
        with pytest.raises(ValueError, match=r"categories must have shape \[V, N\], got \[2\]"):
            nested_categories([0, 1])
        for wrong in (np.array([["a"]]), np.zeros((1, 1)), torch.zeros(1, 1), torch.ones(1, 1) > 0):
            with pytest.raises(TypeError, match="categories must be integers, got"):
                nested_categories(wrong)


class TestSummary:
    def test_is_one_minus_the_mean_cosine_of_what_is_known(self):
        rec = SummaryEmbeddingReconstruction(dim=5, levels=LEVELS, summary_dim=3)
        h, z = torch.randn(4, 5), [level.float() for level in logits(4)]
        wanted = torch.randn(4, 3)
        wanted[2] = 0
        guesses = rec.predict(h, z).tolist()
        cosines = [reference.cosine(guesses[row], wanted[row].tolist()) for row in (0, 1, 3)]
        assert rec(h, z, wanted).item() == pytest.approx(1 - sum(cosines) / 3, rel=1e-4)
        assert rec(h, z, torch.zeros(4, 3)).item() == 0

    def test_reads_every_level_and_the_vector(self):
        rec = SummaryEmbeddingReconstruction(dim=5, levels=LEVELS, summary_dim=3)
        parts = [torch.randn(4, 5), *(level.float() for level in logits(4))]
        for part in parts:
            part.requires_grad_()
        rec(parts[0], parts[1:], torch.randn(4, 3)).backward()
        assert all(part.grad.any() for part in parts)

    def test_learns(self):
        x, paths = planted.tree(0)
        rec = SummaryEmbeddingReconstruction(dim=26, levels=(4,), summary_dim=6)
        wanted, z = torch.eye(6)[paths[:, 0]], [torch.zeros(len(x), 4)]
        shuffled = wanted[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
        losses = []
        for target in (wanted, shuffled):
            descend(
                rec.parameters(),
                540,
                lambda rows, t=target: rec(x[rows], [z[0][rows]], t[rows]),
                training=Training(8, 128, 3e-3),
                generator=torch.Generator().manual_seed(0),
                progress=None,
            )
            losses.append(float(rec(x[540:], [z[0][540:]], target[540:]).detach()))
        assert losses[0] < 0.35 < 0.5 < losses[1]  # the mean of all is at 1 - 6 ** -0.5 = 0.59


class TestWeights:
    def parts(self):
        return {name: torch.randn((), requires_grad=True) for name in
                ("sid", "embedding", "reconstruction")}  # fmt: skip

    def test_total(self):
        parts = self.parts()
        total = UniSIDWeights().total(**parts)
        wanted = parts["sid"] + parts["embedding"] + 0.1 * parts["reconstruction"]
        torch.testing.assert_close(total, wanted)

    @pytest.mark.parametrize("off", ["sid", "embedding", "reconstruction"])
    def test_a_weight_of_zero_gives_no_gradient(self, off):
        parts = self.parts()
        UniSIDWeights(**{off: 0.0}).total(**parts).backward()
        assert {name: bool(part.grad) for name, part in parts.items()} == {
            name: name != off for name in parts
        }

    def test_what_has_no_weight_may_be_left_out(self):
        sid = torch.tensor(2.0)
        weights = UniSIDWeights(sid=0.5, embedding=0.0, reconstruction=0.0)
        assert weights.total(sid=sid) == 1.0

    def test_errors(self):
        with pytest.raises(ValueError, match="embedding must be given if its weight is not 0"):
            UniSIDWeights().total(sid=torch.tensor(1.0))
        with pytest.raises(ValueError, match="one loss or more must be given, got none"):
            UniSIDWeights(0, 0, 0).total()
        with pytest.raises(ValueError, match="weights of losses must be finite and at least 0"):
            UniSIDWeights(sid=-1.0)


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "hidden"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            ParallelSIDHead(**{"dim": 2, "levels": (2,), name: 0})
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SummaryEmbeddingReconstruction(**{"dim": 2, "levels": (2,), "summary_dim": 2, name: 0})

    @pytest.mark.parametrize("levels", [(), (4, 0)])
    def test_levels(self, levels):
        with pytest.raises(ValueError, match="levels must be one or more sizes of at least 1"):
            ParallelSIDHead(dim=2, levels=levels)
        with pytest.raises(ValueError, match="levels must be one or more sizes of at least 1"):
            SummaryEmbeddingReconstruction(dim=2, levels=levels, summary_dim=2)

    def test_shapes(self):
        head = ParallelSIDHead(dim=2, levels=(2, 3))
        rec = SummaryEmbeddingReconstruction(dim=2, levels=(2, 3), summary_dim=2)
        h, z = torch.zeros(4, 2), [torch.zeros(4, 2), torch.zeros(4, 3)]
        with pytest.raises(ValueError, match=r"h must have shape \[\*, 2\], got \[4, 3\]"):
            head(torch.zeros(4, 3))
        with pytest.raises(ValueError, match=r"codes must have shape \[\*, 2\], got \[4, 3\]"):
            head.usage(torch.zeros(4, 3))
        with pytest.raises(ValueError, match="codes must hold at least one item, got 0"):
            head.usage(torch.zeros(0, 2))
        with pytest.raises(ValueError, match=r"logits must have shape \[4, 3\], got \[4, 2\]"):
            rec.predict(h, [z[0], z[0]])
        with pytest.raises(ValueError, match=r"summaries must have shape \[4, 2\], got \[4, 3\]"):
            rec(h, z, torch.zeros(4, 3))

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
    def test_temperature(self, temperature):
        with pytest.raises(ValueError, match="temperature must be positive, got"):
            ParallelSIDHead(dim=2, levels=(2,)).soft_codes(
                torch.zeros(1, 2), temperature=temperature
            )
