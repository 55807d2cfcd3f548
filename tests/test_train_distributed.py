"""The trainer of the examples: stopped, killed, moved to other ranks, given what is not its own.

What a run ends with is read from its last checkpoint: weights, state of both optimisers, random
states, the position in the rows, exposure statistics and the AUC of every stretch.
"""

import os
import runpy
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemWriter

from benchmarks import train_drill
from benchmarks.train_drill import DrawingPipeline, Job, contents, difference, without_random
from sidrank.semantic_ids import SIDTable, load_bundle, save_bundle

EXAMPLE = train_drill.EXAMPLE
STEPS, EVERY = 60, 20


def _train(out, data, steps=STEPS, way="row_wise"):
    return train_drill.train(out, data, steps=steps, every=EVERY, way=way)


def _killed(out, data, *, rank, owner, method, count):
    """Train, but a rank kills itself at the end of a call."""
    with _killing(owner, method, count) if rank == dist.get_rank() else nullcontext():
        return _train(out, data)


def _killing(owner, method, count):
    owner = {"pipeline": DrawingPipeline, "writer": FileSystemWriter, "path": Path}[owner]
    before, calls = getattr(owner, method), []

    def call(self, *args, **kwargs):
        naming = method == "rename" and self.name.startswith("writing-step-")
        calls.extend([method] * (naming or method != "rename"))
        if naming and len(calls) == count:  # all is written, the name is missing
            os.kill(os.getpid(), signal.SIGKILL)
        result = before(self, *args, **kwargs)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return patch.object(owner, method, call)


def _refused(out, data, rows=None):
    """What the trainer says to the checkpoints of a folder; ``rows`` are other tables."""
    main = runpy.run_path(str(EXAMPLE))["main"]
    if rows is not None:
        main.__globals__["ROWS"] = rows
    try:
        main([f"--out={out}", f"--data={data}"])
    except ValueError as error:  # SIDVersionError is one
        return str(error)
    return None


def last(out, step=STEPS):
    return train_drill.last(out, step)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rows"
    runpy.run_path(str(EXAMPLE))["plant"](folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(ranks, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    ranks.run(_train, str(out), str(data))
    return out


@pytest.fixture
def stopped(uninterrupted, tmp_path):
    """A folder as the uninterrupted run had it after its first checkpoint."""
    shutil.copytree(last(uninterrupted, EVERY), last(tmp_path / "run", EVERY))
    return tmp_path / "run"


def test_learns_and_moves(uninterrupted):
    """Else equality would say nothing."""
    early = contents(last(uninterrupted, EVERY))
    late = contents(last(uninterrupted))
    weights = [name for name in early if "['model']" in name and "weight" in name]
    assert len(weights) > 8
    assert all(not torch.equal(early[name], late[name]) for name in weights)
    assert not torch.equal(early["['rng.1.cpu']"], late["['rng.1.cpu']"])
    assert not torch.equal(late["['rng.0.cpu']"], late["['rng.1.cpu']"])
    progress = torch.load(last(uninterrupted) / "progress.pt", weights_only=True)
    aucs = [auc for _, auc in progress["auc"]]
    assert len(aucs) == STEPS // EVERY
    assert aucs[-1] > aucs[0] + 0.02


def test_resumed_ends_as_if_it_had_not_been_stopped(ranks, uninterrupted, stopped, data):
    ranks.run(_train, str(stopped), str(data))
    expected = contents(last(uninterrupted))
    assert difference(contents(last(stopped)), expected) == 0.0


def test_two_ranks_then_one_then_two(ranks, one_rank, uninterrupted, stopped, data):
    """From row-wise to table-wise and back."""
    one_rank.run(_train, str(stopped), str(data), 2 * EVERY, "table_wise")
    ranks.run(_train, str(stopped), str(data), STEPS)
    found, expected = (contents(last(out)) for out in (stopped, uninterrupted))
    assert difference(without_random(found), without_random(expected)) <= 1e-6


def test_killed_thrice(uninterrupted, data, tmp_path):
    """While all is written but the name, while a rank writes its part, and in a step."""
    out = tmp_path / "run"
    kills = [
        (0, "path", "rename", 2, 2 * EVERY, EVERY),
        (1, "writer", "write_data", 2, 3 * EVERY, 2 * EVERY),
        (1, "pipeline", "progress", 7, 3 * EVERY, 2 * EVERY),
    ]
    for *told, half, newest in kills:
        kill = dict(zip(("rank", "owner", "method", "count"), told, strict=True))
        job = Job(out, data, ranks=2, task=_killed, **kill)
        assert job.end(train_drill.GRACE)[kill["rank"]] == -signal.SIGKILL
        left = [out / f"writing-{last(out, half).name}"]
        assert list(out.glob("writing-*")) == left
        assert max(out.glob("step-*")) == last(out, newest)
    assert not (left[0] / ".metadata").exists()  # half of a checkpoint, and not loaded
    train_drill.finished(out, data, ranks=2, steps=STEPS, every=EVERY, way="row_wise")
    assert difference(contents(last(out)), contents(last(uninterrupted))) == 0.0
    assert list(out.glob("writing-*")) == []


def test_another_sid_table_is_refused(one_rank, stopped, data, tmp_path):
    own = load_bundle(data / "sids").table
    other = SIDTable(own.item_ids, own.codes[::-1].copy(), spec=own.spec)
    shutil.copytree(data, tmp_path / "rows", ignore=shutil.ignore_patterns("sids"))
    save_bundle(tmp_path / "rows/sids", other)
    (error,) = one_rank.run(_refused, str(stopped), str(tmp_path / "rows"))
    assert f"checkpoint must hold the SID table {other.content_hash}" in error
    assert f"got {own.content_hash}" in error


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        ({"user": 300, "item": 2500}, "t_item.weight must have shape [2500, 16], got [2000, 16]"),
        ({"item": 2000}, "t_user.weight must not be there, got [300, 16]"),
        (
            {"user": 300, "item": 2000, "hour": 24},
            "t_hour.weight must have shape [24, 16], got nothing of that name",
        ),
    ],
    ids=["larger", "left out", "new"],
)
def test_other_tables_are_refused(one_rank, stopped, data, rows, facts):
    (error,) = one_rank.run(_refused, str(stopped), str(data), rows)
    assert facts in error
    assert str(last(stopped, EVERY)) in error


def test_other_rows_are_refused(one_rank, stopped, data, tmp_path):
    shutil.copytree(data, tmp_path / "rows")
    shutil.copy(data / "log-0.parquet", tmp_path / "rows/more.parquet")
    (error,) = one_rank.run(_refused, str(stopped), str(tmp_path / "rows"))
    assert "state must be of the plan" in error


def test_restarts_that_may_hang_are_refused(monkeypatch):
    """Under torchrun, whose new ranks would meet in the store of the dead."""
    for name, value in {"RANK": "0", "MAX_RESTARTS": "3", "USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name if name == "RANK" else f"TORCHELASTIC_{name}", value)
    main = runpy.run_path(str(EXAMPLE))["main"]
    with pytest.raises(ValueError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE must be 1"):
        main([])
