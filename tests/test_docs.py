"""Runs each python block of the README and the guide, page by page, from top to bottom."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs/index.md", *sorted(ROOT.glob("docs/guide/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _blocks(text):
    """Each block as code that keeps its line numbers, so that a traceback points into the page."""
    for found in BLOCK.finditer(text):
        yield "\n" * text.count("\n", 0, found.start(1)) + found[1]


def test_blocks_keep_their_line():
    (block,) = _blocks("# Title\n\n```python\nraise ValueError\n```\n")
    assert block.splitlines()[3] == "raise ValueError"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in _blocks(page.read_text()):
        exec(compile(block, str(page), "exec"), names)
