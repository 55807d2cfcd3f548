"""Three ways to cut one log into what a ranker may learn from and what it is judged on.

All three share one story. A shop has two surfaces. A stable hash of the user id sends half of the
users to *the other surface*, whose log makes the item vectors and nothing else; the ranker trains
and is tested on the rows of the other half. No label of the ranker's log reaches a vector.

========== ======================== ======================= =================================
protocol   test rows                vectors are made of     what it can show
========== ======================== ======================= =================================
global_time last 10% of rows        rows before the test    causal; mostly users never seen
per_user   each user's last 10%     the whole other log     not causal: training holds later
                                                            events of the same items
cold_items each user's last 20%     the whole other log     one item in five was never shown on
                                                            this surface: 5 folds
========== ======================== ======================= =================================

Ties: rows are ordered by ``(timestamp, user, item)``, so equal seconds are cut by item id. A
*statistic* never uses that order; it reads strictly earlier timestamps only.

A cold item's rows are scored and do nothing else: they are not trained on, and they feed no
statistic and no history, in no arm. All other rows of the ranker's surface feed the statistics
as they happen, those of the test too (a production counter does not stop).

Shapes: ``R`` rows of the whole data set.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidrank.data import MovieLens

__all__ = ["FOLDS", "PROTOCOLS", "Split", "make_split", "stable_hash"]

PROTOCOLS = ("global_time", "per_user", "cold_items")
FOLDS = 5

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Split:
    """One cut of the log; every array holds row positions unless it says otherwise.

    Attributes:
        protocol: One of ``PROTOCOLS``.
        fold: Which fifth of the items is cold, 0 to 4 (0 in the other protocols).
        train: Rows to learn from.
        validation: Rows that follow them, for choosing settings; the demo learns from them too.
        test: Rows to be judged on.
        counted: Rows that feed statistics and histories, bool, shape ``[R]``.
        vector_rows: Rows of the other surface that make item vectors.
        cold_items: Item ids that occur in no training row by design.
    """

    protocol: str
    fold: int
    train: Ints
    validation: Ints
    test: Ints
    counted: Bools
    vector_rows: Ints
    cold_items: Ints


def stable_hash(ids: Ints, *, salt: int) -> NDArray[np.uint64]:
    """A hash of each id that is the same on every machine and in every version (SplitMix64)."""
    with np.errstate(over="ignore"):
        x = ids.astype(np.uint64) + np.uint64(salt + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_split(data: MovieLens, protocol: str, *, fold: int = 0) -> Split:
    """Cut the log by one of the three protocols.

    Args:
        data: The log, ordered by ``(timestamp, user, item)``.
        protocol: One of ``PROTOCOLS``.
        fold: Which fifth of the items is cold; other protocols ignore it.

    Returns:
        The cut.

    Raises:
        ValueError: If the protocol is unknown, the fold is not 0 to 4, or a part has no rows.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}")
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold must be 0 to {FOLDS - 1}, got {fold}")
    other_surface = stable_hash(data.user, salt=0) % np.uint64(2) == 0
    ours = np.flatnonzero(~other_surface)
    if protocol == "global_time":
        age = 1 - (np.arange(len(ours)) + 1) / max(len(ours), 1)
    else:
        age = _share_of_later_rows(data.user[ours])
    test_share, validation_share = (0.2, 0.1) if protocol == "cold_items" else (0.1, 0.1)
    is_test = age < test_share - 1e-9
    is_validation = ~is_test & (age < test_share + validation_share - 1e-9)
    cold = np.zeros(len(data.item), dtype=bool)
    if protocol == "cold_items":
        cold = stable_hash(data.item, salt=1) % np.uint64(FOLDS) == np.uint64(fold)
    learnable = ~is_test & ~is_validation & ~cold[ours]
    counted = ~other_surface & ~cold
    vector_rows = np.flatnonzero(other_surface)
    if protocol == "global_time" and is_test.any():
        start = data.timestamp[ours[is_test]].min()
        vector_rows = vector_rows[data.timestamp[vector_rows] < start]
    split = Split(
        protocol=protocol,
        fold=fold,
        train=ours[learnable],
        validation=ours[is_validation],
        test=ours[is_test],
        counted=counted,
        vector_rows=vector_rows,
        cold_items=np.unique(data.item[cold]),
    )
    for name in ("train", "validation", "test", "vector_rows"):
        if not len(getattr(split, name)):
            raise ValueError(f"data must leave rows for {name} of {protocol}, got none")
    return split


def _share_of_later_rows(users: Ints) -> NDArray[np.float64]:
    """For each row, the share of its user's rows that come after it."""
    order = np.argsort(users, kind="stable")
    _, first, counts = np.unique(users[order], return_index=True, return_counts=True)
    place = np.arange(len(users)) - np.repeat(first, counts)
    share = np.empty(len(users))
    share[order] = 1 - (place + 1) / np.repeat(counts, counts)
    return share
