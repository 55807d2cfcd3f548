"""A bundle of semantic IDs as one HTML page that can be sent to a colleague.

Shapes: the tree of :mod:`sidrank.cli.inspection_figures`; ``V`` items, ``N`` levels.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sidrank.cli.evaluation_wording import shown
from sidrank.cli.inspection_figures import Figures
from sidrank.cli.inspection_plots import bucket_plot, recall_plot, usage_plot
from sidrank.cli.inspection_rows import (
    collision_rows,
    drift_rows,
    facts,
    headline_rows,
    level_header,
    level_rows,
    what_was_done,
)
from sidrank.pages import cards, document, figure, section, table
from sidrank.semantic_ids import SIDTable
from sidrank.semantic_ids.prefixes import number_prefixes

__all__ = ["render"]

_MOST_BUCKETS = 12
_MOST_ITEMS = 6
_READING = (
    "A semantic ID (SID) is one code per level. Items of one SID share everything a ranker "
    "learns from it: some of that is wanted, too much of it makes items alike that are not. "
    "Collisions alone mean little, since random codes collide least: read them beside the "
    "neighbour recall, the share of an item's nearest items by vector that are also its nearest "
    "by what the codes say. Perplexity is the number of evenly used codes that would be as "
    "varied as the codes in use; Gini is 0 if all codes are used alike. Cohesion is the mean "
    "cosine of items that share a prefix, V-measure the agreement of prefixes with categories, "
    "beside the same with the categories shuffled."
)


def render(
    found: Figures, codes: SIDTable, *, path: Path, words: Mapping[int, str] | None = None
) -> str:
    """Build the page.

    Args:
        found: The tree.
        codes: The codes.
        path: The bundle.
        words: What items say about themselves, if that is known.

    Returns:
        A whole HTML document.
    """
    title = _title(found)
    parts = [
        _header(found, title, path),
        section("Whole SIDs", [_whole(found), *_notes(found["notes"])]),
        section("Codes of each level", _levels(found, codes)),
    ]
    changed = collision_rows(found)
    if changed:
        policy = found["collisions"]["policy"]
        moved = f"{found['collisions']['moved']:,} items moved"
        caption = f"Collisions before and after {policy}; {moved}"
        header = ["Figure", "Before", "After"]
        parts.append(section("Collisions resolved", [table(header, _cells(changed), caption)]))
    if found.get("drift") is not None:
        parts.append(section("Drift", _drift(found)))
    shared = _shared(codes, words or {})
    if shared:
        parts.append(section("Items that share a SID", [shared]))
    parts.append(section("Where this comes from", [_facts(found, path)]))
    return document(title, "".join(parts))


def _title(found: Figures) -> str:
    return f"{found['items']:,} semantic IDs, {found['items_in_collision']:.1%} in collision"


def _header(found: Figures, title: str, path: Path) -> str:
    told = ["sidrank inspect", shown(path.name), *facts(found)]
    lowest = min(found["utilisation"])
    boxes = [
        ("", "Items in collision", f"{found['items_in_collision']:.1%}", "share a whole SID"),
        ("", "Largest bucket", f"{found['largest_bucket']:,}", "items of one SID"),
        ("", "Codes in use", f"{lowest:.0%}", "of the level that uses fewest"),
    ]
    recall = found["neighbour_recall"]
    if recall is not None:
        below = f"of {recall['k']} neighbours; chance {recall['chance']:.3f}"
        boxes.append(("", "Neighbour recall", f"{recall['by_vector']:.3f}", below))
    done = what_was_done(found)
    return (
        f'<header>\n<p class="facts">{escape(" · ".join(told))}</p>\n<h1>{escape(title)}.</h1>\n'
        f"{cards(boxes)}{f'<p>{escape(done)}</p>' if done else ''}"
        f"<details><summary>How to read this page</summary><p>{_READING}</p></details>\n</header>\n"
    )


def _whole(found: Figures) -> str:
    rows = [
        [row.name, f"<td>{escape(row.value)}</td>", f'<td class="text">{escape(row.meaning)}</td>']
        for row in headline_rows(found)
    ]
    return table(["Figure", "Value", "Meaning"], rows, "Figures of the whole SIDs")


def _notes(notes: Sequence[str]) -> list[str]:
    rows = "".join(
        f'<li><span class="pill">note</span><span>{escape(note)}</span></li>\n' for note in notes
    )
    return [f'<ul class="findings">\n{rows}</ul>\n'] if rows else []


def _levels(found: Figures, codes: SIDTable) -> list[str]:
    usage = (
        "How evenly codes are used: on the dotted line all hold the same number of items; the "
        "sooner a line reaches the top, the fewer codes hold everything."
    )
    plots = [
        figure(usage_plot(codes), usage),
        figure(bucket_plot(codes), "Items that are alone with their SID, or one of so many."),
    ]
    recall = recall_plot(found)
    parts = [
        table(level_header(found), _cells(level_rows(found)), "Figures of each level"),
        f'<div class="beside">{"".join(plots)}</div>\n',
    ]
    if recall:
        caption = "What the codes keep of the neighbours, with two standard errors."
        parts.append(figure(recall, caption))
    return parts


def _drift(found: Figures) -> list[str]:
    against = found["drift"]
    caption = (
        f"{against['new_items']:,} new items against {against['sample_items']:,} "
        f"{against['compared_with']}; without drift: mean and 95% of random splits"
    )
    header = ["Figure", "Value", "Without drift", "p"]
    return [table(header, _cells(drift_rows(found)), caption)]


def _shared(codes: SIDTable, words: Mapping[int, str]) -> str:
    """The most common SIDs with some of their items."""
    bucket = number_prefixes(codes.codes)[-1]
    counts = np.bincount(bucket)
    largest = np.argsort(-counts, kind="stable")[:_MOST_BUCKETS]
    largest = largest[counts[largest] > 1]
    rows: list[list[str]] = []
    for each in largest.tolist():
        members = np.flatnonzero(bucket == each)
        ids: list[int] = codes.item_ids[members[:_MOST_ITEMS]].tolist()
        named = [
            f"{item} {shown(words[item])[:60]}" if item in words else str(item) for item in ids
        ]
        more = len(members) - len(ids)
        text = ("; " if words else ", ").join(named) + (f" and {more:,} more" if more else "")
        rows.append(
            [
                "-".join(str(code) for code in codes.codes[members[0]].tolist()),
                f"<td>{len(members):,}</td>",
                f'<td class="text">{escape(text)}</td>',
            ]
        )
    caption = "The most common SIDs and some of their items"
    return table(["SID", "Items", "Which"], rows, caption) if rows else ""


def _facts(found: Figures, path: Path) -> str:
    told = {
        "Bundle": str(path.resolve()),
        "Version": str(found["version"]),
        "Content hash": found["hash"],
        "Parent": found["parent"] or "none",
    }
    if found["tokenizer"] is not None:
        told["Tokenizer"] = found["tokenizer"]["name"]
        told["Arguments"] = json.dumps(found["tokenizer"]["arguments"])
    told["sidrank"] = version("sidrank")
    rows = [[name, f'<td class="text">{escape(shown(text))}</td>'] for name, text in told.items()]
    return table(["Name", "Value"], rows, "What was looked at")


def _cells(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[name, *(f"<td>{escape(cell)}</td>" for cell in cells)] for name, *cells in rows]
