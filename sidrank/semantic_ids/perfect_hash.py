"""A static perfect hash of 64-bit ids, built in numpy and queried with tensor arithmetic.

The items of a table are known when the lookup is built, so every id can be given a slot of
its own, and a query needs no probing: no loop, no branch on data, the same few instructions
for every id. That is what lets it trace, compile and export.

Construction is by displacement (Belazzougui, Botelho and Dietzfelbinger, "Hash, displace,
and compress", ESA 2009): ids fall into small buckets, and each bucket gets a multiplier that
sends its ids to free slots. All buckets of one size try the same multiplier at once
(`[derived]`; the source does one bucket after the other), because numpy is fast only on
arrays. With ``z`` a bijective mix of the id, all in wrapping 64-bit arithmetic::

    u      = id * salt
    z      = (u ^ (u >>> 32)) * salt
    bucket = high_b(z)                                B = 2**b buckets
    slot   = floor((high_32(z * multiplier[bucket]) + 2**31) * M / 2**32)

``high_32`` being the signed upper half of a product and ``high_b`` its upper ``b`` bits.

Two ids differ in ``z``, and multiply-shift by a random odd number separates any two numbers
with probability at least 1 - 2/M (Dietzfelbinger et al., 1997), so some multiplier is found
quickly; if a crafted set of ids overfills a bucket, another salt is taken.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PerfectHash", "build_perfect_hash"]

_LOAD = 0.75
_ROUNDS = 1024
_LARGEST_BUCKET = 64
_SALTS = 16


@dataclass(frozen=True, slots=True)
class PerfectHash:
    """A hash function without collisions on the ids it was built for.

    Attributes:
        salt: Odd multiplier of the mix.
        multipliers: Odd multiplier of each bucket, shape ``[B]``, ``B`` a power of two.
        slots: Slot of each id given, shape ``[V]``, distinct, below ``num_slots``.
        num_slots: ``M``, even.
    """

    salt: int
    multipliers: NDArray[np.int64]
    slots: NDArray[np.int64]
    num_slots: int


def build_perfect_hash(ids: NDArray[np.int64]) -> PerfectHash:
    """Find a perfect hash of distinct ids; the same ids give the same hash.

    Args:
        ids: Distinct ids, shape ``[V]``, ``V >= 1``.

    Returns:
        The hash function and the slots of ``ids``.

    Raises:
        ValueError: If the ids are not distinct: no hash function separates equal ids.

    Example:
        >>> ids = np.array([-(2**63), 7, 2**40])
        >>> found = build_perfect_hash(ids)
        >>> len(set(found.slots.tolist())), found.num_slots
        (3, 4)
    """
    num_buckets = 1 << max(0, (len(ids) // 3).bit_length() - 1)
    num_slots = 2 * int(np.ceil(len(ids) / _LOAD / 2))
    for attempt in range(_SALTS):
        salt = _odd(attempt)
        found = _displace(_mix(ids, salt), num_buckets, num_slots)
        if found is not None:
            return PerfectHash(salt, *found, num_slots)
    raise ValueError(f"ids must be distinct, got no perfect hash of {len(ids)} ids")


def _displace(
    mixed: NDArray[np.uint64], num_buckets: int, num_slots: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Give every bucket a multiplier; None if a bucket is too full or finds none."""
    # the shift is below 64 even for one bucket; the mask then leaves bucket 0
    shift = np.uint64(min(63, 65 - num_buckets.bit_length()))
    bucket = (mixed >> shift & np.uint64(num_buckets - 1)).astype(np.int64)
    sizes = np.bincount(bucket, minlength=num_buckets)
    if sizes.max() > _LARGEST_BUCKET:
        return None
    multipliers = np.ones(num_buckets, dtype=np.int64)
    slots = np.empty(len(mixed), dtype=np.int64)
    taken = np.zeros(num_slots, dtype=bool)
    owner = np.empty(num_slots, dtype=np.int64)
    order = np.argsort(bucket, kind="stable")
    size_of = sizes[bucket[order]]
    for size in range(int(sizes.max()), 0, -1):  # full buckets first, while slots are free
        todo = order[size_of == size].reshape(-1, size)  # one row per bucket
        for trial in range(_ROUNDS):
            if len(todo) == 0:
                break
            multiplier = _odd(_SALTS + trial)
            place = _slots(mixed[todo], multiplier, num_slots)
            # Of all ids that want a slot the first in order keeps it. A bucket settles if it
            # keeps all its slots, so the first bucket of a round loses only to taken slots
            # and to itself, and the outcome does not depend on anything but the ids.
            claim = np.arange(place.size).reshape(place.shape)
            owner[place[::-1, ::-1].ravel()] = claim[::-1, ::-1].ravel()
            settled = ((owner[place] == claim) & ~taken[place]).all(axis=1)
            done = todo[settled]
            taken[place[settled]] = True
            slots[done] = place[settled]
            multipliers[bucket[done[:, 0]]] = multiplier
            todo = todo[~settled]
        if len(todo):
            return None
    return multipliers, slots


def _mix(ids: NDArray[np.int64], salt: int) -> NDArray[np.uint64]:
    factor = np.int64(salt).view(np.uint64)
    product = ids.view(np.uint64) * factor
    return (product ^ (product >> np.uint64(32))) * factor


def _slots(mixed: NDArray[np.uint64], multiplier: int, num_slots: int) -> NDArray[np.int64]:
    # high_32 as a signed number, then shifted up by 2**31: the form the query uses, because
    # an arithmetic shift needs no mask
    high = (mixed * np.int64(multiplier).view(np.uint64)).view(np.int64) >> np.int64(32)
    return (high * np.int64(num_slots) + np.int64(num_slots << 31)) >> np.int64(32)


def _odd(index: int) -> int:
    """Return the ``index``-th number of a fixed sequence of odd, well-mixed signed int64."""
    z = (index + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF  # splitmix64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 31) | 1
    return z - (1 << 64) if z >> 63 else z
