"""Search by the first code, and the fusion of what was found with the short history."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.sequences import DualCrossAttention, SemanticHardSearch, take
from tests.layers import reference_layers
from tests.sequences import reference_sequences as reference

behaviour = st.tuples(st.integers(-1, 5), st.booleans(), st.integers(0, 4))


@given(
    st.lists(behaviour, max_size=8),
    st.integers(-1, 5),
    st.integers(1, 9),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_equals_a_loop(behaviours, code, k, min_found, num_near, now):
    codebook = torch.randn(6, 2)
    search = SemanticHardSearch(codebook=codebook, k=k, min_found=min_found, num_near=num_near)
    codes, real, times = map(list, zip(*behaviours, strict=True)) if behaviours else ([], [], [])
    index, mask = search(
        torch.tensor([[code]]),
        torch.tensor([codes], dtype=torch.int64),
        torch.tensor([real], dtype=torch.bool),
        torch.tensor([times], dtype=torch.int64),
        torch.tensor([now]),
    )
    known = [r and t < now for r, t in zip(real, times, strict=True)]
    expected = reference.hard_search(
        code, codes, known, times, codebook.tolist(), k, min_found, num_near
    )
    assert index[mask].tolist() == expected


def found(search, code, codes):
    length = len(codes)
    index, mask = search(
        torch.tensor([[code]]),
        torch.tensor([codes]),
        torch.ones(1, length).bool(),
        torch.arange(length).unsqueeze(0),
        torch.tensor([length]),
    )
    return index[mask].tolist()


LINE = torch.tensor([[0.0], [1.0], [3.0], [9.0]])


def test_exactly_the_matching_set():
    search = SemanticHardSearch(codebook=LINE, k=9, min_found=2, num_near=1)
    assert found(search, 0, [0, 1, 0, 2, 0, -1, 3]) == [0, 2, 4]


def test_near_codes_join_only_when_too_few_match():
    codes = [0, 1, 2, 1, 3]
    for min_found, expected in ((0, [0]), (1, [0]), (2, [0, 1, 3])):
        search = SemanticHardSearch(codebook=LINE, k=9, min_found=min_found, num_near=1)
        assert found(search, 0, codes) == expected
    search = SemanticHardSearch(codebook=LINE, k=9, min_found=9, num_near=2)
    assert found(search, 0, codes) == [0, 1, 2, 3]


def test_nearer_codes_go_first_then_newer_behaviours():
    search = SemanticHardSearch(codebook=LINE, k=3, min_found=9, num_near=2)
    assert found(search, 1, [1, 2, 0, 0, 2]) == [0, 2, 3]
    search = SemanticHardSearch(codebook=LINE, k=2)
    assert found(search, 1, [1, 1, 2, 1]) == [1, 3]


def test_generated_code_finds_what_the_target_code_finds():
    search = SemanticHardSearch(codebook=LINE, k=9)
    logits = torch.nn.functional.one_hot(torch.tensor([[2, 0]]), 4).float()
    assert search.generated(logits).tolist() == [[2, 0]]


def test_shuffled_codes_find_no_taste():
    """Planted: behaviours and target of one taste share a code; shuffled codes find at chance."""
    tastes = torch.randint(0, 10, (200, 50))
    wanted = torch.randint(0, 10, (200, 1))
    search = SemanticHardSearch(codebook=torch.randn(10, 3), k=50)
    now, times = torch.full((200,), 50), torch.arange(50).expand(200, 50)
    precision = {}
    for arm, order in (("planted", torch.arange(10_000)), ("shuffled", torch.randperm(10_000))):
        codes = tastes.flatten()[order].view(200, 50)
        index, mask = search(wanted, codes, torch.ones(200, 50).bool(), times, now)
        hits = tastes.gather(1, index.squeeze(1)) == wanted
        precision[arm] = hits[mask.squeeze(1)].float().mean().item()
    assert precision["planted"] == 1.0
    assert precision["shuffled"] == pytest.approx(0.1, abs=0.04)


class TestFusion:
    def inputs(self, rows=3, found=(4, 0, 2)):
        mask = torch.arange(5) < torch.tensor(found).unsqueeze(1)
        retrieved = torch.randn(rows, 1, 5, 4)
        short, short_mask = torch.randn(rows, 6, 4), torch.ones(rows, 6).bool()
        return torch.randn(rows, 1, 4), short, short_mask, retrieved, mask.unsqueeze(1)

    def test_equals_the_paper(self):
        fuse = DualCrossAttention(dim=4, num_heads=2)
        target, short, short_mask, retrieved, mask = self.inputs()
        answers = fuse(target, short, short_mask, retrieved, mask)
        gates = fuse.gates(target, short, short_mask, retrieved, mask)
        for row, count in enumerate((4, 0, 2)):
            parts = []
            for part, keys in (
                (fuse.short, short[row]),
                (fuse.retrieved, retrieved[row, 0, :count]),
            ):
                layers = reference_layers.attention_layers(part)
                query = target[row, 0].tolist()
                parts.append(reference_layers.attention(query, keys.tolist(), layers, 2))
            z_short, z_found = parts
            read = [[*z_short, *z_found, math.log1p(count)]]
            (logit,) = reference_layers.linear(
                fuse.gate.weight.tolist(), fuse.gate.bias.tolist(), read[0]
            )
            gate = 1 / (1 + math.exp(-logit)) if count else 0.0
            expected = [(1 - gate) * s + gate * f for s, f in zip(z_short, z_found, strict=True)]
            assert gates[row].item() == pytest.approx(gate, rel=1e-5)
            torch.testing.assert_close(answers[row, 0].tolist(), expected, rtol=1e-4, atol=1e-5)

    def test_nothing_found_shuts_the_gate(self):
        fuse = DualCrossAttention(dim=4)
        target, short, short_mask, retrieved, _ = self.inputs()
        retrieved = torch.full_like(retrieved, float("nan")).requires_grad_()
        none = torch.zeros(3, 1, 5).bool()
        answer = fuse(target, short, short_mask, retrieved, none)
        assert torch.equal(answer, fuse.short(target, short, short_mask))
        answer.sum().backward()
        assert not retrieved.grad.any()
        assert all(p.grad is None or p.grad.isfinite().all() for p in fuse.parameters())

    @pytest.mark.parametrize("planted", [True, False])
    def test_gate_rises_with_how_much_was_found(self, planted):
        """Found behaviours are noisy copies of a hidden taste: the more, the better."""
        rows = 2000
        taste = torch.randn(rows, 1, 4)
        count = torch.randint(1, 9, (rows,))
        mask = (torch.arange(8) < count.unsqueeze(1)).unsqueeze(1)
        told = taste if planted else torch.randn(rows, 1, 4)
        retrieved = told.unsqueeze(1) + 1.5 * torch.randn(rows, 1, 8, 4)
        short = taste + 1.0 * torch.randn(rows, 2, 4)
        target, short_mask = torch.randn(rows, 1, 4), torch.ones(rows, 2).bool()
        fuse = DualCrossAttention(dim=4)
        optimizer = torch.optim.Adam(fuse.parameters(), lr=0.02)
        for _ in range(150):
            loss = (fuse(target, short, short_mask, retrieved, mask) - taste).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            gates = fuse.gates(target, short, short_mask, retrieved, mask).flatten()
        low, middle, high = (
            gates[(count >= first) & (count < first + 2)].mean() for first in (1, 4, 7)
        )
        if planted:
            assert low + 0.1 < middle
            assert middle + 0.02 < high
        else:
            assert high < low + 0.05

    def test_reads_what_a_search_found(self):
        codes = torch.tensor([[0, 1, 0], [2, 2, 2]])
        search = SemanticHardSearch(codebook=LINE, k=2)
        index, mask = search(
            torch.tensor([[0, 1], [0, 2]]),
            codes,
            torch.ones(2, 3).bool(),
            torch.arange(3).expand(2, 3),
            torch.tensor([3, 3]),
        )
        values = torch.randn(2, 3, 4)
        fuse = DualCrossAttention(dim=4)
        answer = fuse(
            torch.randn(2, 2, 4), values, torch.ones(2, 3).bool(), take(values, index, mask), mask
        )
        assert answer.shape == (2, 2, 4)
        assert mask.any(dim=2).tolist() == [[True, True], [False, True]]


class TestErrors:
    def test_codebook(self):
        for bad, got in (
            (torch.zeros(4), r"shape \[4\]"),
            (torch.tensor([[float("nan")]]), "1 numbers that are not finite"),
            (torch.zeros(2, 2, device="meta"), "a meta tensor"),
        ):
            with pytest.raises(
                ValueError, match=rf"codebook must be .* finite numbers, got .*{got}"
            ):
                SemanticHardSearch(codebook=bad, k=1)

    @pytest.mark.parametrize(
        ("name", "value", "rule"),
        [
            ("k", 0, "at least 1"),
            ("min_found", -1, "at least 0"),
            ("num_near", 4, r"in \[0, 3\]"),
            ("num_near", -1, r"in \[0, 3\]"),
        ],
    )
    def test_numbers(self, name, value, rule):
        with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
            SemanticHardSearch(**{"codebook": LINE, "k": 1, name: value})

    def test_code_beyond_the_codebook(self):
        with pytest.raises(IndexError, match="index 4 is out of bounds"):
            found(SemanticHardSearch(codebook=LINE, k=1), 4, [0, 1])

    def test_shapes_and_dtypes(self):
        search = SemanticHardSearch(codebook=LINE, k=1)
        parts = {
            "code": torch.zeros(2, 1).long(),
            "history_codes": torch.zeros(2, 3).long(),
            "mask": torch.ones(2, 3).bool(),
            "times": torch.zeros(2, 3).long(),
            "now": torch.zeros(2).long(),
        }
        for name, message in (
            ("code", r"code must be int32 or int64, got torch.float32"),
            ("history_codes", r"history_codes must be int32 or int64, got torch.float32"),
        ):
            with pytest.raises(ValueError, match=message):
                search(**parts | {name: parts[name].float()})
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 3\], got \[2, 2\]"):
            search(**parts | {"mask": parts["mask"][:, :2], "times": parts["times"][:, :2]})
        with pytest.raises(ValueError, match=r"history_codes must have shape \[2, \*\]"):
            search(**parts | {"history_codes": parts["history_codes"][:1]})

    def test_fusion_shapes(self):
        fuse = DualCrossAttention(dim=4)
        target, short, short_mask, retrieved, mask = TestFusion().inputs()
        with pytest.raises(ValueError, match=r"target must have shape \[\*, \*, 4\]"):
            fuse(target[:, 0], short, short_mask, retrieved, mask)
        with pytest.raises(ValueError, match=r"retrieved must have shape \[3, 1, \*, 4\]"):
            fuse(target, short, short_mask, retrieved[:, 0], mask)
        with pytest.raises(ValueError, match=r"retrieved_mask must have shape \[3, 1, 5\]"):
            fuse(target, short, short_mask, retrieved, mask[:, 0])
