import numpy as np
import pytest
import torch

from sidrank.semantic_ids import SIDSpec, SIDTable, load_bundle, save_bundle
from tests.cli.tokenizations import append, catalogue, refused, sidrank, tokenize, write

TABLE = SIDTable([1], [[0]], spec=SIDSpec((2,)))


@pytest.fixture
def items():
    return catalogue(items=400)


@pytest.fixture
def files(items, tmp_path):
    """A file of the first items, one of all, one of the rest."""
    parts = {"old": slice(300), "all": slice(None), "new": slice(300, None)}
    return {
        name: write(tmp_path / f"{name}.parquet", {key: each[rows] for key, each in items.items()})
        for name, rows in parts.items()
    }


class TestLineage:
    @pytest.mark.parametrize("given", ["all", "new"])
    @pytest.mark.parametrize("name", ["rq-kmeans", "rq-kmeans-fsq", "rq-vae", "capacity-rq"])
    def test_every_old_code_stays(self, files, items, tmp_path, given, name):
        first = tokenize(files["old"], tmp_path / "v1", tokenizer=name)
        second = append(files[given], tmp_path / "v1", tmp_path / "v2")
        old, new = load_bundle(tmp_path / "v1"), load_bundle(tmp_path / "v2")
        assert (second["version"], second["parent"]) == (2, first["hash"])
        assert new.table.ancestors == (old.table.content_hash,)
        assert np.array_equal(new.table.lookup(old.table.item_ids), old.table.codes)
        assert (second["items"], second["new_items"]) == (400, 100)
        assert second["already_there"] == (300 if given == "all" else 0)
        assert second["not_in_file"] == (0 if given == "all" else 300)
        for key, tensor in old.tokenizer_state.items():
            assert np.array_equal(new.tokenizer_state[key], tensor)
        assert new.manifest["tokenizer"] == old.manifest["tokenizer"]

    def test_new_items_are_encoded_by_the_old_tokenizer(self, files, items, tmp_path):
        tokenize(files["old"], tmp_path / "v1")
        append(files["new"], tmp_path / "v1", tmp_path / "v2")
        again = {key: each[:300] for key, each in items.items()}
        # the same vectors under other ids
        again["item"] = np.arange(10**7, 10**7 + 300)
        twin = write(tmp_path / "twin.parquet", again)
        append(twin, tmp_path / "v2", tmp_path / "v3")
        table = load_bundle(tmp_path / "v3").table
        assert np.array_equal(table.lookup(again["item"]), table.lookup(items["item"][:300]))
        assert (table.version, len(table.ancestors)) == (3, 2)

    def test_an_old_item_with_another_vector_keeps_its_code(self, files, items, tmp_path):
        tokenize(files["old"], tmp_path / "v1")
        moved = items | {"vector": items["vector"][::-1]}
        append(write(tmp_path / "moved.npz", moved), tmp_path / "v1", tmp_path / "v2")
        old, new = load_bundle(tmp_path / "v1").table, load_bundle(tmp_path / "v2").table
        assert np.array_equal(new.lookup(old.item_ids), old.codes)

    def test_nothing_new(self, files, tmp_path):
        first = tokenize(files["old"], tmp_path / "v1")
        code, output, _ = sidrank(
            "tokenize",
            files["old"],
            id="item",
            embedding="vector",
            append_to=tmp_path / "v1",
            out=tmp_path / "v2",
        )
        assert code == 0
        assert "0 new items" in output
        assert "the version stays 1" in output
        assert load_bundle(tmp_path / "v2").table.content_hash == first["hash"]

    def test_suffixes_go_on_counting(self, files, tmp_path):
        tokenize(files["old"], tmp_path / "v1", levels="8", collisions="suffix")
        found = append(files["all"], tmp_path / "v1", tmp_path / "v2")
        assert (found["levels"], found["uniqueness"]) == ([8, 256], 1)
        assert found["collisions"]["policy"] == "suffix"
        assert found["reconstruction_error"] is not None

    def test_next_nearest_moves_new_items_only(self, files, tmp_path):
        tokenize(files["old"], tmp_path / "v1", levels="8,64")
        options = {"collisions": "next-nearest"}
        found = append(files["new"], tmp_path / "v1", tmp_path / "v2", **options)
        old, new = load_bundle(tmp_path / "v1").table, load_bundle(tmp_path / "v2").table
        assert np.array_equal(new.lookup(old.item_ids), old.codes)
        assert found["collisions"]["moved"] > 0


