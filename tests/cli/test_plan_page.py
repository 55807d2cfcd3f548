"""The page of `sidrank plan`: real figures, escaped names, whole or not there at all."""

import json
import re
import resource
from html import escape, unescape

import pytest

from sidrank.cache.access_trace import AccessTrace
from sidrank.cli import plan_plots
from sidrank.cli.plan import figures_of
from sidrank.cli.plan_page import render, write_plan_page
from sidrank.sharding.remedies import Cluster, plan_specs
from sidrank.sharding.table_specs import TableSpec
from tests.cli.test_plan import GPUS, ROWS, changed, listed, plan, tables, traced
from tests.cli.tokenizations import refused, sidrank

HOSTILE = ["<script>alert(1)</script>", "$x_{$ & \"'<b>", "up\x1b[2J\u202e"]

SIZES = [(0, "B"), (10, "KiB"), (20, "MiB"), (30, "GiB")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A list of tables and a trace of them, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    return listed(folder, tables()), traced(folder)


@pytest.fixture(scope="module")
def found(made):
    """What JSON says, and the curves."""
    return plan(made), AccessTrace.load(made[1]).curves()


def page(made, folder, **options):
    """Exit code, and the page."""
    report = folder / "r.html"
    options = {**GPUS, "trace": made[1], "report": report, **options}
    code, _, errors = sidrank("plan", made[0], **options)
    assert (code in (0, 1), errors) == (True, ""), errors
    return code, report.read_text(encoding="utf-8")


def rows_of(text, caption):
    """Cells of the table with that caption, by what stands first in the row."""
    found = re.search(rf"<caption>{re.escape(caption)}.*?<tbody>(.*?)</tbody>", text, re.DOTALL)
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in found[1].split("</tr>")]
    return {row[0]: row[1:] for row in rows if row}


class TestPage:
    def test_holds_the_figures_of_the_json(self, made, found, tmp_path):
        code, text = page(made, tmp_path)
        assert code == 0
        rows = rows_of(text, "What becomes of each table")
        assert list(rows) == list(ROWS)
        for each in found[0]["tables"]:
            cells = rows[each["name"]]
            assert cells[:2] == [each["sharding"], each["kernel"]]
            assert cells[3] == f"{ROWS[each['name']]:,}"
            assert cells[4:6] == [f"{each['load_factor']:.2%}", f"{each['predicted_miss']:.2%}"]
            assert cells[6] == f"{each['lookups'] * each['predicted_miss']:,.0f}"
            assert cells[7] in (f"{each['hbm_bytes'] / 2**n:,.4g} {u}" for n, u in SIZES)

    def test_says_what_was_spent_of_the_budget(self, made, found, tmp_path):
        held = [rank["hbm_bytes"] for rank in found[0]["ranks"]]
        cells = rows_of(page(made, tmp_path)[1], "What there is for tables")["HBM"]
        assert cells[0] == "20.48 MiB"
        for cell, count in zip(cells[1:4], (min(held), max(held), sum(held)), strict=True):
            assert cell == f"{count / 2**20:,.4g} MiB"
        assert cells[5] == f"{sum(held) / (2 * 0.02 * 2**30):.1%}"

    def test_draws_each_rank_and_each_cache(self, made, found, tmp_path):
        _, text = page(made, tmp_path)
        for label in ("HBM of each rank", "Host memory of each rank", "Miss-ratio curve of user"):
            assert text.count(f'<svg role="img" aria-label="{label}"') == 1
        assert "Miss-ratio curve of item" not in text  # it is whole in HBM
        user = found[0]["tables"][0]
        shown = f"user: {user['load_factor']:.2%} of 200,000 rows in HBM miss"
        assert f"{shown} {user['predicted_miss']:.2%} of" in text

    def test_marks_the_chosen_size_on_the_curve(self, found, monkeypatch):
        drawn = []

        def keep(figure, title):
            drawn.append((figure, title))
            return "<svg></svg>"

        monkeypatch.setattr(plan_plots, "svg", keep)
        render(*found, source="x", measured={"user": 0.5})
        axes = next(figure for figure, title in drawn if "curve of user" in title).axes[0]
        user = found[0]["tables"][0]
        marked = [
            (line.get_xdata()[0], line.get_ydata()[0])
            for line in axes.lines
            if line.get_linestyle() == "None"
        ]
        assert marked[0] == pytest.approx((user["load_factor"], user["predicted_miss"]))
        assert marked[1] == (user["load_factor"], 0.5)
        bars = next(figure for figure, title in drawn if title.startswith("HBM")).axes[0].patches
        held = [rank["hbm_bytes"] / 2**20 for rank in found[0]["ranks"]]
        assert [bar.get_height() for bar in bars] == pytest.approx(held)

    def test_fetches_nothing_and_is_the_same_every_time(self, made, tmp_path):
        _, text = page(made, tmp_path)
        assert text == page(made, tmp_path)[1]
        assert not re.search(r"https?:|<script|<link|<img|@import|url\((?!#)", text)

    def test_leaves_what_is_printed_as_it_is(self, made, tmp_path):
        options = {**GPUS, "trace": made[1], "json": True}
        before = sidrank("plan", made[0], **options)
        assert sidrank("plan", made[0], report=tmp_path / "r.html", **options) == before

    def test_of_a_thousand_gpus_stays_small(self, made, tmp_path):
        _, text = page(made, tmp_path, world_size=1024, hbm_gib=0.5, batch=4)
        assert "1,024 GPUs" in text
        assert len(text) < 200_000

    def test_of_rows_that_never_came(self, made, tmp_path):
        more = changed(tmp_path, made, rows=300_000)
        user = plan(more)["tables"][0]
        _, text = page(more, tmp_path)
        assert f"{user['load_factor']:.2%} of 300,000 rows in HBM miss" in text

    def test_names_are_escaped(self, tmp_path):
        rows = dict(zip(HOSTILE, ROWS.values(), strict=True))
        listing = [{"name": name, "rows": count, "dim": 64} for name, count in rows.items()]
        odd = tmp_path / "<i>"
        odd.mkdir()
        _, text = page((listed(odd, listing), traced(odd, rows)), tmp_path)
        for harm in ("<script", "<b>x", "'<b>", "<i>", "\x1b", "\u202e"):
            assert harm not in text
        assert escape(HOSTILE[0]) in text
        assert HOSTILE[1] in unescape(text)
        assert "up\\x1b[2J\\u202e" in text

    def test_of_a_shortage_names_the_table_and_what_helps(self, made, tmp_path):
        more = changed(tmp_path, made, rows=80_000_000)
        code, text = page(more, tmp_path, json=True)
        assert code == 1
        assert "The tables do not fit into 2 GPUs." in text
        assert "user alone takes" in text
        _, output, _ = sidrank("plan", more[0], trace=more[1], json=True, **GPUS)
        said = [each["text"] for each in json.loads(output)["remedies"]]
        assert said
        assert re.findall(r"fits with</span><span>(.*?)</span>", text) == said


