"""Residual k-means whose codes carry about the same exposure.

A code of plain k-means holds as many items as happen to lie close together, and if they are
popular, most of the traffic trains a few embedding rows. Here each level keeps the exposure of
every code below a capacity: with weights ``w`` and ``V_k`` the sum of the weights of code
``k``, ``V_k <= tau · sum(w) / K``, while the squared error stays as small as it can.

Source: UniRec (arXiv 2604.12234), which states objective, capacity and ``tau = 1.05`` and not
how they are reached. Derived: the repair. From plain k-means centroids, every item asks for the
nearest code that has room for it; an over-full code keeps the items that would lose most, per
unit of exposure, by going to their next code, and the others ask again. Centroids become the
means of what they hold, and the whole is repeated while it lowers the error. (Releasing the
farthest items first and the heaviest last, the obvious order, costs more error: it moves many
items of the tail to make room for one of the head.)

Also derived: the capacity holds at each level over all items and not within each prefix, where
an average of a few items per code would leave nothing to balance. Whole SIDs follow as far as
they can: where several items share one, exposure spreads over more of them; where most items
have one of their own it hardly changes, and items of equal weight can even gather more than
under plain k-means.

An item that outweighs the capacity can be in no code: it gets one alone. Whole items need not
fill codes evenly either (three equal items, two codes): what finds no room goes to the code
with the most. Both are reported as ``infeasible``.

Shapes: ``V`` items, ``D`` width of a vector, ``N`` levels, ``K`` codes of a level.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.tokenizers._capacity import assign_within, means_of
from sidrank.tokenizers._inputs import as_vectors, as_weights
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.protocol import Progress
from sidrank.tokenizers.rq_kmeans import RQKMeans

__all__ = ["CapacityConstrainedRQ"]

_SLACK = 1 + 1e-9  # weights that add up to the capacity exactly must fit in spite of rounding
_LEAST_GAIN = 1e-3


class CapacityConstrainedRQ:
    """Residual k-means tokenizer with a capacity of exposure per code.

    The codes of the items it was fitted on are ``assigned``: they obey the capacity, so they
    are what a table must hold. :meth:`encode` knows no exposure; it takes the nearest centroid
    at every level, which is right for new items (they have no exposure yet) and differs from
    ``assigned`` for items that had to move.

    Args:
        levels: Codebook sizes ``K_1, ..., K_N``.
        tau: Capacity of a code as a multiple of its even share, at least 1.
        iterations: Most Lloyd iterations per level, and most repairs after them.
        seed: Seed of all sampling.

    Raises:
        ValueError: If there is no level, or a number is too small or not finite.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
        >>> tokenizer = CapacityConstrainedRQ(levels=(2,), tau=1.0).fit(x)
        >>> tokenizer.assigned.flatten().bincount().tolist()
        [2, 2]
        >>> tokenizer.encode(x).flatten().bincount().sort().values.tolist()
        [1, 3]
    """

    def __init__(
        self,
        *,
        levels: tuple[int, ...] = (256, 256, 256),
        tau: float = 1.05,
        iterations: int = 20,
        seed: int = 0,
    ) -> None:
        if not 1 <= tau < float("inf"):
            raise ValueError(f"tau must be at least 1 and finite, got {tau}")
        self._nearest = RQKMeans(levels=levels, iterations=iterations, seed=seed)
        self.levels = tuple(levels)
        self.tau = float(tau)
        self.iterations = iterations
        self.seed = seed
        self._width = 0
        self._assigned: Tensor | None = None
        self._infeasible: tuple[Tensor, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        return {
            "levels": list(self.levels),
            "tau": self.tau,
            "iterations": self.iterations,
            "seed": self.seed,
        }

    @property
    def assigned(self) -> Tensor:
        """Codes of the items it was fitted on, ``[V, N]``, int32, on their device."""
        if self._assigned is None:
            raise NotFittedError("CapacityConstrainedRQ must be fitted to have assigned codes")
        return self._assigned

    @property
    def infeasible(self) -> tuple[Tensor, ...]:
        """For each level, the rows that the capacity could not be kept for, ascending, int64."""
        if self._assigned is None:
            raise NotFittedError("CapacityConstrainedRQ must be fitted to have infeasible rows")
        return self._infeasible

    def fit(
        self,
        x: Tensor | NDArray[Any],
        *,
        weights: Tensor | NDArray[Any] | None = None,
        pairs: Tensor | NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn the codebooks and assign the items, level by level.

        Args:
            x: Item vectors, shape ``[V, D]``, any floating dtype; computed in float32.
            weights: Exposure of each item, shape ``[V]``, not negative, not all zero; None
                weighs every item the same.
            pairs: Must be None: there is no use for them here.
            progress: Told of every step.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If ``x`` is empty, not a floating matrix, or not within ±1e37, if
                ``weights`` are no exposures, or if ``pairs`` are given.
        """
        if pairs is not None:
            raise ValueError("pairs must be None for CapacityConstrainedRQ, got some")
        residual = as_vectors(x)
        if residual.numel() == 0:
            raise ValueError(f"x must hold at least one number, got {list(residual.shape)}")
        loads = as_weights(weights, len(residual))
        if loads is None:
            loads = torch.ones(len(residual), dtype=torch.float64)
        loads = loads.to(residual.device)
        books: dict[str, Tensor] = {}
        codes: list[Tensor] = []
        infeasible: list[Tensor] = []
        for level, size in enumerate(self.levels):
            book, mine, rows = self._fit_level(residual, loads, size)
            residual = residual - book[mine]
            books[f"codebooks.{level}"] = book.cpu()
            codes.append(mine.int())
            infeasible.append(rows)
            if progress is not None:
                progress("capacity-constrained level", level + 1, len(self.levels))
        self._nearest.load_state_dict(books)
        self._width = residual.shape[1]
        self._assigned = torch.stack(codes, dim=1)
        self._infeasible = tuple(infeasible)
        return self

    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Take the nearest centroid at every level, whatever the capacity.

        Args:
            x: Item vectors, shape ``[n, D]``.

        Returns:
            Codes, shape ``[n, N]``, int32, on the device of ``x``.

        Raises:
            NotFittedError: If there are no codebooks yet.
            ValueError: If ``x`` has another width or is not within ±1e37.
        """
        self._check_fitted()
        return self._nearest.encode(x)

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
        self._check_fitted()
        return self._nearest.decode(codes)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the codebooks; the assigned codes belong into a table.

        Returns:
            ``codebooks.0`` to ``codebooks.{N-1}``, each of shape ``[K_l, D]``, float32.

        Raises:
            NotFittedError: If there are no codebooks yet.
        """
        self._check_fitted()
        return self._nearest.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Take the codebooks of another tokenizer with the same levels.

        Afterwards it encodes and decodes; it has no ``assigned`` codes.

        Args:
            state: What :meth:`state_dict` returned.

        Returns:
            The tokenizer itself.

        Raises:
            ValueError: If a codebook is missing, unknown, not float32, not finite, or of
                another shape.
        """
        self._nearest.load_state_dict(state)
        self._width = state["codebooks.0"].shape[1]
        self._assigned, self._infeasible = None, ()
        return self

    def _check_fitted(self) -> None:
        if not self._width:
            raise NotFittedError(
                "CapacityConstrainedRQ must be fitted or loaded first, got no codebooks"
            )

    def _fit_level(
        self, residual: Tensor, loads: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Centroids ``[K, D]``, codes ``[V]`` and infeasible rows of one level."""
        capacity = self.tau * float(loads.sum()) / size * _SLACK
        # fewer than K: together they would outweigh everything
        alone = (loads > capacity).nonzero().squeeze(1)
        light = (loads <= capacity).nonzero().squeeze(1)
        codes = torch.empty(len(loads), dtype=torch.int64, device=residual.device)
        codes[alone] = torch.arange(size - len(alone), size, device=residual.device)
        if len(light) == 0:
            spare = residual[alone[:1]].expand(size - len(alone), -1)
            return torch.cat([spare, residual[alone]]), codes, alone
        x, w = residual[light], loads[light]
        plain = RQKMeans(levels=(size - len(alone),), iterations=self.iterations, seed=self.seed)
        book = plain.fit(x).state_dict()["codebooks.0"].to(x.device)
        best = float("inf")
        kept = book, light, light
        for _ in range(self.iterations):
            mine, left = assign_within(x, w, book, capacity)
            book, error = means_of(x, mine, book)
            gain, best = best - error, min(best, error)
            if gain > 0:
                kept = book, mine, left
            if gain <= _LEAST_GAIN * best:
                break
        book, codes[light], left = kept
        rows = torch.cat([alone, light[left]]).sort().values
        return torch.cat([book, residual[alone]]), codes, rows
