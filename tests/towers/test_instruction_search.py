"""An instruction queries the history, and the loss that teaches it to."""

import pytest
import torch

from sidrank.losses.query_to_item import Q2ILoss
from sidrank.towers import InstructionGuidedSearch
from tests.sequences import reference_sequences as reference

LENGTH = 40


def search(k=5):
    return InstructionGuidedSearch(instruction_dim=6, item_dim=4, dim=8, k=k)


def inputs(rows=4, length=12):
    return {
        "instruction": torch.randn(rows, 6),
        "present": torch.arange(rows) % 2 == 0,
        "history": torch.randn(rows, length, 4),
        "mask": torch.rand(rows, length) < 0.8,
        "times": torch.randint(0, 8, (rows, length)),
        "now": torch.full((rows,), 7),
    }


def test_equals_brute_force():
    module, given = search(k=3), inputs()
    index, real, scores = module(**given)
    for row in range(4):
        q = given["instruction"][row] if given["present"][row] else module.default
        u = (module.query_adapter.weight @ q).tolist()
        fits = [
            reference.cosine(u, (module.item_adapter.weight @ item).tolist())
            for item in given["history"][row]
        ]
        known = (given["mask"][row] & (given["times"][row] < 7)).tolist()
        expected = reference.best_by_time(fits, known, given["times"][row].tolist(), 3)
        assert index[row][real[row]].tolist() == expected
        told = scores[row][real[row]].tolist()
        torch.testing.assert_close(told, [fits[place] for place in expected])
        assert not scores[row][~real[row]].any()


def test_missing_instruction_reads_the_default_and_teaches_it():
    module, given = search(), inputs()
    module(**given)[2].sum().backward()
    assert module.default.grad.any()
    spoilt = given["instruction"].clone()
    spoilt[~given["present"]] = float("nan")
    for one, other in zip(module(**given | {"instruction": spoilt}), module(**given), strict=True):
        assert torch.equal(one, other)
    everyone = module(**given | {"present": torch.zeros(4).bool()})
    of_default = module.default.detach().expand(4, 6)
    other = module(**given | {"instruction": of_default, "present": torch.ones(4).bool()})
    assert torch.equal(everyone[0], other[0])


def test_autocast_finds_the_same():
    module, given = search(k=20), inputs(length=300)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(**given)[0]
    assert torch.equal(rounded, module(**given)[0])


@pytest.mark.parametrize("shuffled", [False, True])
def test_finds_what_the_instruction_is_about(shuffled):
    """Planted: five of forty behaviours are of the instruction's cluster; the adapters know
    neither space until Q2I has brought instructions and clicked items together."""
    clusters, rows = 12, 600
    said, made = torch.randn(clusters, 16), torch.randn(clusters, 10)
    module = InstructionGuidedSearch(instruction_dim=16, item_dim=10, dim=12, k=5)
    loss, optimizer = Q2ILoss(temperature=0.2), torch.optim.Adam(module.parameters(), lr=0.02)

    def instructions(of):
        return said[of] + 0.2 * torch.randn(len(of), 16)

    def items(of):
        return made[of] + 0.2 * torch.randn(*of.shape, 10)

    for _ in range(60):
        wanted = torch.randint(0, clusters, (128,))
        queries = module.queries(instructions(wanted), torch.ones(128).bool())
        clicked = module.items(items(wanted))
        optimizer.zero_grad()
        # an id a cluster: another item of the same intent is no negative
        loss(queries, clicked, wanted).backward()
        optimizer.step()

    wanted = torch.randint(0, clusters, (rows,))
    others = (wanted.unsqueeze(1) + torch.randint(1, clusters, (rows, LENGTH))) % clusters
    places = torch.rand(rows, LENGTH).argsort(dim=1) < 5
    history = items(torch.where(places, wanted.unsqueeze(1), others))
    asked = instructions(wanted)
    asked = asked[torch.randperm(rows)] if shuffled else asked
    index, _, _ = module(
        asked,
        torch.ones(rows).bool(),
        history,
        torch.ones(rows, LENGTH).bool(),
        torch.arange(LENGTH).expand(rows, LENGTH),
        torch.full((rows,), LENGTH),
    )
    recall = places.gather(1, index).float().mean().item()
    if shuffled:
        assert recall == pytest.approx(5 / LENGTH, abs=0.08)
    else:
        assert recall >= 0.95


class TestErrors:
    @pytest.mark.parametrize("name", ["instruction_dim", "item_dim", "dim", "k"])
    def test_sizes(self, name):
        sizes = {"instruction_dim": 2, "item_dim": 2, "dim": 2, "k": 2, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            InstructionGuidedSearch(**sizes)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("present", r"present must have shape \[4\], got \[1\]"),
            ("history", r"history must have shape \[4, \*, 4\], got \[1, 12, 4\]"),
            ("now", r"now must have shape \[4\], got \[1\]"),
        ],
    )
    def test_rows(self, name, message):
        given = inputs()
        with pytest.raises(ValueError, match=message):
            search()(**given | {name: given[name][:1]})

    def test_instruction(self):
        with pytest.raises(
            ValueError, match=r"instruction must have shape \[\*, 6\], got \[4, 5\]"
        ):
            search()(**inputs() | {"instruction": torch.zeros(4, 5)})

    def test_mask(self):
        given = inputs()
        given |= {"mask": given["mask"][:, :3], "times": given["times"][:, :3]}
        with pytest.raises(ValueError, match=r"mask must have shape \[4, 12\], got \[4, 3\]"):
            search()(**given)
