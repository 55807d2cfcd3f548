"""What to do about items that share a whole semantic ID; a published code never moves.

Three policies with one interface. :class:`Keep` leaves them together: near items share what is
learned. :class:`NextNearest` lets at most so many items have one SID and moves the others to
the next nearest codes of the last level. :class:`SuffixLevel` adds a level that counts the
items of a SID. Each takes the table as it is published and the codes that a tokenizer proposes
for further items, and returns the next version of the table; items that are published already
keep their codes, whatever is proposed for them. The result depends neither on the order of the
rows nor on chance.

Fewer collisions are no end in themselves: random codes collide least. So a resolution reports
before and after, and takes a measure of what the codes still say, such as
:func:`~sidrank.semantic_ids.neighbours.neighbour_recall`, into the same report.

Shapes: ``V`` items of the table, ``n`` items to add, ``N`` levels, ``K`` codes of the last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidrank.semantic_ids._added import Added, Integers, Rows
from sidrank.semantic_ids._last_level import Distances, DistancesOf, place_at_last_level
from sidrank.semantic_ids.prefixes import number_prefixes
from sidrank.semantic_ids.spec import SIDSpec
from sidrank.semantic_ids.table import SIDTable

__all__ = [
    "CollisionPolicy",
    "Collisions",
    "Keep",
    "NextNearest",
    "Resolution",
    "SuffixLevel",
    "collisions",
]

Measure: TypeAlias = Callable[[NDArray[np.int32]], float]


@dataclass(frozen=True, slots=True)
class Collisions:
    """How often items share a whole SID.

    Attributes:
        items: Number of items.
        items_in_collision: Share of items whose whole SID belongs to another item too.
        excess: Share of items beyond the first of their SID, ``1 - uniqueness``.
        uniqueness: Distinct SIDs per item.
        largest_bucket: Most items that share one SID.
        measured: What the caller's measure found, None without one.
    """

    items: int
    items_in_collision: float
    excess: float
    uniqueness: float
    largest_bucket: int
    measured: float | None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a policy made of the proposed codes.

    Attributes:
        table: The next version of the published table, or a new table.
        proposed: Codes as they would be without the policy, in the order of
            ``table.item_ids``, shape ``[V, N]``, int32.
        moved: Ids of the items whose proposed codes were changed, ascending.
        unresolved: Ids of the added items that no place was found for, ascending: they have
            their proposed code, with more items than the policy allows.
    """

    table: SIDTable
    proposed: NDArray[np.int32]
    moved: NDArray[np.int64]
    unresolved: NDArray[np.int64]

    def report(self, measure: Measure | None = None) -> dict[str, Collisions]:
        """Count collisions of the whole table before and after.

        Args:
            measure: What else to measure of codes ``[V, N]`` in the order of
                ``table.item_ids``, such as the neighbour recall of their vectors.

        Returns:
            ``before``, of the proposed codes, and ``after``, of the table.

        Raises:
            ValueError: If the table is empty.
        """
        return {
            "before": collisions(self.proposed, measure),
            "after": collisions(self.table.codes, measure),
        }


class CollisionPolicy(Protocol):
    """Decides the codes of items that are added to a table."""

    def resolve(
        self,
        item_ids: Integers,
        codes: Rows,
        *,
        spec: SIDSpec,
        published: SIDTable | None = None,
        distances: Distances | None = None,
    ) -> Resolution:
        """Turn proposed codes ``[n, N]`` into the next version of a table."""
        ...


