"""Search for the nearest centroid, quickly, with an answer that depends on the vector alone.

The answer is defined, not computed: of the squared distances summed in float64 in the order of
the dimensions, the least, and the lowest index on a tie. A matrix product cannot give it (the
order of its additions changes with its shape and with the threads), but it can rule out nearly
every centroid. So a product in float32 proposes; where another centroid is within the rounding
bound of the best, about one vector in a thousand, a product in float64 rules out more, and what
is left is compared by the sums themselves.

Bound of the first step: with ``x`` and ``c`` less a common centre, ``S = |x| + max |c|`` and
``u = 2**-24``, the computed ``|c|^2 - 2 x.c`` is within ``(D + 5) u S^2`` of the exact one,
whatever the order of its sums: ``D + 2`` roundings of terms that add up to at most ``S^2``, and
``2 u S^2`` for taking off the centre. Two centroids within twice that are told apart by the
next step. The width is summed in pieces, which bounds ``D`` in this by the size of a piece plus
their number. Numbers so large or small that float32 would overflow or underflow skip the step.

Shapes: ``n`` vectors, ``D`` width, ``K`` centroids.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = ["Codebook", "ordered_sums"]

_SCORES = 1 << 19  # float32 numbers in one block of scores: 2 MiB
_LEAST_ROWS = 256  # a product of fewer rows is slow
_PIECE = 512  # of the width, summed at once
_GROUP = 64  # scores whose minimum is taken together
_SMALLEST, _LARGEST = 2.0**-80, 2.0**120  # squares for which float32 is safe
_EXACT = {"none", "ieee"}
_CENTRED = 0.25  # distance of the centre from the origin, in lengths of the longest centroid
_WIDE = 1 << 20  # float64 numbers in one block of the last two steps: 8 MiB


class Codebook:
    """Centroids made ready for many searches.

    Args:
        centroids: Shape ``[K, D]``, float32, finite.
    """

    def __init__(self, centroids: Tensor) -> None:
        self.centroids = centroids
        self._columns = _first_of_equal(centroids)
        self._distinct = centroids[self._columns]
        count, width = self._distinct.shape
        centre = self._distinct.double().mean(dim=0).float()
        shifted = self._distinct - centre
        # taking the centre off keeps the bound tight; what is nearly centred can do without
        if float(centre.norm()) <= _CENTRED * float(shifted.norm(dim=1).max()):
            centre, shifted = None, self._distinct
        norms = shifted.double().square().sum(dim=1)
        spare = -count % _GROUP  # scores of inf, so that groups are whole
        self._centre = centre
        self._bias = torch.nn.functional.pad(norms.float(), (0, spare), value=torch.inf)
        self._weights = torch.nn.functional.pad(-2 * shifted, (0, 0, 0, spare)).T.contiguous()
        self._reach = float(norms.max().sqrt())
        roundings = min(width, _PIECE) + -(-width // _PIECE) + 16
        self._bound = roundings * 2.0**-23
        self._rows = max(_LEAST_ROWS, _SCORES // len(self._bias))
        self._single = _single_is_exact(centroids.device)

    def search(self, x: Tensor) -> Tensor:
        """Find the nearest centroid of each vector; ties go to the lowest index.

        Args:
            x: Vectors, shape ``[n, D]``, float32, finite, where the centroids are.

        Returns:
            Indices, shape ``[n]``, int64.
        """
        if not self._single:
            return self._columns[self._settle(x)]
        indices = torch.empty(len(x), dtype=torch.int64, device=x.device)
        best, rival, lengths = x.new_empty(3, len(x))
        most = min(self._rows, len(x))
        shifted = x.new_empty(most, x.shape[1])  # written again and again: they stay in cache
        scores = x.new_empty(most, len(self._bias))
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, len(x), self._rows):
                rows = slice(start, min(start + self._rows, len(x)))
                size = rows.stop - start
                block = x[rows]
                if self._centre is not None:
                    block = torch.sub(block, self._centre, out=shifted[:size])
                torch.linalg.vector_norm(block, dim=1, out=lengths[rows])
                self._propose(block, scores[:size], indices[rows], best[rows], rival[rows])
        squares = (lengths + self._reach).square()
        safe = (squares >= _SMALLEST) & (squares <= _LARGEST)
        unsure = (~(safe & (rival > best + self._bound * squares))).nonzero().squeeze(1)
        if len(unsure):
            indices[unsure] = self._settle(x[unsure])
        return self._columns[indices]

    def _propose(
        self, x: Tensor, scores: Tensor, indices: Tensor, best: Tensor, rival: Tensor
    ) -> None:
        """Write the least score of each row, its place, and the second least."""
        torch.addmm(self._bias, x[:, :_PIECE], self._weights[:_PIECE], out=scores)
        for start in range(_PIECE, x.shape[1], _PIECE):
            piece = slice(start, start + _PIECE)
            scores.addmm_(x[:, piece], self._weights[piece])
        # torch finds a minimum ten times as fast as its place: so first the least of each
        # group, then its place in the best group alone
        least = scores.view(len(x), -1, _GROUP).amin(dim=2)
        lowest, group = least.min(dim=1)
        rows = torch.arange(0, least.numel(), least.shape[1], device=x.device)
        within = scores.view(-1, _GROUP).index_select(0, rows + group)
        place = within.argmin(dim=1)
        least.scatter_(1, group.unsqueeze(1), torch.inf)
        within.scatter_(1, place.unsqueeze(1), torch.inf)
        torch.minimum(least.amin(dim=1), within.amin(dim=1), out=rival)
        torch.add(place, group, alpha=_GROUP, out=indices)
        best.copy_(lowest)

    @cached_property
    def _double(self) -> tuple[Tensor, Tensor, float]:
        """Centroids, their squared lengths, and the longest, in float64."""
        wide = self._distinct.double()
        norms = wide.square().sum(dim=1)
        return wide, norms, float(norms.max().sqrt())

    def _settle(self, x: Tensor) -> Tensor:
        wide, norms, reach = self._double
        # bounds the rounding of the product and of the ordered sums, for two centroids
        bound = (x.shape[1] + 4) * 2.0**-50
        indices = torch.empty(len(x), dtype=torch.int64, device=x.device)
        size = max(1, _WIDE // (len(wide) + x.shape[1]))
        for start in range(0, len(x), size):
            block = x[start : start + size].double()
            scores = torch.addmm(norms, block, wide.T, alpha=-2)
            limit = scores.amin(dim=1) + bound * (block.norm(dim=1) + reach).square()
            row, column = (scores <= limit.unsqueeze(1)).nonzero(as_tuple=True)
            exact = torch.full_like(scores, torch.inf)
            exact[row, column] = ordered_sums(block, wide, row, column)
            indices[start : start + size] = exact.argmin(dim=1)  # of equal ones the first
        return indices


def ordered_sums(x: Tensor, centroids: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Squared distances of pairs, summed in the order of the dimensions.

    Args:
        x: Vectors, shape ``[n, D]``.
        centroids: Shape ``[K, D]``.
        row: A vector per pair, shape ``[P]``.
        column: A centroid per pair, shape ``[P]``.

    Returns:
        Squared distances, shape ``[P]``, float64.
    """
    sums = torch.empty(len(row), dtype=torch.float64, device=x.device)
    size = max(1, _WIDE // x.shape[1])
    for start in range(0, len(row), size):
        pairs = slice(start, start + size)
        gaps = x[row[pairs]].double() - centroids[column[pairs]].double()
        sums[pairs] = gaps.square().cumsum(dim=1)[:, -1]
    return sums


def _first_of_equal(centroids: Tensor) -> Tensor:
    """Indices of the centroids that equal none before them, ascending."""
    _, first = np.unique(centroids.cpu().numpy(), axis=0, return_index=True)
    return torch.from_numpy(np.sort(first)).to(centroids.device)


def _single_is_exact(device: torch.device) -> bool:
    """Whether products of float32 are sums of float32 products here, not of rounded factors."""
    if device.type == "cuda":
        return torch.backends.cuda.matmul.fp32_precision in _EXACT
    mkldnn = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    return device.type == "cpu" and mkldnn.fp32_precision in _EXACT
