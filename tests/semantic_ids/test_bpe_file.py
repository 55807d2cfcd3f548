"""Byte-pair merges on disk."""

import os

import numpy as np
import pytest
import safetensors.numpy

from sidrank.semantic_ids import SIDSpec, SIDTable, SIDVersionError
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.bpe_file import load_bpe, save_bpe

TABLE = SIDTable([1, 2, 3], [[0, 1, 2], [0, 1, 3], [2, 1, 2]], spec=SIDSpec((4, 4, 4)))
BPE = SIDBPE.train(TABLE, [90, 5, 9], max_units=14)


@pytest.mark.parametrize("bpe", [BPE, SIDBPE([], spec=SIDSpec((3,)))], ids=["merges", "none"])
def test_comes_back_as_it_was(tmp_path, bpe):
    save_bpe(tmp_path / "bpe", bpe)
    found = load_bpe(tmp_path / "bpe", expected_hash=bpe.content_hash)
    assert found == bpe
    assert np.array_equal(found.merges, bpe.merges)
    assert (found.spec, found.table_hash, found.table_version) == (
        bpe.spec,
        bpe.table_hash,
        bpe.table_version,
    )
    assert os.listdir(tmp_path) == ["bpe"]


def test_a_file_that_exists_is_never_replaced(tmp_path):
    (tmp_path / "bpe").write_text("mine")
    with pytest.raises(ValueError, match="path must not exist yet, got"):
        save_bpe(tmp_path / "bpe", BPE)
    assert (tmp_path / "bpe").read_text() == "mine"


def test_a_failed_writer_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_bpe(tmp_path / "bpe", BPE)
    assert os.listdir(tmp_path) == []


def test_every_flipped_bit_and_every_cut_is_found(tmp_path):
    save_bpe(tmp_path / "bpe", BPE)
    content = (tmp_path / "bpe").read_bytes()
    damaged = tmp_path / "damaged"
    found = 0
    for place in range(len(content)):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert load_bpe(damaged) == BPE
            assert load_bpe(damaged).table_hash == BPE.table_hash
        except SIDVersionError:
            found += 1
        damaged.write_bytes(content[:place])
        with pytest.raises(SIDVersionError, match="damaged must be an intact SIDBPE file, got"):
            load_bpe(damaged)
    assert found > 0.95 * len(content)  # the rest pads the header


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 64, safetensors.numpy.save({})])
def test_other_files(tmp_path, content):
    (tmp_path / "bpe").write_bytes(content)
    with pytest.raises(SIDVersionError, match="bpe must be an intact SIDBPE file, got"):
        load_bpe(tmp_path / "bpe")


def test_no_file(tmp_path):
    for path in (tmp_path / "bpe", tmp_path):
        with pytest.raises(SIDVersionError, match="must be an intact SIDBPE file, got"):
            load_bpe(path)


def test_other_merges_than_promised(tmp_path):
    save_bpe(tmp_path / "bpe", BPE)
    with pytest.raises(SIDVersionError, match=f"must hold the SIDBPE {'0' * 64}, got"):
        load_bpe(tmp_path / "bpe", expected_hash="0" * 64)


def test_merges_of_another_file_under_this_ones_header(tmp_path):
    save_bpe(tmp_path / "bpe", BPE)
    with safetensors.safe_open(tmp_path / "bpe", framework="numpy") as file:
        header = file.metadata()
    other = SIDBPE.train(TABLE, [1, 5, 9], max_units=14)
    forged = safetensors.numpy.save({"merges": other.merges}, metadata=header)
    (tmp_path / "forged").write_bytes(forged)
    with pytest.raises(SIDVersionError, match=f"must hold the SIDBPE {BPE.content_hash}, got"):
        load_bpe(tmp_path / "forged")
    with pytest.raises(SIDVersionError, match="must hold the SIDBPE"):
        load_bpe(tmp_path / "forged", expected_hash=other.content_hash)