@dataclass(frozen=True, slots=True)
class Keep:
    """Let items share a SID.

    Example:
        >>> Keep().resolve([1, 2], [[0], [0]], spec=SIDSpec((4,))).report()["after"].excess
        0.5
    """

    def resolve(
        self,
        item_ids: Integers,
        codes: Rows,
        *,
        spec: SIDSpec,
        published: SIDTable | None = None,
        distances: Distances | None = None,
    ) -> Resolution:
        """Take the proposed codes.

        Args:
            item_ids: Distinct item ids, shape ``[n]``.
            codes: Their proposed codes, shape ``[n, N]``.
            spec: Codebook sizes of the proposed codes.
            published: The table to add to, with the same ``spec``.
            distances: Not asked for.

        Returns:
            The table with the items added; nothing moved, nothing unresolved.

        Raises:
            TypeError: If ids or codes are not integers.
            ValueError: If a shape differs, an id occurs twice, or a code is outside its
                codebook.
        """
        del distances
        added = Added(item_ids, codes, spec, _levels_of(published, spec))
        table = added.appended(added.codes, spec)
        return Resolution(table, table.codes, *_none())


@dataclass(frozen=True, slots=True)
class NextNearest:
    """Let at most ``capacity`` items have one SID; move others to near codes of the last level.

    Published items count and stay. Of the added items that want a SID with too little room, the
    nearest to it get it (then the lowest ids); the others, in the same order, take the nearest
    code of the last level that has room under the same first ``N - 1`` codes. If none has, an
    item keeps its proposed code and is ``unresolved``.

    Args:
        capacity: Most items per SID.

    Raises:
        ValueError: If ``capacity`` is less than 1.

    Example:
        >>> found = NextNearest().resolve(
        ...     [1, 2], [[0], [0]], spec=SIDSpec((3,)),
        ...     distances=np.array([[0.3, 5.0, 4.0], [0.1, 3.0, 2.0]]),
        ... )
        >>> found.table.codes.tolist(), found.moved.tolist()
        ([[2], [0]], [1])
    """

    capacity: int = 1

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {self.capacity}")

    def resolve(
        self,
        item_ids: Integers,
        codes: Rows,
        *,
        spec: SIDSpec,
        published: SIDTable | None = None,
        distances: Distances | None = None,
    ) -> Resolution:
        """Move what is too much.

        Args:
            item_ids: Distinct item ids, shape ``[n]``.
            codes: Their proposed codes, shape ``[n, N]``.
            spec: Codebook sizes of the proposed codes.
            published: The table to add to, with the same ``spec``.
            distances: Distance of each item to every code of the last level under its first
                ``N - 1`` codes, shape ``[n, K]``, or a function from rows (int64, ``[m]``) to
                ``[m, K]``, called with the rows of crowded SIDs alone. Infinite for a code that
                an item must not have. Needed if a SID is crowded.

        Returns:
            The table with the items added.

        Raises:
            TypeError: If ids or codes are not integers.
            ValueError: If a shape differs, an id occurs twice, a code is outside its codebook,
                distances are missing, or one is nan.
        """
        added = Added(item_ids, codes, spec, _levels_of(published, spec))
        fixed = np.empty((0, spec.num_levels)) if published is None else published.codes
        new = added.new
        last, unplaced = place_at_last_level(
            fixed.astype(np.int64),
            added.codes[new],
            new,
            added.ids[new],
            capacity=self.capacity,
            distances=DistancesOf(distances, len(added.ids), spec.codebook_sizes[-1]),
        )
        resolved = added.codes.copy()
        resolved[new, -1] = last
        table = added.appended(resolved, spec)
        moved = added.ids[new][last != added.codes[new, -1]]
        unresolved = added.ids[new][unplaced]
        return Resolution(table, added.proposed(table), np.sort(moved), unresolved)


