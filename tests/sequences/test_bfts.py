"""Bottom full, top sliding: the stream of fields, behaviours and targets."""

import pytest
import torch

from sidrank.sequences.bfts import BFTSEncoder
from tests.layers import reference_decoder
from tests.sequences import reference_bfts as reference

D = 8


def encoder(full_layers=1, windows=(4, 2), *, gated=True, num_heads=2):
    """Away from birth, in float64."""
    module = BFTSEncoder(
        dim=D,
        num_heads=num_heads,
        hidden=10,
        full_layers=full_layers,
        windows=windows,
        gated=gated,
    ).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def batch(rows=4, fields=3, length=7, targets=2):
    """Rows with no behaviour, with padding in between, on the left, and without any."""
    mask = torch.rand(rows, length) < 0.6
    mask[0] = False
    if rows > 2:
        mask[2], mask[3] = torch.arange(length) > 1, True
    sizes = {"static": fields, "behaviours": length, "targets": targets}
    given = {name: torch.randn(rows, k, D, dtype=torch.float64) for name, k in sizes.items()}
    return {**given, "mask": mask}


def by_hand(module, inputs):
    weights, answers = reference_decoder.weights_of(module), []
    for row, mask in enumerate(inputs["mask"]):
        states = [
            reference.target_state(
                weights,
                list(inputs["static"][row].numpy()),
                list(inputs["behaviours"][row][mask].numpy()),
                target.numpy(),
                num_heads=2,
                full_layers=module.full_layers,
                windows=module.windows,
            )
            for target in inputs["targets"][row]
        ]
        answers.append(torch.stack([torch.from_numpy(state) for state in states]))
    return torch.stack(answers)


WINDOWS = [(), (1,), (2,), (3,), (9,), (50,), (3, 2), (4, 4), (5, 3, 2), (9, 4, 1)]


