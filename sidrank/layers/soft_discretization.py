r"""Embed one real number as a soft mixture of learned vectors.

A number multiplied into a vector moves along a line; a number cut into bins jumps at the borders.
Here a small head says how much of each of ``J`` learned vectors a number takes:
``e = sum_j softmax(head(s) / tau)_j M_j``.

Source: AutoDis, Guo et al., KDD 2021 (arXiv 2012.08986), automatic discretisation; used by
SID-Coord, arXiv 2604.10471, for the similarity of a target to each behaviour.
Differs from the source: biases in the head, whose skip factor is 1, one number instead of one
head a field; a fixed temperature [derived].

Shapes: ``J`` soft bins, ``D`` width.
"""

from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SoftDiscretization"]


class SoftDiscretization(nn.Module):
    r"""Real numbers in, vectors out.

    .. math::  h = \mathrm{LeakyReLU}(w s + b), \quad
        \alpha = \mathrm{softmax}\big((U h + h) / \tau\big), \quad e = \sum_j \alpha_j M_j

    Args:
        dim: Width of the vectors.
        bins: Number ``J`` of learned vectors.
        temperature: ``tau``; a small one makes the bins harder.

    Raises:
        ValueError: If a size is less than one or the temperature is not positive and finite.

    Example:
        >>> embed = SoftDiscretization(dim=8)
        >>> embed(torch.tensor([[-1.0, 0.0, 1.0]])).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, *, dim: int, bins: int = 16, temperature: float = 1.0) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("bins", bins)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not (temperature > 0 and isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.dim = dim
        self.temperature = temperature
        self.hidden = nn.Linear(1, bins)
        self.head = nn.Linear(bins, bins, bias=False)
        self.vectors = nn.Parameter(torch.empty(bins, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew; the linear layers have their own."""
        nn.init.normal_(self.vectors, std=self.dim**-0.5)

    def shares(self, values: Tensor) -> Tensor:
        """How much of each vector a number takes.

        Args:
            values: Finite numbers, shape ``[...]``.

        Returns:
            Shares that sum to one, shape ``[..., J]``.
        """
        weights = self._weights(values)
        return (weights / weights.sum(dim=0)).movedim(0, -1)

    def lanes(self, values: Tensor) -> Tensor:
        """Embed numbers, one lane of the vectors after the other.

        Args:
            values: Finite numbers of one scale, such as cosines, shape ``[...]``.

        Returns:
            Vectors, shape ``[D, ...]``.
        """
        weights = self._weights(values)
        return torch.einsum("jd,j...->d...", self.vectors, weights).div_(weights.sum(dim=0))

    def forward(self, values: Tensor) -> Tensor:
        """Embed numbers.

        Args:
            values: Finite numbers of one scale, such as cosines, shape ``[...]``.

        Returns:
            Vectors, shape ``[..., D]``.
        """
        return self.lanes(values).movedim(0, -1)

    def _weights(self, values: Tensor) -> Tensor:
        """The softmax before its division, ``[J, ...]``, the largest of a number's weights is 1.

        Bins come first since they are few: operations run along the numbers, and in place.
        """
        line = torch.cat([self.hidden.weight, self.hidden.bias.unsqueeze(1)], dim=1)
        points = torch.stack([values, torch.ones_like(values)])
        hidden = F.leaky_relu(torch.einsum("jp,p...->j...", line, points), inplace=True)
        same = torch.eye(self.head.out_features, dtype=line.dtype, device=line.device)
        head = (self.head.weight + same) / self.temperature
        logits = torch.einsum("jk,k...->j...", head, hidden)
        return logits.sub_(logits.detach().amax(dim=0)).exp_()
