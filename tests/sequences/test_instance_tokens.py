import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.sequences.instance_tokens import InstanceTokenizer, user_order
from tests.sequences import reference_instances as reference
from tests.strategies import ANY_IDS


def tokenizer(mode="user_order", **options):
    """Away from birth, with norms that are not all one."""
    module = InstanceTokenizer(input_dim=5, dim=8, mode=mode, hidden=12, num_heads=2, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def users(*lengths, longest=7):
    """A user for each length, padding last."""
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(len(lengths), longest, 5), mask


def both_modes(test):
    return pytest.mark.parametrize("mode", ["temporal", "user_order"])(test)


class TestTokens:
    @both_modes
    def test_equal_a_loop(self, mode):
        module, (h, mask) = tokenizer(mode), users(7, 2)
        _, tokens = module(h, mask)
        weight, bias = module.compress.weight.tolist(), module.compress.bias.tolist()
        for row in range(2):
            for place in range(7):
                inside = reference.affine(weight, bias, h[row, place].tolist())
                expected = [reference.sigmoid(x) * bool(mask[row, place]) for x in inside]
                torch.testing.assert_close(tokens[row, place], torch.tensor(expected))
        torch.testing.assert_close(module.tokens(h)[mask], tokens[mask])

    @both_modes
    def test_depend_on_their_own_impression_alone(self, mode):
        """The Jacobian to every other row and place is exactly zero, also in user order."""
        module, (h, mask) = tokenizer(mode), users(4, 3, longest=4)
        jacobian = torch.autograd.functional.jacobian(lambda h: module(h, mask).tokens, h)
        for row in range(2):
            for place in range(4):
                own = jacobian[row, place].abs().sum(dim=(0, 3))
                assert bool(own[row, place]) == bool(mask[row, place])
                own[row, place] = 0.0
                assert not own.any()

    @both_modes
    def test_do_not_depend_on_the_precision_of_the_day(self, mode):
        module, (h, mask) = tokenizer(mode), users(6, 1)
        with torch.autocast("cpu", torch.bfloat16):
            logits, tokens = module(h, mask)
        assert torch.equal(tokens, module(h, mask).tokens)
        assert logits.dtype == torch.bfloat16  # the rest did run in it


class TestTemporal:
    def test_impressions_do_not_see_each_other(self):
        """Alone, in another batch, at another place: the same logit."""
        module, (h, mask) = tokenizer("temporal"), users(6, 3, 5)
        logits, _ = module(h, mask)
        flat = h[mask][torch.randperm(14)]
        order = [int((flat == one).all(1).nonzero()) for one in h[mask]]
        batch, _ = module(flat.unsqueeze(1), torch.ones(14, 1).bool())
        torch.testing.assert_close(batch.flatten()[order], logits[mask])
        for row, place in mask.nonzero().tolist():
            alone, _ = module(h[row : row + 1, place : place + 1], torch.ones(1, 1).bool())
            torch.testing.assert_close(alone[0, 0], logits[row, place])


class TestUserOrder:
    def test_a_logit_sees_its_own_and_the_earlier_ones(self):
        module, (h, mask) = tokenizer(), users(5, 3, longest=5)
        h.requires_grad_()
        logits, _ = module(h, mask)
        for row, place in mask.nonzero().tolist():
            (gradient,) = torch.autograd.grad(logits[row, place], h, retain_graph=True)
            reached = gradient.abs().sum(dim=2) > 0
            expected = torch.zeros_like(reached)
            expected[row, : place + 1] = True  # so the tokens of earlier ones learn from it
            assert torch.equal(reached, expected)

    def test_equals_each_prefix_alone(self):
        module, (h, mask) = tokenizer(), users(7, 4, 1, 0)
        logits, _ = module(h, mask)
        for row, place in mask.nonzero().tolist():
            past = h[row : row + 1, : place + 1]
            alone, _ = module(past, torch.ones(1, place + 1).bool())
            torch.testing.assert_close(alone[0, -1], logits[row, place], atol=1e-5, rtol=1e-5)
        assert not logits[~mask].any()

    def test_the_order_matters(self):
        """The control of causality: swapping two earlier impressions moves the last logit."""
        module, (h, mask) = tokenizer(), users(5, longest=5)
        swapped = h[:, [1, 0, 2, 3, 4]]
        assert (module(h, mask).logits - module(swapped, mask).logits)[0, 4].abs() > 1e-4

    @pytest.mark.parametrize("gaps", [(0, 0, 3), (2, 0, 0), (0, 4, 1), (1, 1, 1)])
    def test_padding_anywhere_changes_nothing(self, gaps):
        module, (h, mask) = tokenizer(), users(6, 6, longest=6)
        parts = [torch.full((2, gap, 5), float("nan")) for gap in gaps]
        wide = torch.cat([parts[0], h[:, :2], parts[1], h[:, 2:], parts[2]], dim=1)
        real = wide[:, :, 0].isfinite()
        logits, tokens = module(wide, real)
        torch.testing.assert_close(logits[real], module(h, mask).logits[mask], atol=1e-6, rtol=1e-5)
        assert not logits[~real].any()
        assert not tokens[~real].any()

    def test_one_layer_hands_on_what_a_window_would_not(self):
        """Every earlier impression counts, the first of seven too."""
        module, (h, mask) = tokenizer(num_layers=1), users(7)
        other = h.clone()
        other[:, 0] += 1.0
        assert (module(h, mask).logits - module(other, mask).logits)[0, 6].abs() > 1e-5


class TestStreaming:
    @pytest.mark.parametrize("current", [1, 3])
    def test_equals_the_whole_row(self, current):
        """Tokens of the past from a store, the current ones computed: the same logits."""
        module, (h, mask) = tokenizer(), users(7, 7)
        logits, tokens = module(h, mask)
        old, new = slice(0, 7 - current), slice(7 - current, 7)
        held, padding = tokens[:, old].detach(), torch.full((2, 2, 8), float("nan"))
        past = torch.cat([held, padding], dim=1)  # as a store gives it, padding last
        answer, made = module(h[:, new], mask[:, new], past, past[:, :, 0].isfinite())
        torch.testing.assert_close(answer, logits[:, new], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made, tokens[:, new])

    def test_the_past_gets_no_gradient(self):
        module, (h, mask) = tokenizer(), users(1, longest=1)
        past = torch.rand(1, 4, 8, requires_grad=True)
        h.requires_grad_()
        logits, _ = module(h, mask, past, torch.ones(1, 4).bool())
        logits.sum().backward()
        assert past.grad is None
        assert h.grad.any()
        moved = past.detach() + 0.5  # though it is read
        assert not torch.equal(logits, module(h, mask, moved, torch.ones(1, 4).bool()).logits)

    def test_nobody_known_yet(self):
        module, (h, mask) = tokenizer(), users(3, 1)
        nothing = torch.zeros(2, 4, 8), torch.zeros(2, 4).bool()
        one, other = module(h, mask, *nothing), module(h, mask)
        torch.testing.assert_close(one.logits, other.logits)
        empty = torch.zeros(2, 0, 8), torch.zeros(2, 0).bool()
        assert torch.equal(module(h, mask, *empty).logits, other.logits)


def test_user_order_learns_what_only_the_past_tells():
    """The label is the sign of the impression before; alone, there is nothing to learn."""
    losses = {}
    for mode in ("temporal", "user_order"):
        torch.manual_seed(0)
        module = InstanceTokenizer(
            input_dim=4, dim=8, mode=mode, hidden=16, num_layers=1, num_heads=2
        )
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        recent = []
        for _ in range(150):
            h, mask = torch.randn(64, 6, 4), torch.ones(64, 6).bool()
            label = (h[:, :-1, 0] > 0).float()
            logits = module(h, mask).logits[:, 1:]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recent.append(loss.item())
        losses[mode] = sum(recent[-20:]) / 20
    assert losses["temporal"] > 0.68
    assert losses["user_order"] < 0.4


class TestGrouping:
    @given(
        st.lists(st.tuples(ANY_IDS | st.integers(0, 3), ANY_IDS | st.integers(0, 4)), max_size=20),
        st.sampled_from([None, 1, 3]),
    )
    def test_equals_a_dictionary(self, rows, count):
        who, when = [row[0] for row in rows], [row[1] for row in rows]
        index, mask = user_order(who, when, count=count)
        assert index.shape == mask.shape
        assert [i[m].tolist() for i, m in zip(index, mask, strict=True)] == reference.grouped(
            who, when, count
        )
        assert (mask[:, :-1] >= mask[:, 1:]).all()
        assert not index[~mask].any()

    def test_count_says_the_width(self):
        assert user_order([1, 1], [5, 6], count=9)[0].shape == (1, 9)


class TestErrors:
    @pytest.mark.parametrize("name", ["input_dim", "dim", "hidden", "num_layers", "num_heads"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            InstanceTokenizer(**{"input_dim": 4, name: 0})

    def test_mode(self):
        with pytest.raises(ValueError, match="mode must be 'temporal' or 'user_order', got 'x'"):
            InstanceTokenizer(input_dim=4, mode="x")

    def test_heads(self):
        message = "dim must be an even multiple of num_heads 3, got 9"
        with pytest.raises(ValueError, match=message):
            InstanceTokenizer(input_dim=4, dim=9, mode="user_order", num_heads=3)

    def test_a_past_in_temporal_mode(self):
        h, mask = users(1)
        with pytest.raises(ValueError, match="past must be None in mode 'temporal'"):
            tokenizer("temporal")(h, mask, torch.zeros(1, 2, 8), torch.ones(1, 2).bool())

    def test_half_a_past(self):
        h, mask = users(1)
        for past in ((torch.zeros(1, 2, 8), None), (None, torch.ones(1, 2).bool())):
            with pytest.raises(ValueError, match="past and past_mask must be given together"):
                tokenizer()(h, mask, *past)

    def test_shapes(self):
        h, mask = users(2, 2)
        module = tokenizer()
        with pytest.raises(ValueError, match=r"h must have shape \[\*, \*, 5\], got \[2, 5\]"):
            module(h[:, 0], mask)
        with pytest.raises(ValueError, match=r"mask must have shape \[2, 7\], got \[2, 6\]"):
            module(h, mask[:, 1:])
        with pytest.raises(ValueError, match=r"past must have shape \[2, \*, 8\], got \[1, 3, 8\]"):
            module(h, mask, torch.zeros(1, 3, 8), torch.ones(1, 3).bool())
        with pytest.raises(ValueError, match=r"past_mask must be bool, got torch.float32"):
            module(h, mask, torch.zeros(2, 3, 8), torch.ones(2, 3))

    def test_grouping(self):
        with pytest.raises(ValueError, match=r"one shape \[n\], got \[2\] and \[1\]"):
            user_order([1, 2], [1])
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            user_order([1], [1], count=0)
        with pytest.raises(TypeError, match="times must be integers, got float64"):
            user_order([1], [1.5])