class TestEqualsThePaper:
    @pytest.mark.parametrize("full_layers", [1, 2, 3])
    @pytest.mark.parametrize("windows", WINDOWS, ids=str)
    def test_at_any_depth_and_window(self, full_layers, windows):
        module, inputs = encoder(full_layers, windows), batch()
        torch.testing.assert_close(module(**inputs), by_hand(module, inputs), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("fields", [0, 1])
    def test_with_few_fields(self, fields):
        module, inputs = encoder(), batch(fields=fields)
        torch.testing.assert_close(module(**inputs), by_hand(module, inputs), rtol=1e-5, atol=1e-6)

    def test_ungated_and_full_is_a_vanilla_decoder(self):
        module, inputs = encoder(3, (), gated=False), batch(rows=1)
        weights = reference_decoder.weights_of(module)
        inputs["mask"] = torch.ones_like(inputs["mask"])
        static, behaviours, target = (
            list(inputs[name][0].numpy()) for name in ("static", "behaviours", "targets")
        )
        tokens = [*static, weights["separators"][0], *behaviours, weights["separators"][1]]
        tokens.append(target[0])
        positions = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
        for layer in range(3):
            w = reference_decoder.within(weights, f"blocks.{layer}")
            tokens = reference_decoder.block(tokens, positions, w, 2, lambda i, j: j <= i)
        last = reference_decoder.rms_norm(tokens[-1], weights["norm.weight"])
        answer = module(**inputs)[0, 0]
        torch.testing.assert_close(answer, torch.from_numpy(last), rtol=1e-5, atol=1e-6)

    def test_gated_is_born_ungated(self):
        plain = encoder(gated=False)
        gated = BFTSEncoder(dim=D, num_heads=2, hidden=10, windows=(4, 2)).double()
        missing = gated.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert len(missing) == 6
        assert all("residual.gate" in name for name in missing)
        inputs = batch()
        assert torch.equal(gated(**inputs), plain(**inputs))


class TestStaticTokens:
    def test_are_gone_above_the_full_layers(self):
        module, inputs, seen = encoder(2, (50, 3)), batch(), []
        for block in module.blocks:
            block.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
        answers = module.every_token(**inputs)[1]
        assert seen == [4 + 8 + 2, 4 + 8 + 2, 8 + 2, 8 + 2]

        def spoil(_, given, states):
            states = states.clone()
            states[:, :4] = float("nan")
            return states

        module.blocks[1].register_forward_hook(spoil)
        assert torch.equal(module.every_token(**inputs)[1], answers)

    def test_speak_through_the_lower_layers_alone(self):
        module, inputs = encoder(2, (50, 3)), batch()
        inputs["static"].requires_grad_()
        module(**inputs).sum().backward()
        assert inputs["static"].grad.abs().amax(dim=(1, 2)).min() > 0.0
        inputs["static"].grad = None
        targets = inputs["targets"].requires_grad_()

        def cut(_, given):
            return given[0].detach() + 0.0 * targets.sum(), *given[1:]

        module.blocks[2].register_forward_pre_hook(cut)
        module(**inputs).sum().backward()
        assert inputs["static"].grad is None


class TestReach:
    @pytest.mark.parametrize("windows", WINDOWS[1:], ids=str)
    def test_of_the_windows_is_exactly_the_sum_of_their_steps(self, windows):
        """A leaf in place of the stream above the full layer: who has a gradient?"""
        length = 16
        module, inputs = encoder(1, windows), batch(rows=1, length=length, targets=1)
        inputs["mask"] = torch.ones(1, length).bool()
        leaves = []

        def take(_, given):
            leaves.append(given[0].detach().requires_grad_())
            return leaves[-1], *given[1:]

        module.blocks[1].register_forward_pre_hook(take)
        reach = 1 + sum(window - 1 for window in windows)
        tokens, target = module.every_token(**inputs)
        stream = torch.cat([tokens, target], dim=1)
        for place in range(length + 2):
            (slope,) = torch.autograd.grad(stream[0, place].sum(), leaves[0], retain_graph=True)
            heard = slope[0].abs().amax(dim=1) > 0.0
            expected = [max(0, place - reach + 1) <= other <= place for other in range(length + 2)]
            assert heard.tolist() == expected

    @pytest.mark.parametrize("full_layers", [1, 2])
    @pytest.mark.parametrize("windows", WINDOWS, ids=str)
    def test_what_is_out_of_reach_need_not_be_computed(self, full_layers, windows):
        module, inputs = encoder(full_layers, windows), batch(rows=6, length=12)
        torch.testing.assert_close(module(**inputs), module.every_token(**inputs)[1])

    def test_it_is_not_computed(self):
        module, inputs, seen = encoder(1, (5, 3, 2)), batch(length=40), []
        for block in module.blocks:
            block.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
        module(**inputs)
        assert seen == [4 + 41 + 2, 7 + 2, 3 + 2, 1 + 2]

    def test_every_token_gives_real_ones_first(self):
        module, inputs = encoder(2, (3,)), batch()
        tokens, targets = module.every_token(**inputs)
        assert tokens.shape == (4, 8, D)
        assert targets.shape == (4, 2, D)
        kept = inputs["mask"][1]
        alone = {name: x[1:2] for name, x in inputs.items()}
        alone |= {"behaviours": alone["behaviours"][:, kept], "mask": alone["mask"][:, kept]}
        real = int(kept.sum()) + 1
        torch.testing.assert_close(tokens[1:2, :real], module.every_token(**alone)[0])


class TestPadding:
    def test_may_stand_anywhere(self):
        module, inputs = encoder(1, (3, 2)), batch(rows=1, length=4)
        inputs["mask"] = torch.ones(1, 4).bool()
        answers = module(**inputs)
        for places in ([0, 1, 2, 3], [3, 4, 5, 6], [0, 2, 5, 8]):
            mask = torch.zeros(1, 9).bool()
            mask[0, places] = True
            behaviours = torch.full((1, 9, D), float("nan"), dtype=torch.float64)
            behaviours[0, places] = inputs["behaviours"][0]
            padded = module(**inputs | {"behaviours": behaviours, "mask": mask})
            torch.testing.assert_close(padded, answers)

    def test_order_of_behaviours_matters(self):
        module, inputs = encoder(), batch()
        turned = module(**inputs | {name: inputs[name].flip(1) for name in ("behaviours", "mask")})
        assert (turned[3] - module(**inputs)[3]).abs().max() > 1e-3

    def test_has_no_gradient(self):
        module, inputs = encoder(), batch()
        inputs["behaviours"].requires_grad_()
        module(**inputs).sum().backward()
        slopes = inputs["behaviours"].grad.abs().amax(dim=2)
        assert torch.equal(slopes > 0.0, inputs["mask"])


class TestSizes:
    @pytest.mark.parametrize("name", ["targets", "behaviours", "static"])
    def test_zero(self, name):
        module, inputs = encoder(), batch()
        inputs[name] = inputs[name][:, :0]
        if name == "behaviours":
            inputs["mask"] = inputs["mask"][:, :0]
        answers = module(**inputs)
        assert answers.shape == (4, inputs["targets"].shape[1], D)
        assert answers.isfinite().all()

    def test_a_thousand_candidates_are_each_alone(self):
        module, inputs = encoder(), batch(rows=2, targets=1000)
        answers = module(**inputs)
        for c in (0, 999):
            one = inputs | {"targets": inputs["targets"][:, c : c + 1]}
            torch.testing.assert_close(module(**one), answers[:, c : c + 1])

    def test_exports_for_any_number_of_rows(self):
        module, rows = encoder(), torch.export.Dim("rows", min=2)
        shapes = {name: {0: rows} for name in ("static", "behaviours", "mask", "targets")}
        exported = torch.export.export(module, (), kwargs=batch(), dynamic_shapes=shapes).module()
        for size in (2, 9):
            inputs = batch(rows=size)
            torch.testing.assert_close(exported(**inputs), module(**inputs))


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "num_heads", "hidden", "full_layers", "windows"])
    def test_sizes(self, name):
        sizes = {"dim": 4, "hidden": 4, name: [0] if name == "windows" else 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            BFTSEncoder(**sizes)

    def test_heads(self):
        with pytest.raises(ValueError, match=r"dim must be a multiple of 2 \* num_heads 3, got 9"):
            BFTSEncoder(dim=9, num_heads=3, hidden=4)

    def test_windows(self):
        with pytest.raises(ValueError, match=r"windows must not grow, got \[2, 3\]"):
            BFTSEncoder(dim=4, hidden=4, windows=[2, 3])

    def test_shapes(self):
        module, inputs = encoder(), batch()
        for name in ("static", "behaviours", "targets"):
            rows = r"\*" if name == "behaviours" else "4"
            with pytest.raises(ValueError, match=rf"{name} must have shape \[{rows}, \*, 8\]"):
                module(**inputs | {name: inputs[name][:, :, 1:]})
        with pytest.raises(ValueError, match=r"mask must have shape \[4, 7\], got \[4, 6\]"):
            module(**inputs | {"mask": inputs["mask"][:, 1:]})
        with pytest.raises(ValueError, match=r"mask must be bool, got torch\.int64"):
            module(**inputs | {"mask": inputs["mask"].long()})
