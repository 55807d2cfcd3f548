"""Sparse experts and their balance."""

import pytest
import torch

from sidrank.layers.sparse_moe import SparseMoE, balance_experts
from tests.layers import reference_mixing as reference

D = 4


def mixture(k=2, num_experts=5, **given):
    module = SparseMoE(dim=D, hidden=6, num_experts=num_experts, k=k, **given)
    module.bias.normal_(std=0.1)
    return module


def dense(module, x):
    """Every expert reads every token; what was not chosen is multiplied by zero."""
    scores = torch.sigmoid(x @ module.router[0].t())
    chosen = torch.topk(scores.detach() + module.bias, module.k, dim=-1).indices
    weights = torch.zeros_like(scores).scatter(-1, chosen, scores.gather(-1, chosen))
    inner = torch.nn.functional.gelu(torch.einsum("nd,edh->neh", x, module.hidden))
    return torch.einsum("neh,ehd,ne->nd", inner, module.out, weights)


def gradients(module, outputs):
    weighted = outputs * torch.linspace(-1.0, 1.0, outputs.numel()).view_as(outputs)
    return torch.autograd.grad(weighted.sum(), list(module.parameters()))


class TestMixture:
    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_equals_the_definition(self, k):
        module, x = mixture(k), torch.randn(3, 4, D)
        experts, answers = reference.experts(module), module(x)
        loads = [0] * 5
        for place in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
            expected, chosen = reference.mixture(
                x[tuple(place)].tolist(),
                module.router[0].tolist(),
                module.bias[0].tolist(),
                experts,
                k,
            )
            torch.testing.assert_close(answers[tuple(place)], torch.tensor(expected))
            for e in chosen:
                loads[e] += 1
        assert module.load.tolist() == [loads]

    @pytest.mark.parametrize("rows", [0, 1, 50])
    def test_gradients_equal_those_of_all_experts(self, rows):
        module, x = mixture(), torch.randn(rows, D)
        sparse, full = gradients(module, module(x)), gradients(module, dense(module, x))
        for one, other in zip(sparse, full, strict=True):
            torch.testing.assert_close(one, other)

    def test_gradient_to_the_tokens(self):
        module, x = mixture(), torch.randn(9, D, requires_grad=True)
        one, other = (
            torch.autograd.grad(answer.square().sum(), x)[0]
            for answer in (module(x), dense(module, x))
        )
        torch.testing.assert_close(one, other)

    def test_expert_nobody_wants(self):
        module, x = mixture(k=1), torch.randn(7, D)
        module.bias.fill_(-9.0)[0, 3] = 9.0
        module(x).sum().backward()
        assert module.load.tolist() == [[0, 0, 0, 7, 0]]
        assert module.hidden.grad.flatten(1).any(dim=1).tolist() == [False] * 3 + [True, False]

    def test_each_position_has_experts_of_its_own(self):
        module, x = mixture(num_tokens=3), torch.randn(6, 3, D)
        module.bias.normal_(std=0.1)
        together = module(x)
        for token in range(3):
            alone = SparseMoE(dim=D, hidden=6, num_experts=5, k=2)
            own = slice(5 * token, 5 * token + 5)
            weights = {"router": module.router[token : token + 1], "hidden": module.hidden[own]}
            weights |= {"out": module.out[own], "bias": module.bias[token : token + 1]}
            alone.load_state_dict(weights | {"load": torch.zeros(1, 5).long()})
            torch.testing.assert_close(alone(x[:, token]), together[:, token])
            assert torch.equal(alone.load[0], module.load[token])

    def test_padding_goes_to_nobody(self):
        module, x = mixture(), torch.randn(4, 6, D)
        mask = torch.rand(4, 6) < 0.5
        full = module(x)
        module.load.zero_()
        x[~mask] = float("nan")
        answers = module(x.requires_grad_(), mask)
        torch.testing.assert_close(answers[mask], full[mask])
        assert not answers[~mask].any()
        assert int(module.load.sum()) == 2 * int(mask.sum())
        answers.sum().backward()
        assert not x.grad[~mask].any()
        assert all(parameter.grad.isfinite().all() for parameter in module.parameters())

    def test_whom_a_token_goes_to_depends_on_itself_alone(self):
        """In float32 the last bits of a product depend on the shape of the batch."""
        module = SparseMoE(dim=64, hidden=8, num_experts=64, k=8)
        with torch.no_grad():
            module.router.copy_(module.router[:, :1] + 1e-7 * torch.randn(1, 64, 64))
        x = torch.randn(500, 64)
        module(x)
        together = module.load.clone()
        module.load.zero_()
        for row in x:
            module(row)
        assert torch.equal(module.load, together)

    def test_half_precision_in_and_out(self):
        module, x = mixture(), torch.randn(5, D)
        answers = module(x.bfloat16())
        assert answers.dtype == torch.bfloat16
        torch.testing.assert_close(
            answers.float(), module(x.bfloat16().float()), atol=0.02, rtol=0.02
        )

    def test_exported_program_takes_any_number_of_rows(self):
        module, x = mixture().eval(), torch.randn(5, 3, D)
        rows = torch.export.Dim("rows")
        program = torch.export.export(module, (x,), dynamic_shapes=({0: rows},)).module()
        for number in (5, 8):
            x = torch.randn(number, 3, D)
            torch.testing.assert_close(program(x), module(x))


