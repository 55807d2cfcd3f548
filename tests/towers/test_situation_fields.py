"""Situations as vectors, and what their holes and strangers become."""

import pytest
import torch

from sidrank.towers.situation_fields import (
    SituationFields,
    TypeParameterization,
    elapsed,
    known_times,
    one_hot_types,
)

NEVER = torch.iinfo(torch.int64).min


def embedder():
    torch.manual_seed(0)
    embed = SituationFields(dim=4, categories=[3, 5], numbers=2, bins=6)
    torch.nn.init.normal_(embed.table)
    torch.nn.init.normal_(embed.unknown)
    return embed


class TestFields:
    def test_each_reads_its_own_rows(self):
        embed, numbers = embedder(), torch.tensor([[0.5, -2.0]])
        found = embed(torch.tensor([[2, 4]]), numbers)[0]
        assert torch.equal(found[0], embed.table[2])
        assert torch.equal(found[1], embed.table[3 + 4])
        for f in range(2):
            torch.testing.assert_close(found[2 + f], embed.numbers[f](numbers[0, f]))

    def test_a_value_never_seen_reads_row_zero(self):
        embed, numbers = embedder(), torch.zeros(1, 2)
        for strange in ([0, 0], [3, 5], [-1, -7], [2**40, NEVER]):
            found = embed(torch.tensor([strange]), numbers)[0]
            assert torch.equal(found[0], embed.table[0])
            assert torch.equal(found[1], embed.table[3])

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_a_number_that_is_none_reads_a_row_of_its_own(self, value):
        embed = embedder()
        found = embed(torch.tensor([[1, 1]]), torch.tensor([[value, 1.0]]))[0]
        assert torch.equal(found[2], embed.unknown[0])
        assert not torch.equal(found[3], embed.unknown[1])
        found.sum().backward()
        assert all(p.grad.isfinite().all() for p in embed.parameters())
        assert (embed.unknown.grad[0] != 0).all()

    def test_what_is_not_known_is_zero_at_birth_and_learns(self):
        embed = SituationFields(dim=4, categories=[3], numbers=1)
        found = embed(torch.tensor([[9]]), torch.tensor([[torch.nan]]))
        assert not found.any()
        found.sum().backward()
        assert (embed.table.grad[0] == 1).all()
        assert (embed.unknown.grad == 1).all()

    def test_any_axes_in_front_and_either_kind_alone(self):
        embed = embedder()
        assert embed(torch.zeros(2, 3, 7, 2).long(), torch.zeros(2, 3, 7, 2)).shape[:3] == (2, 3, 7)
        assert SituationFields(dim=4, categories=[3])(torch.ones(2, 1).long()).shape == (2, 1, 4)
        assert SituationFields(dim=4, numbers=3)(None, torch.ones(2, 3)).shape == (2, 3, 4)

    def test_huge_numbers_stay_finite(self):
        embed = embedder()
        found = embed(torch.ones(1, 2).long(), torch.tensor([[3e38, -3e38]]))
        found.sum().backward()
        assert found.isfinite().all()
        assert all(p.grad.isfinite().all() for p in embed.parameters())


class TestParameterization:
    def test_equals_the_formula(self):
        change = TypeParameterization(num_types=3, dim=4, rank=2)
        torch.nn.init.normal_(change.u)
        fields, types = torch.randn(2, 5, 3, 4), torch.randint(0, 3, (2, 5))
        found = change(fields, types)
        for row in range(2):
            for place in range(5):
                kind = int(types[row, place])
                matrix = torch.eye(4) + change.u[kind].t() @ change.v[kind]
                for f in range(3):
                    expected = matrix @ fields[row, place, f]
                    torch.testing.assert_close(found[row, place, f], expected)

    def test_no_change_at_birth_and_alive(self):
        change, fields = TypeParameterization(num_types=3, dim=4), torch.randn(2, 5, 3, 4)
        found = change(fields, torch.ones(2, 5).long())
        assert torch.equal(found, fields)
        found.square().sum().backward()
        assert change.u.grad[1].any()
        assert not change.u.grad[[0, 2]].any()

    def test_a_strange_type_is_type_zero(self):
        assert one_hot_types(torch.tensor([[0, 2, 3, -1]]), 3).long().tolist() == [
            [[1, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]]
        ]


class TestTimes:
    def test_elapsed(self):
        times = torch.tensor([[90, 100, 101, NEVER]])
        found = elapsed(times, torch.tensor([100]))[0]
        assert float(found[0]) == pytest.approx(2.3978952)  # log 11
        assert float(found[1]) == 0.0
        assert found[2:].isnan().all()  # a negative gap is not a gap of zero
        assert elapsed(times, torch.tensor([NEVER])).isnan().all()

    def test_moves_with_the_clock(self):
        times, now = torch.randint(0, 10**9, (3, 5)), torch.randint(10**9, 2 * 10**9, (3,))
        assert torch.equal(elapsed(times, now), elapsed(times + 12345, now + 12345))

    def test_int32(self):
        times = torch.tensor([[5, torch.iinfo(torch.int32).min]], dtype=torch.int32)
        assert known_times(times).tolist() == [[True, False]]
        assert elapsed(times, torch.tensor([9], dtype=torch.int32)).isnan().tolist() == [
            [False, True]
        ]


class TestErrors:
    def test_sizes(self):
        with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
            SituationFields(dim=0, categories=[2])
        with pytest.raises(ValueError, match="numbers must be at least 0, got -1"):
            SituationFields(dim=2, numbers=-1)
        with pytest.raises(ValueError, match=r"categories must be at least 1 each, got \[2, 0\]"):
            SituationFields(dim=2, categories=[2, 0])
        with pytest.raises(ValueError, match="categories and numbers must be one field at least"):
            SituationFields(dim=2)

    @pytest.mark.parametrize("name", ["num_types", "dim", "rank"])
    def test_parameterization(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            TypeParameterization(**{"num_types": 2, "dim": 2, name: 0})

    def test_inputs(self):
        embed = embedder()
        with pytest.raises(ValueError, match=r"categories must have shape \[\.\.\., 2\], got None"):
            embed(None, torch.zeros(1, 2))
        with pytest.raises(
            ValueError, match=r"numbers must have shape \[\.\.\., 2\], got \[1, 3\]"
        ):
            embed(torch.zeros(1, 2).long(), torch.zeros(1, 3))
        with pytest.raises(ValueError, match="categories must be int32 or int64, got"):
            embed(torch.zeros(1, 2), torch.zeros(1, 2))
        with pytest.raises(ValueError, match=r"types must have shape \[2, 5\], got \[2, 4\]"):
            TypeParameterization(num_types=2, dim=4)(torch.zeros(2, 5, 1, 4), torch.zeros(2, 4))
        with pytest.raises(ValueError, match=r"now must have shape \[2\], got \[1\]"):
            elapsed(torch.zeros(2, 3).long(), torch.zeros(1).long())