@dataclass(frozen=True, slots=True)
class SuffixLevel:
    """Add a level that numbers the items of a SID: 0, 1, 2, ... in the order of their ids.

    Every whole SID becomes unique, and the suffix says nothing of an item. Items that are added
    later go on counting where the published ones stopped.

    Args:
        size: Codes of the additional level. None takes those of the published table or, for a
            new one, just as many as there are items in the largest bucket: then nothing can be
            added to it later.

    Raises:
        ValueError: If ``size`` is less than 1.

    Example:
        >>> found = SuffixLevel(size=4).resolve([7, 3], [[0], [0]], spec=SIDSpec((2,)))
        >>> found.table.lookup(np.array([3, 7])).tolist()
        [[0, 0], [0, 1]]
    """

    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    def resolve(
        self,
        item_ids: Integers,
        codes: Rows,
        *,
        spec: SIDSpec,
        published: SIDTable | None = None,
        distances: Distances | None = None,
    ) -> Resolution:
        """Number the items of each SID.

        Args:
            item_ids: Distinct item ids, shape ``[n]``.
            codes: Their proposed codes, shape ``[n, N]``.
            spec: Codebook sizes of the proposed codes, without the suffix.
            published: The table to add to, with the suffix level.
            distances: Not asked for.

        Returns:
            The table with the items added, ``N + 1`` levels; nothing unresolved.

        Raises:
            TypeError: If ids or codes are not integers.
            ValueError: If a shape differs, an id occurs twice, a code is outside its codebook,
                ``size`` is not that of the published table, or a SID has more items than there
                are suffixes.
        """
        del distances
        size, levels = self.size, spec.num_levels
        if published is not None:
            has = published.spec.codebook_sizes
            if has[:-1] != spec.codebook_sizes or (size is not None and has[-1] != size):
                wanted = [*spec.codebook_sizes, "K" if size is None else size]
                raise ValueError(f"published must have the levels {wanted}, got {list(has)}")
            size = has[-1]
        added = Added(item_ids, codes, spec, published)
        fixed = np.empty((0, levels + 1)) if published is None else published.codes
        whole = np.concatenate([fixed[:, :-1].astype(np.int64), added.codes[added.new]])
        sid = number_prefixes(whole)[-1]
        # what the next suffix of each SID is, and the rank of each added item among its like
        following = np.zeros(len(whole) + 1, dtype=np.int64)
        np.maximum.at(following, sid[: len(fixed)], fixed[:, -1].astype(np.int64) + 1)
        mine = sid[len(fixed) :]
        order = np.lexsort([added.ids[added.new], mine])
        first = np.searchsorted(mine[order], mine[order])
        suffix = np.empty(len(mine), dtype=np.int64)
        suffix[order] = following[mine[order]] + np.arange(len(mine)) - first
        needed = int(suffix.max(initial=0)) + 1
        if size is not None and needed > size:
            sid_of = added.codes[added.new][int(suffix.argmax())].tolist()
            raise ValueError(
                f"size must be at least {needed} for the {needed} items of SID {sid_of}, got {size}"
            )
        longer = SIDSpec((*spec.codebook_sizes, needed if size is None else size))
        column = np.zeros((len(added.ids), 1), dtype=np.int64)
        column[added.new, 0] = suffix
        table = added.appended(np.concatenate([added.codes, column], axis=1), longer)
        proposed = np.ascontiguousarray(table.codes[:, :-1])
        return Resolution(table, proposed, *_none())


def collisions(codes: NDArray[np.int32], measure: Measure | None = None) -> Collisions:
    """Count how often items share a whole SID.

    Args:
        codes: Codes, shape ``[V, N]``.
        measure: What else to measure of them.

    Returns:
        The figures.

    Raises:
        ValueError: If there is no item.

    Example:
        >>> collisions(np.array([[0, 1], [0, 1], [2, 1]], dtype=np.int32)).items_in_collision
        0.6666666666666666
    """
    if len(codes) == 0:
        raise ValueError("codes must hold at least one item, got 0")
    counts = np.bincount(number_prefixes(codes)[-1])
    uniqueness = len(counts) / len(codes)
    return Collisions(
        items=len(codes),
        items_in_collision=float(counts[counts > 1].sum()) / len(codes),
        excess=1 - uniqueness,
        uniqueness=uniqueness,
        largest_bucket=int(counts.max()),
        measured=None if measure is None else float(measure(codes)),
    )


def _levels_of(published: SIDTable | None, spec: SIDSpec) -> SIDTable | None:
    if published is not None and published.spec != spec:
        raise ValueError(
            f"published must have the levels {list(spec.codebook_sizes)}, "
            f"got {list(published.spec.codebook_sizes)}"
        )
    return published


def _none() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
