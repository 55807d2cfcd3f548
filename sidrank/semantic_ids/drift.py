"""Have new items left the world that a tokenizer was fitted to?

A tokenizer is fitted once and then encodes whatever comes. When new items differ from the
sample of the fit, their quantisation error grows and their codes fall where few or none of the
sample are; then the codebooks want a refit (and a new table: published codes never move). Four
figures are compared, each with what chance alone would give:

- ratio of the mean squared quantisation errors, new items to sample;
- share of new items whose error is beyond the 99th percentile of the sample;
- Jensen-Shannon divergence of the use of each level's codes, in bits;
- share of new items in codes that no item of the sample has, per level.

None of these is zero without drift: a divergence between two finite samples is positive, the
more so the more codes there are, and a fresh sample finds dead codes by luck. So sample and new
items are pooled, split at random into parts of the same sizes, and measured again, many times.
``expected`` is the mean of these, ``excess`` what is left of the figure without it.

Items that a tokenizer was fitted to are quantised a little better than others like them. With
few items per code that alone raises the ratio: hold out part of the items from the fit, and
give these as the sample.

Shapes: ``V`` items of the sample, ``n`` new items, ``D`` width, ``N`` levels, ``K`` codes.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids._integers import as_integers

__all__ = ["DriftFigure", "Quantiser", "SIDDrift", "drift", "usage_drift"]

_BLOCK = 1 << 16
_FAR = 0.99  # errors of the sample beyond which a new item is far

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Quantiser(Protocol):
    """A fitted tokenizer as this module needs it."""

    def encode(self, x: Tensor, /) -> Tensor:
        """Quantise vectors ``[n, D]`` to codes ``[n, N]``."""
        ...

    def decode(self, codes: Tensor, /) -> Tensor:
        """Rebuild vectors ``[n, D]`` from codes ``[n, N]``."""
        ...


@dataclass(frozen=True, slots=True)
class DriftFigure:
    """A figure and its distribution over random splits, that is, without drift.

    Attributes:
        value: The figure.
        expected: Mean over the splits.
        low: 2.5 % of the splits are below.
        high: 2.5 % of the splits are above.
        p_value: Share of the splits that reach ``value``, itself counted as one of them.
    """

    value: float
    expected: float
    low: float
    high: float
    p_value: float

    @property
    def excess(self) -> float:
        """``value - expected``; around zero without drift."""
        return self.value - self.expected

    def to_dict(self) -> dict[str, float]:
        """Return the figure as JSON can hold it.

        Returns:
            One entry per attribute, and ``excess``.
        """
        return {
            "value": self.value,
            "expected": self.expected,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
            "excess": self.excess,
        }


@dataclass(frozen=True, slots=True)
class SIDDrift:
    """How far new items are from the sample.

    Attributes:
        sample_items: Number of items of the sample.
        new_items: Number of new items.
        error_ratio: Mean squared quantisation error of the new items over that of the sample;
            None if the sample is quantised without error.
        far_items: Share of new items with an error beyond the sample's 99th percentile.
        divergence: Jensen-Shannon divergence of the codes in use, per level, 0 to 1 bit.
        dead_code_items: Share of new items whose code no item of the sample has, per level.
    """

    sample_items: int
    new_items: int
    error_ratio: DriftFigure | None
    far_items: DriftFigure
    divergence: tuple[DriftFigure, ...]
    dead_code_items: tuple[DriftFigure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them.

        Returns:
            One entry per attribute, tuples as lists.
        """
        return {
            "sample_items": self.sample_items,
            "new_items": self.new_items,
            "error_ratio": None if self.error_ratio is None else self.error_ratio.to_dict(),
            "far_items": self.far_items.to_dict(),
            "divergence": [level.to_dict() for level in self.divergence],
            "dead_code_items": [level.to_dict() for level in self.dead_code_items],
        }


def drift(
    sample: Tensor | NDArray[Any],
    new: Tensor | NDArray[Any],
    *,
    tokenizer: Quantiser,
    splits: int = 200,
    seed: int = 0,
) -> SIDDrift:
    """Compare new items with the sample that a tokenizer was fitted to.

    Args:
        sample: Vectors like those of the fit, best held out from it, shape ``[V, D]``.
        new: Vectors of new items, shape ``[n, D]``.
        tokenizer: The fitted tokenizer.
        splits: Number of random splits; no p-value is below ``1 / (splits + 1)``.
        seed: Seed of the splits.

    Returns:
        The figures.

    Raises:
        ValueError: If there are no items on either side, widths differ, a number is not
            finite, or ``splits`` is less than 1.

    Example:
        >>> class Rounding:
        ...     def encode(self, x): return x.round().clamp(0, 99).int()
        ...     def decode(self, codes): return codes.float()
        >>> x = torch.linspace(0, 50, 1000).unsqueeze(1)
        >>> moved = drift(x[::2], x[1::2] + 40, tokenizer=Rounding())
        >>> moved.divergence[0].value > moved.divergence[0].high
        True
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    old, fresh = _checked(sample, "sample"), _checked(new, "new")
    if old.shape[1] != fresh.shape[1]:
        raise ValueError(f"new must have width {old.shape[1]}, got {fresh.shape[1]}")
    old_errors, old_codes = _quantised(old, tokenizer)
    new_errors, new_codes = _quantised(fresh, tokenizer)
    rng = np.random.default_rng(seed)
    ratio, far = _error_figures(old_errors, new_errors, splits, rng)
    use = [
        _use_figures(old_codes[:, level], new_codes[:, level], splits, rng)
        for level in range(old_codes.shape[1])
    ]
    return SIDDrift(
        sample_items=len(old),
        new_items=len(fresh),
        error_ratio=ratio,
        far_items=far,
        divergence=tuple(divergence for divergence, _ in use),
        dead_code_items=tuple(dead for _, dead in use),
    )


def usage_drift(
    codes: Tensor | NDArray[Any], new: Tensor | NDArray[Any], *, splits: int = 200, seed: int = 0
) -> tuple[tuple[DriftFigure, ...], tuple[DriftFigure, ...]]:
    """Compare the use of codes alone, where the vectors of the sample are gone.

    Args:
        codes: Codes of the sample, integers, shape ``[V, N]``.
        new: Codes of the new items, integers, shape ``[n, N]``.
        splits: Number of random splits.
        seed: Seed of the splits.

    Returns:
        ``divergence`` and ``dead_code_items`` as in :class:`SIDDrift`, one figure per level.

    Raises:
        TypeError: If codes are not integers.
        ValueError: If there are no items on either side, shapes do not fit, or ``splits`` is
            less than 1.

    Example:
        >>> divergence, dead = usage_drift(np.array([[0], [1]] * 50), np.array([[2]] * 9))
        >>> divergence[0].value, dead[0].value
        (1.0, 1.0)
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    old, fresh = as_integers(codes, "codes"), as_integers(new, "new")
    if old.ndim != 2 or 0 in old.shape:
        raise ValueError(f"codes must have shape [V, N] with V >= 1, got {list(old.shape)}")
    if fresh.ndim != 2 or len(fresh) == 0 or fresh.shape[1] != old.shape[1]:
        raise ValueError(
            f"new must have shape [n, {old.shape[1]}] with n >= 1, got {list(fresh.shape)}"
        )
    rng = np.random.default_rng(seed)
    use = [
        _use_figures(old[:, level], fresh[:, level], splits, rng) for level in range(old.shape[1])
    ]
    return tuple(divergence for divergence, _ in use), tuple(dead for _, dead in use)


