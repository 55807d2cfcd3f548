"""Have the items that are added left the world of those a table was made for?

Best told from vectors of both. Where the file holds new items only, the codes of the published
ones remain, and the error that was measured when they were written.

Shapes: ``V`` items, ``n`` of them new, ``N`` levels.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidrank.cli.tokenize_items import Items
from sidrank.cli.tokenize_table import Proposal
from sidrank.semantic_ids import SIDBundle, drift
from sidrank.semantic_ids.drift import usage_drift
from sidrank.tokenizers.protocol import Tokenizer

__all__ = ["drift_figures", "drift_notes"]

_MOST = 100_000  # items of either side that are compared
_FEWEST = 100  # published items in the file that are worth comparing with
_SPLITS = 200
# an error ratio that items may have for no other reason than that nothing was learned from them
_UNLEARNED = 1.25


def drift_figures(
    items: Items, proposal: Proposal, tokenizer: Tokenizer, old: SIDBundle
) -> dict[str, Any] | None:
    """Compare the new items with the published ones.

    Args:
        items: The items of the file.
        proposal: The new ones among them, and their codes.
        tokenizer: The tokenizer of the bundle.
        old: The bundle that is added to.

    Returns:
        ``compared_with`` (what stood for the published items) and the attributes of
        :class:`~sidrank.semantic_ids.SIDDrift`, null where they need vectors that are not in
        the file; None if nothing is new.
    """
    if len(proposal.rows) == 0:
        return None
    published = np.setdiff1d(np.arange(len(items.ids)), proposal.rows, assume_unique=True)
    new = _drawn(proposal.rows)
    if len(published) >= _FEWEST:
        sample = _drawn(published)
        found = drift(
            items.vectors[sample], items.vectors[new], tokenizer=tokenizer, splits=_SPLITS
        )
        return {"compared_with": "published items of the file", **found.to_dict()}
    codes = old.table.codes[:, : len(tokenizer.levels)]
    divergence, dead = usage_drift(codes, proposal.codes, splits=_SPLITS)
    return {
        "compared_with": "published codes",
        "sample_items": len(codes),
        "new_items": len(proposal.rows),
        "error_ratio": _error_ratio(items.vectors[new], tokenizer, old),
        "far_items": None,
        "divergence": [level.to_dict() for level in divergence],
        "dead_code_items": [level.to_dict() for level in dead],
    }


def drift_notes(found: dict[str, Any] | None) -> list[str]:
    """Say in words what drift there is.

    Args:
        found: What :func:`drift_figures` returned.

    Returns:
        A sentence or two, or none.
    """
    if found is None:
        return []
    beyond: list[str] = []
    ratio = found["error_ratio"]
    if ratio is not None and ratio["value"] > _UNLEARNED:
        beyond.append(f"their quantisation error is {ratio['value']:.3g} times as large")
    named: dict[str, Any] = {}
    for key, name in (("divergence", "divergence"), ("dead_code_items", "items in dead codes")):
        for level, figure in enumerate(found[key]):
            named[f"{name} of level {level + 1}"] = figure
    # with as many looks, one of them is beyond its interval by chance more often
    limit = max(0.05 / len(named), 1 / (_SPLITS + 1))
    beyond += [
        f"{name} is {each['value']:.3g}, not {each['expected']:.3g}"
        for name, each in named.items()
        if each["p_value"] <= limit
    ]
    if not beyond:
        return []
    return [
        f"New items differ from the published ones: {', '.join(beyond)}. If that goes on, fit "
        "a new tokenizer; published codes stay what they are."
    ]


def _drawn(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(rows) <= _MOST:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, _MOST, replace=False))


def _error_ratio(
    vectors: NDArray[np.float32], tokenizer: Tokenizer, old: SIDBundle
) -> dict[str, float | None] | None:
    """Error of new items over the one that the bundle tells of; no split says what is usual."""
    try:
        before = float(old.manifest["quality"]["reconstruction_error"]["mse"])
    except (TypeError, LookupError, ValueError):
        return None
    if not before > 0:
        return None
    x = torch.from_numpy(vectors)
    error = (x.double() - tokenizer.decode(tokenizer.encode(x)).double()).square().mean()
    nothing = dict.fromkeys(("expected", "low", "high", "p_value", "excess"))
    return {"value": float(error) / before, **nothing}
