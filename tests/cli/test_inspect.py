import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sidrank.semantic_ids import SIDSpec, SIDTable, quality, save_bundle
from tests.cli.test_tokenize import PROMISED
from tests.cli.tokenizations import append, catalogue, figures, refused, sidrank, tokenize, write


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with items and a bundle, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    path = write(folder / "items.parquet", catalogue(items=400))
    found = tokenize(path, folder / "b", category="category", levels="8,8")
    return folder, found


class TestJSON:
    def test_is_what_tokenize_printed(self, made):
        folder, found = made
        again = figures("inspect", folder / "b")
        assert list(again)[: len(PROMISED)] == PROMISED
        assert again == {key: found[key] for key in again}
        assert {"neighbour_recall", "purity", "tokenizer", "notes"} <= set(again)

    def test_without_quality(self, tmp_path):
        table = SIDTable([1, 2, 3], [[0, 1], [0, 1], [2, 0]], spec=SIDSpec((3, 2)))
        save_bundle(tmp_path / "b", table)
        found = figures("inspect", tmp_path / "b")
        expected = quality(table).to_dict(complete=True)
        assert {key: found[key] for key in expected} == expected
        assert (found["tokenizer"], found["reconstruction_error"]) == (None, None)
        assert any("are unknown" in note for note in found["notes"])

    def test_no_collision_and_no_number_that_json_lacks(self, tmp_path):
        save_bundle(tmp_path / "b", SIDTable([1], [[0]], spec=SIDSpec((1,))))
        found = figures("inspect", tmp_path / "b")
        assert found["items_per_colliding_sid"] is None
        assert found["notes"] == []

    def test_parent(self, made, tmp_path):
        folder, found = made
        more = catalogue(items=30, seed=1)
        more["item"] = np.arange(10**7, 10**7 + 30)
        append(write(tmp_path / "new.parquet", more), folder / "b", tmp_path / "c")
        grown = figures("inspect", tmp_path / "c")
        assert (grown["version"], grown["parent"], grown["items"]) == (2, found["hash"], 430)


class TestWords:
    def test_tables(self, made):
        folder, found = made
        code, output, errors = sidrank("inspect", folder / "b")
        assert (code, errors) == (0, "")
        for text in (
            "400 items, levels 8 × 8, version 1, rq-kmeans",
            f"{found['items_in_collision']:.2%}",
            f"{found['perplexity'][1]:.1f}",
            f"{found['neighbour_recall']['by_vector']:.4f}",
            f"{found['reconstruction_error']['mse']:.6g}",
            f"{found['purity']['v_measure'][0]:.3f}",
            *(note.split(":")[0] for note in found["notes"]),
        ):
            assert text in " ".join(output.split()), text

    def test_same_as_tokenize(self, made, tmp_path):
        folder, _ = made
        options = {"embedding": "vector", "tokenizer": "rq-kmeans", "levels": "8,8"}
        bundle = tmp_path / "b"
        _, one, _ = sidrank("tokenize", folder / "items.parquet", id="item", out=bundle, **options)
        _, two, _ = sidrank("inspect", bundle)
        assert one == two


class TestDamage:
    def damaged(self, made, tmp_path):
        folder, _ = made
        (tmp_path / "b").mkdir()
        for part in (folder / "b").iterdir():
            (tmp_path / "b" / part.name).write_bytes(part.read_bytes())
        return tmp_path / "b"

    @pytest.mark.parametrize(
        "name", ["codes.safetensors", "tokenizer.safetensors", "manifest.json"]
    )
    def test_missing_truncated_and_changed(self, made, tmp_path, name):
        bundle = self.damaged(made, tmp_path)
        part = bundle / name
        content = part.read_bytes()
        for damage in (content[:-1], content[:10], b"", content[:-9] + b"x" + content[-8:]):
            part.write_bytes(damage)
            for flags in ({}, {"json": True}, {"report": tmp_path / "r.html"}):
                refused("inspect", bundle, words=[name], **flags)
        part.unlink()
        refused("inspect", bundle, words=[name, "got none"])
        assert not (tmp_path / "r.html").exists()

    def test_another_hash(self, made, tmp_path):
        bundle = self.damaged(made, tmp_path)
        other = SIDTable([1], [[0, 0]], spec=SIDSpec((8, 8)))
        save_bundle(tmp_path / "other", other)
        (bundle / "codes.safetensors").write_bytes(
            (tmp_path / "other/codes.safetensors").read_bytes()
        )
        refused("inspect", bundle, words=["codes.safetensors must have SHA-256"])

    def test_no_bundle(self, tmp_path):
        refused("inspect", tmp_path / "none", words=["none must be a SID bundle, got no such"])
        refused("inspect", tmp_path, words=["manifest.json must be a file, got none"])

    def test_no_items(self, tmp_path):
        empty = SIDTable([], np.empty((0, 1), dtype=np.int64), spec=SIDSpec((1,)))
        save_bundle(tmp_path / "b", empty)
        refused("inspect", tmp_path / "b", words=["table must hold at least one item, got 0"])

    def test_no_place_for_the_page(self, made, tmp_path):
        folder, _ = made
        report = tmp_path / "no" / "r.html"
        refused("inspect", folder / "b", words=["report must lie in a folder"], report=report)
        report = folder / "b" / "r.html"
        refused("inspect", folder / "b", words=["report must not lie in the bundle"], report=report)


