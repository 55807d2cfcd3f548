r"""How many directions a cloud of vectors really uses.

A matrix of token states may have ``D`` columns and live on a line. The effective rank is the
exponential of the entropy of its singular values: ``r`` equal ones give ``r``, one that outweighs
all others gives little more than 1.

Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007; on the centred matrix, as in
TokenFormer, arXiv 2604.13737. Differs from the sources: singular values are the roots of the
eigenvalues of the centred Gram matrix ``[D, D]``, summed block by block in float64, so that any
number of rows costs the memory of a block; those below the rounding of that sum count as zero.

Shapes: ``n`` rows, ``D`` width.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["StreamingEffectiveRank", "effective_rank"]

_BLOCK = 1 << 22  # numbers in a float64 block: 32 MiB


def effective_rank(matrix: Tensor | NDArray[Any]) -> float:
    r"""Exponential of the entropy of the singular values of a centred matrix.

    .. math::  \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \sigma_i / \sum_j \sigma_j

    It is blind to a shift, a scale and a rotation of the rows. With few rows it is low for want of
    rows: compare equal numbers of rows, thousands of them.

    Args:
        matrix: One vector a row, shape ``[n, D]``, finite, ``n >= 2``.

    Returns:
        A number within ``[1, min(n - 1, D)]``; 0 if all rows are equal.

    Raises:
        TypeError: If ``matrix`` does not hold floating point numbers.
        ValueError: If it is no matrix with two rows and a column, or a row is not finite.

    Example:
        >>> round(effective_rank(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])), 6)
        2.0
        >>> round(effective_rank(torch.tensor([[1.0, 2], [2, 4], [3, 6]])), 6)
        1.0
    """
    rank = StreamingEffectiveRank()
    rank.update(matrix)
    return rank.compute()


class StreamingEffectiveRank:
    """The same of rows that come in batches; the memory is one ``[D, D]`` matrix.

    Example:
        >>> rank = StreamingEffectiveRank()
        >>> for batch in torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).split(2):
        ...     rank.update(batch)
        >>> rank.rows, round(rank.compute(), 6)
        (4, 2.0)
    """

    def __init__(self) -> None:
        self.rows = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._gram = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, matrix: Tensor | NDArray[Any]) -> None:
        """Add rows.

        Args:
            matrix: One vector a row, shape ``[n, D]``, finite; ``n`` may be 0.

        Raises:
            TypeError: If ``matrix`` does not hold floating point numbers.
            ValueError: If it is no matrix with a column, a row is not finite, or earlier rows
                had another width.
        """
        width = _width(matrix)
        if self.rows and width != len(self._mean):
            raise ValueError(f"matrix must have {len(self._mean)} columns, got {width}")
        step = max(1, _BLOCK // width)
        for start in range(0, len(matrix), step):
            block = _finite(matrix[start : start + step], start)
            mean = block.mean(dim=0)
            centred = block - mean
            self._add(len(block), mean.cpu(), (centred.t() @ centred).cpu())

    def merge(self, other: "StreamingEffectiveRank") -> None:
        """Add the rows of another one.

        Args:
            other: It stays as it is.

        Raises:
            ValueError: If its rows have another width.
        """
        if self.rows and other.rows and len(self._mean) != len(other._mean):
            raise ValueError(f"other must have {len(self._mean)} columns, got {len(other._mean)}")
        if other.rows:
            self._add(other.rows, other._mean, other._gram)

    def compute(self) -> float:
        """Effective rank of all rows so far.

        Returns:
            A number within ``[1, min(n - 1, D)]``; 0 if all rows are equal.

        Raises:
            ValueError: If there are fewer than two rows, or their squares do not fit float64.
        """
        if self.rows < 2:
            raise ValueError(f"matrix must have at least 2 rows, got {self.rows}")
        if not bool(self._gram.isfinite().all()):
            raise ValueError("matrix must have squares that fit float64, got larger numbers")
        squares = torch.linalg.eigvalsh(self._gram)
        # what summing rounded off: of the sum itself, and of centring rows far from the origin
        epsilon = torch.finfo(torch.float64).eps
        of_sum = len(squares) * epsilon * float(squares[-1])
        of_mean = self.rows * (8 * epsilon) ** 2 * float(self._mean.square().sum())
        sigma = squares[squares > max(of_sum, of_mean)].sqrt()
        if not len(sigma):
            return 0.0
        p = sigma / sigma.sum()
        return math.exp(-float((p * p.log()).sum()))

    def _add(self, rows: int, mean: Tensor, gram: Tensor) -> None:
        """Chan, Golub and LeVeque's update: nothing cancels, wherever the rows lie."""
        if self.rows == 0:
            self.rows, self._mean, self._gram = rows, mean, gram
            return
        total = self.rows + rows
        shift = mean - self._mean
        self._gram = self._gram + gram + torch.outer(shift, shift) * (self.rows * rows / total)
        self._mean = self._mean + shift * (rows / total)
        self.rows = total


def _width(matrix: Tensor | NDArray[Any]) -> int:
    """Check all that can be checked without reading the numbers."""
    tensor = isinstance(matrix, Tensor)
    if not (matrix.is_floating_point() if tensor else matrix.dtype.kind == "f"):
        raise TypeError(f"matrix must hold floating point numbers, got {matrix.dtype}")
    if len(matrix.shape) != 2 or matrix.shape[1] < 1:
        raise ValueError(f"matrix must have shape [n, D], D at least 1, got {list(matrix.shape)}")
    return matrix.shape[1]


def _finite(block: Tensor | NDArray[Any], start: int) -> Tensor:
    if isinstance(block, Tensor):
        x = block.detach().double()
    else:
        x = torch.from_numpy(np.array(block, dtype=np.float64))
    finite = x.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int(finite.int().argmin())
        raise ValueError(f"matrix must be finite, got {x[row].tolist()[:8]} in row {start + row}")
    return x