class TestBalance:
    def test_moves_each_bias_one_step(self):
        module = mixture(num_experts=4, step=0.25)
        module.bias.zero_()
        module.load.copy_(torch.tensor([[9, 5, 0, 6]]))  # mean 5
        assert balance_experts(module) == 1
        assert module.bias.tolist() == [[-0.25, 0.0, 0.25, -0.25]]
        assert module.load.tolist() == [[0, 0, 0, 0]]

    def test_each_position_by_its_own_mean(self):
        module = mixture(num_experts=2, num_tokens=2, step=0.5)
        module.bias.zero_()
        module.load.copy_(torch.tensor([[3, 1], [100, 200]]))
        balance_experts(torch.nn.Sequential(module))
        assert module.bias.tolist() == [[-0.5, 0.5], [0.5, -0.5]]

    def test_counts_in_training_mode_only(self):
        module = mixture()
        module.eval()(torch.randn(7, D))
        assert not module.load.any()
        module.train()(torch.randn(7, D))
        module(torch.randn(2, D))
        assert int(module.load.sum()) == 18

    @pytest.mark.parametrize("way", [torch.compile, torch.fx.symbolic_trace])
    def test_compiled_and_traced_modules_count_too(self, way):
        module = mixture()
        torch._dynamo.reset()
        other = way(module, backend="aot_eager") if way is torch.compile else way(module)
        other(torch.randn(7, D))
        load = other.load if way is torch.fx.symbolic_trace else module.load
        assert int(load.sum()) == 14

    def test_skewed_router_becomes_even(self):
        """From one expert with nearly everything to a ratio of at most 1.2."""
        torch.manual_seed(3)
        module = SparseMoE(dim=8, hidden=8, num_experts=8, k=2, step=0.003)
        skew = torch.linspace(1.5, -1.5, 8).unsqueeze(1) * torch.ones(8) / 8
        with torch.no_grad():
            module.router.copy_(skew + 0.3 * torch.randn(8, 8))
        before, after = [], []
        for step in range(300):
            module(torch.randn(2000, 8) + 1.0)
            load = module.load[0].float()
            ratio = float(load.max() / load.mean())
            (before if step == 0 else after).append(ratio)
            balance_experts(module)
        assert before[0] > 2.0
        assert max(after[-50:]) <= 1.2

    def test_control_without_steps_stays_skewed(self):
        module = SparseMoE(dim=8, hidden=8, num_experts=8, k=2, step=0.0)
        with torch.no_grad():
            module.router.copy_(torch.linspace(1.5, -1.5, 8).unsqueeze(1) * torch.ones(8) / 8)
        for _ in range(3):
            module(torch.randn(500, 8) + 1.0)
            load = module.load[0].float()
            balance_experts(module)
        assert not module.bias.any()
        assert load.max() / load.mean() > 2.0

    def test_task_gradient_holds_no_term_for_the_balance(self):
        """The same tokens to the same experts: the same gradient, whatever the bias is."""
        module, x = mixture(), torch.randn(40, D)
        with torch.no_grad():
            module.router.mul_(4.0)  # scores far enough apart for a small bias to change nothing
        module.bias.zero_()
        plain, load = gradients(module, module(x)), module.load.clone()
        module.load.zero_()
        module.bias.copy_(torch.linspace(-1e-6, 1e-6, 5))
        biased = gradients(module, module(x))
        assert torch.equal(module.load, load)
        for one, other in zip(plain, biased, strict=True):
            assert torch.equal(one, other)
        module.bias.copy_(torch.linspace(-1.0, 1.0, 5))  # the check can fail: others are chosen
        assert not torch.equal(gradients(module, module(x))[0], plain[0])
        assert not module.bias.requires_grad

    def test_travels_with_the_checkpoint(self):
        module = mixture(step=0.5)
        module(torch.randn(30, D))
        other = mixture(step=0.5)
        other.load_state_dict(module.state_dict())
        balance_experts(module)
        balance_experts(other)
        assert torch.equal(module.bias, other.bias)


