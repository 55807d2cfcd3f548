"""When rows are written back: once they are trained and free, and again only if they change."""

import pytest
import torch

from sidrank.cache.slow_tier import MemoryTier
from tests.cache.tiered_small import asked, small


class Writes(MemoryTier):
    """Remembers what was written, call by call."""

    def __init__(self):
        super().__init__(rows=20, width=4)
        self.calls = []

    def write(self, rows, values):
        self.calls.append(sorted(rows.tolist()))
        super().write(rows, values)


@pytest.fixture
def tier():
    return Writes()


def step(collection, *ids):
    collection(asked(*ids)).values().sum().backward()


def test_a_row_that_came_in_is_written_with_the_next_batch(tier):
    collection = small(slots=9, tiers={"t": tier})
    for ids in ((1, 1, 2), (3,), (4,)):
        step(collection, *ids)
    assert tier.calls == [[1, 2], [3]]
    assert collection.traffic["t"].written == 3
    out = torch.empty(3, 4)
    tier.read(torch.tensor([1, 2, 4]), out)
    assert out[:, 0].tolist() == [-1.0, -0.5, 0.0]  # steps of a half, from zeros


def test_it_has_nothing_left_to_write_when_it_leaves(tier):
    collection = small(slots=2, tiers={"t": tier})
    for row in range(6):
        step(collection, row)
    assert collection.traffic["t"].evictions == 4
    assert tier.calls == [[0], [1], [2], [3], [4]]
    collection.flush()
    assert tier.calls[5:] == [[5]]


def test_a_row_that_is_wanted_again_is_written_when_it_leaves(tier):
    collection = small(slots=2, tiers={"t": tier})
    for ids in ((1,), (1, 2), (2,), (3,), (4,)):
        step(collection, *ids)
    # 1 is held by the batch that would have written it; 2 by the one after
    assert tier.calls == [[1], [2, 3]]


def test_a_row_that_changed_since_is_written_again(tier):
    collection = small(slots=3, tiers={"t": tier})
    for row in (1, 2, 1, 3, 4, 5):
        step(collection, row)
    collection.flush()
    written = [row for call in tier.calls for row in call]
    assert sorted(written) == [1, 1, 2, 3, 4, 5]
    out = torch.empty(1, 4)
    tier.read(torch.tensor([1]), out)
    assert out.tolist() == [[-1.0] * 4]  # two steps of a half, from zeros


def test_rows_of_a_batch_in_flight_are_not_written(tier):
    collection = small(slots=9, tiers={"t": tier})
    pooled = collection(asked(1, 2)).values()
    other = collection(asked(2, 3)).values()
    pooled.sum().backward()
    step(collection, 4)
    assert tier.calls == [[1]]
    other.sum().backward()
    step(collection, 5)
    assert tier.calls == [[1], [2, 3, 4]]


def test_rows_that_were_only_read_are_not_written(tier):
    collection = small(slots=9, tiers={"t": tier})
    with torch.no_grad():
        for row in (1, 2, 3):
            collection(asked(row))
    step(collection, 1)  # came in long before
    step(collection, 4)
    assert tier.calls == []
    collection.flush()
    assert tier.calls == [[1, 4]]


def test_forgotten_rows_are_not_written(tier):
    collection = small(slots=9, tiers={"t": tier})
    step(collection, 1, 2)
    collection.drop()
    step(collection, 3)
    assert tier.calls == []
    step(collection, 4)
    assert tier.calls == [[3]]
