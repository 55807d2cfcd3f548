"""UrgencyDIN: deadlines, time gaps, units, and candidates that have expired."""

import pytest
import torch

from sidrank.towers.urgency_din import UrgencyDIN, mask_expired
from tests.towers import reference_din

BUCKETS = (1.0, 6.0, 24.0)


def tower(**options):
    return UrgencyDIN(
        dim=5, hidden=(8, 4), **({"position_dim": 6, "unit": 60.0, "buckets": BUCKETS} | options)
    )


def inputs(rows=4, candidates=3, length=9):
    return {
        "target": torch.randn(rows, candidates, 5),
        "history": torch.randn(rows, length, 5),
        "mask": torch.rand(rows, length) < 0.7,
        "times": torch.randint(0, 4000, (rows, length)),
        "now": torch.tensor([3000, 3500, 0, 2000])[:rows],  # the third knows nothing
        "locks": torch.randint(1500, 6000, (rows, candidates)),
    }


@pytest.mark.parametrize("softmax", [False, True])
def test_equals_loops(softmax):
    module, given = tower(softmax=softmax), inputs()
    answers = module(**given)
    layers = reference_din.layers_of(module.mlp)
    for row in range(4):
        now, times = given["now"][row], given["times"][row]
        known = given["mask"][row] & (times < now)
        gaps = ((now - times[known]).double() / 60.0).tolist()
        keys = given["history"][row][known].tolist()
        for c in range(3):
            left = (given["locks"][row, c] - now).item() / 60.0
            expected = reference_din.urgency_din(
                given["target"][row, c].tolist(), keys, gaps, left, layers,
                position_dim=6, buckets=BUCKETS, softmax=softmax,
            )  # fmt: skip
            torch.testing.assert_close(answers[row, c].tolist(), expected, rtol=1e-4, atol=1e-5)
    assert (answers[2] == 0).all()


def test_another_unit_of_time_changes_nothing():
    given = inputs()
    scaled = given | {name: given[name] * 1000 for name in ("times", "now", "locks")}
    torch.manual_seed(5)
    seconds = tower()
    torch.manual_seed(5)
    milliseconds = tower(unit=60_000.0)
    assert torch.equal(milliseconds(**scaled), seconds(**given))
    assert not torch.equal(seconds(**scaled), seconds(**given))  # the normaliser did it


def test_a_shift_of_the_clock_changes_nothing():
    module, given = tower(), inputs()
    later = 1_700_000_000
    shifted = given | {name: given[name] + later for name in ("times", "now", "locks")}
    assert torch.equal(module(**shifted), module(**given))


def test_deadlines_and_gaps_count_each_alone():
    module, given = tower(), inputs()
    given["locks"] = given["now"].unsqueeze(1) + torch.tensor([30, 300, 3000])
    known = (given["mask"] & (given["times"] < given["now"].unsqueeze(1))).any(dim=1)
    assert known.sum() > 1
    answers = module(**given)
    other = module(**given | {"locks": given["locks"] + 600})
    assert (other != answers).any(dim=2)[known].all()
    earlier = module(**given | {"times": given["times"] - 600})
    assert (earlier != answers).any(dim=2)[known].all()


def test_urgency_features():
    locks, now = torch.tensor([[990, 1000, 1060, 1360, 4000]]), torch.tensor([1000])
    found = tower().urgency(locks, now)[0]
    for row, left in zip(found.tolist(), [-1 / 6, 0.0, 1.0, 6.0, 50.0], strict=True):
        assert row == pytest.approx(reference_din.urgency(left, BUCKETS))
    assert found[:, 0].tolist()[-1] == 1.0  # stops at the last bucket
    assert tower().num_features == found.shape[1]


def test_positions_tell_gaps_apart():
    gaps = torch.tensor([[0, 60, 600, 6000, 60_000, 600_000]])
    found = tower().positions(10_000_000 - gaps, torch.tensor([10_000_000]))[0]
    apart = torch.cdist(found, found) + torch.eye(6)
    assert apart.min() > 0.3


def test_expired_candidates_go_last_and_the_rest_keeps_its_softmax():
    logits, now = torch.randn(2, 4), torch.tensor([10, 10])
    locks = torch.tensor([[9, 10, 11, 0], [99, 99, 99, 99]])
    masked = mask_expired(logits, locks, now)
    assert masked.isneginf().tolist() == [[True, False, False, True], [False] * 4]
    torch.testing.assert_close(masked.softmax(1)[0, 1:3], logits[0, 1:3].softmax(0))
    assert torch.equal(masked[1], logits[1])
    assert tower()(**inputs() | {"locks": torch.zeros(4, 3).long()}).isfinite().all()


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dim": 0}, "dim must be at least 1, got 0"),
            ({"position_dim": 3}, "position_dim must be even and at least 2, got 3"),
            ({"unit": 0.0}, "unit must be positive and finite, got 0.0"),
            ({"buckets": [2.0, 1.0]}, r"buckets must rise from above zero, got \[2.0, 1.0\]"),
            ({"buckets": []}, r"buckets must rise from above zero, got \[\]"),
            ({"buckets": [0.0, 1.0]}, "buckets must rise from above zero"),
        ],
    )
    def test_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            UrgencyDIN(**({"dim": 4} | options))

    def test_shapes(self):
        given = inputs()
        for name, message in (
            ("target", r"target must have shape \[\*, \*, 5\]"),
            ("history", r"history must have shape \[4, \*, 5\]"),
        ):
            with pytest.raises(ValueError, match=message):
                tower()(**given | {name: given[name][..., :4]})
        with pytest.raises(ValueError, match=r"locks must have shape \[4, 3\], got \[4, 2\]"):
            tower()(**given | {"locks": given["locks"][:, :2]})
        with pytest.raises(ValueError, match=r"locks must be int32 or int64, got torch.float32"):
            tower()(**given | {"locks": given["locks"].float()})
        with pytest.raises(ValueError, match=r"mask must have shape \[4, 9\], got \[4, 8\]"):
            tower()(**given | {name: given[name][:, :8] for name in ("mask", "times")})

    def test_masking(self):
        with pytest.raises(ValueError, match=r"locks must have shape \[2, 3\], got \[2, 2\]"):
            mask_expired(torch.zeros(2, 3), torch.zeros(2, 2).long(), torch.zeros(2).long())
