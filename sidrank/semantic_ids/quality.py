"""How good a set of semantic IDs is, before any ranker is trained on it.

Papers disagree on what "collision rate" means, so each definition has a name of its own.
Collisions alone can be gamed (random codes on the last level collide least), so read them
beside the reconstruction error and the neighbour recall, which random codes do not improve.

Shapes: ``V`` items, ``N`` levels, ``D`` width of a vector, ``P`` pairs.
"""

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.semantic_ids.cohesion import preference_discrimination, semantic_cohesion
from sidrank.semantic_ids.neighbours import query_recalls
from sidrank.semantic_ids.prefixes import number_prefixes
from sidrank.semantic_ids.purity import SIDPurity, prefix_purity
from sidrank.semantic_ids.table import SIDTable
from sidrank.semantic_ids.tokenizer import FittedTokenizer

__all__ = ["SIDQuality", "quality"]

_BLOCK = 1 << 16
_NUMBERS = 1 << 20  # in one block of vectors: 8 MiB of float64
_EPSILON = 1e-12
_QUERIES = 1000  # of the neighbour recall
_PROMISED = 12  # the first attributes of SIDQuality: the keys of `sidrank inspect --json`


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
        items_per_colliding_sid: Mean number of items of the SIDs that have more than one
            ("EdgeNum"); None if there is no collision.
        gini: Gini coefficient of the use of all codes, per level: 0 if all are used alike,
            ``1 - 1/K`` if one takes all.
        neighbour_recall: ``k``; recall by rebuilt vectors (``by_vector``) and by common prefix
            (``by_prefix``), each with its ``_error``, the standard error of sampling queries;
            and ``chance``, the recall of codes that mean nothing. None without vectors.
        purity: Agreement of prefixes with categories; None without categories.
        semantic_cohesion: Mean cosine of items that share a prefix, per level; None for a
            level where no two do. None without vectors.
        preference_discrimination: Mean cosine of the rebuilt vectors of pairs, less that of
            any two items; None without pairs.
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
    items_per_colliding_sid: float | None
    gini: tuple[float, ...]
    neighbour_recall: dict[str, float] | None
    purity: SIDPurity | None
    semantic_cohesion: tuple[float | None, ...] | None
    preference_discrimination: float | None

    def to_dict(self, *, complete: bool = False) -> dict[str, Any]:
        """Return the figures as JSON can hold them.

        Args:
            complete: All attributes; otherwise those up to ``reconstruction_error``, which are
                the keys that ``sidrank inspect --json`` promises.

        Returns:
            One entry per attribute, tuples as lists.
        """
        names = [field.name for field in fields(self)]
        found = {name: getattr(self, name) for name in names[: None if complete else _PROMISED]}
        if complete and self.purity is not None:
            found["purity"] = self.purity.to_dict()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}


