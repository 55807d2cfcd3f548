"""Do the prefixes of semantic IDs follow a taxonomy? V-measure, level by level.

Items that share a prefix should share a category (homogeneity) and items of one category
should share a prefix (completeness). With entropies ``H`` over items,

    h = 1 - H(category | prefix) / H(category),    c = 1 - H(prefix | category) / H(prefix),

and the V-measure is their harmonic mean, 2 h c / (h + c). It is not adjusted for chance: with
almost as many prefixes as items it is high for any labels, so the same figures with the
categories shuffled stand beside it, and only the difference means something.

Source: Rosenberg and Hirschberg, "V-Measure: A Conditional Entropy-Based External Cluster
Evaluation Measure" (EMNLP 2007), with beta = 1.

Shapes: ``V`` items, ``N`` levels.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids.prefixes import number_prefixes

__all__ = ["SIDPurity", "prefix_purity", "v_measure"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SIDPurity:
    """How well prefixes and categories agree, one number per level.

    Attributes:
        homogeneity: 1 if the items of each prefix have one category.
        completeness: 1 if the items of each category have one prefix.
        v_measure: Harmonic mean of the two.
        shuffled: V-measure of the same prefixes and shuffled categories: chance.
    """

    homogeneity: tuple[float, ...]
    completeness: tuple[float, ...]
    v_measure: tuple[float, ...]
    shuffled: tuple[float, ...]

    def to_dict(self) -> dict[str, list[float]]:
        """Return the figures as JSON can hold them.

        Returns:
            One list for each attribute.
        """
        return {name: list(values) for name, values in asdict(self).items()}


def prefix_purity(
    codes: Tensor | NDArray[Any], categories: Tensor | NDArray[Any], *, seed: int = 0
) -> SIDPurity:
    """Compare the prefixes of each length with categories.

    Args:
        codes: Codes, shape ``[V, N]``, integers.
        categories: Integers or strings: one for each item, shape ``[V]``, or one for each item
            and level, shape ``[V, N]``, coarse to fine.
        seed: Seed of the shuffling.

    Returns:
        The figures of each level.

    Raises:
        ValueError: If there is no item or a shape does not fit.
        TypeError: If categories are neither integers nor strings.

    Example:
        >>> codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
        >>> found = prefix_purity(codes, np.array(["cup", "cup", "shoe", "shoe"]))
        >>> [round(value, 6) for value in found.v_measure]
        [1.0, 0.8]
    """
    rows, labels = _array(codes), _array(categories)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"codes must have shape [V, N], got {list(rows.shape)}")
    if labels.shape not in (rows.shape, rows.shape[:1]):
        raise ValueError(
            f"categories must have shape [{len(rows)}] or {list(rows.shape)}, "
            f"got {list(labels.shape)}"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    found: list[tuple[float, float, float]] = []
    chance: list[float] = []
    for level, prefix in enumerate(number_prefixes(rows)):
        label = _numbered(labels if labels.ndim == 1 else labels[:, level], "categories")
        found.append(_agreement(label, prefix))
        chance.append(_agreement(label[order], prefix)[2])
    homogeneity, completeness, v = zip(*found, strict=True)
    return SIDPurity(homogeneity, completeness, v, tuple(chance))


def v_measure(categories: Tensor | NDArray[Any], clusters: Tensor | NDArray[Any]) -> float:
    """Harmonic mean of homogeneity and completeness.

    Args:
        categories: What items are, integers or strings, shape ``[V]``.
        clusters: Where they were put, integers or strings, shape ``[V]``.

    Returns:
        A number within [0, 1], the same with both arguments exchanged; 1 if each is a function
        of the other.

    Raises:
        ValueError: If there is no item or the shapes differ.
        TypeError: If one is neither integers nor strings.

    Example:
        >>> v_measure(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 5]))
        0.0
    """
    labels, groups = _array(categories), _array(clusters)
    if labels.ndim != 1 or len(labels) == 0 or labels.shape != groups.shape:
        raise ValueError(
            "categories and clusters must have one shape [V] with V >= 1, "
            f"got {list(labels.shape)} and {list(groups.shape)}"
        )
    return _agreement(_numbered(labels, "categories"), _numbered(groups, "clusters"))[2]


def _agreement(label: Ints, group: Ints) -> tuple[float, float, float]:
    """Homogeneity, completeness and V-measure of labels and groups numbered without gaps."""
    label_entropy, group_entropy = _entropy(np.bincount(label)), _entropy(np.bincount(group))
    joint = np.unique(label * (int(group.max()) + 1) + group, return_counts=True)[1]
    shared = max(0.0, label_entropy + group_entropy - _entropy(joint))
    homogeneity = min(1.0, shared / label_entropy) if label_entropy > 0 else 1.0
    completeness = min(1.0, shared / group_entropy) if group_entropy > 0 else 1.0
    total = homogeneity + completeness
    return homogeneity, completeness, 2 * homogeneity * completeness / total if total else 0.0


def _entropy(counts: Ints) -> float:
    """Entropy in nats."""
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _array(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _numbered(values: NDArray[Any], name: str) -> Ints:
    """Number the distinct values from 0 on."""
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        values = values.astype(np.str_)
    if values.dtype.kind not in "iuUSbT":
        raise TypeError(f"{name} must be integers or strings, got {values.dtype}")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
