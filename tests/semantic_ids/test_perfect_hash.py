import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import perfect_hash
from sidrank.semantic_ids.perfect_hash import build_perfect_hash
from tests.strategies import ANY_IDS

COUNT = 20_000
MASK = 2**64 - 1


def slot_by_definition(item, found):
    """The formula of the module's docstring, in integers of any size."""
    salt = found.salt & MASK
    mixed = (item & MASK) * salt & MASK
    mixed = (mixed ^ mixed >> 32) * salt & MASK
    bits = len(found.multipliers).bit_length() - 1
    bucket = mixed >> 64 - bits if bits else 0
    high = (mixed * (int(found.multipliers[bucket]) & MASK) & MASK) >> 32
    return ((high + 2**31) % 2**32) * found.num_slots >> 32  # signed high half, from its lowest


def same_bucket(salt, count):
    """Ids that the mix of ``salt`` sends to ``0 .. count - 1``, all of them in one bucket."""
    inverse = pow(salt & MASK, -1, 2**64)
    product = np.arange(count, dtype=np.uint64) * np.uint64(inverse)
    product = product ^ (product >> np.uint64(32))
    return (product * np.uint64(inverse)).view(np.int64)


@given(st.lists(ANY_IDS, min_size=1, max_size=60, unique=True))
def test_equals_its_definition_and_gives_every_id_a_slot_of_its_own(ids):
    found = build_perfect_hash(np.array(ids, dtype=np.int64))
    slots = found.slots.tolist()
    assert slots == [slot_by_definition(item, found) for item in ids]
    assert len(set(slots)) == len(ids)
    assert min(slots) >= 0
    assert max(slots) < found.num_slots <= 4 / 3 * len(ids) + 2


@pytest.mark.parametrize(
    "ids",
    [
        *(
            np.arange(COUNT) * stride + start
            for stride in (1, 2, 7919, 4096)
            for start in (0, 2**40)
        ),
        *(np.arange(COUNT) << shift for shift in (16, 32, 40, 48)),
        2**63 - 1 - np.arange(COUNT),
        np.arange(COUNT) + np.iinfo(np.int64).min,
        np.concatenate([np.arange(COUNT // 2), 2**63 - 1 - np.arange(COUNT // 2)]),
        np.random.default_rng(0).integers(-(2**63), 2**63 - 1, COUNT),
    ],
    ids=lambda ids: f"{ids[0]}-{ids[1]}",
)
def test_structured_ids(ids):
    slots = build_perfect_hash(ids).slots
    assert len(np.unique(slots)) == len(ids)


def test_ids_crafted_against_the_mix_take_another_salt():
    first = perfect_hash._odd(0)
    ids = same_bucket(first, 3000)
    assert np.array_equal(perfect_hash._mix(ids, first), np.arange(3000, dtype=np.uint64))
    found = build_perfect_hash(ids)
    assert found.salt != first
    assert len(np.unique(found.slots)) == 3000


def test_the_same_ids_give_the_same_hash():
    ids = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 500)
    first, second = build_perfect_hash(ids), build_perfect_hash(ids.copy())
    assert (first.salt, first.slots.tolist()) == (second.salt, second.slots.tolist())
    assert first.multipliers.tolist() == second.multipliers.tolist()


def test_refuses_equal_ids():
    with pytest.raises(ValueError, match="ids must be distinct, got no perfect hash of 3 ids"):
        build_perfect_hash(np.array([5, 6, 5]))
