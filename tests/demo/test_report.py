import json
import math
import re
import shutil
import stat
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from sidrank.demo import report as report_module
from sidrank.demo.report import write_report
from tests.demo.synthetic import interval, synthetic_report

BROWSER = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"])),
    None,
)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects the tags of a page and refuses one that is closed in the wrong order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def write(report, folder):
    data, page = write_report(report, folder)
    return json.loads(data.read_text("utf-8")), page.read_text("utf-8")


def test_json_holds_the_report_without_nan(tmp_path):
    report = synthetic_report()
    report["splits"]["per_user"]["arms"]["host"]["auc"] = math.nan
    report["extra"] = {
        "array": np.array([1.5, math.inf]),
        "tensor": torch.tensor([1, 2]),
        "scalar": np.float32(0.5),
        "tuple": (True, None, "é"),
    }
    data, page = write(report, tmp_path / "new" / "folder")
    assert "NaN" not in (tmp_path / "new" / "folder" / "report.json").read_text("utf-8")
    assert data["splits"]["per_user"]["arms"]["host"]["auc"] is None
    assert data["splits"]["cold_items"]["paired"]["hybrid_vs_host"]["auc"] == interval(0.06)
    assert data["extra"] == {
        "array": [1.5, None],
        "tensor": [1, 2],
        "scalar": 0.5,
        "tuple": [True, None, "é"],
    }
    assert "n/a" in Page(page).text


def test_same_report_same_bytes(tmp_path):
    first = [path.read_bytes() for path in write_report(synthetic_report(), tmp_path / "a")]
    second = [path.read_bytes() for path in write_report(synthetic_report(), tmp_path / "b")]
    assert first == second


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": object()}, r"report.extra.a must be what JSON can hold, got object"),
        ({"a": [1, {2: 3}]}, r"report.extra.a\[1\] must have strings as keys, got 2"),
    ],
)
def test_what_json_cannot_hold_is_refused_and_the_old_report_stays(tmp_path, value, message):
    write_report(synthetic_report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError, match=message):
        write_report(synthetic_report(gain=0.5) | {"extra": value}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_that_fails_leaves_no_half_file(tmp_path):
    (tmp_path / "report.html").mkdir()  # a directory cannot be replaced by a file
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(synthetic_report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_files_are_readable_by_others(tmp_path):
    for path in write_report(synthetic_report(), tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("full", [False, True])
def test_page_is_self_contained(tmp_path, full):
    _, text = write(synthetic_report(full=full), tmp_path)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?:|//|@import|data:", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    for name, value in page.attributes:
        assert name not in {"src", "srcset", "action"}
        assert name not in {"href", "xlink:href"} or value.startswith("#")
    assert ("name", "viewport") in page.attributes
    assert page.tags.count("svg") == (5 if full else 4)


def test_page_escapes_what_it_is_given(tmp_path):
    _, text = write(synthetic_report(), tmp_path)
    assert "<script>" not in text
    assert "<script>alert(1)</script> & more" in Page(text).text


def test_page_shows_every_number_of_the_tables(tmp_path):
    report = synthetic_report(full=True)
    report["splits"]["cold_items"]["arms"]["concat"]["auc"] = 0.81237
    report["splits"]["cold_items"]["paired"]["hybrid_vs_host_matched"]["gauc"] = [-0.5, -0.6, -0.4]
    _, text = write(report, tmp_path)
    words = Page(text).text
    for number in ("0.8124", "▼ −0.5000", "[−0.6000, −0.4000]", "1,234,567", "28.1, 27.4, 26.9"):
        assert number in words
    assert "Not causal" in words


def test_page_shows_only_what_is_there(tmp_path):
    report = synthetic_report()
    kept = {"splits": {"per_user": {"arms": report["splits"]["per_user"]["arms"]}}}
    _, text = write(kept, tmp_path)
    words = Page(text).text
    assert "Each user's last rows" in words
    for absent in ("Cold-item protocol", "Upgrading", "The gate", "Environment", "Paired"):
        assert absent not in words
    _, empty = write({}, tmp_path)
    assert "This run holds no comparison" in Page(empty).text
    assert "<svg" not in empty


def test_the_page_of_a_loss_says_loss(tmp_path):
    _, text = write(synthetic_report(gain=-0.06), tmp_path)
    headline = re.search("<h1>(.*)</h1>", text).group(1)
    assert headline.startswith("Semantic IDs lose")
    assert '<div class="card loss">' in text


PROBE = """<script>
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const box = (element) => element.getBoundingClientRect();
const plots = all("svg").map((svg) => ({
  width: box(svg).width,
  height: box(svg).height,
  shapes: all("path, use", svg).length,
  text: Math.min(...all("text", svg).map((label) => box(label).height)),
  spill: all("text, path", svg).filter((part) => !part.closest("defs") && (
    box(part).left < box(svg).left - 1 || box(part).right > box(svg).right + 1 ||
    box(part).bottom > box(svg).bottom + 1)).length,
}));
parent.postMessage({
  inner: innerWidth,
  scroll: document.documentElement.scrollWidth,
  plots,
  wide: all("body *").filter((part) => !part.closest(".scroll table")
    && box(part).right > innerWidth + 0.5).map((part) => part.tagName + "." + part.className),
  resources: performance.getEntriesByType("resource").length,
  scrolling: all(".scroll").filter((part) => part.scrollWidth > part.clientWidth).length,
}, "*");
</script>"""

# A browser's window cannot be as narrow as a telephone, a frame can; it sets the page's viewport.
FRAME = """<!doctype html><script>
addEventListener("message", (event) => {
  document.documentElement.dataset.found = JSON.stringify(event.data);
});
</script><iframe src="probe.html" style="width: WIDTHpx; height: 800px; border: 0"></iframe>"""


def probe(page, folder, width):
    """Open a page in a real browser without a network and measure it."""
    (folder / "probe.html").write_text(page.replace("</body>", PROBE + "</body>"), "utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), "utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    command = [
        BROWSER,
        *flags.split(),
        "--disable-dev-shm-usage",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=5000",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,900",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(dict(Page(done.stdout).attributes)["data-found"])


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the PATH")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_page_without_sideways_scrolling(tmp_path, width):
    report = synthetic_report(full=True)
    report["environment"]["x" * 40] = "y" * 300
    _, page = write(report, tmp_path)
    found = probe(page, tmp_path, width)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["resources"] == 0
    assert len(found["plots"]) == 5
    for plot in found["plots"]:
        assert plot["width"] > 300
        assert plot["height"] > 180
        assert plot["shapes"] > 20
        assert plot["text"] >= 9  # pixels: still readable on a telephone
        assert plot["spill"] == 0
    if width == 360:
        assert found["scrolling"] >= 4  # wide tables scroll in their own boxes


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the PATH")
def test_the_browser_test_would_notice_a_page_that_is_too_wide(tmp_path):
    _, page = write(synthetic_report(), tmp_path)
    found = probe(page.replace("overflow-x: auto", "overflow-x: visible"), tmp_path, 360)
    assert found["scroll"] > 360


def test_no_temporary_file_stays(tmp_path):
    write_report(synthetic_report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert report_module.__all__ == ["write_report"]
