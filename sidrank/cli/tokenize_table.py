"""From a tokenizer and items to the next version of a table: encode, resolve, look again.

Shapes: ``V`` items, ``n`` of them new, ``D`` width of a vector, ``N`` levels.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sidrank.cli.tokenize_items import Items
from sidrank.semantic_ids import (
    CollisionPolicy,
    Keep,
    NextNearest,
    Resolution,
    SIDQuality,
    SIDSpec,
    SIDTable,
    SIDVersionError,
    SuffixLevel,
    collisions,
    decoded_distances,
    neighbour_recall,
    quality,
)
from sidrank.tokenizers.capacity_rq import CapacityConstrainedRQ
from sidrank.tokenizers.protocol import Progress, Tokenizer

__all__ = ["POLICIES", "Proposal", "collision_figures", "propose", "resolve", "table_quality"]

POLICIES = ("keep", "next-nearest", "suffix")
_BLOCK = 1 << 16
_LEAST_SUFFIXES = 256


class Proposal(NamedTuple):
    """What the tokenizer wants for the items that no table has yet."""

    rows: NDArray[np.int64]
    """Rows of the new items, shape ``[n]``."""
    codes: NDArray[np.int32]
    """Their codes, shape ``[n, N]``."""


def propose(
    items: Items, tokenizer: Tokenizer, published: SIDTable | None, progress: Progress
) -> Proposal:
    """Encode the new items, and only these.

    Args:
        items: All items.
        tokenizer: The fitted tokenizer.
        published: The table to add to.
        progress: Told of every block.

    Returns:
        The codes; those of a capacity-constrained tokenizer that was just fitted are the ones
        it assigned.
    """
    if published is None and isinstance(tokenizer, CapacityConstrainedRQ):
        return Proposal(np.arange(len(items.ids)), tokenizer.assigned.cpu().numpy())
    known = np.zeros(len(items.ids), dtype=np.bool_)
    if published is not None:
        known = published.lookup(items.ids)[:, 0] >= 0
    rows = np.flatnonzero(~known)
    codes = np.empty((len(rows), len(tokenizer.levels)), dtype=np.int32)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        codes[block] = tokenizer.encode(items.vectors[rows[block]]).numpy()
        progress("encoding", min(start + _BLOCK, len(rows)), len(rows))
    return Proposal(rows, codes)


def resolve(
    items: Items,
    proposal: Proposal,
    tokenizer: Tokenizer,
    *,
    policy: str,
    published: SIDTable | None,
) -> Resolution:
    """Turn proposed codes into a table; no published code moves.

    Args:
        items: All items.
        proposal: What the tokenizer wants.
        tokenizer: The fitted tokenizer.
        policy: One of ``POLICIES``.
        published: The table to add to.

    Returns:
        The table, and what the policy did.

    Raises:
        ValueError: If the policy has no place for an item.
        SIDVersionError: If the published items are not what they were.
    """
    spec = SIDSpec(tuple(tokenizer.levels))
    vectors = torch.from_numpy(items.vectors)
    if policy == "next-nearest" and len(proposal.rows) < len(vectors):
        vectors = vectors[torch.from_numpy(proposal.rows)]
    found = _policy(policy, proposal, published).resolve(
        items.ids[proposal.rows],
        proposal.codes,
        spec=spec,
        published=published,
        distances=decoded_distances(tokenizer, vectors, proposal.codes, spec=spec)
        if policy == "next-nearest"
        else None,
    )
    if published is not None:
        ids = published.item_ids
        again = SIDTable(ids, found.table.lookup(ids), spec=published.spec)
        if again.content_hash != published.content_hash:
            raise SIDVersionError(
                f"published codes must keep the hash {published.content_hash}, "
                f"got {again.content_hash}"
            )
    return found


def table_quality(table: SIDTable, items: Items, tokenizer: Tokenizer) -> SIDQuality:
    """Measure a table, by its vectors too if they are all there.

    Args:
        table: The table.
        items: The items, of which some of the table may be missing.
        tokenizer: What made the codes.

    Returns:
        The figures.
    """
    if not np.array_equal(items.ids, table.item_ids):
        return quality(table)
    return quality(
        table,
        vectors=items.vectors,
        tokenizer=_WithoutSuffix(tokenizer),
        categories=items.categories,
    )


def collision_figures(
    found: Resolution, items: Items, measured: SIDQuality, *, policy: str
) -> dict[str, Any]:
    """Say what a policy did, and what it did to the neighbours.

    Args:
        found: What the policy returned.
        items: The items.
        measured: Quality of its table.
        policy: Its name.

    Returns:
        ``policy``, the number of items ``moved`` and ``unresolved``, and the collisions
        ``before`` and ``after``, each with the neighbour recall by common prefix.
    """
    after = asdict(collisions(found.table.codes))
    before = asdict(collisions(found.proposed))
    recall = measured.neighbour_recall
    after["measured"] = before["measured"] = None if recall is None else recall["by_prefix"]
    if recall is not None and not np.array_equal(found.proposed, found.table.codes):
        before["measured"] = neighbour_recall(items.vectors, found.proposed, k=int(recall["k"]))
    for side in (before, after):
        side["recall_by_prefix"] = side.pop("measured")
    return {
        "policy": policy,
        "moved": len(found.moved),
        "unresolved": len(found.unresolved),
        "before": before,
        "after": after,
    }


class _WithoutSuffix:
    """A tokenizer that rebuilds vectors from its own levels and leaves a suffix alone."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def arguments(self) -> dict[str, Any]:
        return self._tokenizer.arguments

    def state_dict(self) -> dict[str, Tensor]:
        return self._tokenizer.state_dict()

    def decode(self, codes: Tensor, /) -> Tensor:
        return self._tokenizer.decode(codes[:, : len(self._tokenizer.levels)])


def _policy(name: str, proposal: Proposal, published: SIDTable | None) -> CollisionPolicy:
    if name == "next-nearest":
        return NextNearest()
    if name == "keep":
        return Keep()
    if published is not None:
        return SuffixLevel()
    # room for items that are added later
    largest = collisions(proposal.codes).largest_bucket
    return SuffixLevel(size=max(_LEAST_SUFFIXES, 1 << (2 * largest - 1).bit_length()))