class TestMeasured:
    def test_stands_beside_what_was_predicted(self, found, tmp_path):
        user = found[0]["tables"][0]
        again = user["predicted_miss"] + 0.0123
        report = tmp_path / "after.html"
        written = write_plan_page(report, *found, source="tables", measured={"user": again})
        assert written == report
        text = report.read_text()
        rows = rows_of(text, "Predicted and measured misses")
        later = found[1]["user"].miss_rate(user["load_factor"], cold=False)
        assert rows["user"] == [
            f"{user['predicted_miss']:.2%}",
            f"{later:.2%}",
            f"{again:.2%}",
            "+1.23",
        ]
        assert rows["item"][2:] == ["–", "–"]
        assert f"measured {again:.2%}." in text
        assert 'aria-label="Measured misses of each table over predicted ones"' in text

    def test_card_weighs_tables_by_their_lookups(self, found):
        user, item, _ = found[0]["tables"]
        text = render(*found, source="x", measured={"user": 0.5, "item": 0.25})
        mean = (0.5 * user["lookups"] + 0.25 * item["lookups"]) / (
            user["lookups"] + item["lookups"]
        )
        assert f"<span>Measured misses</span><b>{mean:.2%}</b><span>of 2 tables" in text

    def test_of_a_plan_made_in_python(self, made, found):
        specs = [
            TableSpec(name=name, rows=rows, dim=64, features=(name,)) for name, rows in ROWS.items()
        ]
        cluster = Cluster(2, 0.02, 1, 64)
        own = figures_of(plan_specs(specs, found[1], cluster), found[1], cluster)
        assert render(own, found[1], source="x") == render(*found, source="x")

    @pytest.mark.parametrize(
        ("measured", "words"),
        [
            ({}, "measured must hold one table or more, got none"),
            ({"page": 0.1}, "measured must be of tables of the plan, got page"),
            ({"user": 1.5}, r"measured must lie in \[0, 1\], got 1.5 of user"),
            ({"user": float("nan")}, r"measured must lie in \[0, 1\], got nan of user"),
        ],
    )
    def test_what_is_no_measurement(self, found, tmp_path, measured, words):
        with pytest.raises(ValueError, match=words):
            write_plan_page(tmp_path / "r.html", *found, source="x", measured=measured)
        assert list(tmp_path.iterdir()) == []

    def test_needs_every_curve(self, found):
        with pytest.raises(ValueError, match="curves must hold every table, got none of item"):
            render(found[0], {"user": found[1]["user"], "tag": found[1]["tag"]}, source="x")


class TestErrors:
    def test_no_place(self, made, tmp_path):
        options = {**GPUS, "trace": made[1]}
        for report, words in [
            (tmp_path, "report must be a file, got the folder"),
            (tmp_path / "no" / "r.html", "report must lie in a folder that exists"),
            (made[0], "report must not replace the file that is read"),
            (made[1], "report must not replace the file that is read"),
        ]:
            refused("plan", made[0], words=[words], report=report, **options)
        assert list(tmp_path.iterdir()) == []

    def test_bad_input_leaves_no_report(self, made, tmp_path):
        bad = changed(tmp_path, made, dim=6)
        refused("plan", bad[0], words=["dim"], trace=bad[1], report=tmp_path / "r.html", **GPUS)
        assert [each.name for each in tmp_path.iterdir()] == ["tables.json"]

    def test_full_disk_leaves_the_old_report(self, made, tmp_path):
        report = tmp_path / "r.html"
        report.write_text("old")
        # no file may grow beyond 4 KiB: to the writer the same as a disk that is full
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            refused("plan", made[0], words=["File too large"], trace=made[1], report=report, **GPUS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert report.read_text() == "old"
        assert [each.name for each in tmp_path.iterdir()] == ["r.html"]