class TestPage:
    def page(self, path, tmp_path):
        code, _, errors = sidrank("inspect", path, report=tmp_path / "r.html")
        assert (code, errors) == (0, "")
        return (tmp_path / "r.html").read_text(encoding="utf-8")

    def plots(self, text):
        return re.findall(r"<svg .*?</svg>", text, re.DOTALL)

    def test_shows_the_figures(self, made, tmp_path):
        folder, found = made
        text = self.page(folder / "b", tmp_path)
        assert f"400 semantic IDs, {found['items_in_collision']:.1%} in collision." in text
        for value in (
            f"{found['excess']:.2%}",
            f"{found['neighbour_recall']['by_prefix']:.4f}",
            f"{found['gini'][0]:.3f}",
            f"{found['semantic_cohesion'][1]:.3f}",
            f"{found['purity']['shuffled'][1]:.3f}",
            found["hash"],
        ):
            assert value in text
        assert len(self.plots(text)) == 3

    def test_names_items_that_share_a_sid(self, tmp_path):
        ids = [-5, 17, 4, 99, 1000]
        codes = [[0, 1], [0, 1], [1, 1], [2, 0], [0, 1]]
        save_bundle(tmp_path / "b", SIDTable(ids, codes, spec=SIDSpec((3, 2))))
        text = self.page(tmp_path / "b", tmp_path)
        row = '<th scope="row">0-1</th><td>3</td><td class="text">-5, 17, 1000</td>'
        assert row in text
        assert ">1-1<" not in text
        assert len(self.plots(text)) == 2

    def test_no_shared_sid(self, tmp_path):
        save_bundle(tmp_path / "b", SIDTable([1, 2], [[0], [1]], spec=SIDSpec((2,))))
        assert "share a SID</h2>" not in self.page(tmp_path / "b", tmp_path)

    def test_needs_nothing_but_itself(self, made, tmp_path):
        text = self.page(made[0] / "b", tmp_path)
        assert not re.search(r"(src|href)=\"[^#]|url\((?!#)|@import|https?://", text)
        assert "prefers-color-scheme: dark" in text
        for plot in self.plots(text):
            ElementTree.fromstring(plot.replace("xlink:", ""))

    def test_same_bundle_same_bytes(self, made, tmp_path):
        assert self.page(made[0] / "b", tmp_path) == self.page(made[0] / "b", tmp_path)

    def test_many_levels_of_many_codes(self, tmp_path):
        rng = np.random.default_rng(0)
        codes = rng.integers(0, 8192, (2000, 6))
        save_bundle(tmp_path / "b", SIDTable(np.arange(2000), codes, spec=SIDSpec((8192,) * 6)))
        assert len(self.page(tmp_path / "b", tmp_path)) < 100_000

    def test_tokenize_tells_of_collisions_and_drift_and_escapes_words(self, made, tmp_path):
        folder, _ = made
        more = catalogue(items=60, seed=1)
        more["item"] = np.arange(10**7, 10**7 + 60)
        path = write(tmp_path / "new.parquet", more)
        options = {"collisions": "next-nearest", "report": tmp_path / "r.html"}
        append(path, folder / "b", tmp_path / "c", **options)
        text = (tmp_path / "r.html").read_text()
        assert "Collisions before and after next-nearest" in text
        assert "60 new items against 400 published codes" in text
        more["title"] = np.array(["<script>$x$</script>"] * 60)
        path = write(tmp_path / "odd.csv", more)
        options = {"text": "title", "tokenizer": "rq-kmeans", "levels": "2"}
        options |= {"out": tmp_path / "<b>", "report": tmp_path / "r.html"}
        figures("tokenize", path, id="item", **options)
        text = (tmp_path / "r.html").read_text()
        assert "<script" not in text
        assert "<b>/" not in text
        assert text.count("&lt;script&gt;") >= 2
