from html.parser import HTMLParser

import matplotlib as mpl
from matplotlib.figure import Figure

from sidrank.pages import cards, document, figure, section, table
from sidrank.pages.drawing import INK, STYLE, svg

ODD = "<i>&\"'"


class Text(HTMLParser):
    """The tags and the text of some HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_text_is_escaped():
    for html in (
        section(ODD, []),
        cards([("gain", ODD, ODD, ODD)]),
        figure("", ODD),
        table([ODD], [[ODD]], ODD),
    ):
        found = Text(html)
        assert "i" not in found.tags
        assert ODD in found.text


def test_document_holds_title_style_and_body():
    html = document(ODD, "<p>body</p>")
    found = Text(html)
    assert "i" not in found.tags
    assert found.tags[0] == "html"
    assert "prefers-color-scheme: dark" in found.text
    assert "<main>\n<p>body</p></main>" in html


def test_cells_are_html():
    html = table(["a", "b"], [["x", "<td><small>1</small></td>"]], "caption")
    assert Text(html).tags.count("small") == 1
    assert '<th scope="row">x</th>' in html


def test_a_name_stands_over_its_cells():
    rows = [["x", '<td class="text">w</td>', "<td>1</td>"], ["y", "<td>–</td>", "<td>2</td>"]]
    assert 'class="text">words' not in table(["a", "words", "n"], rows, "")  # one cell is a figure
    html = table(["a", "words", "n"], rows[:1], "")
    assert '<th scope="col" class="text">words</th><th scope="col">n</th>' in html


def test_no_cards():
    assert cards([]) == ""


def test_plot_takes_the_colour_of_the_page_and_its_title():
    with mpl.rc_context(STYLE):
        plot = Figure(figsize=(2, 2))
        plot.subplots().set_xlabel("東京")
        html = svg(plot, ODD)
    assert INK not in html
    assert "currentColor" in html
    assert "東京" in html
    assert 'aria-label="&lt;i&gt;&amp;&quot;&#x27;"' in html
    assert "http" not in html
