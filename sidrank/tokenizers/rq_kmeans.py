"""Residual k-means: the codes of each level quantise what the levels before left over.

With ``r_0 = x``, level ``l`` learns ``K_l`` centroids of the residuals ``r_{l-1}`` by
Euclidean k-means, takes ``c_l = argmin_k |r_{l-1} - mu_{l,k}|`` and passes on
``r_l = r_{l-1} - mu_{l,c_l}``. An item is rebuilt as the sum of its centroids.

Source: OpenOneRec (arXiv 2512.24762) and its code: levels trained one after the other, on a
subset if wanted, 20 iterations. Differs from the source: k-means++ seeds, empty clusters
reseeded, items weighted if wanted, ties and rounding settled so that a code depends on its
vector alone (``k_means.py``).

There is no rotation before the levels: turning all vectors together turns the centroids with
them and changes no distance, so it can change no code and no error. A quantiser that works on
one coordinate at a time does gain from one (``rotation.py``).

Memory of a fit: the vectors, a few bytes an item for its codes, and blocks of a fixed size. The
residuals are computed again whenever they are read.

Shapes: ``V`` items, ``D`` width of a vector, ``N`` levels, ``K_l`` codes of level ``l``.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.tokenizers._codebook import Codebook
from sidrank.tokenizers._inputs import as_codes, as_vectors, as_weights
from sidrank.tokenizers._residuals import Residuals
from sidrank.tokenizers._state import taken_over
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.k_means import k_means
from sidrank.tokenizers.protocol import Progress

__all__ = ["RQKMeans"]


class RQKMeans:
    """Residual k-means tokenizer.

    The same vectors, arguments and seed give the same codebooks, and a vector gives the same
    codes in a batch of any size (on a CPU, where the tests run). Everything is computed where
    the vectors are; codebooks are kept on the CPU.

    Args:
        levels: Codebook sizes ``K_1, ..., K_N``.
        iterations: Most Lloyd iterations per level.
        tolerance: A level is done when an iteration lowers its squared error by no more than
            this share of it; 0 goes on until no item changes its code.
        sample: Items to learn from, drawn without regard to their weights; None takes all.
        seed: Seed of all sampling.

    Raises:
        ValueError: If there is no level, or a number is too small.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> tokenizer = RQKMeans(levels=(2, 2)).fit(x)
        >>> codes = tokenizer.encode(x)
        >>> tokenizer.decode(codes).tolist()
        [[0.0], [1.0], [10.0], [11.0]]
    """

    def __init__(
        self,
        *,
        levels: tuple[int, ...] = (256, 256, 256),
        iterations: int = 20,
        tolerance: float = 0.0,
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        if not levels or min(levels) < 1:
            raise ValueError(f"levels must be one or more sizes of at least 1, got {levels}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be within [0, 1), got {tolerance}")
        if sample is not None and sample < 1:
            raise ValueError(f"sample must be at least 1 or None, got {sample}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.levels = tuple(levels)
        self.iterations = iterations
        self.tolerance = tolerance
        self.sample = sample
        self.seed = seed
        self._codebooks: list[Tensor] = []

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        return {
            "levels": list(self.levels),
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
        start: Mapping[str, Tensor] | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn the codebooks, level by level.

        A fit that is cut short keeps the levels it has finished: ``state_dict`` returns them,
        also while ``progress`` is being told that a level is done, and ``resume`` goes on from
        there, to the same codebooks as a fit that was never cut.

        Args:
            x: Item vectors, shape ``[V, D]``, any floating dtype; computed in float32. A
                subset of the items will do: :meth:`encode` takes the rest.
            weights: How much each item counts, such as its exposure, shape ``[V]``; None
                counts all the same.
            pairs: Must be None: there is no use for them here.
            progress: Told after every iteration of every level.
            start: Codebooks to start from instead of k-means++ seeds, such as yesterday's
                ``state_dict``. A code then keeps its number and moves with its items, unless
                it has lost them all.
            resume: Keep the levels that are there already and learn the rest, from the same
                vectors.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If ``x`` is empty, not a floating matrix, or not within ±1e37; if
                weights are negative, not finite or all zero; if ``pairs`` are given; or if
                codebooks to start or go on from have other shapes.
        """
        if pairs is not None:
            raise ValueError("pairs must be None for RQKMeans, got some")
        vectors = as_vectors(x)
        if vectors.numel() == 0:
            raise ValueError(f"x must hold at least one number, got {list(vectors.shape)}")
        mass = as_weights(weights, len(vectors))
        width = vectors.shape[1]
        starts: list[Tensor | None] = [None] * len(self.levels)
        if start is not None:
            starts = list(taken_over(start, self._shapes(len(self.levels), width)).values())
        if resume and self._codebooks and self._codebooks[0].shape[1] != width:
            raise ValueError(
                f"x must have the width {self._codebooks[0].shape[1]} of the levels that are"
                f" there to resume, got {width}"
            )
        residuals, mass = self._sampled(vectors, mass)
        if not resume:
            self._codebooks = []
        for level, size in enumerate(self.levels):
            stage = f"level {level + 1} of {len(self.levels)}"
            if level == len(self._codebooks):
                codebook = k_means(
                    residuals,
                    num_codes=size,
                    iterations=self.iterations,
                    seed=[self.seed, level],
                    weights=mass,
                    start=starts[level],
                    tolerance=self.tolerance,
                    progress=self._each_iteration(progress, stage),
                )
                self._codebooks.append(codebook.cpu())
                if progress is not None:
                    progress(stage, self.iterations, self.iterations)
            if level + 1 < len(self.levels):
                residuals = residuals.less(self._codebooks[level].to(residuals.device))
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
        vectors = as_vectors(x, width=self._fitted()[0].shape[1])
        books = [Codebook(book.to(vectors.device)) for book in self._codebooks]
        codes = torch.empty(len(vectors), len(books), dtype=torch.int32, device=vectors.device)
        for rows, residual in Residuals(vectors).blocks():
            for level, book in enumerate(books):
                indices = book.search(residual)
                codes[rows, level] = indices.int()
                if level + 1 < len(books):
                    residual = residual - book.centroids.index_select(0, indices)
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
        rows = as_codes(codes, self.levels)
        vectors = torch.zeros(len(rows), codebooks[0].shape[1], device=rows.device)
        for level, codebook in enumerate(codebooks):
            vectors += codebook.to(rows.device)[rows[:, level].long()]
        return vectors

    def state_dict(self) -> dict[str, Tensor]:
        """Return the codebooks.

        Returns:
            ``codebooks.0`` to ``codebooks.{N-1}``, each of shape ``[K_l, D]``, float32; only
            the first of them after a fit that was cut short.

        Raises:
            NotFittedError: If there are no codebooks yet.
        """
        if not self._codebooks:
            raise NotFittedError("RQKMeans must be fitted or loaded first, got no codebooks")
        return {
            f"codebooks.{level}": codebook.clone() for level, codebook in enumerate(self._codebooks)
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Take the codebooks of another tokenizer with the same levels.

        Args:
            state: What :meth:`state_dict` returned. The codebooks of the first levels alone
                can be resumed, not used.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If a codebook is missing, unknown, not float32, not finite, or of
                another shape.
        """
        names = [f"codebooks.{level}" for level in range(len(self.levels))]
        if not state or sorted(state) != sorted(names[: len(state)]):
            raise ValueError(f"state must hold {names}, or the first of them, got {sorted(state)}")
        first = state[names[0]]
        if first.dim() != 2 or first.shape[1] == 0:
            raise ValueError(
                f"{names[0]} must have shape [{self.levels[0]}, D], got {list(first.shape)}"
            )
        shapes = self._shapes(len(state), first.shape[1])
        self._codebooks = list(taken_over(state, shapes).values())
        return self

    def _shapes(self, count: int, width: int) -> dict[str, list[int]]:
        return {f"codebooks.{level}": [self.levels[level], width] for level in range(count)}

    def _sampled(self, vectors: Tensor, mass: Tensor | None) -> tuple[Residuals, Tensor | None]:
        """The vectors to learn from, and their weights where they are."""
        if mass is not None:
            mass = mass.to(vectors.device)
        # an item without weight has no say; it must not crowd out one that has
        heavy = None if mass is None else mass.nonzero().squeeze(1)
        count = len(vectors) if heavy is None else len(heavy)
        if self.sample is None or self.sample >= count:
            return Residuals(vectors), mass
        rng = np.random.default_rng([self.seed, len(self.levels)])  # a level has a smaller number
        drawn = np.sort(rng.choice(count, self.sample, replace=False))
        rows = torch.from_numpy(drawn).to(vectors.device)
        if heavy is not None:
            rows = heavy[rows]
        return Residuals(vectors[rows]), None if mass is None else mass[rows]

    def _each_iteration(
        self, progress: Progress | None, stage: str
    ) -> Callable[[int], None] | None:
        if progress is None:
            return None

        def told(done: int) -> None:
            if done < self.iterations:  # the level itself is told of when its codebook is there
                progress(stage, done, self.iterations)

        return told

    def _fitted(self) -> list[Tensor]:
        if not self._codebooks:
            raise NotFittedError("RQKMeans must be fitted or loaded first, got no codebooks")
        if len(self._codebooks) < len(self.levels):
            raise NotFittedError(
                f"RQKMeans must have all {len(self.levels)} levels, got {len(self._codebooks)}:"
                " fit(..., resume=True) learns the rest"
            )
        return self._codebooks