def _balanced(state, x, steps):
    import torch.distributed as dist

    module = torch.nn.ModuleList([mixture(step=0.01), mixture(step=0.02, num_tokens=2)])
    module.load_state_dict(state)
    mine = x.chunk(dist.get_world_size())[dist.get_rank()]
    for _ in range(steps):
        module[0](mine)
        module[1](mine.unflatten(0, (-1, 2)))
        balance_experts(module)
    return [part.bias for part in module]


def test_two_ranks_with_half_the_rows_move_as_one_with_all(ranks):
    module = torch.nn.ModuleList([mixture(step=0.01), mixture(step=0.02, num_tokens=2)])
    x, state = torch.randn(40, D) + 1.0, module.state_dict()
    state = {name: value.clone() for name, value in state.items()}
    both = ranks.run(_balanced, state, x, 5)
    for _ in range(5):
        module[0](x)
        module[1](x.unflatten(0, (-1, 2)))
        balance_experts(module)
    for biases in both:
        for part, bias in zip(module, biases, strict=True):
            torch.testing.assert_close(bias, part.bias, rtol=0.0, atol=0.0)
    # the check can fail: half the rows alone would have moved otherwise
    module.load_state_dict(state)
    for _ in range(5):
        module[0](x[:20])
        balance_experts(module)
    assert not torch.equal(module[0].bias, both[0][0])


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "hidden", "num_experts", "k", "num_tokens"])
    def test_sizes(self, name):
        sizes = {"dim": 4, "hidden": 4, "num_experts": 2, "k": 1, "num_tokens": 2, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SparseMoE(**sizes)

    def test_more_chosen_than_there_are(self):
        with pytest.raises(ValueError, match="k must be at most num_experts 2, got 3"):
            SparseMoE(dim=4, hidden=4, num_experts=2, k=3)

    @pytest.mark.parametrize("step", [-0.1, float("nan")])
    def test_step(self, step):
        with pytest.raises(ValueError, match=f"step must be at least 0, got {step}"):
            SparseMoE(dim=4, hidden=4, num_experts=2, step=step)

    def test_shapes(self):
        with pytest.raises(ValueError, match=r"x must have shape \[..., 4\], got \[2, 5\]"):
            mixture()(torch.zeros(2, 5))
        with pytest.raises(ValueError, match=r"x must have shape \[..., 3, 4\], got \[2, 4\]"):
            mixture(num_tokens=3)(torch.zeros(2, 4))
        with pytest.raises(ValueError, match=r"mask must have shape \[2\], got \[3\]"):
            mixture()(torch.zeros(2, 4), torch.ones(3).bool())
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.float32"):
            mixture()(torch.zeros(2, 4), torch.ones(2))

    def test_nothing_to_balance(self):
        with pytest.raises(ValueError, match="module must contain a SparseMoE, got Linear"):
            balance_experts(torch.nn.Linear(2, 2))
        with pytest.raises(ValueError, match=r"module must have run in training mode .* no token"):
            balance_experts(mixture().eval())
