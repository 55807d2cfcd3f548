"""How the figures of semantic IDs are called and written, in the terminal and on the page alike.

Shapes: ``N`` levels.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sidrank.cli.inspection_figures import Figures

__all__ = [
    "Row",
    "collision_rows",
    "drift_rows",
    "facts",
    "headline_rows",
    "level_header",
    "level_rows",
    "what_was_done",
]

NOTHING = "–"


class Row(NamedTuple):
    """A figure, and what it means."""

    name: str
    value: str
    meaning: str


def facts(found: Figures) -> list[str]:
    """What the codes are, in a few words each.

    Args:
        found: The tree.

    Returns:
        Items, levels, version, tokenizer and the beginning of the hash.
    """
    sizes = " × ".join(f"{size:,}" for size in found["levels"])
    told = [f"{found['items']:,} items", f"levels {sizes}", f"version {found['version']}"]
    if found["tokenizer"] is not None:
        told.append(found["tokenizer"]["name"])
    return [*told, f"hash {found['hash'][:12]}…"]


def what_was_done(found: Figures) -> str:
    """Say what `sidrank tokenize` did.

    Args:
        found: The tree.

    Returns:
        A sentence; nothing if the tree is that of `sidrank inspect`.
    """
    if "bundle" not in found:
        return ""
    told = [f"{found['new_items']:,} new items have codes"]
    if not found["already_there"] and not found["not_in_file"]:
        return ""
    if found["already_there"]:
        told.append(f"{found['already_there']:,} of the file were there already")
    if found["not_in_file"]:
        told.append(f"{found['not_in_file']:,} others stay, which the file lacks")
    text = f"{'; '.join(told)}. No published code moved"
    if not found["new_items"]:
        return f"{text}, and the version stays {found['version']}."
    return f"{text}: version {found['version']}, grown from {found['parent'][:12]}…."


def headline_rows(found: Figures) -> Iterator[Row]:
    """The figures of the whole SIDs.

    Args:
        found: The tree.

    Yields:
        One row a figure, those that were not measured left out.
    """
    yield Row("Items in collision", f"{found['items_in_collision']:.2%}", "share a whole SID")
    yield Row("Excess", f"{found['excess']:.2%}", "items beyond the first of their SID")
    yield Row("Uniqueness", f"{found['uniqueness']:.4f}", "distinct SIDs per item")
    yield Row("Largest bucket", f"{found['largest_bucket']:,}", "items of the most common SID")
    if found["items_per_colliding_sid"] is not None:
        mean = f"{found['items_per_colliding_sid']:.2f}"
        yield Row("Items per shared SID", mean, "mean over SIDs of several items")
    recall = found["neighbour_recall"]
    if recall is not None:
        k = recall["k"]
        vector = f"{recall['by_vector']:.4f} ± {recall['by_vector_error']:.4f}"
        prefix = f"{recall['by_prefix']:.4f} ± {recall['by_prefix_error']:.4f}"
        yield Row(f"Neighbour recall@{k}", vector, "by rebuilt vectors")
        yield Row(f"Prefix recall@{k}", prefix, "by common prefixes")
        yield Row("Recall by chance", f"{recall['chance']:.4f}", "what random codes have")
    error = found["reconstruction_error"]
    if error is not None:
        yield Row("Reconstruction", f"{error['mse']:.6g}", "mean squared error")
        yield Row("Relative error", f"{error['relative']:.4f}", "of a number, 0 to 2")
    if found["preference_discrimination"] is not None:
        value = f"{found['preference_discrimination']:.4f}"
        yield Row("Preference discrimination", value, "cosine of pairs less that of any two")


def level_header(found: Figures) -> list[str]:
    """Names of the columns of the levels' table.

    Args:
        found: The tree.

    Returns:
        The names.
    """
    names = ["Level", "Codes", "In use", "Perplexity", "Gini"]
    if found["semantic_cohesion"] is not None:
        names.append("Cohesion")
    if found["purity"] is not None:
        names += ["V-measure", "Shuffled"]
    return names


def level_rows(found: Figures) -> list[list[str]]:
    """The figures of each level.

    Args:
        found: The tree.

    Returns:
        One list a level, in the order of :func:`level_header`.
    """
    rows: list[list[str]] = []
    for level, size in enumerate(found["levels"]):
        row = [
            str(level + 1),
            f"{size:,}",
            f"{found['utilisation'][level]:.1%}",
            f"{found['perplexity'][level]:.1f}",
            f"{found['gini'][level]:.3f}",
        ]
        if found["semantic_cohesion"] is not None:
            row.append(_number(found["semantic_cohesion"][level], 3))
        if found["purity"] is not None:
            row += [_number(found["purity"][key][level], 3) for key in ("v_measure", "shuffled")]
        rows.append(row)
    return rows


def collision_rows(found: Figures) -> list[list[str]]:
    """What a collision policy changed.

    Args:
        found: The tree.

    Returns:
        Name, before and after of each figure; nothing if no policy acted.
    """
    done = found.get("collisions")
    if done is None or done["policy"] == "keep":
        return []
    before, after = done["before"], done["after"]
    rows = [
        ["Items in collision", *(f"{side['items_in_collision']:.2%}" for side in (before, after))],
        ["Excess", *(f"{side['excess']:.2%}" for side in (before, after))],
        ["Largest bucket", *(f"{side['largest_bucket']:,}" for side in (before, after))],
    ]
    if after["recall_by_prefix"] is not None:
        recall = [_number(side["recall_by_prefix"], 4) for side in (before, after)]
        rows.append(["Prefix recall", *recall])
    return rows


def drift_rows(found: Figures) -> list[list[str]]:
    """How far new items are from published ones.

    Args:
        found: The tree.

    Returns:
        Name, value, what is usual without drift, and p-value of each figure.
    """
    drift = found.get("drift")
    if drift is None:
        return []
    named = [("Error ratio", drift["error_ratio"]), ("Far items", drift["far_items"])]
    named += [
        (f"{name}, level {level + 1}", figure)
        for key, name in (("divergence", "Divergence"), ("dead_code_items", "In dead codes"))
        for level, figure in enumerate(drift[key])
    ]
    rows: list[list[str]] = []
    for name, figure in named:
        if figure is None:
            continue
        usual = p_value = NOTHING
        if figure["p_value"] is not None:
            usual = f"{figure['expected']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
            p_value = f"{figure['p_value']:.3f}"
        rows.append([name, f"{figure['value']:.4f}", usual, p_value])
    return rows


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