def quality(
    table: SIDTable,
    *,
    vectors: Tensor | NDArray[Any] | None = None,
    tokenizer: FittedTokenizer | None = None,
    categories: Tensor | NDArray[Any] | None = None,
    pairs: Tensor | NDArray[Any] | None = None,
    neighbours: int = 10,
) -> SIDQuality:
    """Measure the codes of a table.

    Whatever comes per item is in the order of ``table.item_ids``, which is sorted, and not in
    the order in which the table was given its items.

    Args:
        table: The codes.
        vectors: Vectors of the items, shape ``[V, D]``.
        tokenizer: The fitted tokenizer that made the codes; needed with ``vectors``.
        categories: Integers or strings, one for each item, shape ``[V]``, or one for each item
            and level, shape ``[V, N]``, coarse to fine.
        pairs: Co-engaged items as rows of ``table.item_ids``, shape ``[P, 2]``; needs
            ``vectors`` and ``tokenizer``.
        neighbours: ``k`` of the neighbour recall, at most ``V - 1`` of them. It is measured on
            a fixed sample of 1000 items, against all; 0 leaves it out.

    Returns:
        The figures; None for what was not measured.

    Raises:
        ValueError: If the table is empty, if only one of ``vectors`` and ``tokenizer`` is
            given, if ``pairs`` come without them, if ``neighbours`` is negative, or if a shape
            or a vector does not fit.

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
    if pairs is not None and vectors is None:
        raise ValueError("pairs must come with vectors and tokenizer, got neither")
    if neighbours < 0:
        raise ValueError(f"neighbours must be at least 0, got {neighbours}")
    prefixes = number_prefixes(table.codes)
    counts = np.bincount(prefixes[-1])
    shared = counts[counts > 1]
    uniqueness = len(counts) / len(table)
    used = [np.unique(level, return_counts=True)[1] for level in table.codes.T]
    sizes = table.spec.codebook_sizes
    error = recall = cohesion = discrimination = None
    if vectors is not None and tokenizer is not None:
        if not isinstance(vectors, Tensor):  # torch warns of read-only arrays
            vectors = torch.from_numpy(np.require(vectors, requirements=["C", "W"]))
        rebuilt, error = _reconstruction(table, vectors.detach(), tokenizer)
        recall = _recall(vectors, table.codes, rebuilt, min(neighbours, len(table) - 1))
        cohesion = tuple(_cohesion(vectors.detach(), level) for level in prefixes)
        if pairs is not None:
            discrimination = float(preference_discrimination(rebuilt, pairs))
    return SIDQuality(
        items=len(table),
        levels=sizes,
        version=table.version,
        parent=table.parent,
        hash=table.content_hash,
        items_in_collision=float(shared.sum()) / len(table),
        excess=1 - uniqueness,
        uniqueness=uniqueness,
        largest_bucket=int(counts.max()),
        utilisation=tuple(len(level) / size for level, size in zip(used, sizes, strict=True)),
        perplexity=tuple(_perplexity(level) for level in used),
        reconstruction_error=error,
        items_per_colliding_sid=float(shared.mean()) if len(shared) else None,
        gini=tuple(_gini(level, size) for level, size in zip(used, sizes, strict=True)),
        neighbour_recall=recall,
        purity=None if categories is None else prefix_purity(table.codes, categories),
        semantic_cohesion=cohesion,
        preference_discrimination=discrimination,
    )


def _perplexity(counts: NDArray[np.integer]) -> float:
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _gini(counts: NDArray[np.integer], size: int) -> float:
    """Gini coefficient of the counts of used codes and of as many zeros as ``size`` takes."""
    ordered = np.sort(counts).astype(np.float64)
    rank = np.arange(size - len(ordered) + 1, size + 1)
    return float(((2 * rank - size - 1) * ordered).sum() / (size * ordered.sum()))


def _reconstruction(
    table: SIDTable, vectors: Tensor, tokenizer: FittedTokenizer
) -> tuple[Tensor, dict[str, float]]:
    """Return the rebuilt vectors and how far they are from the vectors."""
    if vectors.dim() != 2 or len(vectors) != len(table) or vectors.shape[1] == 0:
        raise ValueError(f"vectors must have shape [{len(table)}, D], got {list(vectors.shape)}")
    squared = relative = 0.0
    rebuilt = vectors.new_empty(0)
    step = max(1, _NUMBERS // vectors.shape[1])
    for start in range(0, len(table), step):
        rows = slice(start, start + step)
        decoded = tokenizer.decode(torch.from_numpy(table.codes[rows].copy())).detach()
        x, y = vectors[rows].cpu().double(), decoded.cpu().double()
        if y.shape != x.shape:
            raise ValueError(f"vectors must have width {y.shape[1]}, got {x.shape[1]}")
        if start == 0:
            rebuilt = decoded.new_empty(vectors.shape)
        rebuilt[rows] = decoded
        error = (x - y).abs()
        squared += float(error.square().sum())
        relative += float((error / (torch.maximum(x.abs(), y.abs()) + _EPSILON)).sum())
    size = vectors.numel()
    return rebuilt, {"mse": squared / size, "relative": relative / size}


def _recall(
    vectors: Tensor, codes: NDArray[np.int32], rebuilt: Tensor, k: int
) -> dict[str, float] | None:
    if k == 0:
        return None
    recalls = query_recalls(vectors, [rebuilt, codes], k=k, sample=_QUERIES)
    queries = recalls.shape[1]
    # of a sample without replacement: nothing is left to chance if all items are queries
    left_out = 1 - queries / len(codes)
    errors = np.sqrt(recalls.var(axis=1) / max(queries - 1, 1) * left_out)
    return {
        "k": k,
        "chance": k / (len(codes) - 1),
        "by_vector": float(recalls[0].mean()),
        "by_vector_error": float(errors[0]),
        "by_prefix": float(recalls[1].mean()),
        "by_prefix_error": float(errors[1]),
    }


def _cohesion(vectors: Tensor, prefix: NDArray[np.int64]) -> float | None:
    """Semantic cohesion of the items that share a prefix, a block of whole prefixes at a time."""
    order = np.argsort(prefix, kind="stable")
    order = order[np.bincount(prefix)[prefix[order]] > 1]
    if len(order) == 0:
        return None
    starts = np.flatnonzero(np.diff(prefix[order], prepend=-1))
    # the first prefix of each block, and the end
    cuts = np.searchsorted(starts, np.arange(0, len(order), _BLOCK))
    cuts = np.append(np.unique(cuts[cuts < len(starts)]), len(starts))
    ends = np.append(starts, len(order))
    total = 0.0
    for first, last in pairwise(cuts.tolist()):
        rows = order[ends[first] : ends[last]]
        members = vectors[torch.from_numpy(rows).to(vectors.device)]
        codes = torch.from_numpy(prefix[rows]).to(vectors.device)
        total += float(semantic_cohesion(members, codes)) * (last - first)
    return total / len(starts)
