"""The token and the gate of an objective and a scene."""

import pytest
import torch

from sidrank.layers import TaskConditionedBOS, TaskGate


def bos(**settings):
    return TaskConditionedBOS(**{"num_objectives": 2, "num_scenes": 3, "dim": 4, **settings})


def test_one_token_for_each_pair():
    objective, scene = torch.cartesian_prod(torch.arange(2), torch.arange(3)).t()
    tokens = bos()(objective, scene, torch.zeros(6, 0))
    assert tokens.shape == (6, 1, 4)
    assert len(tokens.unique(dim=0)) == 6


def test_only_its_own_pair_learns():
    module = bos()
    module(torch.tensor([1]), torch.tensor([0]), torch.zeros(1, 0)).sum().backward()
    assert module.tokens.grad.any(dim=1).nonzero().flatten().tolist() == [3]


def test_summary_is_projected_and_added():
    module, summary = bos(summary_dim=5), torch.randn(2, 5)
    objective, scene = torch.tensor([0, 1]), torch.tensor([2, 2])
    without = module(objective, scene, torch.zeros(2, 5))
    added = module(objective, scene, summary) - without
    torch.testing.assert_close(added.squeeze(1), summary @ module.summary.weight.t())


def test_takes_int32():
    zero = torch.zeros(1, dtype=torch.int32)
    assert bos()(zero, zero, torch.zeros(1, 0)).shape == (1, 1, 4)


class TestGate:
    @pytest.mark.parametrize("autocast", [False, True])
    def test_identity_at_birth(self, autocast):
        gate, x = TaskGate(dim=5, token_dim=4), torch.randn(64, 5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert torch.equal(gate(x, torch.randn(64, 1, 4)), x)

    def test_factor_is_between_0_and_2_and_reads_the_task(self):
        gate = TaskGate(dim=5, token_dim=4)
        torch.nn.init.normal_(gate.gate.weight, std=100.0)
        x = torch.ones(64, 5)
        scaled = gate(x, torch.randn(64, 1, 4))
        assert ((scaled >= 0) & (scaled <= 2)).all()
        assert scaled.min() < 0.1
        assert scaled.max() > 1.9

    def test_gate_does_not_teach_the_vector_it_reads(self):
        gate = TaskGate(dim=5, token_dim=4)
        torch.nn.init.normal_(gate.gate.weight)
        x, token = torch.randn(1, 5, requires_grad=True), torch.randn(1, 1, 4)
        scaled = gate(x, token)
        scaled.sum().backward()
        torch.testing.assert_close(x.grad, scaled.detach() / x.detach())


class TestErrors:
    @pytest.mark.parametrize(("objective", "scene"), [(0, 3), (0, -1), (-1, 0), (2, 0), (-1, 5)])
    def test_outside_is_no_other_pair(self, objective, scene):
        with pytest.raises(IndexError, match="index out of range"):
            bos()(torch.tensor([objective]), torch.tensor([scene]), torch.zeros(1, 0))

    @pytest.mark.parametrize("name", ["num_objectives", "num_scenes", "dim"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            bos(**{name: 0})

    def test_summary_dim(self):
        with pytest.raises(ValueError, match="summary_dim must be at least 0, got -1"):
            bos(summary_dim=-1)

    def test_shapes_and_dtypes(self):
        zero = torch.zeros(2, dtype=torch.int64)
        with pytest.raises(
            ValueError, match=r"objective must be int32 or int64, got torch.float32"
        ):
            bos()(torch.zeros(2), zero, torch.zeros(2, 0))
        with pytest.raises(ValueError, match=r"scene must be int32 or int64, got torch.float32"):
            bos()(zero, torch.zeros(2), torch.zeros(2, 0))
        with pytest.raises(ValueError, match=r"scene must have shape \[2\], got \[1\]"):
            bos()(zero, zero[:1], torch.zeros(2, 0))
        with pytest.raises(ValueError, match=r"summary must have shape \[2, 0\], got \[2, 5\]"):
            bos()(zero, zero, torch.zeros(2, 5))

    @pytest.mark.parametrize("name", ["dim", "token_dim", "hidden"])
    def test_gate_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            TaskGate(**{"dim": 2, "token_dim": 2, "hidden": 2, name: 0})

    def test_gate_shapes(self):
        gate = TaskGate(dim=5, token_dim=4)
        with pytest.raises(ValueError, match=r"x must have shape \[\*, 5\], got \[2, 4\]"):
            gate(torch.zeros(2, 4), torch.zeros(2, 1, 4))
        with pytest.raises(ValueError, match=r"token must have shape \[2, 1, 4\], got \[2, 4\]"):
            gate(torch.zeros(2, 5), torch.zeros(2, 4))
