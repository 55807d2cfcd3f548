"""Euclidean k-means whose assignments do not depend on how the work was cut.

The code of an item is part of a published table, so it must be the same whether the item was
encoded alone or in a batch of a million, with one thread or many (``_codebook.py`` says how).
Sums of clusters are taken in float64 in the order of the rows for the same reason.

Memory: the vectors, ``K`` centroids, eight bytes a vector, and blocks of a fixed size; never
``V * K``.

Shapes: ``V`` vectors, ``D`` width, ``K`` centroids.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sidrank.tokenizers._codebook import Codebook, ordered_sums
from sidrank.tokenizers._residuals import Residuals
from sidrank.tokenizers._seeds import k_means_seeds

__all__ = ["k_means", "nearest"]

_WIDE = 1 << 18  # float64 numbers in one block: 2 MiB
_FEWEST_PER_CODE = 64  # vectors that the first iterations read at the least


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of each vector; ties go to the lowest index.

    Args:
        x: Vectors, shape ``[V, D]``, float32, finite.
        centroids: Centroids, shape ``[K, D]``, float32, finite.

    Returns:
        Indices, shape ``[V]``, int64, and squared distances, shape ``[V]``, float64; both are
        functions of each row alone.

    Example:
        >>> nearest(torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([[8.0], [2.0]]))[0]
        tensor([1, 0, 0])
    """
    x, centroids = x.detach(), centroids.detach()
    indices = Codebook(centroids).search(x)
    return indices, ordered_sums(x, centroids, torch.arange(len(x), device=x.device), indices)


