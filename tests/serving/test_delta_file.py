"""Deltas on disk: whole, unaltered, or refused."""

import json
import os

import pytest
import safetensors.torch
import torch

from sidrank.serving.delta import apply_delta, delta_between
from sidrank.serving.delta_file import load_delta, save_delta
from sidrank.serving.ranker_version import RankerVersion
from tests.serving import version_models as models


@pytest.fixture(scope="module")
def made():
    model = models.hybrid()
    base = RankerVersion.first(model)
    models.train(model)
    models.grow(model)
    return base, model, delta_between(base, model)


def test_comes_back_as_it_was(made, tmp_path):
    base, model, delta = made
    save_delta(tmp_path / "delta", delta)
    found = load_delta(tmp_path / "delta")
    assert found.hash == delta.hash
    assert found.manifest() == delta.manifest()
    requests = models.hybrid_requests()
    with torch.no_grad():
        assert torch.equal(apply_delta(base, found).rank(requests), model.eval().rank(requests))
    assert os.listdir(tmp_path) == ["delta"]


def test_of_nothing(made, tmp_path):
    base, model, delta = made
    new = apply_delta(base, delta)
    save_delta(tmp_path / "delta", delta_between(new, model))
    again = apply_delta(new, load_delta(tmp_path / "delta"))
    assert (again.number, again.parent) == (3, new.hash)


def test_a_file_that_was_cut_short_anywhere(made, tmp_path):
    save_delta(tmp_path / "delta", made[2])
    content = (tmp_path / "delta").read_bytes()
    for size in [0, 4, 8, 100, len(content) // 2, len(content) - 1]:
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(ValueError, match="cut must hold an intact delta"):
            load_delta(tmp_path / "cut")


def test_a_bit_that_was_turned_anywhere(made, tmp_path):
    """In the data, and in what the manifest says."""
    save_delta(tmp_path / "delta", made[2])
    content = (tmp_path / "delta").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [
        *range(header, len(content), len(content) // 50),
        content.index(made[2].base.encode()),
    ]
    for place in [*places, len(content) - 1]:
        turned = bytearray(content)
        turned[place] ^= 1
        (tmp_path / "turned").write_bytes(turned)
        with pytest.raises(ValueError, match=r"turned must (have the hash|hold an intact)"):
            load_delta(tmp_path / "turned")


@pytest.mark.parametrize(
    ("name", "told"),
    [("whole/more", "must have the hash"), ("../strange", "a tensor '../strange' that the manif")],
)
def test_a_tensor_that_was_added(made, tmp_path, name, told):
    delta = made[2]
    about = {"format": "sidrank-delta-1", "hash": delta.hash}
    about["manifest"] = json.dumps(delta.manifest())
    tensors = delta.tensors() | {name: torch.zeros(1)}
    safetensors.torch.save_file(tensors, tmp_path / "more", metadata=about)
    with pytest.raises(ValueError, match=told):
        load_delta(tmp_path / "more")


def test_another_file(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="other must hold an intact delta, got format None"):
        load_delta(tmp_path / "other")


def test_a_name_that_is_taken(made, tmp_path):
    save_delta(tmp_path / "delta", made[2])
    with pytest.raises(FileExistsError, match=r"path must not exist yet, got .*delta"):
        save_delta(tmp_path / "delta", made[2])


def test_a_writer_that_fails_leaves_nothing(made, tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        save_delta(tmp_path / "delta", made[2])
    assert os.listdir(tmp_path) == []
