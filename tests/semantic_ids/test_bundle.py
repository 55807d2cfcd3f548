import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from sidrank.semantic_ids import (
    SIDSpec,
    SIDTable,
    SIDVersionError,
    load_bundle,
    quality,
    save_bundle,
)
from tests.strategies import sid_items

FILES = ["codes.safetensors", "tokenizer.safetensors", "manifest.json"]


class Doubler:
    """The smallest tokenizer that can be saved."""

    def __init__(self, size=2):
        self.arguments = {"levels": [4], "seed": 3}
        self.table = torch.arange(size, dtype=torch.bfloat16)

    def state_dict(self):
        return {"table": self.table, "transposed": torch.arange(6.0).reshape(2, 3).T}

    def decode(self, codes):
        return 2.0 * codes


def table_of(seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-(2**63), 2**63 - 1, 4)
    return SIDTable(ids, rng.integers(0, 4, (4, 2)), spec=SIDSpec((4, 4)))


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "items.sid"
    save_bundle(path, table_of(), tokenizer=Doubler(), quality=quality(table_of()))
    return path


def refused(path, message=" must ", **options):
    with pytest.raises(SIDVersionError, match=message) as raised:
        load_bundle(path, **options)
    return raised.value


def resign(path, change):
    """Change the manifest and make its digests right again, as a careful attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("checksum")
    for name in manifest["files"]:
        if (path / name).is_file():
            manifest["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    change(manifest)
    manifest["checksum"] = hashlib.sha256(canonical(manifest)).hexdigest()
    (path / "manifest.json").write_bytes(canonical(manifest))


def canonical(manifest):
    return (json.dumps(manifest, indent=2) + "\n").encode()


class TestRoundTrip:
    @given(case=sid_items())
    def test_any_table(self, case, tmp_path_factory):
        sizes, items = case
        table = SIDTable(list(items), list(items.values()), spec=SIDSpec(sizes))
        path = tmp_path_factory.mktemp("any") / "b"
        save_bundle(path, table)
        found = load_bundle(path, expected_hash=table.content_hash)
        assert found.table.item_ids.tolist() == table.item_ids.tolist()
        assert found.table.codes.tolist() == table.codes.tolist()
        assert (found.table.spec, found.table.version) == (table.spec, 1)
        assert found.tokenizer_state is None
        assert sorted(os.listdir(path)) == ["codes.safetensors", "manifest.json"]

    def test_tokenizer_quality_and_lineage(self, tmp_path):
        table = table_of().append([5], [[0, 1]])
        save_bundle(tmp_path / "b", table, tokenizer=Doubler(), quality=quality(table))
        found = load_bundle(str(tmp_path / "b"))
        assert (found.table.version, found.table.ancestors) == (2, (table_of().content_hash,))
        assert found.tokenizer_state.keys() == {"table", "transposed"}
        for name, tensor in Doubler().state_dict().items():
            assert torch.equal(found.tokenizer_state[name], tensor)
        manifest = found.manifest
        assert manifest["tokenizer"] == {"name": "Doubler", "arguments": Doubler().arguments}
        assert manifest["quality"] == quality(table).to_dict(complete=True)
        assert (manifest["version"], manifest["parent_version"], manifest["items"]) == (2, 1, 5)
        assert manifest["parent"] == table_of().content_hash
        assert manifest["content_hash"] == table.content_hash
        assert manifest["spec"] == {"codebook_sizes": [4, 4]}

    def test_the_same_table_gives_the_same_bytes(self, bundle, tmp_path):
        save_bundle(tmp_path / "c", table_of(), tokenizer=Doubler(), quality=quality(table_of()))
        for name in FILES:
            assert (tmp_path / "c" / name).read_bytes() == (bundle / name).read_bytes()

    def test_it_has_the_permissions_of_any_new_directory(self, bundle, tmp_path):
        (tmp_path / "plain").mkdir()
        assert bundle.stat().st_mode == (tmp_path / "plain").stat().st_mode


class TestDamage:
    @pytest.mark.parametrize("name", FILES)
    def test_truncated_at_any_byte(self, bundle, name):
        content = (bundle / name).read_bytes()
        for length in range(len(content)):
            (bundle / name).write_bytes(content[:length])
            refused(bundle)

    @pytest.mark.parametrize("name", FILES)
    def test_any_byte_altered_or_appended(self, bundle, name):
        content = (bundle / name).read_bytes()
        for at in range(len(content)):
            altered = bytearray(content)
            altered[at] ^= 1 << at % 8
            (bundle / name).write_bytes(altered)
            refused(bundle)
        (bundle / name).write_bytes(content + b"\n")
        refused(bundle)

    @pytest.mark.parametrize("name", FILES)
    def test_a_file_missing_or_no_file(self, bundle, name):
        (bundle / name).unlink()
        refused(bundle, f"{name} must be a file, got none")
        (bundle / name).mkdir()
        refused(bundle, f"{name} must be a file, got none")

    def test_no_bundle_there(self, tmp_path):
        refused(tmp_path / "none", "none must be a SID bundle, got no such directory")
        (tmp_path / "file").write_text("{}")
        refused(tmp_path / "file", "file must be a SID bundle, got no such directory")
        refused(tmp_path, r"manifest\.json must be a file, got none")

    @pytest.mark.parametrize(
        "content",
        [b"", b"null", b"[]", b"7", b'"x"', b"{}", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000],
    )
    def test_a_manifest_that_is_none(self, bundle, content):
        (bundle / "manifest.json").write_bytes(content)
        refused(bundle, r"must be (whole|of format sidrank-bundle-1), got ")

    def test_a_manifest_in_other_words(self, bundle):
        manifest = json.loads((bundle / "manifest.json").read_text())
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        refused(bundle, r"manifest\.json must be unaltered, got another checksum")

    def test_any_value_of_another_json_type(self, bundle):
        manifest = json.loads((bundle / "manifest.json").read_text())
        intact = (bundle / "manifest.json").read_bytes()
        wrong = [None, True, 0, -1, 1.5, 2**80, "x", "../x", [], [[]], {}, {"x": None}]
        for name in manifest.keys() - {"checksum"}:
            for value in wrong:
                resign(bundle, lambda found, name=name, value=value: found.update({name: value}))
                if name == "quality" and (value is None or isinstance(value, dict)):
                    load_bundle(bundle)  # quality may be absent, and its entries are free
                elif type(manifest[name]) is not type(value):
                    refused(bundle)
                (bundle / "manifest.json").write_bytes(intact)
            resign(bundle, lambda found, name=name: found.pop(name))
            refused(bundle)
            (bundle / "manifest.json").write_bytes(intact)
        load_bundle(bundle)

    def test_names_in_the_manifest_are_not_followed(self, bundle):
        outside = bundle.parent / "outside.safetensors"
        outside.write_bytes((bundle / "codes.safetensors").read_bytes())
        digest = hashlib.sha256(outside.read_bytes()).hexdigest()
        for name in ("../outside.safetensors", str(outside)):
            resign(bundle, lambda found, name=name: found.update(files={name: digest}))
            refused(bundle, r"manifest\.json must list .* got other files")

    def test_other_tensors_than_codes(self, bundle):
        (bundle / "codes.safetensors").write_bytes((bundle / "tokenizer.safetensors").read_bytes())
        resign(bundle, lambda found: None)
        refused(bundle, r"must hold item_ids and codes, got \['table', 'transposed'\]")

    def test_codes_of_another_table(self, bundle, tmp_path):
        save_bundle(tmp_path / "other", table_of(seed=1))
        other = tmp_path / "other" / "codes.safetensors"
        (bundle / "codes.safetensors").write_bytes(other.read_bytes())
        refused(bundle, r"codes\.safetensors must have SHA-256")
        resign(bundle, lambda found: None)
        refused(bundle, f"must hold the SID table {table_of().content_hash}, got ")

    def test_a_pickle_is_not_opened(self, bundle):
        trap = bundle.parent / "opened"
        torch.save(_Trap(trap), bundle / "codes.safetensors")
        resign(bundle, lambda found: None)
        refused(bundle, "must be an intact SID bundle")
        assert not trap.exists()

    def test_another_hash_than_expected(self, bundle):
        error = refused(bundle, "must hold the SID table " + "0" * 64, expected_hash="0" * 64)
        assert table_of().content_hash in str(error)
        assert "version 1" in str(error)


class TestWriting:
    def test_what_is_there_is_never_touched(self, bundle, tmp_path):
        before = {name: (bundle / name).read_bytes() for name in FILES}
        (tmp_path / "file").write_text("mine")
        (tmp_path / "empty").mkdir()
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        for name in ("items.sid", "file", "empty", "dangling"):
            with pytest.raises(ValueError, match=f"path must not exist yet, got .*{name}"):
                save_bundle(tmp_path / name, table_of(seed=1))
        assert {name: (bundle / name).read_bytes() for name in FILES} == before
        assert (tmp_path / "file").read_text() == "mine"
        assert sorted(os.listdir(tmp_path)) == ["dangling", "empty", "file", "items.sid"]

    def test_a_failing_tokenizer_leaves_nothing(self, tmp_path):
        class Unfitted(Doubler):
            def state_dict(self):
                raise RuntimeError("not fitted")

        class NoJSON(Doubler):
            def __init__(self):
                super().__init__()
                self.arguments = {"seed": object()}

        with pytest.raises(RuntimeError, match="not fitted"):
            save_bundle(tmp_path / "b", table_of(), tokenizer=Unfitted())
        with pytest.raises(TypeError, match="not JSON serializable"):
            save_bundle(tmp_path / "b", table_of(), tokenizer=NoJSON())
        assert os.listdir(tmp_path) == []

    def test_quality_of_another_table(self, tmp_path):
        with pytest.raises(ValueError, match=r"quality must be of table .*, got "):
            save_bundle(tmp_path / "b", table_of(), quality=quality(table_of(seed=1)))
        assert os.listdir(tmp_path) == []

    def test_no_parent(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            save_bundle(tmp_path / "none" / "b", table_of())

    def test_a_full_disk_leaves_nothing(self, tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for limit in (0, 100, 400):  # in the first file, and after it
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                with pytest.raises(OSError, match="File too large"):
                    save_bundle(tmp_path / "b", table_of(), tokenizer=Doubler(size=4096))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert os.listdir(tmp_path) == []

    def test_a_killed_writer_leaves_no_bundle_that_is_not_whole(self, tmp_path):
        """Killed before every file operation, and in the middle of every file."""
        script = Path(__file__).with_name("killed_writer.py")
        ran = subprocess.run(
            [sys.executable, script, tmp_path], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        outcomes = json.loads(ran.stdout)
        assert len(outcomes) >= 20
        killed = [outcome for outcome in outcomes if outcome["killed"]]
        assert len(killed) >= 15
        for outcome in outcomes:
            if outcome["published"]:
                load_bundle(outcome["path"], expected_hash=outcome["hash"])
            else:
                assert outcome["killed"]
                for leftover in Path(outcome["path"]).parent.iterdir():
                    try:
                        load_bundle(leftover, expected_hash=outcome["hash"])
                    except SIDVersionError:
                        continue
                    assert outcome["whole"], f"{leftover} loads, though {outcome} is not whole"


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
