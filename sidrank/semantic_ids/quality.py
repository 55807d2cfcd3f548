"""How good a set of semantic IDs is, before any ranker is trained on it.

Papers disagree on what "collision rate" means, so each definition has a name of its own.
Collisions alone can be gamed (random codes on the last level collide least), so read them
beside the reconstruction error.

Shapes: ``V`` items, ``N`` levels, ``D`` width of a vector.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids.table import SIDTable
from sidrank.semantic_ids.tokenizer import FittedTokenizer

__all__ = ["SIDQuality", "quality"]

_BLOCK = 1 << 16
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class SIDQuality:
    """Quality of the codes of a table.

    Attributes:
        items: Number of items.
        levels: Codebook sizes.
        version: Version of the table.
        parent: Content hash of the table it grew from, if any.
        hash: Content hash of the table.
        items_in_collision: Share of items whose whole SID belongs to another item too.
        excess: Share of items beyond the first of their SID, ``1 - uniqueness``.
        uniqueness: Distinct SIDs per item.
        largest_bucket: Most items that share one SID.
        utilisation: Share of the codes in use, per level.
        perplexity: Exponential of the entropy of the codes in use, per level.
        reconstruction_error: ``mse``, the mean of ``(x - y)**2`` over items and dimensions,
            and ``relative``, the mean of ``|x - y| / max(|x|, |y|)``; None without vectors.
    """

    items: int
    levels: tuple[int, ...]
    version: int
    parent: str | None
    hash: str
    items_in_collision: float
    excess: float
    uniqueness: float
    largest_bucket: int
    utilisation: tuple[float, ...]
    perplexity: tuple[float, ...]
    reconstruction_error: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them.

        Returns:
            One entry per attribute, tuples as lists.
        """
        fields = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def quality(
    table: SIDTable,
    *,
    vectors: Tensor | NDArray[Any] | None = None,
    tokenizer: FittedTokenizer | None = None,
) -> SIDQuality:
    """Measure the codes of a table.

    Args:
        table: The codes.
        vectors: Vectors of the items, shape ``[V, D]``, in the order of ``table.item_ids``,
            which is sorted, and not in the order in which the table was given its items.
        tokenizer: The fitted tokenizer that made the codes; needed with ``vectors``.

    Returns:
        The figures.

    Raises:
        ValueError: If the table is empty, if only one of ``vectors`` and ``tokenizer`` is
            given, or if the shape of ``vectors`` does not fit.

    Example:
        >>> from sidrank.semantic_ids import SIDSpec
        >>> table = SIDTable([1, 2, 3, 4], [[0], [0], [1], [3]], spec=SIDSpec((4,)))
        >>> found = quality(table)
        >>> found.items_in_collision, found.excess, found.largest_bucket, found.utilisation
        (0.5, 0.25, 2, (0.75,))
    """
    if len(table) == 0:
        raise ValueError("table must hold at least one item, got 0")
    if (vectors is None) != (tokenizer is None):
        raise ValueError("vectors and tokenizer must be given together, got one of them")
    counts = _bucket_sizes(table.codes)
    uniqueness = len(counts) / len(table)
    used = [np.unique(level, return_counts=True)[1] for level in table.codes.T]
    sizes = table.spec.codebook_sizes
    error = None
    if vectors is not None and tokenizer is not None:
        if not isinstance(vectors, Tensor):  # torch warns of read-only arrays
            vectors = torch.from_numpy(np.require(vectors, requirements=["C", "W"]))
        error = _reconstruction_error(table, vectors, tokenizer)
    return SIDQuality(
        items=len(table),
        levels=sizes,
        version=table.version,
        parent=table.parent,
        hash=table.content_hash,
        items_in_collision=float(counts[counts > 1].sum()) / len(table),
        excess=1 - uniqueness,
        uniqueness=uniqueness,
        largest_bucket=int(counts.max()),
        utilisation=tuple(len(level) / size for level, size in zip(used, sizes, strict=True)),
        perplexity=tuple(_perplexity(level) for level in used),
        reconstruction_error=error,
    )


def _bucket_sizes(codes: NDArray[np.int32]) -> NDArray[np.integer]:
    """Sizes of the groups of equal rows."""
    ordered = codes[np.lexsort(codes.T)]
    starts = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    return np.diff(np.concatenate([[0], starts, [len(codes)]]))


def _perplexity(counts: NDArray[np.integer]) -> float:
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _reconstruction_error(
    table: SIDTable, vectors: Tensor, tokenizer: FittedTokenizer
) -> dict[str, float]:
    if vectors.dim() != 2 or len(vectors) != len(table) or vectors.shape[1] == 0:
        raise ValueError(f"vectors must have shape [{len(table)}, D], got {list(vectors.shape)}")
    squared = relative = 0.0
    for start in range(0, len(table), _BLOCK):
        codes = torch.from_numpy(table.codes[start : start + _BLOCK].copy())
        x = vectors[start : start + _BLOCK].detach().cpu().double()
        y = tokenizer.decode(codes).double()
        if y.shape != x.shape:
            raise ValueError(f"vectors must have width {y.shape[1]}, got {x.shape[1]}")
        error = (x - y).abs()
        squared += float(error.square().sum())
        relative += float((error / (torch.maximum(x.abs(), y.abs()) + _EPSILON)).sum())
    return {"mse": squared / vectors.numel(), "relative": relative / vectors.numel()}