def k_means(
    x: Tensor | Residuals,
    *,
    num_codes: int,
    iterations: int,
    seed: Sequence[int],
    weights: Tensor | None = None,
    start: Tensor | None = None,
    tolerance: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Find centroids by Lloyd's iterations from k-means++ seeds.

    The first half of the iterations read a quarter of the vectors, the next quarter half of
    them, or 64 per code if that is more: far from rest they learn as much from fewer. Where
    this counts most, at 256 vectors per code, the error ends 0.1 to 0.3% higher for little more
    than half the time. From a given start all of them read everything.

    A centroid that loses all its vectors moves to the vector that is served worst. If there
    are fewer distinct vectors than codes, the codes left over repeat an earlier one and are
    never chosen.

    Args:
        x: Vectors, shape ``[V, D]``, ``V >= 1``, float32, finite.
        num_codes: ``K``.
        iterations: Most updates of the centroids; fewer if the assignments stop changing.
        seed: Seed of the sampling, one or more numbers.
        weights: How much each vector counts, shape ``[V]``, float64, not negative and not all
            zero; None counts all the same.
        start: Centroids to start from instead of seeds, shape ``[K, D]``, float32. A code
            keeps its index.
        tolerance: Stop as soon as an iteration lowers the squared error by no more than this
            share of it; 0 goes on to the end.
        progress: Told the number of iterations done after each.

    Returns:
        Centroids, shape ``[K, D]``, float32.
    """
    vectors = x if isinstance(x, Residuals) else Residuals(x)
    if weights is not None:  # an exact scale that keeps sums from overflowing
        weights = torch.ldexp(weights, -torch.frexp(weights.max()).exponent)
    rng = np.random.default_rng(seed)
    stages: list[tuple[Tensor | None, int]] = [(None, iterations)]
    if start is not None:
        centroids = start.to(vectors.device)
    else:
        centroids = k_means_seeds(vectors, num_codes, weights, rng)
        stages = _stages(vectors, weights, num_codes, iterations, rng)
    done = 0
    for rows, count in stages:
        read = vectors if rows is None else vectors.picked(rows)
        heavy = weights if rows is None or weights is None else weights[rows]
        clusters = _Clusters(read, heavy, num_codes)
        for moved in _lloyd(clusters, centroids, count, tolerance):
            centroids = moved
            done += 1
            if progress is not None:
                progress(done)
    return centroids


def _lloyd(
    clusters: "_Clusters", centroids: Tensor, iterations: int, tolerance: float
) -> Iterator[Tensor]:
    """Centroids after each iteration that moves a vector."""
    before = None
    for _ in range(iterations):
        if not clusters.assign(centroids):
            return
        error = clusters.error(centroids) if tolerance > 0 else math.inf
        if not clusters.mass.all():
            clusters.reseed(centroids)
        centroids = clusters.means(centroids)
        yield centroids
        if tolerance > 0:
            if before is not None and before - error <= tolerance * before:
                return
            before = error


def _stages(
    x: Residuals,
    weights: Tensor | None,
    num_codes: int,
    iterations: int,
    rng: np.random.Generator,
) -> list[tuple[Tensor | None, int]]:
    """Rows to read, ascending, None for all of them, and for how many iterations."""
    heavy = None if weights is None else weights.nonzero().squeeze(1)
    count = len(x) if heavy is None else len(heavy)
    stages: list[tuple[Tensor | None, int]] = []
    left = iterations
    for share in (4, 2):
        size = max(count // share, _FEWEST_PER_CODE * num_codes)
        if size < count:
            drawn = np.sort(rng.choice(count, size, replace=False, shuffle=False))
            rows = torch.from_numpy(drawn).to(x.device)
            stages.append((rows if heavy is None else heavy[rows], left // 2))
            left -= left // 2
    return [*stages, (None, left)]


class _Clusters:
    """Which vector is in which cluster, and what each cluster adds up to.

    Args:
        x: Vectors, shape ``[V, D]``.
        weights: Their weights, shape ``[V]``, float64, or None.
        num_codes: ``K``.

    Attributes:
        indices: Cluster of each vector, shape ``[V]``, int32.
        sums: Weighted sum of the vectors of each cluster, shape ``[K, D]``, float64.
        mass: Weight of each cluster, shape ``[K]``, float64.
    """

    def __init__(self, x: Residuals, weights: Tensor | None, num_codes: int) -> None:
        self._x = x
        self._weights = weights
        self._squares: float | None = None
        self.indices = torch.full((len(x),), -1, dtype=torch.int32, device=x.device)
        self.sums = torch.zeros(num_codes, x.width, dtype=torch.float64, device=x.device)
        self.mass = torch.zeros(num_codes, dtype=torch.float64, device=x.device)

    def assign(self, centroids: Tensor) -> bool:
        """Put each vector where it is nearest.

        Args:
            centroids: Shape ``[K, D]``.

        Returns:
            Whether that moved any.
        """
        book = Codebook(centroids)
        moved = False
        self.sums.zero_()
        for rows, block in self._x.blocks():
            indices = book.search(block)
            found = indices.int()
            moved = moved or not torch.equal(self.indices[rows], found)
            self.indices[rows] = found
            self._add(rows, block, indices)
        self._weigh()
        return moved

    def means(self, centroids: Tensor) -> Tensor:
        """Move the centroids to the means of their clusters.

        Args:
            centroids: Shape ``[K, D]``.

        Returns:
            Means, shape ``[K, D]``, float32. Without vectors a centroid repeats the first that
            has some, or stays if it comes before that one.
        """
        used = (self.mass > 0).nonzero().squeeze(1)
        means = centroids.clone()
        first = int(used[0])
        means[used] = (self.sums[used] / self.mass[used].unsqueeze(1)).float()
        spare = self.mass == 0
        spare[:first] = False
        means[spare] = means[first].clone()
        return means

    def error(self, centroids: Tensor) -> float:
        """Add up the weighted squared distances of the vectors to their centroids.

        Args:
            centroids: What they were assigned to, shape ``[K, D]``.

        Returns:
            The sum, up to rounding: from the sums of the clusters, without another pass.
        """
        wide = centroids.double()
        crossed = _total(self.sums * wide)
        own = _total(self.mass.unsqueeze(1) * wide.square())
        return max(self._total_squares() - 2 * crossed + own, 0.0)

    def reseed(self, centroids: Tensor) -> None:
        """Give each empty cluster one of the worst served vectors, all of them distinct.

        Args:
            centroids: What the vectors were assigned to, shape ``[K, D]``.
        """
        empty = (self.mass == 0).nonzero().squeeze(1).tolist()
        errors = np.empty(len(self._x))
        for rows, block in self._x.blocks():
            each = torch.arange(len(block), device=block.device)
            squares = ordered_sums(block, centroids, each, self.indices[rows])
            errors[rows] = (squares * self._weight(rows)).cpu().numpy()
        negligible = 1e-12 * self._total_squares() / len(self._x)
        counts = self.indices[self._weight(slice(None)) > 0].bincount(minlength=len(centroids))
        worst = np.argsort(-errors, kind="stable")[: 4 * len(empty) + 1000]
        moved: set[bytes] = set()
        for row in worst.tolist():
            if not empty or errors[row] <= negligible:
                break
            home = int(self.indices[row])
            vector = self._x.rows(slice(row, row + 1)).cpu().numpy().tobytes()
            if vector in moved or counts[home] == 1:
                continue
            moved.add(vector)
            counts[home] -= 1
            self.indices[row] = empty.pop(0)
        if moved:
            self.sums.zero_()
            for rows, block in self._x.blocks():
                self._add(rows, block, self.indices[rows])
            self._weigh()

    def _add(self, rows: slice, block: Tensor, indices: Tensor) -> None:
        weights = None if self._weights is None else self._weights[rows]
        step = max(1, _WIDE // self._x.width)
        for start in range(0, len(block), step):
            part = slice(start, start + step)
            wide = block[part].double()
            if weights is not None:
                wide *= weights[part].unsqueeze(1)
            self.sums.index_add_(0, indices[part], wide)

    def _weigh(self) -> None:
        found = self.indices.bincount(self._weights, minlength=len(self.mass))
        self.mass = found.double()

    def _weight(self, rows: slice) -> Tensor:
        if self._weights is not None:
            return self._weights[rows]
        return torch.ones_like(self.indices[rows], dtype=torch.float64)

    def _total_squares(self) -> float:
        if self._squares is None:
            self._squares = math.fsum(
                _total(block.double().square() * self._weight(rows).unsqueeze(1))
                for rows, block in self._x.blocks()
            )
        return self._squares


def _total(values: Tensor) -> float:
    # numpy adds with one thread: the sum is the same for any number of them
    return float(values.cpu().numpy().sum())
