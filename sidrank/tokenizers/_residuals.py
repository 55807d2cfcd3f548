"""What the levels so far left over of the vectors, computed when asked for and never stored.

A second copy of the vectors would double the memory of a fit; the codes of a level take four
bytes an item. Subtracting again costs little beside the search of the next level.

Shapes: ``V`` vectors, ``D`` width, ``K`` centroids.
"""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from sidrank.tokenizers._codebook import Codebook

__all__ = ["Residuals"]

_BLOCK = 1 << 19  # numbers in one block of vectors: 2 MiB
_LEAST_ROWS = 256


class Residuals:
    """Vectors less the centroids that the levels so far chose for them.

    Args:
        x: Vectors, shape ``[V, D]``, float32.
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._picked: Tensor | None = None
        self._levels: list[tuple[Tensor, Tensor]] = []
        self.device = x.device
        self.width = x.shape[1]

    def __len__(self) -> int:
        return len(self._x if self._picked is None else self._picked)

    def picked(self, rows: Tensor) -> Self:
        """Keep some of the vectors, without a copy.

        Args:
            rows: Which, shape ``[n]``.

        Returns:
            Their residuals; ``self`` stays as it is.
        """
        some = type(self)(self._x)
        some._levels = self._levels
        some._picked = rows if self._picked is None else self._picked[rows]
        return some

    def less(self, centroids: Tensor) -> Self:
        """Take off the nearest centroid of each residual.

        Args:
            centroids: Shape ``[K, D]``, float32.

        Returns:
            What is left; ``self`` stays as it is.
        """
        book = Codebook(centroids)
        indices = torch.empty(len(self._x), dtype=torch.int32, device=self.device)
        for rows, block in self.blocks():
            indices[rows if self._picked is None else self._picked[rows]] = book.search(block).int()
        left = type(self)(self._x)
        left._picked = self._picked
        left._levels = [*self._levels, (centroids, indices)]
        return left

    def rows(self, rows: slice | Tensor) -> Tensor:
        """Compute some of the residuals.

        Args:
            rows: Which: a slice, or indices of shape ``[n]``.

        Returns:
            Residuals, shape ``[n, D]``, float32; without a level, a slice is not copied.
        """
        if self._picked is not None:
            rows = self._picked[rows]
        block = self._x[rows]
        for level, (centroids, indices) in enumerate(self._levels):
            chosen = centroids.index_select(0, indices[rows])
            block = block - chosen if level == 0 else block.sub_(chosen)
        return block

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Compute all of them, a block at a time.

        Yields:
            Rows and their residuals.
        """
        size = max(_LEAST_ROWS, _BLOCK // self.width)
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield rows, self.rows(rows)
