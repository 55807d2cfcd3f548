"""The situation tower: its definition, its choice, its directions, what it may know."""

import numpy as np
import pytest
import torch

from sidrank.layers.gumbel_keep import GumbelKeep, keep_share
from sidrank.towers.situation_aggregation import TypedTargetAttention
from sidrank.towers.situation_correlations import SituationCorrelations
from sidrank.towers.situation_denoising import SituationDenoising
from sidrank.towers.situation_fields import TypeParameterization
from sidrank.towers.situation_tower import SituationTower
from tests.towers import reference_situations as reference

B, C, L, E, D, F, R, TYPES = 4, 3, 6, 5, 4, 2, 3, 3
NEVER = torch.iinfo(torch.int64).min


def situation_tower(seed=0, keep=None):
    """Away from birth, where a part that is zero would not be missed."""
    torch.manual_seed(seed)
    tower = SituationTower.of(
        item_dim=E, dim=D, num_fields=F, num_request_fields=R, num_types=TYPES
    )
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        tower.denoise.bias.zero_()  # so that about half is kept, and candidates differ
        tower.denoise.out.weight.normal_()
        tower.denoise.hidden.weight.normal_()
    if keep is not None:
        tower.denoise.keep = keep
    return tower


def inputs(seed=1):
    torch.manual_seed(seed)
    mask = torch.rand(B, L) < 0.8
    mask[0] = False
    return {
        "target": torch.randn(B, C, E),
        "history": torch.randn(B, L, E),
        "situation": torch.randn(B, L, F, D),
        "request": torch.randn(B, R, D),
        "types": torch.randint(0, TYPES, (B, L)),
        "mask": mask,
        "times": torch.randint(0, 9, (B, L)),
        "now": torch.tensor([9, 9, 5, 7]),
    }


def test_equals_the_definition():
    tower, given = situation_tower().eval(), inputs()
    weights = {name: value.tolist() for name, value in tower.state_dict().items()}
    answers, kept = tower(**given)
    some = set()
    for row in range(B):
        known = [
            place
            for place in range(L)
            if given["mask"][row, place] and given["times"][row, place] < given["now"][row]
        ]
        for c in range(C):
            answer, choice = reference.tower(
                weights,
                given["target"][row, c].tolist(),
                given["history"][row, known].tolist(),
                given["situation"][row, known].tolist(),
                given["request"][row].tolist(),
                given["types"][row, known].tolist(),
                TYPES,
            )
            torch.testing.assert_close(answers[row, c], torch.tensor(answer))
            assert kept[row, c, known].tolist() == choice
            assert kept[row, c].sum() == sum(choice)
            some |= set(choice)
    assert some == {0.0, 1.0}


def test_at_temperature_zero_it_trains_as_it_evaluates():
    tower, given = situation_tower(keep=GumbelKeep(temperature=1e-4)), inputs()
    with torch.no_grad():
        tower.denoise.out.weight *= 1e4  # decided, far from the noise
    trained, kept = tower.train()(**given)
    evaluated, chosen = tower.eval()(**given)
    assert torch.equal(kept, chosen)
    torch.testing.assert_close(trained, evaluated)
    assert 0 < kept.mean().item() < 0.9


