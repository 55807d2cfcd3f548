"""Residual k-means whose last level is a scalar quantiser.

The first ``N - 1`` levels are residual k-means (``rq_kmeans.py``); the last one cuts what they
leave over into the bins of ``fsq.py``. K-means follows the density of the items, and popular
regions share its codes; the scalar tail is about equally full everywhere, so fewer items share
a whole semantic ID.

What it costs: the tail rebuilds vectors worse than a third k-means level of the same size, and
a level of random codes collides still less. Read collisions beside neighbour recall.

Source: OneMall (arXiv 2601.21770) §3, QARM V2 (arXiv 2602.08559): two levels of 4096 or 8192
codes and 13 binary directions. Differs from the source: see ``fsq.py`` for what the tail
derives.

Shapes: ``V`` items, ``D`` width of a vector, ``N`` levels, ``K_l`` codes of level ``l``.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.tokenizers._inputs import as_codes, as_vectors
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.fsq import FSQTail
from sidrank.tokenizers.protocol import Progress
from sidrank.tokenizers.rq_kmeans import RQKMeans

__all__ = ["ResKMeansFSQ"]

_BLOCK = 1 << 24  # float32 numbers in one block of residuals: 64 MiB


class ResKMeansFSQ:
    """Residual k-means tokenizer with an FSQ tail.

    The same vectors, arguments and seed give the same codebooks, and a vector gives the same
    codes in a batch of any size.

    Args:
        levels: Codebook sizes ``K_1, ..., K_N``; the last is the tail's.
        bins: Bins of each direction of the tail, with product ``K_N``; None for as many
            directions of 2 bins, which asks for a power of two.
        iterations: Most Lloyd iterations per k-means level.
        tolerance: A k-means level is done when an iteration lowers its error by no more than
            this share of it.
        sample: Items that k-means learns from; None takes all. The tail takes all.
        seed: Seed of all sampling.

    Raises:
        ValueError: If there are fewer than two levels, ``bins`` does not multiply to the last
            level, or a number is too small.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> ResKMeansFSQ(levels=(2, 2)).fit(x).encode(x).unique(dim=0).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        *,
        levels: tuple[int, ...] = (256, 256, 256),
        bins: tuple[int, ...] | None = None,
        iterations: int = 20,
        tolerance: float = 0.0,
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        if len(levels) < 2 or min(levels) < 1:
            raise ValueError(f"levels must be two or more sizes of at least 1, got {levels}")
        if bins is None:
            bins = (2,) * (levels[-1].bit_length() - 1)
            if math.prod(bins) != levels[-1] or not bins:
                raise ValueError(
                    f"levels must end in a power of two unless bins are given, got {levels}"
                )
        if math.prod(bins) != levels[-1]:
            raise ValueError(f"bins must have the product {levels[-1]}, got {bins}")
        self.levels = tuple(levels)
        self.bins = tuple(bins)
        self.iterations = iterations
        self.tolerance = tolerance
        self.sample = sample
        self.seed = seed
        self._head, self._tail = self._parts()
        self._width = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        return {
            "levels": list(self.levels),
            "bins": list(self.bins),
            "iterations": self.iterations,
            "tolerance": self.tolerance,
            "sample": self.sample,
            "seed": self.seed,
        }

    def fit(
        self,
        x: Tensor | NDArray[Any],
        *,
        weights: Tensor | NDArray[Any] | None = None,
        pairs: Tensor | NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn the k-means levels, then the tail on what they leave over.

        Args:
            x: Item vectors, shape ``[V, D]``, any floating dtype; computed in float32. A
                subset of the items will do: :meth:`encode` takes the rest.
            weights: Must be None: there is no use for them here.
            pairs: Must be None: there is no use for them here.
            progress: Told of every step.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If ``x`` is empty, not a floating matrix, or not within ±1e37, or if
                ``weights`` or ``pairs`` are given.
        """
        for name, value in (("weights", weights), ("pairs", pairs)):
            if value is not None:
                raise ValueError(f"{name} must be None for ResKMeansFSQ, got some")
        rows = as_vectors(x)
        head, tail = self._parts()
        head.fit(rows, progress=progress)
        residual = torch.empty_like(rows)
        for block, out in zip(_blocks(rows), _blocks(residual), strict=True):
            torch.sub(block, head.decode(head.encode(block)), out=out)
        tail.fit(residual, progress=progress)
        self._head, self._tail, self._width = head, tail, rows.shape[1]
        return self

    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Quantise vectors level by level.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Codes, shape ``[n, N]``, int32, on the device of ``x``.

        Raises:
            NotFittedError: If nothing has been learned yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        width = self._fitted_width()
        rows = as_vectors(x, width=width)
        codes = torch.empty(len(rows), len(self.levels), dtype=torch.int32, device=rows.device)
        for block, out in zip(_blocks(rows), _blocks(codes, width), strict=True):
            head = self._head.encode(block)
            out[:, :-1] = head
            out[:, -1:] = self._tail.encode(block - self._head.decode(head))
        return codes

    def decode(self, codes: Tensor | NDArray[Any]) -> Tensor:
        """Rebuild vectors as the sum of the vectors of their codes.

        Args:
            codes: Codes, shape ``[n, N]``, any integer dtype.

        Returns:
            Vectors, shape ``[n, D]``, float32, on the device of ``codes``.

        Raises:
            NotFittedError: If nothing has been learned yet.
            TypeError: If ``codes`` are not integers.
            ValueError: If ``codes`` has another number of levels or leaves a codebook.
        """
        self._fitted_width()
        rows = as_codes(codes, self.levels)
        return self._head.decode(rows[:, :-1]) + self._tail.decode(rows[:, -1:])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learned.

        Returns:
            ``head.codebooks.0`` to ``head.codebooks.{N-2}``, ``tail.directions``,
            ``tail.thresholds`` and ``tail.codebook``, all float32.

        Raises:
            NotFittedError: If nothing has been learned yet.
        """
        self._fitted_width()
        parts = {"head": self._head.state_dict(), "tail": self._tail.state_dict()}
        return {
            f"{part}.{name}": tensor
            for part, state in parts.items()
            for name, tensor in state.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Take what another tokenizer with the same levels and bins has learned.

        Args:
            state: What :meth:`state_dict` returned.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If a tensor is missing, unknown, not float32, not finite, or of another
                shape.
        """
        parts: dict[str, dict[str, Tensor]] = {"head": {}, "tail": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            if part not in parts:
                raise ValueError(f"state must hold head.* and tail.* alone, got {name}")
            parts[part][rest] = tensor
        head, tail = self._parts()
        head.load_state_dict(parts["head"])
        tail.load_state_dict(parts["tail"])
        widths = [head.state_dict()["codebooks.0"].shape[1], parts["tail"]["codebook"].shape[1]]
        if widths[0] != widths[1]:
            raise ValueError(f"state must have one width in head and tail, got {widths}")
        self._head, self._tail, self._width = head, tail, widths[0]
        return self

    def _parts(self) -> tuple[RQKMeans, FSQTail]:
        head = RQKMeans(
            levels=self.levels[:-1],
            iterations=self.iterations,
            tolerance=self.tolerance,
            sample=self.sample,
            seed=self.seed,
        )
        return head, FSQTail(bins=self.bins)

    def _fitted_width(self) -> int:
        if not self._width:
            raise NotFittedError("ResKMeansFSQ must be fitted or loaded first, got no codebooks")
        return self._width


def _blocks(rows: Tensor, width: int | None = None) -> tuple[Tensor, ...]:
    return rows.split(max(1, _BLOCK // (rows.shape[1] if width is None else width)))
