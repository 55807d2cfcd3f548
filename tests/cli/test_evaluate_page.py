import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tests.cli.evaluations import evaluate, figures, impressions
from tests.data.row_files import write_rows

ODD = "<script>alert('$x^2$')</script>"


@pytest.fixture(scope="module")
def log():
    return impressions()


def page(path, **options):
    """The page's text."""
    report = path.with_suffix(".html")
    code, _, errors = evaluate(path, report=report, **options)
    assert (code, errors) == (0, "")
    return report.read_text(encoding="utf-8")


def plots(text):
    return re.findall(r"<svg .*?</svg>", text, re.DOTALL)


class TestPage:
    def test_shows_the_figures(self, log, tmp_path):
        path = write_rows(tmp_path / "log.parquet", log)
        options = {"group": "user", "compare": "old", "slice": "country"}
        text, found = page(path, **options), figures(path, **options)
        compared = found["compare"]
        for value in (
            *(found["auc"], *found["auc_interval"], *found["gauc"].values()),
            *(found["logloss"], found["ece"], found["slices"]["de"]["auc"]),
            *(compared["auc"], compared["logloss"], *compared["gauc"].values()),
        ):
            assert f"{value:.6f}" in text
        assert f"{compared['delta_auc']:+.6f}, better" in text
        assert len(plots(text)) == 3

    def test_needs_nothing_but_itself(self, log, tmp_path):
        text = page(write_rows(tmp_path / "log.parquet", log), slice="country")
        assert not re.search(r"(src|href)=\"[^#]|url\((?!#)|@import|https?://", text)
        assert "prefers-color-scheme: dark" in text
        for plot in plots(text):
            ElementTree.fromstring(plot.replace("xlink:", ""))

    def test_same_file_same_bytes(self, log, tmp_path):
        path = write_rows(tmp_path / "log.parquet", log)
        assert page(path, group="user") == page(path, group="user")

    def test_escapes_what_a_file_holds(self, log, tmp_path):
        rows = log | {ODD: log["score"], "city": np.array([ODD, "東京"])[np.arange(400) % 2]}
        path = write_rows(tmp_path / "a<b>.parquet", rows)
        text = page(path, slice="city", compare=ODD)
        assert "<script" not in text
        assert "<b>.parquet" not in text
        assert text.count("&lt;script&gt;") > 5
        assert "東京" in text

    def test_says_how_to_get_it_again(self, log, tmp_path):
        path = write_rows(tmp_path / "my log.parquet", log | {"score": log["logit"]})
        text = page(path, group="user", weight="weight", logits=True)
        assert (
            f"sidrank evaluate &#x27;{path}&#x27; --label label --score score --group user "
            "--weight weight --logits" in text
        )

    def test_without_probabilities_says_so(self, log, tmp_path):
        text = page(write_rows(tmp_path / "log.parquet", log | {"score": log["logit"]}))
        assert "are no probabilities" in text
        assert len(plots(text)) == 1

    def test_infinite_scores(self, log, tmp_path):
        rows = log | {"score": np.where(log["label"] == 1, np.inf, -np.inf)}
        text = page(write_rows(tmp_path / "log.parquet", rows))
        assert "AUC 1.000000" in text
        assert plots(text) == []

    @pytest.mark.parametrize(
        ("other", "verdict"),
        [("score", "no difference shown"), ("worse", "better"), ("ideal", "worse")],
    )
    def test_verdict(self, log, tmp_path, other, verdict):
        noise = np.random.default_rng(0).random(400)
        rows = log | {"worse": noise, "ideal": log["label"] + 0.1 * noise}
        text = page(write_rows(tmp_path / "log.parquet", rows), compare=other)
        assert re.search(rf"<h1>.*, {verdict}\.</h1>", text)

    def test_many_slices(self, log, tmp_path):
        rows = {name: np.tile(column, 3) for name, column in log.items()}
        rows["slice"] = np.arange(1200) // 2
        text = page(write_rows(tmp_path / "log.parquet", rows), slice="slice")
        assert "the 500 largest of 600 slices" in text
