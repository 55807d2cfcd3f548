"""The parts of a page: a document around sections of cards, tables and plots.

A table scrolls inside its own box, so the page itself never scrolls sideways on a telephone. It
follows the reader's choice of light or dark. Text is escaped here; what a parameter calls HTML is
taken as it is.

Shapes: none.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

__all__ = ["cards", "document", "figure", "section", "table"]


def document(title: str, body: str) -> str:
    """Build a whole page.

    Args:
        title: Its title, plain text.
        body: What it shows, HTML.

    Returns:
        An HTML document.
    """
    style = resources.files("sidrank.pages").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def section(title: str, parts: Iterable[str]) -> str:
    """A heading and what belongs to it.

    Args:
        title: The heading, plain text.
        parts: Pieces of HTML.

    Returns:
        HTML.
    """
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def cards(found: Iterable[tuple[str, str, str, str]]) -> str:
    """Figures to be seen first, each in a box of its own.

    Args:
        found: Of each its CSS class (``gain``, ``loss`` or another), label, value and what goes
            below the value, plain text.

    Returns:
        HTML; nothing if there is no figure.
    """
    boxes = "".join(
        f'<div class="card {tone}"><span>{escape(label)}</span>'
        f"<b>{escape(value)}</b><span>{escape(below)}</span></div>"
        for tone, label, value, below in found
    )
    return f'<div class="cards">{boxes}</div>\n' if boxes else ""


def figure(plot: str, caption: str) -> str:
    """A plot with its caption.

    Args:
        plot: The plot, an ``<svg>`` element.
        caption: Plain text.

    Returns:
        HTML.
    """
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table in its own scrolling box.

    Args:
        header: Names of the columns, plain text.
        rows: Of each its name, plain text, then finished ``<td>`` cells, HTML.
        caption: Plain text.

    Returns:
        HTML.
    """
    rows = list(rows)
    # a name stands over its cells: left over words, right over figures
    kinds = ["", *(_heads_words([row[at] for row in rows]) for at in range(1, len(header)))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for kind, name in zip(kinds, header, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>\n' for name, *cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _heads_words(cells: Sequence[str]) -> str:
    return ' class="text"' if cells and all('<td class="text"' in cell for cell in cells) else ""