def test_a_seed_makes_training_reproducible():
    tower, given, found = situation_tower().train(), inputs(), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(tower(**given)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    tower.eval()
    assert torch.equal(tower(**given)[0], tower(**given)[0])


@pytest.mark.parametrize("training", [True, False])
def test_gradient_reaches_the_keep_logit(training):
    tower = situation_tower().train(training)
    tower(**inputs())[0].square().sum().backward()
    for name, parameter in tower.denoise.named_parameters():
        assert float(parameter.grad.abs().sum()) > 0, name


def test_a_budget_of_weight_zero_has_no_gradient():
    tower, given = situation_tower(), inputs()
    for budget, positive in ((0.0, False), (1.0, True)):
        tower.zero_grad()
        kept = tower(**given)[1]
        (budget * keep_share(kept, given["mask"]).mean()).backward()
        assert bool(tower.denoise.bias.grad != 0) == positive


def test_a_choice_is_of_one_candidate():
    kept = situation_tower().eval()(**inputs())[1]
    assert any(not torch.equal(kept[row, 0], kept[row, 1]) for row in range(B))


def test_what_is_dropped_is_read_as_if_it_never_was():
    attend, keys = (
        TypedTargetAttention(query_dim=3, key_dim=4, dim=6, num_types=2),
        torch.randn(2, 5, 4),
    )
    query, types = torch.randn(2, 1, 3), torch.randint(0, 2, (2, 5))
    kept = torch.ones(2, 1, 5)
    kept[:, :, 2] = 0.0
    without = [0, 1, 3, 4]
    one = attend(query, keys, types, kept)
    other = attend(query, keys[:, without], types[:, without], kept[:, :, without])
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, attend(query, keys, types, torch.ones(2, 1, 5)))


def test_keeping_less_of_everything_reads_less():
    attend = TypedTargetAttention(query_dim=3, key_dim=4, dim=6, num_types=1)
    given = torch.randn(1, 1, 3), torch.randn(1, 5, 4), torch.zeros(1, 5).long()
    answers = [attend(*given, torch.full((1, 1, 5), keep)) for keep in (1.0, 0.1, 0.01)]
    sizes = [answer.norm().item() for answer in answers]
    assert sizes[0] > 1.5 * sizes[1] > 3 * sizes[2] > 0


def test_types_are_read_apart():
    attend, types = (
        TypedTargetAttention(query_dim=3, key_dim=4, dim=6, num_types=3),
        torch.tensor([[1, 1, 2, 2]]),
    )
    query, keys, kept = torch.randn(1, 1, 3), torch.randn(1, 4, 4), torch.ones(1, 1, 4)
    before = attend(query, keys, types, kept).unflatten(2, (3, 6))
    keys[:, 2:] += 1.0
    after = attend(query, keys, types, kept).unflatten(2, (3, 6))
    assert not before[:, :, 0].any()
    assert torch.equal(before[:, :, 1], after[:, :, 1])
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])


def test_what_is_alike_is_read_first_from_birth():
    torch.manual_seed(0)
    attend = TypedTargetAttention(query_dim=6, key_dim=8, dim=32, num_types=2)
    with torch.no_grad():  # the answer is the share of what the last lane marks
        attend.value.weight.zero_()
        attend.value.bias.zero_()
        attend.value.weight[:, -1] = 1.0
    query, keys = torch.randn(200, 1, 6), torch.randn(200, 9, 8)
    keys[:, 0, :6] = query[:, 0]
    keys[:, :, 6], keys[:, :, 7] = 0.0, torch.eye(9)[0]
    for kind in range(2):
        answer = attend(query, keys, torch.full((200, 9), kind), torch.ones(200, 1, 9))
        assert answer.unflatten(2, (2, 32))[:, :, kind].mean() > 0.6


def test_nearly_all_is_kept_at_birth():
    torch.manual_seed(0)
    tower = SituationTower.of(
        item_dim=E, dim=D, num_fields=F, num_request_fields=R, num_types=TYPES
    )
    given = inputs()
    given["times"] = torch.zeros_like(given["times"])
    assert tower(**given)[1][:, 0][given["mask"]].mean() > 0.95
    assert tower.eval()(**given)[1][:, 0][given["mask"]].all()


