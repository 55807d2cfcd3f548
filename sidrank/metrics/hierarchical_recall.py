"""How far down its semantic ID the target survives in a list of candidates.

A candidate list can miss the item and still be in the right part of the tree. Recall by level
tells a retrieval stage, or a beam search, that loses the target at the first code (a wrong
subtree, nothing later can help) from one that loses it at the last (a sibling).

Source: HRecall in Promise (arXiv 2601.04674): share of requests whose target's prefix of length
``l`` is among the ``K`` prefixes kept at level ``l``.
Differs from the source: one list of candidates serves every level, so the recall never rises
with depth. Beams that differ by level take one call each, padded to ``N`` codes with -1.

Shapes: ``[n]`` requests, ``K`` candidates of a request, ``N`` levels.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from sidrank.metrics._codes import code_array
from sidrank.metrics._columns import Column
from sidrank.metrics._words import BLOCK

__all__ = ["hierarchical_recall"]


def hierarchical_recall(
    targets: Column,
    candidates: Column,
    *,
    k: int | None = None,
    unknown: Literal["raise", "skip", "miss"] = "raise",
) -> npt.NDArray[np.float64]:
    """Share of requests whose target shares its first codes with a candidate, by level.

    Args:
        targets: Codes of the item that was wanted, shape ``[n, N]``; -1 is unknown.
        candidates: Codes of the items (or prefixes) that were kept, best first, shape
            ``[n, K, N]``. A code of -1 matches nothing, so a list is padded with rows of -1, and
            a prefix with codes of -1.
        k: Candidates of each request that count; None means all.
        unknown: A target with a code of -1 is refused (``"raise"``), left out (``"skip"``) or
            counts as found at no level (``"miss"``).

    Returns:
        Recall at levels 1 to ``N``, each in [0, 1] and none above the one before, shape ``[N]``.

    Raises:
        TypeError: If a code is not an integer.
        ValueError: If a shape disagrees, a code is not in [-1, 2**31), ``k`` is less than one,
            ``unknown`` is none of the three, a target is unknown under ``"raise"``, or no request
            counts.

    Example:
        >>> targets = [[3, 1], [2, 0]]
        >>> candidates = [[[3, 0], [3, 1]], [[2, 5], [-1, -1]]]
        >>> hierarchical_recall(targets, candidates).tolist()
        [1.0, 0.5]
        >>> hierarchical_recall(targets, candidates, k=1).tolist()
        [1.0, 0.0]
    """
    if unknown not in ("raise", "skip", "miss"):
        raise ValueError(f"unknown must be 'raise', 'skip' or 'miss', got {unknown!r}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wanted = code_array(targets, "targets", ["n", "N"])
    kept = code_array(candidates, "candidates", ["n", "K", "N"])
    rows, levels = wanted.shape
    if kept.shape[0] != rows or kept.shape[2] != levels:
        raise ValueError(
            f"candidates must have shape [{rows}, K, {levels}], got {list(kept.shape)}"
        )
    kept = kept[:, :k]
    known: npt.NDArray[np.bool_] = np.all(wanted >= 0, axis=1)
    if unknown == "raise" and not known.all():
        row = int(np.argmin(known))
        raise ValueError(f"targets must be known, got {wanted[row].tolist()} in row {row}")
    counted = rows if unknown == "miss" else int(known.sum())
    if counted == 0:
        raise ValueError(f"targets must include a known one, got {rows} unknown")
    found = np.zeros(levels, np.int64)
    step = max(1, BLOCK // max(1, kept.shape[1]))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        alive = np.broadcast_to(known[block, None], kept[block].shape[:2])
        for level in range(levels):
            alive = alive & (kept[block, :, level] == wanted[block, None, level])
            found[level] += int(alive.any(axis=1).sum())
    return found / counted