class TestDrift:
    def test_none(self, files, tmp_path):
        tokenize(files["old"], tmp_path / "v1", levels="4,4")
        found = append(files["all"], tmp_path / "v1", tmp_path / "v2")
        drift = found["drift"]
        assert drift["compared_with"] == "published items of the file"
        assert (drift["sample_items"], drift["new_items"]) == (300, 100)
        assert 0.5 < drift["error_ratio"]["value"] < 1.25
        assert not any("differ" in note for note in found["notes"])

    @pytest.mark.parametrize("given", ["all", "new"])
    def test_told_with_and_without_the_old_vectors(self, files, items, tmp_path, given):
        tokenize(files["old"], tmp_path / "v1", levels="4,4")
        columns = items | {"vector": items["vector"].copy()}
        columns["vector"][300:] *= 3
        rows = slice(None) if given == "all" else slice(300, None)
        far = {key: each[rows] for key, each in columns.items()}
        path = write(tmp_path / "far.parquet", far)
        found = append(path, tmp_path / "v1", tmp_path / "v2")
        assert found["drift"]["error_ratio"]["value"] > 3
        (note,) = (each for each in found["notes"] if each.startswith("New items differ"))
        assert "their quantisation error is" in note
        if given == "new":
            assert found["drift"]["compared_with"] == "published codes"
            assert found["drift"]["far_items"] is None
            assert found["neighbour_recall"] is None
            assert any("300 published items are not in the file" in n for n in found["notes"])


class TestRefused:
    @pytest.fixture
    def old(self, files, tmp_path):
        tokenize(files["old"], tmp_path / "v1")
        return tmp_path / "v1"

    def no(self, path, old, *words, **options):
        options = {"id": "item", "embedding": "vector", "out": old.parent / "v2"} | options
        given = {name: value for name, value in options.items() if value is not None}
        refused("tokenize", path, append_to=old, words=words, **given)
        assert not (old.parent / "v2").exists()

    def test_other_dimensions(self, items, old, tmp_path):
        items["vector"] = items["vector"][:, :3]
        path = write(tmp_path / "narrow.parquet", items)
        words = "column 'vector' must hold vectors of width 4 as the bundle that is added to, got 3"
        self.no(path, old, "narrow.parquet", words)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"levels": "8,9"}, "levels must be 8,8 as in "),
            ({"levels": "8"}, "levels must be 8,8 as in "),
            ({"tokenizer": "rq-vae"}, "tokenizer must be rq-kmeans as in "),
            ({"collisions": "suffix"}, "collisions must not be suffix"),
            ({"seed": 1}, "seed must not be given with append-to"),
            ({"sample": 9}, "sample must not be given with append-to"),
            ({"weight": "shown"}, "weight must not be given with append-to"),
            ({"text": "title", "embedding": None}, "text must not be given with append-to"),
        ],
    )
    def test_other_plans(self, files, old, options, words):
        self.no(files["all"], old, words, **options)

    def test_the_same_plan_is_fine(self, files, old, tmp_path):
        append(files["all"], old, tmp_path / "v2", levels="8,8", tokenizer="rq-kmeans")

    def test_a_bundle_with_a_suffix_keeps_it(self, files, old, tmp_path):
        tokenize(files["old"], tmp_path / "s", collisions="suffix")
        self.no(files["all"], tmp_path / "s", "collisions must be suffix as in", collisions="keep")

    def test_changed_bundle(self, files, old):
        codes = old / "codes.safetensors"
        content = bytearray(codes.read_bytes())
        content[-1] ^= 1
        codes.write_bytes(content)
        self.no(files["all"], old, "codes.safetensors must have SHA-256")

    def test_missing_bundle(self, files, tmp_path):
        self.no(files["all"], tmp_path / "none", "none must be a SID bundle, got no such directory")

    def test_bundles_without_a_tokenizer_of_ours(self, files, tmp_path):
        save_bundle(tmp_path / "bare", TABLE)
        self.no(files["all"], tmp_path / "bare", "must hold the tokenizer that made it, got none")
        save_bundle(tmp_path / "foreign", TABLE, tokenizer=Foreign())
        words = "must hold a tokenizer of rq-kmeans"
        self.no(files["all"], tmp_path / "foreign", words, "got Foreign")

    def test_a_tokenizer_of_another_make(self, files, tmp_path):
        save_bundle(tmp_path / "odd", TABLE, tokenizer=type("RQKMeans", (Foreign,), {})())
        words = "must hold a tokenizer that this version can read"
        self.no(files["all"], tmp_path / "odd", words, "colour")


class Foreign:
    def __init__(self):
        self.arguments = {"levels": [2], "colour": "red"}

    def state_dict(self):
        return {"x": torch.zeros(1)}

    def decode(self, codes):
        return codes.float()
