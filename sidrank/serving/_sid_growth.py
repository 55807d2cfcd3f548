"""Items that a SID table gained: what a delta carries of them, and the larger lookup made again.

Where codes come with the requests there is no lookup: such a source only names its table, and the
delta carries the new name.

Shapes: ``V`` items, ``n`` new ones, ``N`` levels.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sidrank.embeddings import CodeFeatureSource
from sidrank.semantic_ids import SIDLookup, SIDTable, SIDVersionError

__all__ = ["Growth", "SIDPart", "grown", "growth_between"]

SIDPart = SIDLookup | CodeFeatureSource


class Growth(NamedTuple):
    """New items of one table."""

    items: Tensor
    """Their ids, ascending, int64 ``[n]``."""
    codes: Tensor
    """Their codes, int32 ``[n, N]``."""
    content_hash: str
    """Of the table with them."""
    version: int
    """Of the table with them; 0 where codes come with the requests."""
    ancestors: list[str]
    """Content hashes from the table without them on, oldest first."""


def growth_between(path: str, base: SIDPart, new: SIDPart) -> Growth | None:
    """Find the items that a table has and another has not.

    Args:
        path: Where the parts are, for messages.
        base: The part that is served.
        new: That of the model that is trained, of the same kind.

    Returns:
        The new items, None if the tables are equal.

    Raises:
        SIDVersionError: If the new table did not grow from the served one: an item has gone or
            has other codes.
    """
    if base.content_hash == new.content_hash:
        return None
    lineage = _ancestors(new)
    if base.content_hash not in lineage:
        raise SIDVersionError(
            f"{path} must hold the SID table {base.content_hash} or one that grew from it,"
            f" got {new.content_hash}"
        )
    behind = list(lineage[lineage.index(base.content_hash) :])
    if isinstance(base, CodeFeatureSource) or isinstance(new, CodeFeatureSource):
        none = torch.zeros(0, dtype=torch.int64)
        return Growth(none, none.int(), str(new.content_hash), 0, behind)
    old, table = _table(path, base), _table(path, new)
    known = np.isin(table.item_ids, old.item_ids)
    return Growth(
        torch.from_numpy(table.item_ids[~known]),
        torch.from_numpy(table.codes[~known]),
        table.content_hash,
        table.version,
        behind,
    )


def grown(path: str, base: SIDPart, growth: Growth) -> SIDPart:
    """Make the part with the new items.

    Args:
        path: Where it is, for messages.
        base: The part that is served; it stays as it is.
        growth: The new items.

    Returns:
        The larger lookup, on the same device; or the source that names the larger table.

    Raises:
        SIDVersionError: If the result is not the table that was promised.
    """
    if isinstance(base, CodeFeatureSource):
        source = copy.deepcopy(base)
        source.content_hash = growth.content_hash
        source._ancestors = (  # pyright: ignore[reportPrivateUsage]
            *_ancestors(base),
            *growth.ancestors,
        )
        return source
    old = _table(path, base)
    table = SIDTable(
        np.concatenate([old.item_ids, growth.items.numpy()]),
        np.concatenate([old.codes, growth.codes.numpy()]),
        spec=old.spec,
        version=growth.version,
        ancestors=[*old.ancestors, *growth.ancestors],
    )
    if table.content_hash != growth.content_hash:
        raise SIDVersionError(
            f"{path} must become the SID table {growth.content_hash} (version {growth.version}),"
            f" got {table.content_hash}"
        )
    return SIDLookup(table).to(base.codes.device)


def _ancestors(part: SIDPart) -> tuple[str, ...]:
    return part._ancestors  # pyright: ignore[reportPrivateUsage]


def _table(path: str, lookup: SIDLookup) -> SIDTable:
    """The table that a lookup was made of."""
    codes: Any = lookup.codes.cpu().numpy()
    known = np.flatnonzero(codes[:, 0] >= 0)
    dense = len(lookup.keys) == 1  # hashed ones have two slots or more
    items = known - 1 if dense else lookup.keys.cpu().numpy()[known]
    try:
        table = SIDTable(
            items,
            codes[known],
            spec=lookup.spec,
            version=lookup.version,
            ancestors=_ancestors(lookup),
        )
    except ValueError:  # units are no codes of the spec
        table = None
    if table is None or table.content_hash != lookup.content_hash:
        raise SIDVersionError(
            f"{path} must hold the codes of the SID table {lookup.content_hash}, got other numbers"
            " (units or rows of vectors): such a lookup grows only with a new first version"
        )
    return table