class TestBadInput:
    def test_nothing_visible_is_zero(self):
        for training in (True, False):
            tower, given = situation_tower().train(training), inputs()
            answer, kept = tower(**given)
            assert not answer[0].any()
            assert not kept[0].any()
            given["times"] = given["times"] + 10  # all gaps are negative
            assert not tower(**given)[0].any()
            answer.sum().backward()
            assert all(p.grad.isfinite().all() for p in tower.parameters())

    def test_a_time_that_is_not_known(self):
        tower, given = situation_tower().eval(), inputs()
        before = tower(**given)[0]
        hidden = given["mask"].clone()
        hidden[1] &= torch.arange(L) > 3
        expected = tower(**{**given, "mask": hidden})[0]
        given["times"][1, :4] = NEVER
        assert torch.equal(tower(**given)[0], expected)
        assert not torch.equal(expected, before)
        given["now"][2] = NEVER  # a request without a time knows nothing
        assert not tower(**given)[0][2].any()

    def test_not_a_time_of_numpy(self):
        assert np.array(["NaT"], "datetime64[s]").view(np.int64)[0] == NEVER

    def test_a_type_that_was_never_seen_is_type_zero(self):
        tower, given = situation_tower().eval(), inputs()
        given["types"][1] = 0
        expected = tower(**given)[0]
        for strange in (TYPES, 1000, -1):
            given["types"][1] = strange
            assert torch.equal(tower(**given)[0], expected)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
    def test_gradients_are_finite_whatever_padding_holds(self, value):
        tower, given = situation_tower().train(), inputs()
        for name in ("history", "situation"):
            given[name][~given["mask"]] = value
        answer, kept = tower(**given)
        (answer.sum() + kept.sum()).backward()
        assert all(p.grad.isfinite().all() for p in tower.parameters())


def parts(**changed):
    built = {
        "denoise": SituationDenoising(item_dim=E, situation_dim=F * D),
        "parameterize": TypeParameterization(num_types=TYPES, dim=D),
        "correlate": SituationCorrelations(dim=D),
        "aggregate": TypedTargetAttention(
            query_dim=E + R * D, key_dim=E + F * D, dim=E, num_types=TYPES
        ),
    }
    return SituationTower(**{**built, **changed})


def typed(query_dim=E + R * D, key_dim=E + F * D, num_types=TYPES):
    return TypedTargetAttention(query_dim=query_dim, key_dim=key_dim, dim=E, num_types=num_types)


class TestErrors:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"correlate": SituationCorrelations(dim=8)}, "correlate must have width 4, got 8"),
            (
                {"denoise": SituationDenoising(item_dim=E, situation_dim=7)},
                "denoise must have a situation_dim that is a multiple of 4, got 7",
            ),
            ({"aggregate": typed(key_dim=9)}, "aggregate must have the key_dim 13, got 9"),
            (
                {"aggregate": typed(query_dim=E)},
                "aggregate must have a query_dim of 5 and a positive multiple of 4, got 5",
            ),
            ({"aggregate": typed(num_types=2)}, "aggregate must have 3 types, got 2"),
        ],
    )
    def test_parts(self, changed, message):
        with pytest.raises(ValueError, match=message):
            parts(**changed)

    @pytest.mark.parametrize("name", ["item_dim", "situation_dim", "hidden"])
    def test_denoising(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SituationDenoising(**{"item_dim": 4, "situation_dim": 4, name: 0})

    @pytest.mark.parametrize("name", ["query_dim", "key_dim", "dim", "num_types", "num_heads"])
    def test_aggregation(self, name):
        sizes = {"query_dim": 4, "key_dim": 4, "dim": 4, "num_types": 2}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            TypedTargetAttention(**{**sizes, name: 0})
        with pytest.raises(ValueError, match="num_heads must divide the width 4, got 3"):
            TypedTargetAttention(**sizes, num_heads=3)

    @pytest.mark.parametrize("name", ["target", "history", "situation", "request", "types", "mask"])
    def test_shapes(self, name):
        given = inputs()
        given[name] = given[name].unsqueeze(0)
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            parts()(**given)

    def test_dtypes(self):
        for name in ("types", "times"):
            given = inputs()
            given[name] = given[name].float()
            with pytest.raises(ValueError, match=f"{name} must be int32 or int64"):
                parts()(**given)
