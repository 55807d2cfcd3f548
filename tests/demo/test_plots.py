import re

import numpy as np

from sidrank.demo.plots import code_usage, gain_by_frequency, gate_by_decile
from tests.demo.synthetic import interval


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def bucket(name, delta):
    return {"bucket": name, "rows": 1234, "delta": delta}


def test_gain_plot_names_buckets_pairs_and_rows():
    rows = [bucket("0", interval(0.05)), bucket("1-4", None), bucket("5+", [0.1, None, 0.2])]
    svg = gain_by_frequency({"hybrid_vs_host": rows, "host_vector_vs_host": rows})
    found = texts(svg)
    assert {"0", "1-4", "5+", "1.2k", "Hybrid", "Host + raw vector"} <= set(found)


def test_a_bucket_without_an_interval_has_no_marker():
    def markers(rows):
        return gain_by_frequency({"hybrid_vs_host": rows}).count("<use")

    both = [bucket("0", interval(0.05)), bucket("1+", interval(0.01))]
    one = [bucket("0", interval(0.05)), bucket("1+", None)]
    assert markers(one) < markers(both)
    assert "<svg" in gain_by_frequency({"hybrid_vs_host": [bucket("0", None)]})


def test_plots_take_the_text_colour_of_the_page_and_link_nowhere():
    gate = {"true": list(np.linspace(0, 1, 10)), "shuffled": [0.5] * 10}
    for svg in (gate_by_decile(gate), code_usage([[3, 2, 1], [1, 1, 4]])):
        assert svg.startswith('<svg role="img" aria-label="')
        assert svg.endswith("</svg>")
        assert "currentColor" in svg
        assert "#123456" not in svg
        assert "http" not in svg
        assert not re.search(r"<svg[^>]*(width|height)=", svg)


def test_gate_plot_shows_what_there_is():
    alone = texts(gate_by_decile({"true": [0.5] * 10}))
    both = texts(gate_by_decile({"true": [0.1] * 10, "shuffled": [0.9] * 10}))
    assert set(both) - set(alone) >= {"shuffled statistics"}
    assert "true statistics" in alone


def test_usage_is_drawn_from_the_most_used_code_down():
    assert code_usage([[1, 5, 3]]) == code_usage([[5, 3, 1]])
    assert code_usage([[1, 5, 3]]) != code_usage([[5, 5, 1]])
    assert {"level 1", "level 2"} <= set(texts(code_usage([[1, 2], [2, 1]])))
