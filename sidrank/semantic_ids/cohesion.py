"""Do items with one code mean the same, and are co-engaged items closer than any two?

*Semantic Cohesion* (SC) is the mean cosine of two items that share a code, averaged over the
codes. *Preference Discrimination* (PD) is the mean cosine of co-engaged items minus the mean
cosine of any two items. Both are metrics of finished codes and, differentiable in vectors and
in soft code weights, regularisers of codes in the making.

Source: R3-VAE (arXiv 2604.11440), which names both. Its formulas were not at hand, so they are
ours [derived]: cosines are averaged within a code first and then over codes, each code alike;
an item is no pair with itself; soft weights count a pair as the product of its two weights; PD
compares with the mean over all pairs, not with a sample of them.

Sums of unit vectors stand in for pairs, so the cost is linear in the number of items. All of
it is computed in float64.

Shapes: ``V`` items, ``D`` width, ``K`` codes, ``N`` levels, ``P`` pairs.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["preference_discrimination", "semantic_cohesion"]

_BLOCK = 1 << 16
_SMALLEST_PAIRS = 1e-9  # a code with less soft weight than this has no pairs


def semantic_cohesion(
    vectors: Tensor | NDArray[Any],
    codes: Tensor | NDArray[Any],
    *,
    minus_between: bool = False,
) -> Tensor:
    """Average the cosine of items that share a code, within each code and then over codes.

    A zero vector has cosine 0 with every other; a code of a single item does not count.

    Args:
        vectors: Item vectors, shape ``[V, D]``, floating.
        codes: Integers, shape ``[V]`` or ``[V, N]``: items share a code if their rows are
            equal, so the first columns of a SID make it a prefix. Or floats, shape ``[V, K]``,
            not negative: how much each item belongs to each code.
        minus_between: Subtract the mean cosine of two items of different codes.

    Returns:
        A number within [-1, 1] ([-2, 2] with ``minus_between``), shape ``[]``, float64; nan
        if no two items share a code, or if all do and ``minus_between`` is set.

    Raises:
        ValueError: If a shape differs, or a number is not finite, or a weight is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
        >>> round(float(semantic_cohesion(x, torch.tensor([7, 7, 5, 5]))), 6)
        0.9
    """
    x, given = _matrix(vectors, "vectors"), _tensor(codes)
    if given.dim() not in (1, 2) or len(given) != len(x):
        raise ValueError(f"codes must have shape [{len(x)}, *], got {list(given.shape)}")
    if given.is_floating_point():
        weights = _matrix(given, "codes").double()
        if bool((weights < 0).any()):
            raise ValueError(f"codes must not be negative, got {float(weights.min())}")
        units = _units(x)
        squares = units.square().sum(dim=1)
        sums, mass = weights.T @ units, weights.sum(dim=0)
        # each item's pair with itself, taken out of the sums over all pairs
        own, own_mass = weights.square().T @ squares, weights.square().sum(dim=0)
        share = weights.sum(dim=1)
        all_own, all_own_mass = (share.square() * squares).sum(), share.square().sum()
    else:
        _, labels = torch.unique(given.reshape(len(given), -1), dim=0, return_inverse=True)
        mass = own_mass = labels.bincount().double()
        sums = mass.new_zeros(len(mass), x.shape[1])
        own = mass.new_zeros(len(mass))
        for rows in _blocks(len(x)):
            units = _units(x[rows])
            sums.index_add_(0, labels[rows], units)
            own.index_add_(0, labels[rows], units.square().sum(dim=1))
        all_own, all_own_mass = own.sum(), own_mass.sum()
    cosines, pairs = sums.square().sum(dim=1) - own, mass.square() - own_mass
    counted = pairs > _SMALLEST_PAIRS
    within = (cosines[counted] / pairs[counted]).mean()
    if not minus_between:
        return within
    all_cosines = sums.sum(dim=0).square().sum() - all_own
    all_pairs = mass.sum().square() - all_own_mass
    return within - (all_cosines - cosines.sum()) / (all_pairs - pairs.sum())


def preference_discrimination(
    vectors: Tensor | NDArray[Any], pairs: Tensor | NDArray[Any]
) -> Tensor:
    """Subtract the mean cosine of any two items from that of co-engaged ones.

    Give the vectors that the codes stand for (``tokenizer.decode(codes)``) to judge codes.

    Args:
        vectors: Vectors of ``V >= 2`` items, shape ``[V, D]``, floating; a zero vector has
            cosine 0 with every other.
        pairs: Rows of co-engaged items, shape ``[P, 2]``, ``P >= 1``, integers; the two rows
            of a pair differ.

    Returns:
        A number within [-2, 2], 0 if the pairs mean nothing, shape ``[]``, float64.

    Raises:
        ValueError: If a shape differs, a number is not finite, there are no pairs, or a pair
            is outside the vectors or joins an item with itself.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(float(preference_discrimination(x, torch.tensor([[0, 1]]))), 6)
        0.666667
    """
    x, joined = _matrix(vectors, "vectors"), _tensor(pairs)
    if len(x) < 2:
        raise ValueError(f"vectors must hold at least 2 items, got {len(x)}")
    if joined.is_floating_point() or joined.dim() != 2 or joined.shape[1] != 2 or not len(joined):
        raise ValueError(
            "pairs must be integers of shape [P, 2] with P >= 1, "
            f"got {joined.dtype} of shape {list(joined.shape)}"
        )
    joined = joined.long()
    wrong = ((joined < 0) | (joined >= len(x))).any(dim=1) | (joined[:, 0] == joined[:, 1])
    if bool(wrong.any()):
        pair = joined[wrong][0].tolist()
        raise ValueError(f"pairs must join two different rows of {len(x)}, got {pair}")
    total, own = x.new_zeros(x.shape[1], dtype=torch.float64), 0.0
    for rows in _blocks(len(x)):
        units = _units(x[rows])
        total = total + units.sum(dim=0)
        own = own + units.square().sum()
    any_two = (total.square().sum() - own) / (len(x) * (len(x) - 1))
    together = total.new_zeros(())
    for rows in _blocks(len(joined)):
        left, right = joined[rows].T
        together = together + (_units(x[left]) * _units(x[right])).sum() / len(joined)
    return together - any_two


def _units(x: Tensor) -> Tensor:
    """Vectors of length one in float64; zero vectors stay zero."""
    wide = x.double()
    lengths = wide.norm(dim=1, keepdim=True)
    return wide / torch.where(lengths > 0, lengths, 1.0)


def _matrix(values: Tensor | NDArray[Any], name: str) -> Tensor:
    tensor = _tensor(values)
    if tensor.dim() != 2 or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be floating with two axes, got {tensor.dtype} {list(tensor.shape)}"
        )
    if tensor.numel() and not bool(tensor.detach().isfinite().all()):
        row = int((~tensor.detach().isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"{name} must be finite, got another number in row {row}")
    return tensor


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values
    # torch warns of read-only arrays and refuses reversed ones: these are copied
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _blocks(length: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, length, _BLOCK)]
