"""Euclidean k-means whose assignments do not depend on how the work was cut.

The code of an item is part of a published table, so it must be the same whether the item was
encoded alone or in a batch of a million, with one thread or many. A matrix product does not
promise that: the order of its additions changes with its shape. So the product only proposes.
It is taken in float64, every centroid within its rounding bound of the best is kept, and if
more than one is left they are compared by a sum with a fixed order; an exact tie goes to the
lowest index. Sums of clusters are taken in the order of the rows for the same reason.

Memory: the vectors, ``K`` centroids, and blocks of a fixed size; never ``V * K``.

Shapes: ``V`` vectors, ``D`` width, ``K`` centroids.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["k_means", "nearest"]

_BLOCK = 1 << 21  # float64 numbers in one block of distances: 16 MiB
_GREEDY_CODES = 1024  # above, k-means++ (K passes over a sample) costs more than it brings
_SAMPLES_PER_CODE = 32
_LEAST_SAMPLE = 4096


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of each vector; ties go to the lowest index.

    Args:
        x: Vectors, shape ``[V, D]``, float32, finite.
        centroids: Centroids, shape ``[K, D]``, float32, finite.

    Returns:
        Indices, shape ``[V]``, int64, a function of each row alone; and squared distances,
        shape ``[V]``, float64, exact up to rounding.

    Example:
        >>> nearest(torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([[8.0], [2.0]]))[0]
        tensor([1, 0, 0])
    """
    columns = _first_of_equal(centroids)
    wide = centroids[columns].double()
    norms = wide.square().sum(dim=1)
    # [x, 1] times this is |c|^2 - 2 x.c: the squared distance but for |x|^2
    weights = torch.cat([-2 * wide.T, norms.unsqueeze(0)])
    # bounds the rounding of the product and of the sums in _settle, for two centroids
    unit = (x.shape[1] + 4) * 2.0**-50
    indices = torch.empty(len(x), dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for rows in _blocks(len(x), len(columns) + x.shape[1]):
        block = F.pad(x[rows].double(), (0, 1), value=1.0)
        scores = block @ weights
        lengths = block[:, :-1].square().sum(dim=1)
        best, index = scores.min(dim=1)
        limit = best + unit * (lengths.sqrt() + norms.max().sqrt()).square()
        scores.scatter_(1, index.unsqueeze(1), torch.inf)
        unsure = (scores.amin(dim=1) <= limit).nonzero().squeeze(1)
        if len(unsure):
            close = scores[unsure] <= limit[unsure].unsqueeze(1)
            close.scatter_(1, index[unsure].unsqueeze(1), True)
            index[unsure] = _settle(block[unsure, :-1], wide, close)
        indices[rows] = columns[index]
        distances[rows] = (best + lengths).clamp(min=0)
    return indices, distances


def k_means(x: Tensor, *, num_codes: int, iterations: int, seed: Sequence[int]) -> Tensor:
    """Find centroids by Lloyd's iterations from k-means++ seeds.

    Up to 1024 codes are seeded by greedy k-means++ (Arthur and Vassilvitskii, 2007) on a
    sample of 32 vectors per code and at least 4096, more by a random sample. A centroid that
    loses all its vectors moves to the vector that is served worst. If there are fewer
    distinct vectors than codes, the codes left over come last, repeat the first and are
    never chosen.

    Args:
        x: Vectors, shape ``[V, D]``, ``V >= 1``, float32, finite.
        num_codes: ``K``.
        iterations: Most updates of the centroids; fewer if the assignments stop changing.
        seed: Seed of the sampling, one or more numbers.

    Returns:
        Centroids, shape ``[K, D]``, float32.
    """
    centroids = _seeds(x, num_codes, np.random.default_rng(seed))
    before = None
    for _ in range(iterations):
        indices, distances = nearest(x, centroids)
        if before is not None and torch.equal(indices, before):
            break
        before = indices
        sums = torch.zeros(num_codes, x.shape[1], dtype=torch.float64, device=x.device)
        for rows in _blocks(len(x), x.shape[1]):
            sums.index_add_(0, indices[rows], x[rows].double())
        counts = indices.bincount(minlength=num_codes)
        if not counts.all():
            _reseed(sums, counts, x, indices, distances)
        used = (counts > 0).nonzero().squeeze(1)
        means = (sums[used] / counts[used].unsqueeze(1)).float()
        centroids = torch.cat([means, means[:1].expand(num_codes - len(used), -1)])
    return centroids


def _settle(block: Tensor, centroids: Tensor, close: Tensor) -> Tensor:
    """Compare the close centroids of each row by sums whose order is fixed."""
    row, column = close.nonzero(as_tuple=True)
    exact = torch.full(close.shape, torch.inf, dtype=torch.float64, device=block.device)
    for pairs in _blocks(len(row), block.shape[1]):
        squares = (block[row[pairs]] - centroids[column[pairs]]).square()
        exact[row[pairs], column[pairs]] = squares.cumsum(dim=1)[:, -1]
    return exact.argmin(dim=1)


def _first_of_equal(centroids: Tensor) -> Tensor:
    """Indices of the centroids that equal none before them, ascending."""
    _, first = np.unique(centroids.cpu().numpy(), axis=0, return_index=True)
    return torch.from_numpy(np.sort(first)).to(centroids.device)


def _seeds(x: Tensor, num_codes: int, rng: np.random.Generator) -> Tensor:
    if num_codes > _GREEDY_CODES:
        rows = rng.permutation(len(x))[:num_codes]
        seeds = x[torch.from_numpy(rows).to(x.device)]
    else:
        size = min(len(x), max(_SAMPLES_PER_CODE * num_codes, _LEAST_SAMPLE))
        rows = np.sort(rng.choice(len(x), size, replace=False))
        sample = x[torch.from_numpy(rows).to(x.device)]
        seeds = sample[_greedy_rows(sample, num_codes, rng)]
    return torch.cat([seeds, seeds[:1].expand(num_codes - len(seeds), -1)])


def _greedy_rows(sample: Tensor, num_codes: int, rng: np.random.Generator) -> list[int]:
    """Greedy k-means++: of a few vectors drawn by squared distance, keep the best one."""
    wide = sample.double()
    lengths = wide.square().sum(dim=1)
    trials = 2 + int(np.log(num_codes))
    chosen = [int(rng.integers(len(sample)))]
    closest = _squared_distances(wide, lengths, np.array(chosen))[0]
    while len(chosen) < num_codes:
        cumulative = np.cumsum(closest, dtype=np.float64)
        if cumulative[-1] <= 0:  # every distinct vector is a seed already
            break
        drawn = np.searchsorted(cumulative, rng.random(trials) * cumulative[-1], side="right")
        drawn = np.minimum(drawn, len(sample) - 1)
        candidates = np.minimum(_squared_distances(wide, lengths, drawn), closest)
        best = int(candidates.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(drawn[best]))
        closest = candidates[best]
    return chosen


def _squared_distances(
    wide: Tensor, lengths: Tensor, rows: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Squared distances of all vectors to a few of them, shape ``[rows, V]``."""
    at = torch.from_numpy(rows).to(wide.device)
    scale = lengths + lengths[at].unsqueeze(1)
    distances = scale - 2 * (wide[at] @ wide.T)
    distances[distances < 1e-12 * scale] = 0  # the same vector, up to rounding
    # float32 hides the last bits, which may differ with the number of threads
    return distances.float().cpu().numpy()


def _reseed(sums: Tensor, counts: Tensor, x: Tensor, indices: Tensor, distances: Tensor) -> None:
    """Give each empty cluster one of the worst served vectors, all of them distinct."""
    empty = (counts == 0).nonzero().squeeze(1).tolist()
    negligible = 1e-12 * float(x.double().square().sum(dim=1).mean())
    worst = np.argsort(-distances.cpu().numpy(), kind="stable")[: 4 * len(empty) + 1000]
    moved: set[bytes] = set()
    for row in worst.tolist():
        if not empty or distances[row] <= negligible:
            break
        vector, home = x[row].cpu().numpy().tobytes(), int(indices[row])
        if vector in moved or counts[home] == 1:
            continue
        moved.add(vector)
        cluster = empty.pop(0)
        sums[home] -= x[row].double()
        counts[home] -= 1
        sums[cluster] = x[row].double()
        counts[cluster] = 1


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Cut ``length`` rows into slices of at most ``_BLOCK`` numbers."""
    rows = max(1, _BLOCK // width)
    return (slice(start, start + rows) for start in range(0, length, rows))
