"""Residual k-means: the codes of each level quantise what the levels before left over.

With ``r_0 = x``, level ``l`` learns ``K_l`` centroids of the residuals ``r_{l-1}`` by
Euclidean k-means, takes ``c_l = argmin_k |r_{l-1} - mu_{l,k}|`` and passes on
``r_l = r_{l-1} - mu_{l,c_l}``. An item is rebuilt as the sum of its centroids.

Source: OpenOneRec (arXiv 2512.24762) and its code: levels trained one after the other, on a
subset if wanted, 20 iterations. Differs from the source: greedy k-means++ seeds, empty
clusters reseeded, ties and rounding settled so that a code depends on its vector alone
(``k_means.py``).

Shapes: ``V`` items, ``D`` width of a vector, ``N`` levels, ``K_l`` codes of level ``l``.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.k_means import k_means, nearest

__all__ = ["RQKMeans"]

_LARGEST = 1e37  # residuals of larger numbers can overflow float32


class RQKMeans:
    """Residual k-means tokenizer.

    The same vectors, arguments and seed give the same codebooks, and a vector gives the same
    codes in a batch of any size (on a CPU, where the tests run). Everything is computed where
    the vectors are; codebooks are kept on the CPU.

    Args:
        levels: Codebook sizes ``K_1, ..., K_N``.
        iterations: Most Lloyd iterations per level.
        seed: Seed of all sampling.

    Raises:
        ValueError: If there is no level, or a size or ``iterations`` is less than 1.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> tokenizer = RQKMeans(levels=(2, 2)).fit(x)
        >>> codes = tokenizer.encode(x)
        >>> tokenizer.decode(codes).tolist()
        [[0.0], [1.0], [10.0], [11.0]]
    """

    def __init__(
        self, *, levels: tuple[int, ...] = (256, 256, 256), iterations: int = 20, seed: int = 0
    ) -> None:
        if not levels or min(levels) < 1:
            raise ValueError(f"levels must be one or more sizes of at least 1, got {levels}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.levels = tuple(levels)
        self.iterations = iterations
        self.seed = seed
        self._codebooks: list[Tensor] = []

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        return {"levels": list(self.levels), "iterations": self.iterations, "seed": self.seed}

    def fit(self, x: Tensor | NDArray[Any]) -> Self:
        """Learn the codebooks, level by level.

        Args:
            x: Item vectors, shape ``[V, D]``, any floating dtype; computed in float32. A
                subset of the items will do: :meth:`encode` takes the rest.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If ``x`` is empty, not a floating matrix, or not within ±1e37.
        """
        residual = _vectors(x)
        if residual.numel() == 0:
            raise ValueError(f"x must hold at least one number, got {list(residual.shape)}")
        codebooks: list[Tensor] = []
        for level, size in enumerate(self.levels):
            codebook = k_means(
                residual, num_codes=size, iterations=self.iterations, seed=[self.seed, level]
            )
            codebooks.append(codebook.cpu())
            if level + 1 < len(self.levels):
                residual = residual - codebook[nearest(residual, codebook)[0]]
        self._codebooks = codebooks
        return self

    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Quantise vectors greedily, level by level; ties go to the lowest code.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Codes, shape ``[n, N]``, int32, on the device of ``x``.

        Raises:
            NotFittedError: If there are no codebooks yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        width = self._fitted()[0].shape[1]
        residual = _vectors(x)
        if residual.shape[1] != width:
            raise ValueError(f"x must have shape [n, {width}], got {list(residual.shape)}")
        codes = torch.empty(len(residual), len(self.levels), dtype=torch.int32)
        codes = codes.to(residual.device)
        for level, codebook in enumerate(self._codebooks):
            here = codebook.to(residual.device)
            indices = nearest(residual, here)[0]
            codes[:, level] = indices
            residual = residual - here[indices]
        return codes

    def decode(self, codes: Tensor | NDArray[Any]) -> Tensor:
        """Rebuild vectors as the sum of their centroids.

        Args:
            codes: Codes, shape ``[n, N]``, any integer dtype.

        Returns:
            Vectors, shape ``[n, D]``, float32, on the device of ``codes``.

        Raises:
            NotFittedError: If there are no codebooks yet.
            TypeError: If ``codes`` are not integers.
            ValueError: If ``codes`` has another number of levels or leaves a codebook.
        """
        codebooks = self._fitted()
        rows = _tensor(codes)
        if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
            raise TypeError(f"codes must be integers, got {rows.dtype}")
        if rows.dim() != 2 or rows.shape[1] != len(self.levels):
            raise ValueError(
                f"codes must have shape [n, {len(self.levels)}], got {list(rows.shape)}"
            )
        for level, size in enumerate(self.levels):
            outside = rows[:, level][(rows[:, level] < 0) | (rows[:, level] >= size)]
            if len(outside):
                raise ValueError(
                    f"codes of level {level} must be within [0, {size}), got {int(outside[0])}"
                )
        vectors = torch.zeros(len(rows), codebooks[0].shape[1], device=rows.device)
        for level, codebook in enumerate(codebooks):
            vectors += codebook.to(rows.device)[rows[:, level].long()]
        return vectors

    def state_dict(self) -> dict[str, Tensor]:
        """Return the codebooks.

        Returns:
            ``codebooks.0`` to ``codebooks.{N-1}``, each of shape ``[K_l, D]``, float32.

        Raises:
            NotFittedError: If there are no codebooks yet.
        """
        return {
            f"codebooks.{level}": codebook.clone() for level, codebook in enumerate(self._fitted())
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Take the codebooks of another tokenizer with the same levels.

        Args:
            state: What :meth:`state_dict` returned.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If a codebook is missing, unknown, not float32, not finite, or of
                another shape.
        """
        names = [f"codebooks.{level}" for level in range(len(self.levels))]
        if sorted(state) != sorted(names):
            raise ValueError(f"state must hold {names}, got {sorted(state)}")
        width = state[names[0]].shape[-1] if state[names[0]].dim() else 0
        for name, size in zip(names, self.levels, strict=True):
            codebook = state[name]
            if list(codebook.shape) != [size, width] or width == 0:
                raise ValueError(
                    f"{name} must have shape [{size}, {width or 'D'}], got {list(codebook.shape)}"
                )
            if codebook.dtype != torch.float32:
                raise ValueError(f"{name} must be float32, got {codebook.dtype}")
            _finite(codebook, name)
        self._codebooks = [state[name].detach().cpu().clone() for name in names]
        return self

    def _fitted(self) -> list[Tensor]:
        if not self._codebooks:
            raise NotFittedError("RQKMeans must be fitted or loaded first, got no codebooks")
        return self._codebooks


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values
    # torch warns of read-only arrays and refuses reversed ones: these are copied
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _vectors(x: Tensor | NDArray[Any]) -> Tensor:
    tensor = _tensor(x).detach()
    if tensor.dim() != 2:
        raise ValueError(f"x must have shape [V, D], got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"x must be floating point, got {tensor.dtype}")
    return _finite(tensor.float(), "x")


def _finite(tensor: Tensor, name: str) -> Tensor:
    if tensor.numel() == 0:
        return tensor
    # comparisons with nan are false; no copy of the vectors is made
    within = (tensor.amax(dim=1) <= _LARGEST) & (tensor.amin(dim=1) >= -_LARGEST)
    if not within.all():
        row = int((~within).nonzero()[0])
        value = tensor[row][~(tensor[row].abs() <= _LARGEST)][0].item()
        raise ValueError(f"{name} must be finite and within ±1e37, got {value} in row {row}")
    return tensor
