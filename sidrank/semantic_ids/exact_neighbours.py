"""Exact nearest neighbours of a few points among many, with ties, in bounded memory.

Equal rows are one point with a count: codes that collide decode to equal vectors, and a
neighbour list that broke such ties by row number would measure the order of a file. A float32
product proposes candidates: for each query all points whose lower bound of the distance is
within the upper bound of the k-th. Only these are compared exactly, in float64 and with a
fixed order of additions, so that the answer depends on neither threads nor blocks. Where
rounding in float32 lets too many through, the block is proposed again in float64.

Shapes: ``V`` rows, ``U`` distinct rows (points), ``D`` width, ``Q`` queries, ``P`` pairs of a
query and a point.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Points", "distinct_rows", "memberships"]

_BLOCK = 1 << 23  # numbers in one block: 32 MiB of float32
_LOOSE = 8  # candidates per neighbour and query, above which a block is done in float64

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Points:
    """The distinct rows of a matrix.

    Attributes:
        first: A row of each point, shape ``[U]``.
        point: The point of each row, shape ``[V]``.
        counts: Rows of each point, shape ``[U]``.
    """

    first: Ints
    point: Ints
    counts: Ints


def distinct_rows(x: Tensor) -> Points:
    """Find equal rows by hashing, and check that they are equal.

    Args:
        x: Numbers, shape ``[V, D]``, floating, finite.

    Returns:
        The points, in no particular order.
    """
    for salt in range(64):
        rng = np.random.default_rng([salt, x.shape[1]])
        factors = torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, x.shape[1]) | 1).to(x.device)
        hashes = torch.empty(len(x), dtype=torch.int64, device=x.device)
        for rows in _blocks(len(x), x.shape[1]):
            # integers add up to the same in any order
            hashes[rows] = (_words(x[rows]) * factors).sum(dim=1)
        _, first, point, counts = np.unique(
            hashes.cpu().numpy(), return_index=True, return_inverse=True, return_counts=True
        )
        back = torch.from_numpy(first[point]).to(x.device)
        if all(torch.equal(x[rows], x[back[rows]]) for rows in _blocks(len(x), x.shape[1])):
            return Points(first, point, counts)
    raise RuntimeError("hashes of different rows must differ, got 64 collisions in a row")


def memberships(x: Tensor, points: Points, queries: Ints, k: int) -> tuple[Ints, Ints, Floats]:
    """Find the points that are among the k nearest rows of each query, and how much so.

    A query is no neighbour of itself. Rows that tie for the last places share them: if three
    rows tie for one place, each is in with weight 1/3.

    Args:
        x: Numbers, shape ``[V, D]``, floating, finite and within ±1e37.
        points: The distinct rows of ``x``.
        queries: Rows, shape ``[Q]``.
        k: Number of neighbours, ``1 <= k < V``.

    Returns:
        For pairs in the order of the queries and then of the points: the query's position
        within ``queries``, the point, and the weight of each of the point's rows.
    """
    asked = points.point[queries]
    pair_query, pair_point = _candidates(x, points, asked, k)
    distance = np.empty(len(pair_query))
    for pairs in _blocks(len(pair_query), x.shape[1]):
        left = x[torch.from_numpy(points.first[asked[pair_query[pairs]]]).to(x.device)]
        right = x[torch.from_numpy(points.first[pair_point[pairs]]).to(x.device)]
        # a cumulative sum has a fixed order of additions
        squares = (left.double() - right.double()).square().cumsum(dim=1)
        distance[pairs] = squares[:, -1].cpu().numpy() if x.shape[1] else 0.0
    order = np.lexsort((pair_point, distance, pair_query))
    pair_query, pair_point, distance = pair_query[order], pair_point[order], distance[order]
    rows = points.counts[pair_point] - (pair_point == asked[pair_query])
    weight = _shares(pair_query, distance, rows, k)
    kept = (weight > 0) & (rows > 0)
    pair_query, pair_point, weight = pair_query[kept], pair_point[kept], weight[kept]
    order = np.lexsort((pair_point, pair_query))
    return pair_query[order], pair_point[order], weight[order]


def _words(x: Tensor) -> Tensor:
    """The bits of each number as an integer."""
    # 0.0 and -0.0 are equal and have different bits
    if x.dtype != torch.float64:
        return (x.float() + 0.0).view(torch.int32).long()
    words = (x + 0.0).view(torch.int64)
    return words ^ (words >> 32)  # the low half of what was a float32 is zero


def _shares(query: Ints, distance: Floats, rows: Ints, k: int) -> Floats:
    """Weight of each pair, given pairs sorted by query and distance."""
    starts = np.ones(len(query), dtype=np.bool_)  # of a tie
    starts[1:] = (query[1:] != query[:-1]) | (distance[1:] != distance[:-1])
    first = np.flatnonzero(starts)
    tied = np.add.reduceat(rows, first)
    before = np.cumsum(tied) - tied
    heads = np.ones(len(first), dtype=np.bool_)  # the first tie of a query
    heads[1:] = query[first[1:]] != query[first[:-1]]
    before -= before[heads][np.cumsum(heads) - 1]
    share = np.clip((k - before) / np.maximum(tied, 1), 0.0, 1.0)
    return share[np.cumsum(starts) - 1]


def _candidates(x: Tensor, points: Points, asked: Ints, k: int) -> tuple[Ints, Ints]:
    """Pairs that hold, for each query, every point that may be no further than the k-th row."""
    centre, scale = _frame(x)
    first = torch.from_numpy(points.first).to(x.device)
    # shuffled, because points in the order of their distance would all be let through
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(first))).to(x.device)
    targets = (x[first[torch.from_numpy(asked).to(x.device)]].double() - centre) / scale
    # float32 products may be of bfloat16 or TF32 elsewhere
    plain = x.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    dtype = torch.float32 if plain else torch.float64
    limit = torch.full((len(asked),), torch.inf, dtype=torch.float64, device=x.device)
    # the k + 1 smallest upper bounds so far: one may be the query itself, k are neighbours
    best = torch.full((len(asked), k + 1), torch.inf, dtype=torch.float64, device=x.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for block in _blocks(len(order), max(len(asked), x.shape[1])):
        point = order[block]
        values = (x[first[point]].double() - centre) / scale
        query, column, low = _propose(targets, values, best, limit, dtype)
        found.append((query, point[column], low))
    query, point, low = (torch.cat(parts) for parts in zip(*found, strict=True))
    kept = low <= limit[query]
    return query[kept].cpu().numpy(), point[kept].cpu().numpy()


def _propose(
    targets: Tensor, values: Tensor, best: Tensor, limit: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Tighten ``best`` and ``limit`` in place, and find the pairs that are within them.

    All distances are squared and less ``|q|^2``. Returns queries, columns and lower bounds.
    """
    # rounding is below unit * (|q| + |c|)^2, hence below 2 unit * (|q|^2 + |c|^2)
    unit = (targets.shape[1] + 16) * torch.finfo(dtype).eps
    norms = values.square().sum(dim=1)
    slack = 4 * unit * targets.square().sum(dim=1) + 1e-30  # the last term is for underflow
    with torch.autocast(targets.device.type, enabled=False):
        low = torch.addmm(
            ((1 - 2 * unit) * norms).to(dtype), targets.to(dtype), values.T.to(dtype), alpha=-2
        )
    hit = (low.amin(dim=1) <= limit).nonzero().squeeze(1)
    low = low if len(hit) == len(low) else low[hit]
    nearest, column = low.topk(min(best.shape[1], low.shape[1]), dim=1, largest=False)
    high = nearest.double() + 4 * unit * norms[column] + slack[hit].unsqueeze(1)
    nearest = torch.cat([best[hit], high], dim=1)
    nearest = nearest.topk(best.shape[1], dim=1, largest=False).values
    tight = torch.minimum(limit[hit], nearest[:, -1])
    row, column = (low <= tight.unsqueeze(1)).nonzero(as_tuple=True)
    if dtype == torch.float32 and len(row) > _LOOSE * nearest.numel():
        return _propose(targets, values, best, limit, torch.float64)
    best[hit], limit[hit] = nearest, tight
    return hit[row], column, low[row, column].double()


def _frame(x: Tensor) -> tuple[Tensor, float]:
    """A centre of the rows, and a power of two beyond which no row is from it."""
    parts = _blocks(len(x), x.shape[1])
    centre = torch.stack([x[rows].double().sum(dim=0) for rows in parts]).sum(dim=0) / len(x)
    ends = torch.stack([x.amin(dim=0), x.amax(dim=0)]).double()
    spread = float((ends - centre).abs().amax())
    return centre, 2.0 ** np.ceil(np.log2(spread)) if spread > 0 else 1.0


def _blocks(length: int, width: int) -> list[slice]:
    """Cut ``length`` rows into slices of at most ``_BLOCK`` numbers."""
    rows = max(1, _BLOCK // max(width, 1))
    return [slice(start, start + rows) for start in range(0, length, rows)]
