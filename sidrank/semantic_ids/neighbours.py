"""Do semantic IDs keep neighbours together? Recall of an item's neighbours, exact, with ties.

Collisions alone can be gamed: a random last level collides least and means nothing. Neighbour
recall cannot: it is the share of the ``k`` nearest items of a query item by its vector that
are also among its ``k`` nearest by what the codes say,

    recall(q) = |X_k(q) & Y_k(q)| / k,

averaged over a seeded sample of items as queries, each against all items. ``X_k`` are the
nearest by squared Euclidean distance of the vectors. ``Y_k`` are the nearest by distance of
the vectors rebuilt from the codes, or, from the codes alone, those that agree with the query
in most leading levels (codes are residual: equality at a level means something only if all
levels before it are equal). A query is no neighbour of itself.

Codes tie by nature: whatever collides is equally near. Ties for the last places of a list are
averaged over their random orders, in both lists independently: of ``m`` rows that tie for
``p`` places each is in with probability ``p / m``, and the recall is the expected one. Thus
codes that are all the same, or random, have the recall of chance, ``k / (V - 1)``, and not
that of the order of a file.

Shapes: ``V`` items, ``D`` width, ``N`` levels, ``Q`` queries.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids.exact_neighbours import Points, distinct_rows, memberships
from sidrank.semantic_ids.prefixes import number_prefixes

__all__ = ["neighbour_recall", "query_recalls"]

_LARGEST = 1e37

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def neighbour_recall(
    vectors: Tensor | NDArray[Any],
    codes_or_decoded: Tensor | NDArray[Any],
    *,
    k: int = 10,
    sample: int = 1000,
    seed: int = 0,
) -> float:
    """Share of an item's k nearest neighbours that its codes keep.

    Args:
        vectors: Item vectors, shape ``[V, D]``, floating.
        codes_or_decoded: Codes, shape ``[V, N]``, integers; or vectors rebuilt from the codes,
            shape ``[V, D']``, floating.
        k: Number of neighbours.
        sample: Most items that are queries; all of them if there are no more.
        seed: Seed of the sample.

    Returns:
        The mean over the queries, within [0, 1]; ``k / (V - 1)`` is chance.

    Raises:
        ValueError: If a shape differs, a number is not finite, or ``k`` is not within
            ``[1, V - 1]``, or ``sample`` is less than 1.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
        >>> neighbour_recall(x, torch.tensor([[0], [0], [1], [1]]), k=1)
        1.0
        >>> neighbour_recall(x, torch.tensor([[0], [0], [0], [0]]), k=1) == 1 / 3
        True
    """
    recalls = query_recalls(vectors, [codes_or_decoded], k=k, sample=sample, seed=seed)
    return float(recalls.mean())


def query_recalls(
    vectors: Tensor | NDArray[Any],
    compared: Sequence[Tensor | NDArray[Any]],
    *,
    k: int = 10,
    sample: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Recall of each query, for intervals and for paired comparisons of several sets of codes.

    The queries depend on ``V``, ``sample`` and ``seed`` alone. Among ``V`` vectors the lists
    of ``Q`` queries cost a matrix product of ``2 Q V D`` operations: once for ``vectors`` and
    once for each matrix of rebuilt ones.

    Args:
        vectors: Item vectors, shape ``[V, D]``, floating.
        compared: Each of them codes, shape ``[V, N]``, integers, or vectors rebuilt from codes,
            shape ``[V, D']``, floating.
        k: Number of neighbours.
        sample: Most items that are queries; all of them if there are no more.
        seed: Seed of the sample.

    Returns:
        One row of recalls for each that is compared, shape ``[len(compared), Q]``.

    Raises:
        ValueError: If a shape differs, a number is not finite, or ``k`` is not within
            ``[1, V - 1]``, or ``sample`` is less than 1.
    """
    x = _checked(vectors, "vectors")
    if not x.is_floating_point():
        raise ValueError(f"vectors must be floating point, got {x.dtype}")
    others = [_checked(other, "codes_or_decoded") for other in compared]
    for other in others:
        if len(other) != len(x):
            raise ValueError(f"codes_or_decoded must have {len(x)} rows, got {len(other)}")
    if not 1 <= k < len(x):
        raise ValueError(f"k must be within [1, {len(x) - 1}], got {k}")
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    size = min(sample, len(x))
    queries = np.sort(np.random.default_rng(seed).choice(len(x), size, replace=False))
    points = distinct_rows(x)
    listed = memberships(x, points, queries, k)
    recalls = np.empty((len(others), size))
    for row, y in enumerate(others):
        other = _ByDistance(y, queries, k) if y.is_floating_point() else _ByPrefix(y, queries, k)
        recalls[row] = _overlap(points, listed, other, queries) / k
    return recalls


def _overlap(
    points: Points,
    listed: tuple[Ints, Ints, Floats],
    other: "_ByDistance | _ByPrefix",
    queries: Ints,
) -> Floats:
    """Expected number of rows in both lists of each query."""
    query, point, weight = listed
    # rows that are equal in both spaces are counted, not listed; groups are ordered by point
    key = points.point * (int(other.point.max()) + 1) + other.point
    _, row, group, count = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    begin = np.searchsorted(points.point[row], np.arange(len(points.counts) + 1))
    length = begin[point + 1] - begin[point]
    pair = np.repeat(np.arange(len(point)), length)
    at = np.arange(len(pair)) - np.repeat(np.cumsum(length) - length - begin[point], length)
    query = query[pair]
    neighbours = count[at] - (at == group[queries[query]])
    shared = weight[pair] * other.weights(query, other.point[row[at]]) * neighbours
    found = np.bincount(query, weights=shared, minlength=len(queries))
    return found.astype(np.float64, copy=False)


class _ByDistance:
    """Nearest by distance of the rebuilt vectors."""

    def __init__(self, x: Tensor, queries: Ints, k: int) -> None:
        points = distinct_rows(x)
        self.point = points.point
        self._width = len(points.counts)
        query, point, self._weight = memberships(x, points, queries, k)
        self._key = query * self._width + point

    def weights(self, query: Ints, point: Ints) -> Floats:
        """Membership of the rows of each point in the list of each query."""
        wanted = query * self._width + point
        at = np.searchsorted(self._key, wanted)
        at = np.minimum(at, len(self._key) - 1)
        return np.where(self._key[at] == wanted, self._weight[at], 0.0)


class _ByPrefix:
    """Nearest by the number of leading levels that agree."""

    def __init__(self, codes: Tensor, queries: Ints, k: int) -> None:
        prefix = number_prefixes(codes.cpu().numpy())
        self.point = prefix[-1]
        self._prefix = np.empty((len(prefix), int(self.point.max()) + 1), dtype=np.int64)
        self._prefix[:, self.point] = prefix
        # others that agree with each query in at least 0, 1, ..., N levels, and in N + 1: none
        others = [np.full(len(queries), len(codes) - 1)]
        others += [np.bincount(level)[level[queries]] - 1 for level in prefix]
        self._asked = self.point[queries]
        agree = np.array([*others, np.zeros(len(queries), dtype=np.int64)])
        self._depth = (agree >= k).sum(axis=0) - 1
        column = np.arange(len(queries))
        beyond = agree[self._depth + 1, column]
        self._share = (k - beyond) / (agree[self._depth, column] - beyond)

    def weights(self, query: Ints, point: Ints) -> Floats:
        """Membership of the rows of each point in the list of each query."""
        same = self._prefix[:, self._asked[query]] == self._prefix[:, point]
        depth = same.sum(axis=0)
        tied = np.where(depth == self._depth[query], self._share[query], 0.0)
        return np.where(depth > self._depth[query], 1.0, tied)


def _checked(values: Tensor | NDArray[Any], name: str) -> Tensor:
    if not isinstance(values, Tensor):  # torch warns of read-only arrays
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    if values.dim() != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} must have shape [V, *], got {list(values.shape)}")
    x = values.detach()
    if not x.is_floating_point():
        return x
    # comparisons with nan are false
    within = (x.amax(dim=1) <= _LARGEST) & (x.amin(dim=1) >= -_LARGEST)
    if not within.all():
        row = int((~within).nonzero()[0])
        value = x[row][~(x[row].abs() <= _LARGEST)][0].item()
        raise ValueError(f"{name} must be finite and within ±1e37, got {value} in row {row}")
    return x
