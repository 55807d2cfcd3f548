"""Sphinx settings; the build fails on a reference that does not resolve (`-W -n`)."""

import re
from importlib import metadata

from docutils import nodes
from numpy.typing import ArrayLike
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import stringify_annotation

project = "sidrank"
copyright = "sidrank developers"
release = metadata.version("sidrank")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["build", "measured"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

# No network while building, so other projects' names cannot be looked up.
nitpick_ignore_regex = [
    ("py:.*", r"(abc|collections|numpy|np|os|pathlib|torch|torchrec|typing)\..*"),
    # what annotations name and nobody calls
    ("py:.*", r"sidrank\.cache\.(.*\.JaggedFeatures|.*\.TableConfig|.*\._Item|flight\.Pins)"),
    ("py:.*", r"sidrank\.(cache\.journal\.Journal|cache\..*\.Batch|data\.row_plan\.Block)"),
    ("py:.*", r"sidrank\.(serving\._sid_growth\.Growth|serving\.row_pages\.RowView)"),
    ("py:.*", r"sidrank\.cli\.compiler\.Compiler"),
    ("py:.*", r"(concurrent\..*|sidrank\..*\._Trace)"),
    ("py:.*", r"(Tensor|nn\.Module|Path|optional|tuple\[int)"),
]

html_theme = "furo"
html_title = f"sidrank {release}"


def find_in_room(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Resolve ``sidrank.room.file.Name``, as annotations say, to ``sidrank.room.Name``."""
    match = re.fullmatch(r"(sidrank\.\w+)\.\w+\.(\w+)", node.get("reftarget", ""))
    if node.get("refdomain") != "py" or match is None:
        return None
    node["reftarget"] = f"{match[1]}.{match[2]}"
    domain = env.get_domain("py")
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, content
    )


def keep_colons(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Stop napoleon from reading ``Returns: one word: another`` as a type and its meaning."""
    for number, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            text = lines[number + 1]
            indent = len(text) - len(text.lstrip())
            lines[number + 1] = f"{text[:indent]}: {text[indent:]}"


def fold_array_like(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write ``ArrayLike`` for the union of eight types that Python makes of it."""
    union = stringify_annotation(ArrayLike, "smart")
    folded = signature and signature.replace(union, "~numpy.typing.ArrayLike")
    return folded, returns


def setup(app: Sphinx) -> None:
    """Connect the three."""
    app.connect("missing-reference", find_in_room)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", fold_array_like)
