"""How plots look: small SVGs that take their text colour from the page.

Small on purpose: drawn 4.2 inches wide with 10-point labels, they are still readable when a
telephone shows them at 330 pixels. Text stays text: it can be searched and follows the page's
font. The same figures give the same bytes.

Shapes: none.
"""

import io
import re
import warnings
from html import escape
from typing import Any

from matplotlib.figure import Figure

__all__ = ["COLORS", "INK", "MARKERS", "STYLE", "svg"]

# Told apart by the colour-blind, and readable on white and on black; shapes differ as well.
COLORS = ("#2f7ed8", "#e07b00", "#8a63d2", "#1a9a6c")
MARKERS = ("o", "s", "D", "^")
INK = "#123456"  # stands for the page's text colour until the SVG is finished
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sidrank",  # the same report gives the same bytes
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#80808055",
    "legend.frameon": False,
}


def svg(figure: Figure, title: str) -> str:
    """Render without a fixed size, without metadata and without a link to anywhere.

    Args:
        figure: The plot, drawn under ``STYLE``.
        title: What it shows, plain text for those who cannot see it.

    Returns:
        An ``<svg>`` element.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # the page's font draws the text, not matplotlib's, which lacks most scripts
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1).strip()
