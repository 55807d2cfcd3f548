"""Assign weighted vectors to centroids so that no centroid carries more than a capacity.

The exact optimum is a generalised assignment problem; this is a heuristic that always ends.
All ask for their nearest centroid with room. A centroid that is asked for too much takes those
that would lose most, per unit of weight, by going to their next centroid, until one does not
fit; the rest ask again, so each asks a centroid at most once. Vectors of more than half of the
capacity do all this first, because two of them never share a centroid. After a fixed number of
rounds those who are left are placed one by one, the heaviest first.

Shapes: ``V`` vectors, ``D`` width, ``K`` centroids.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["assign_within", "means_of"]

_BLOCK = 1 << 21  # float64 numbers in one block of distances: 16 MiB
_ROUNDS = 64
_WEIGHTLESS = 1e-300


def assign_within(
    x: Tensor, loads: Tensor, centroids: Tensor, capacity: float
) -> tuple[Tensor, Tensor]:
    """Find a near centroid with room for each vector.

    Args:
        x: Vectors, shape ``[V, D]``, float32.
        loads: Weights, shape ``[V]``, float64, within ``[0, capacity]``.
        centroids: Centroids, shape ``[K, D]``, float32.
        capacity: Most weight that a centroid may carry.

    Returns:
        Indices of centroids, shape ``[V]``, int64; and the rows that fitted nowhere, ascending,
        int64: they went where most room was, so that no centroid carries more than the mean of
        all plus one of them.
    """
    room = torch.full((len(centroids),), capacity, dtype=torch.float64, device=x.device)
    indices = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    heavy = loads > capacity / 2
    for asking in (heavy.nonzero().squeeze(1), (~heavy).nonzero().squeeze(1)):
        for _ in range(_ROUNDS):
            wanted, regret = _nearest_open(x[asking], loads[asking], centroids, room)
            asking, wanted, regret = (each[wanted >= 0] for each in (asking, wanted, regret))
            if len(asking) == 0:
                break
            taken = _take(
                wanted, regret / loads[asking].clamp(min=_WEIGHTLESS), loads[asking], room
            )
            indices[asking[taken]] = wanted[taken]
            room -= wanted[taken].bincount(loads[asking[taken]], minlength=len(room))
            asking = asking[~taken]
    return indices, _place_rest(x, loads, centroids, room, indices)


def means_of(x: Tensor, indices: Tensor, centroids: Tensor) -> tuple[Tensor, float]:
    """Move centroids to the means of their vectors.

    Args:
        x: Vectors, shape ``[V, D]``, float32.
        indices: Which centroid each vector has, shape ``[V]``, int64.
        centroids: Centroids, shape ``[K, D]``, float32; those without vectors stay.

    Returns:
        The means, shape ``[K, D]``, float32, and the sum of squared distances to them.
    """
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=x.device)
    for rows in _blocks(len(x), x.shape[1]):
        sums.index_add_(0, indices[rows], x[rows].double())
    counts = indices.bincount(minlength=len(centroids)).unsqueeze(1)
    means = torch.where(counts > 0, (sums / counts.clamp(min=1)).float(), centroids)
    error = 0.0
    for rows in _blocks(len(x), x.shape[1]):
        error += float((x[rows].double() - means[indices[rows]]).square().sum())
    return means, error


def _nearest_open(
    x: Tensor, loads: Tensor, centroids: Tensor, room: Tensor
) -> tuple[Tensor, Tensor]:
    """Nearest centroid with room for each vector, and how much the next one is worse.

    The index is -1 if none has room, the difference of squared distances infinite if one has.
    """
    wide = centroids.double()
    norms = wide.square().sum(dim=1)
    indices = torch.empty(len(x), dtype=torch.int64, device=x.device)
    regret = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for rows in _blocks(len(x), len(centroids) + x.shape[1]):
        scores = torch.addmm(norms, x[rows].double(), wide.T, alpha=-2)
        scores.masked_fill_(room < loads[rows].unsqueeze(1), torch.inf)
        best, index = scores.min(dim=1)
        scores.scatter_(1, index.unsqueeze(1), torch.inf)
        regret[rows] = scores.amin(dim=1) - best
        indices[rows] = index.masked_fill(best == torch.inf, -1)
    return indices, regret


def _take(wanted: Tensor, urgency: Tensor, loads: Tensor, room: Tensor) -> Tensor:
    """Of those that ask, which ones the centroids take: the most urgent, as long as they fit."""
    order = urgency.argsort(descending=True, stable=True)
    order = order[wanted[order].argsort(stable=True)]
    wanted, loads = wanted[order], loads[order]
    before = loads.cumsum(0) - loads
    counts = wanted.bincount(minlength=len(room))
    first = (counts.cumsum(0) - counts)[wanted]  # where the run of each centroid begins
    carried = before - before[first] + loads
    taken = torch.empty(len(order), dtype=torch.bool, device=order.device)
    # whoever comes first fits by itself, whatever rounding says
    taken[order] = (carried <= room[wanted]) | (first == torch.arange(len(order)).to(first))
    return taken


def _place_rest(
    x: Tensor, loads: Tensor, centroids: Tensor, room: Tensor, indices: Tensor
) -> Tensor:
    """Place the vectors without a centroid one by one; return those that fitted nowhere."""
    rest = (indices < 0).nonzero().squeeze(1)
    rest = rest[loads[rest].argsort(descending=True, stable=True)]
    unfit: list[int] = []
    for row in rest.tolist():
        load = loads[row : row + 1]
        at = int(_nearest_open(x[row : row + 1], load, centroids, room)[0])
        if at < 0:
            at = int(room.argmax())
            unfit.append(row)
        indices[row] = at
        room[at] -= load[0]
    return torch.tensor(sorted(unfit), dtype=torch.int64, device=x.device)


def _blocks(length: int, width: int) -> Iterator[slice]:
    rows = max(1, _BLOCK // width)
    return (slice(start, start + rows) for start in range(0, length, rows))
