"""What is known of a bundle, as one tree of plain values; `--json` prints it as it is.

::

    items, levels, version, parent, hash, items_in_collision, excess, uniqueness,
    largest_bucket, utilisation, perplexity, reconstruction_error, items_per_colliding_sid,
    gini, neighbour_recall, purity, semantic_cohesion, preference_discrimination
        as in SIDQuality
    tokenizer   {name, arguments} of what made the codes, or null
    notes       what is bad or missing, in words

`sidrank tokenize` adds what it did; see :mod:`sidrank.cli.tokenize`. What needs vectors was
measured when the bundle was written, and is null where it was not; everything else is counted
anew from the codes.

Shapes: ``N`` levels.
"""

from typing import Any, TypeAlias

from sidrank.cli.tokenizer_names import tokenizer_name
from sidrank.semantic_ids import SIDBundle, quality

__all__ = ["Figures", "bundle_figures", "quality_notes", "tokenizer_figures"]

Figures: TypeAlias = dict[str, Any]
"""A tree whose leaves are numbers, texts and None."""

_MEASURED = (
    "reconstruction_error",
    "neighbour_recall",
    "purity",
    "semantic_cohesion",
    "preference_discrimination",
)
_UNEVEN = 3  # codes in use per code that perplexity says are in use
_ERRORS = 3  # standard errors from chance


def bundle_figures(bundle: SIDBundle) -> Figures:
    """Collect what is known of a bundle.

    Args:
        bundle: The bundle.

    Returns:
        The tree.

    Raises:
        ValueError: If it holds no item, or figures that no writer of ours made.
    """
    found = quality(bundle.table).to_dict(complete=True)
    found |= _measured(bundle.manifest["quality"] or {}, bundle.table.spec.num_levels)
    found["tokenizer"] = tokenizer_figures(bundle.manifest["tokenizer"])
    found["notes"] = quality_notes(found)
    if found["neighbour_recall"] is None and found["items"] > 1:
        found["notes"].append(
            "Neighbour recall and reconstruction are unknown: this version of the table was "
            "written without the vectors of all its items. Collisions alone say little."
        )
    return found


def tokenizer_figures(made_by: Figures | None) -> Figures | None:
    """Describe what made the codes.

    Args:
        made_by: The ``tokenizer`` entry of a manifest.

    Returns:
        Its name, as `sidrank tokenize` knows it, and its arguments; None without one.
    """
    if made_by is None:
        return None
    return {"name": tokenizer_name(made_by["name"]), "arguments": made_by["arguments"]}


def quality_notes(found: Figures) -> list[str]:
    """Say in words what is bad about codes.

    Args:
        found: The tree, with the attributes of a SIDQuality and ``tokenizer``.

    Returns:
        Sentences; none if there is nothing to say.
    """
    items, sizes = found["items"], found["levels"]
    notes: list[str] = []
    if found["largest_bucket"] == items > 1:
        notes.append("All items have the same SID: their vectors are equal, or nearly so.")
    elif found["items_in_collision"] > 0:
        notes.append(
            f"Collisions: {found['items_in_collision']:.1%} of the items share their whole SID "
            f"with another one; the most common SID has {found['largest_bucket']:,} items."
        )
    own = _levels_of_tokenizer(found)
    if own < len(sizes):
        notes.append(
            f"Level {len(sizes)} is a suffix: it numbers the items of one SID and says nothing "
            "of them."
        )
    for level, size in enumerate(sizes[:own]):
        used = round(found["utilisation"][level] * size)
        name = f"Level {level + 1}"
        if size > items:
            notes.append(f"{name} has more codes ({size:,}) than there are items ({items:,}).")
        elif used < size:
            notes.append(
                f"{name} has dead codes: {size - used:,} of {size:,} belong to no item "
                f"({1 - used / size:.0%})."
            )
        if found["perplexity"][level] * _UNEVEN < used:
            notes.append(
                f"{name} is uneven: {used:,} codes are in use, as {found['perplexity'][level]:.0f} "
                "evenly used ones would be (perplexity)."
            )
    recall = found["neighbour_recall"]
    for kind, what in (("by_vector", "rebuilt vectors"), ("by_prefix", "common prefixes")):
        if recall is not None and _is_chance(recall, kind):
            notes.append(
                f"Neighbours are lost: by {what}, recall is {recall[kind]:.4f} and chance is "
                f"{recall['chance']:.4f}. Such codes mean little, however few collide."
            )
    return notes


def _levels_of_tokenizer(found: Figures) -> int:
    """Levels that a tokenizer made; a table may have one more, which it did not."""
    made_by, all_levels = found["tokenizer"], len(found["levels"])
    levels = None if made_by is None else made_by["arguments"].get("levels")
    return len(levels) if isinstance(levels, list) and len(levels) < all_levels else all_levels


def _is_chance(recall: Figures, kind: str) -> bool:
    if recall["chance"] >= 0.5:  # nearly all items are neighbours
        return False
    return recall[kind] <= 2 * recall["chance"] + _ERRORS * recall[f"{kind}_error"]


def _measured(stored: Figures, levels: int) -> Figures:
    """Figures that needed vectors, taken from a manifest and checked for their form."""
    try:
        return {
            name: None if stored.get(name) is None else _checked(name, stored[name], levels)
            for name in _MEASURED
        }
    except (TypeError, ValueError, LookupError, AttributeError):
        raise ValueError("quality must be figures as sidrank writes them, got others") from None


def _checked(name: str, value: Any, levels: int) -> Any:
    if name == "preference_discrimination":
        return float(value)
    if name == "semantic_cohesion":
        return [None if level is None else float(level) for level in _per_level(value, levels)]
    if name == "purity":
        keys = ("homogeneity", "completeness", "v_measure", "shuffled")
        return {key: [float(level) for level in _per_level(value[key], levels)] for key in keys}
    keys = ("mse", "relative")
    if name == "neighbour_recall":
        keys = ("chance", "by_vector", "by_vector_error", "by_prefix", "by_prefix_error")
        return {"k": int(value["k"])} | {key: float(value[key]) for key in keys}
    return {key: float(value[key]) for key in keys}


def _per_level(values: Any, levels: int) -> list[Any]:
    if not isinstance(values, list) or len(values) != levels:
        raise ValueError
    return values
