"""The trainer of the examples: stopped, killed, moved to other ranks, given what is not its own.

What a run ends with is read from its last checkpoint: weights, state of both optimisers, random
states, the position in the rows and the AUC of every stretch.
"""

import json
import os
import runpy
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torchrec.distributed
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.utils._pytree import keystr, tree_flatten_with_path
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

from sidrank.semantic_ids import SIDTable, load_bundle, save_bundle
from tests.ranks import RankError

EXAMPLE = Path(__file__).parents[1] / "examples/train_distributed.py"
STEPS, EVERY = 60, 20


class _Drawing(torchrec.distributed.TrainPipelineSparseDist):
    """Each step draws, so that a random state which was not restored shows at the end."""

    def progress(self, batches):
        torch.rand(3)
        return super().progress(batches)


def _train(out, data, steps=STEPS, way="row_wise", kill=None):
    """Train as the example does, with every table sharded one way.

    ``kill`` is (rank, class, method, count): the rank kills itself at the end of that call.
    """
    with ExitStack() as changes:
        changes.enter_context(
            patch.object(EmbeddingBagCollectionSharder, "sharding_types", lambda *_: [way])
        )
        changes.enter_context(patch("torchrec.distributed.TrainPipelineSparseDist", _Drawing))
        if kill is not None and kill[0] == dist.get_rank():
            changes.enter_context(_killing(*kill[1:]))
        main = runpy.run_path(str(EXAMPLE))["main"]
        arguments = {"out": out, "data": data, "steps": steps, "every": EVERY}
        return main([f"--{name}={value}" for name, value in arguments.items()])


def _killing(owner, method, count):
    owner = {"pipeline": _Drawing, "writer": FileSystemWriter, "path": Path}[owner]
    before, calls = getattr(owner, method), []

    def call(self, *args, **kwargs):
        calls.append(method)
        if method == "rename" and len(calls) == count:  # all is written, the name is missing
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


def contents(checkpoint, tmp_path):
    """Whole tensors and values by name, whatever ranks wrote them."""
    file = tmp_path / "whole.pt"
    dcp_to_torch_save(checkpoint, file)
    leaves, _ = tree_flatten_with_path(torch.load(file, weights_only=False))
    found = {keystr(path): value for path, value in leaves}
    assert any("t_item.momentum" in name for name in found)  # the fused state is there
    assert any("over_arch" in name and "optimizer" in name for name in found)  # and the dense one
    return found


def progress(checkpoint):
    return json.loads((checkpoint / "progress.json").read_text())


def difference(one, other):
    assert one.keys() == other.keys()
    tensors = [name for name, value in one.items() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 20
    assert all(one[name] == other[name] for name in one.keys() - set(tensors))
    return max((one[n].double() - other[n].double()).abs().max().item() for n in tensors)


def without_random(found):
    return {name: value for name, value in found.items() if "rng" not in name}


def last(out, step=STEPS):
    return out / f"step-{step:08}"


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


def test_learns_and_moves(uninterrupted, tmp_path):
    """Else equality would say nothing."""
    early = contents(last(uninterrupted, EVERY), tmp_path)
    late = contents(last(uninterrupted), tmp_path)
    weights = [name for name in early if "['model']" in name and "weight" in name]
    assert len(weights) > 8
    assert all(not torch.equal(early[name], late[name]) for name in weights)
    assert not torch.equal(early["['rng1']"], late["['rng1']"])
    assert not torch.equal(late["['rng0']"], late["['rng1']"])
    aucs = [auc for _, auc in progress(last(uninterrupted))["auc"]]
    assert len(aucs) == STEPS // EVERY
    assert aucs[-1] > aucs[0] + 0.02


def test_resumed_ends_as_if_it_had_not_been_stopped(ranks, uninterrupted, stopped, data, tmp_path):
    ranks.run(_train, str(stopped), str(data))
    expected = contents(last(uninterrupted), tmp_path)
    assert difference(contents(last(stopped), tmp_path), expected) == 0.0
    assert progress(last(stopped)) == progress(last(uninterrupted))


def test_two_ranks_then_one_then_two(ranks, one_rank, uninterrupted, stopped, data, tmp_path):
    """From row-wise to table-wise and back."""
    one_rank.run(_train, str(stopped), str(data), 2 * EVERY, "table_wise")
    ranks.run(_train, str(stopped), str(data), STEPS)
    found, expected = (contents(last(out), tmp_path) for out in (stopped, uninterrupted))
    assert difference(without_random(found), without_random(expected)) <= 1e-6
    aucs = [np.array(progress(last(out))["auc"]) for out in (stopped, uninterrupted)]
    np.testing.assert_allclose(*aucs, atol=1e-6)


def test_killed_while_it_writes_a_checkpoint(ranks, uninterrupted, data, tmp_path):
    out = tmp_path / "run"
    kills = [  # DCP renames once in a checkpoint too
        ((0, "path", "rename", 4), f"writing-step-{2 * EVERY:08}", EVERY),
        ((1, "writer", "write_data", 2), f"writing-step-{3 * EVERY:08}", 2 * EVERY),
    ]
    for kill, half, newest in kills:
        with pytest.raises(RankError, match="exit code -9"):
            ranks.run(_train, str(out), str(data), STEPS, "row_wise", kill)
        assert [path.name for path in out.glob("writing-*")] == [half]
        assert max(out.glob("step-*")) == last(out, newest)
    assert (out / half).exists()  # a checkpoint was half-written, and is not loaded
    assert not (out / half / ".metadata").exists()
    ranks.run(_train, str(out), str(data))
    expected = contents(last(uninterrupted), tmp_path)
    assert difference(contents(last(out), tmp_path), expected) == 0.0
    assert progress(last(out)) == progress(last(uninterrupted))
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
        ({"user": 300, "item": 2500}, "t_item.weight must be [2500, 16], got [2000, 16]"),
        ({"item": 2000}, "t_user.weight must be None, got [300, 16]"),
        ({"user": 300, "item": 2000, "hour": 24}, "t_hour.weight must be [24, 16], got None"),
    ],
    ids=["larger", "left out", "new"],
)
def test_other_tables_are_refused(one_rank, stopped, data, rows, facts):
    (error,) = one_rank.run(_refused, str(stopped), str(data), rows)
    assert facts in error
    assert str(last(stopped, EVERY)) in error


def test_other_rows_are_refused(one_rank, stopped, data, tmp_path):
    shutil.copytree(data, tmp_path / "rows")
    shutil.copy(data / "log.parquet", tmp_path / "rows/more.parquet")
    (error,) = one_rank.run(_refused, str(stopped), str(tmp_path / "rows"))
    assert "state must be of the plan" in error
