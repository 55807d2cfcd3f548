import json
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from sidrank.cache.access_trace import AccessTrace
from tests.cache.reference_curves import expected_misses
from tests.cache.traffic import zipf

SLOTS = np.arange(0, 400, 13)


def observed(rows=400, batches=20, seed=0, sampling=1.0, name="t"):
    draw, trace = zipf(rows, seed=seed), AccessTrace({name: rows}, sampling=sampling)
    for _ in range(batches):
        trace.observe({name: draw(50)})
    return trace


def same(one, other):
    """Whether two traces say the same."""
    one_half, other_half = one.halves(), other.halves()
    for name, curve in one.curves().items():
        again = other.curves()[name]
        for first, second in zip((curve, *one_half[name]), (again, *other_half[name]), strict=True):
            assert first.misses.tolist() == second.misses.tolist()
            assert first.slots.tolist() == second.slots.tolist()
            assert (first.rows, first.batches) == (second.rows, second.batches)
            assert (first.accesses, first.cold) == (second.accesses, second.cold)
    return (one.rows, one.batches, one.sampling) == (other.rows, other.batches, other.sampling)


class TestSaveAndLoad:
    @pytest.mark.parametrize("batches", [2, 8, 9, 33])
    @pytest.mark.parametrize("sampling", [1.0, 0.3])
    def test_round_trip(self, batches, sampling, tmp_path):
        trace = observed(batches=batches, sampling=sampling)
        trace.save(tmp_path / "trace")
        assert same(AccessTrace.load(tmp_path / "trace"), trace)

    def test_any_name_will_do(self, tmp_path):
        trace = observed(name="../a.b/\u00e9\n")
        trace.save(tmp_path / "trace")
        assert same(AccessTrace.load(tmp_path / "trace"), trace)
        assert os.listdir(tmp_path) == ["trace"]

    def test_loaded_is_closed(self, tmp_path):
        observed().save(tmp_path / "trace")
        with pytest.raises(ValueError, match="trace must be a new one to observe a batch, got"):
            AccessTrace.load(tmp_path / "trace").observe({"t": np.array([1])})

    def test_saved_goes_on(self, tmp_path):
        trace, more = observed(), observed()
        trace.save(tmp_path / "trace")
        for each in (trace, more):
            each.observe({"t": np.array([1, 2])})
        assert same(trace, more)

    def test_nothing_to_save(self, tmp_path):
        with pytest.raises(ValueError, match="trace must hold at least 1 batch, got none"):
            AccessTrace({"t": 3}).save(tmp_path / "trace")
        assert os.listdir(tmp_path) == []

    def test_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            observed().save(tmp_path / "nowhere" / "trace")

    def test_truncated_anywhere(self, tmp_path):
        path = tmp_path / "trace"
        observed(rows=40, batches=3).save(path)
        content = path.read_bytes()
        for length in {0, 1, 7, 8, 9, *range(10, len(content), 37), len(content) - 1}:
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"trace must be a whole access trace, got \w+"):
                AccessTrace.load(path)

    def test_another_file(self, tmp_path):
        torch.save({"a": torch.zeros(1)}, tmp_path / "model")
        with pytest.raises(ValueError, match="model must be a whole access trace, got"):
            AccessTrace.load(tmp_path / "model")
        (tmp_path / "bundle").write_bytes(save({"a": np.zeros(1)}))
        with pytest.raises(ValueError, match="bundle must be a whole access trace, got"):
            AccessTrace.load(tmp_path / "bundle")

    @pytest.mark.parametrize(
        "change",
        [
            {"format": "sidrank-access-trace-9"},
            {"batches": 0},
            {"batches": 9},
            {"length": 0},
            {"length": 2},
            {"sampling": float("nan")},
            {"sampling": 0.0},
            {"tables": []},
            {"tables": [{"name": "t", "rows": []}]},
            {"tables": [{"name": "t", "rows": [4000]}]},
            {"tables": [{"name": "t", "rows": [-1]}]},
            {"tables": [{"name": "t", "rows": [40, 40]}]},
            {"tables": [{"name": "t", "rows": ["40"]}]},
            {"tables": [7]},
        ],
    )
    def test_a_header_that_lies(self, change, tmp_path):
        path = tmp_path / "trace"
        observed(rows=40, batches=3).save(path)
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["trace"])
        path.write_bytes(save(load(content), metadata={"trace": json.dumps(header | change)}))
        with pytest.raises(ValueError, match="trace must be a whole access trace, got"):
            AccessTrace.load(path)

    @pytest.mark.parametrize(
        ("part", "value"),
        [
            *((part, value) for part in ("accesses", "followed", "hits") for value in (np.nan, -1)),
            ("followed", 1e9),
            ("hits", 1e9),
        ],
    )
    def test_numbers_that_cannot_be(self, part, value, tmp_path):
        path = tmp_path / "trace"
        observed(rows=40, batches=3).save(path)
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        tensors = {name: array.copy() for name, array in load(content).items()}
        tensors[f"0.0.{part}"].flat[-1] = value
        path.write_bytes(save(tensors, metadata=metadata))
        with pytest.raises(ValueError, match="trace must be a whole access trace, got"):
            AccessTrace.load(path)


class TestMerge:
    def test_shards_have_caches_of_their_own(self):
        draw, rows = zipf(400), 400
        batches = [draw(60) for _ in range(20)]
        shards = [AccessTrace({"t": 150}), AccessTrace({"t": 250})]
        for ids in batches:
            shards[0].observe({"t": ids[ids < 150]})
            shards[1].observe({"t": ids[ids >= 150] - 150})
        shards[0].merge(shards[1:])
        curve = shards[0].curves()["t"]
        assert (curve.rows, curve.batches, curve.accesses) == (
            rows,
            20,
            sum(len(set(ids.tolist())) for ids in batches),
        )
        for share in (0.02, 0.1, 0.3, 0.5):
            expected = expected_misses([ids[ids < 150].tolist() for ids in batches], 150 * share)
            expected += expected_misses([ids[ids >= 150].tolist() for ids in batches], 250 * share)
            assert abs(curve.misses_at(share * rows) - expected) < 0.002 * curve.accesses
        assert shards[0].rows == {"t": 400}

    def test_tables_of_other_ranks(self):
        one, other = observed(name="a"), observed(name="b", seed=1)
        expected = one.curves() | other.curves()
        one.merge([other])
        for name, curve in one.curves().items():
            assert curve.misses.tolist() == expected[name].misses.tolist()

    def test_merged_round_trip(self, tmp_path):
        one = observed()
        one.merge([observed(seed=1), observed(name="other")])
        one.save(tmp_path / "trace")
        assert same(AccessTrace.load(tmp_path / "trace"), one)

    def test_others_stay_as_they_are(self):
        one, other = observed(), observed(seed=1)
        one.merge([other])
        assert same(other, observed(seed=1))
        other.observe({"t": np.array([1])})

    def test_merged_is_closed(self):
        one = observed()
        one.merge([observed()])
        with pytest.raises(ValueError, match="trace must be a new one to observe a batch, got"):
            one.observe({"t": np.array([1])})

    @pytest.mark.parametrize("other", [{"batches": 19}, {"sampling": 0.9}])
    def test_other_batches(self, other):
        one = observed()
        with pytest.raises(
            ValueError,
            match=r"others must have observed the same batches, 20 at sampling 1\.0, got",
        ):
            one.merge([observed(), observed(**other)])
        assert same(one, observed())

    def test_itself(self):
        one = observed()
        with pytest.raises(ValueError, match="others must not hold the trace itself, got it"):
            one.merge([one])