def _quantised(x: Tensor, tokenizer: Quantiser) -> tuple[Floats, Ints]:
    """Squared error and codes of each vector."""
    errors: list[NDArray[Any]] = []
    codes: list[NDArray[Any]] = []
    for start in range(0, len(x), _BLOCK):
        rows = x[start : start + _BLOCK]
        found = tokenizer.encode(rows)
        rebuilt = tokenizer.decode(found).detach().double().to(rows.device)
        errors.append((rows.double() - rebuilt).square().sum(dim=1).cpu().numpy())
        codes.append(found.cpu().numpy())
    return np.concatenate(errors), np.concatenate(codes).astype(np.int64)


def _error_figures(
    old: Floats, new: Floats, splits: int, rng: np.random.Generator
) -> tuple[DriftFigure | None, DriftFigure]:
    pooled = np.concatenate([old, new])
    ratios, shares = np.empty(splits), np.empty(splits)
    for split in range(splits):
        rng.shuffle(pooled)
        ratios[split], shares[split] = _errors(pooled[: len(old)], pooled[len(old) :])
    ratio, share = _errors(old, new)
    far = _figure(share, shares)
    # a split may have an exact half where the sample is not exact as a whole
    if not np.isfinite(ratio):
        return None, far
    finite = ratios[np.isfinite(ratios)]
    return _figure(ratio, finite if len(finite) else np.array([ratio])), far


def _errors(old: Floats, new: Floats) -> tuple[float, float]:
    """Ratio of the mean errors, and share of the new ones beyond a quantile of the old."""
    ratio = float(new.mean() / old.mean()) if old.any() else np.inf
    return ratio, float((new > np.quantile(old, _FAR)).mean())


def _use_figures(
    old: Ints, new: Ints, splits: int, rng: np.random.Generator
) -> tuple[DriftFigure, DriftFigure]:
    # codes that neither side has change nothing
    numbers = np.unique(np.concatenate([old, new]), return_inverse=True)[1]
    counts = np.bincount(numbers)
    old_counts = np.bincount(numbers[: len(old)], minlength=len(counts))
    divergences, shares = np.empty(splits), np.empty(splits)
    for split in range(splits):
        # the counts of a random part of the pooled items
        drawn = rng.multivariate_hypergeometric(counts, len(old), method="marginals")
        divergences[split], shares[split] = _use(drawn, counts - drawn)
    divergence, share = _use(old_counts, counts - old_counts)
    return _figure(divergence, divergences), _figure(share, shares)


def _use(old: Ints, new: Ints) -> tuple[float, float]:
    """Jensen-Shannon divergence in bits, and share of the new items in codes the old lack."""
    p, q = old / old.sum(), new / new.sum()
    middle = (p + q) / 2
    terms = [side[side > 0] * np.log2(side[side > 0] / middle[side > 0]) for side in (p, q)]
    return max(0.0, float(terms[0].sum() + terms[1].sum()) / 2), float(q[old == 0].sum())


def _figure(value: float, null: Floats) -> DriftFigure:
    low, high = np.quantile(null, [0.025, 0.975])
    # rounding may differ with the order of the items
    reached = int((null >= value - 1e-12 * abs(value)).sum())
    return DriftFigure(
        value=value,
        expected=float(null.mean()),
        low=float(low),
        high=float(high),
        p_value=(reached + 1) / (len(null) + 1),
    )


def _checked(values: Tensor | NDArray[Any], name: str) -> Tensor:
    if not isinstance(values, Tensor):  # torch warns of read-only arrays
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    if values.dim() != 2 or 0 in values.shape or not values.is_floating_point():
        raise ValueError(
            f"{name} must be floating of shape [n, D] with n >= 1, "
            f"got {values.dtype} of shape {list(values.shape)}"
        )
    x = values.detach()
    bad = (~x.isfinite().all(dim=1)).nonzero()
    if len(bad):
        raise ValueError(f"{name} must be finite, got another number in row {int(bad[0])}")
    return x
