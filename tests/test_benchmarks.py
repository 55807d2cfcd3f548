"""The generated pages say what the committed results say."""

import pytest

from benchmarks.page import pages


@pytest.mark.parametrize(("path", "text"), pages().items(), ids=lambda value: str(value)[-40:])
def test_a_committed_page_is_what_the_results_say(path, text):
    assert path.read_text() == text
