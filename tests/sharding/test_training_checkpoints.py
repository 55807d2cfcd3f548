"""Checkpoints of a sharded job: whole or not at all, the newest, those that fit, the last few.

A kill in the writing: tests/test_train_distributed.py.
"""

import resource
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.optim import CombinedOptimizer, KeyedOptimizerWrapper, RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.warmup import WarmupOptimizer, WarmupPolicy, WarmupStage

from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.sharding.training_checkpoints import TrainingCheckpoints

TABLES = {"t": 8, "u": 6}
STAGES = [WarmupStage(policy=WarmupPolicy.LINEAR, max_iters=10, value=0.0)]
PROGRESS = {"rows": {"step": 3}, "auc": [0.5, 0.75], "counts": torch.arange(4)}


class _Net(nn.Module):
    def __init__(self, tables, code):
        super().__init__()
        self.ebc = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(name=n, num_embeddings=rows, embedding_dim=4, feature_names=[n])
                for n, rows in tables.items()
            ]
        )
        self.over = nn.Linear(4 * len(tables), 1)
        self.unused = nn.Parameter(torch.ones(3))
        self.lookup = SIDLookup(SIDTable([1, 2], [[0, code], [1, 1]], spec=SIDSpec((4, 4))))

    def forward(self, features):
        return self.over(self.ebc(features).values()).sum()


class _Job:
    """A model and its optimiser, built anew from a seed."""

    def __init__(self, *, seed=0, tables=None, way="row", optimizer="adam", code=0):
        torch.manual_seed(seed)
        self.keys = list(tables or TABLES)
        net = _Net(tables or TABLES, code)
        apply_optimizer_in_backward(RowWiseAdagrad, net.ebc.parameters(), {"lr": 0.1})
        on = row_wise(compute_kernel="fused") if way == "row" else table_wise(rank=0)
        world = dist.get_world_size()
        plan = construct_module_sharding_plan(
            net.ebc,
            per_param_sharding=dict.fromkeys(self.keys, on),
            sharder=EmbeddingBagCollectionSharder(),
            local_size=world,
            world_size=world,
            device_type="cpu",
        )
        self.model = DistributedModelParallel(
            net, device=torch.device("cpu"), plan=ShardingPlan({"ebc": plan})
        )
        self.rest = dict(in_backward_optimizer_filter(self.model.named_parameters()))
        kind = torch.optim.Adagrad if optimizer == "adagrad" else torch.optim.Adam
        settings = {"lr": 0.1, "weight_decay": 0.1}  # so that a step without gradients moves
        self.dense = KeyedOptimizerWrapper(self.rest, lambda each: kind(each, **settings))
        if optimizer == "warm":
            self.dense = WarmupOptimizer(self.dense, STAGES, lr=0.1)
        self.optimizer = CombinedOptimizer([self.model.fused_optimizer, self.dense])

    def train(self, steps):
        for step in range(steps):
            ids = torch.tensor([step % 5, 3, 1 + dist.get_rank(), 0]).repeat(len(self.keys))
            features = KeyedJaggedTensor(self.keys, ids, lengths=torch.ones_like(ids).int())
            self.optimizer.zero_grad()
            self.model(features).backward()
            self.optimizer.step()
        return self

    def saved(self, folder, steps, *, keep=3, progress=PROGRESS):
        for step in steps:
            TrainingCheckpoints(folder, keep=keep).save(step, self.model, self.optimizer, progress)
        return self

    def loaded(self, folder):
        self.progress = TrainingCheckpoints(folder).load(self.model, self.optimizer)
        return self

    def state(self):
        """Every number of this rank, by name."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
        }
        found = {}
        for part, values in parts.items():
            for name, value in values.items():
                for inner, leaf in value.items() if isinstance(value, dict) else [("", value)]:
                    local = leaf.local_shards() if hasattr(leaf, "local_shards") else [leaf]
                    for at, shard in enumerate(local):
                        one = getattr(shard, "tensor", shard)
                        if isinstance(one, torch.Tensor):
                            found[f"{part} {name} {inner} {at}"] = one.detach().clone()
        return found


def _same(one, other):
    assert len(one) > 4
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def _went_on(folder, optimizer):
    """What a job that was saved, one that goes on from it, and a stranger come to."""
    job = _Job(optimizer=optimizer).train(3).saved(folder, [3])
    again = _Job(seed=1, optimizer=optimizer)
    apart = not _same(again.train(1).state(), job.state()) if optimizer == "adagrad" else True
    again = _Job(seed=1, optimizer=optimizer).loaded(folder)
    at_once = _same(again.state(), job.state())
    rates = [group["lr"] for group in again.dense.param_groups]
    assert rates == [group["lr"] for group in job.dense.param_groups]
    steps = torch.equal(again.progress["counts"], PROGRESS["counts"])
    assert again.progress["rows"] == PROGRESS["rows"]
    later = _same(again.train(2).state(), job.train(2).state())
    return apart, at_once, steps, later, rates[0]


def _round_trip(folder, save, load):
    """Saved on these ranks or, with ``load`` alone, by others; tables whole on the first rank."""
    if save:
        _Job().train(3).saved(folder, [3])
    if load:
        job = _Job(seed=1, way="first").loaded(folder).train(1)
        return job.model.module.over.weight.detach().clone()
    return None


def _states_of(folder):
    job = _Job().train(2).saved(folder, [2])
    again = _Job(seed=1).loaded(folder)
    return [
        [name for name, parameter in each.rest.items() if each.dense.state.get(parameter)]
        for each in (job, again)
    ], [parameter.grad is None for parameter in again.rest.values()]


def _kept(folder):
    job, checkpoints = _Job().train(1), TrainingCheckpoints(folder, keep=2)
    none = checkpoints.load(job.model, job.optimizer), checkpoints.steps()
    job.saved(folder, [1, 2, 3, 40], keep=2)
    return none, checkpoints.steps()


def _refusal(folder, **built):
    """What this rank is told, and whether its model is as it was."""
    job = _Job(seed=1, **built)
    before = job.state()
    try:
        job.loaded(folder)
    except ValueError as error:
        after = {name: value for name, value in job.state().items() if name in before}
        return type(error).__name__, str(error), _same(after, before)
    return None


def _save_refused(folder, step, progress):
    try:
        _Job().train(1).saved(folder, [step], progress=progress)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _disk_full(folder, rank, limit):
    """A file of this rank may not grow beyond a limit: writing fails as on a full disk."""
    job = _Job().train(1).saved(folder, [1])
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, allowed[1]))
    try:
        job.train(1).saved(folder, [2], progress={"counts": torch.zeros(100_000)})
    except OSError as error:
        told = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    steps = TrainingCheckpoints(folder).steps()
    job.saved(folder, [3])
    return told, steps, sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture(scope="module")
def written(ranks, tmp_path_factory):
    """A folder with two checkpoints of two ranks."""
    folder = tmp_path_factory.mktemp("written")
    ranks.run(_save_two, str(folder))
    return folder


def _save_two(folder):
    _Job().train(1).saved(folder, [1]).train(1).saved(folder, [2])


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "warm"])
def test_goes_on_as_if_it_had_not_been_stopped(ranks, tmp_path, optimizer):
    for found in ranks.run(_went_on, str(tmp_path), optimizer):
        assert found[:4] == (True, True, True, True)
        assert found[4] == pytest.approx(0.03 if optimizer == "warm" else 0.1)


def test_goes_on_with_another_number_of_ranks(ranks, one_rank, tmp_path):
    expected, _ = ranks.run(_round_trip, str(tmp_path / "two"), True, True)
    (found,) = one_rank.run(_round_trip, str(tmp_path / "two"), False, True)
    assert (found - expected).abs().max() > 1e-3  # the second rank's rows are not there
    one_rank.run(_round_trip, str(tmp_path / "one"), True, False)
    first, second = ranks.run(_round_trip, str(tmp_path / "one"), False, True)
    assert torch.equal(first, second)


def test_what_had_no_state_has_none(ranks, tmp_path):
    (saved, loaded), no_gradients = ranks.run(_states_of, str(tmp_path))[0]
    assert saved == loaded == ["over.weight", "over.bias"]
    assert all(no_gradients)


def test_keeps_the_last_few(ranks, tmp_path):
    folder = tmp_path / "new" / "run"
    for none, steps in ranks.run(_kept, str(folder)):
        assert none == (None, [])
        assert steps == [3, 40]
    assert sorted(path.name for path in folder.iterdir()) == ["step-0000000003", "step-0000000040"]


def test_only_a_name_counts_and_leftovers_go(ranks, folder):
    shutil.copytree(folder / "step-0000000001", folder / "writing-step-0000000009")
    shutil.copytree(folder / "step-0000000001", folder / "deleting-step-0000000008")
    (folder / "writing-step-0000000003").mkdir()
    (folder / "writing-step-0000000003" / "__7_0.distcp").touch()
    (folder / "step-of-somebody").mkdir()
    assert ranks.run(_newest_then_save, str(folder), 3) == [[1, 2], [1, 2]]
    names = ["step-0000000001", "step-0000000002", "step-0000000003", "step-of-somebody"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert not (folder / "step-0000000003" / "__7_0.distcp").exists()


def test_one_that_is_half_deleted_does_not_count(ranks, folder):
    ranks.run(_deleting_fails, str(folder))
    assert (folder / "deleting-step-0000000001").exists()
    assert ranks.run(_newest_then_save, str(folder), 4) == [[2, 3], [2, 3]]
    assert not (folder / "deleting-step-0000000001").exists()


def _newest_then_save(folder, step):
    steps = TrainingCheckpoints(folder).steps()
    _Job(seed=1).loaded(folder).saved(folder, [step])
    return steps


def _deleting_fails(folder):
    with patch("shutil.rmtree"):
        _Job(seed=1).loaded(folder).saved(folder, [3], keep=2)


@pytest.mark.parametrize(
    ("built", "facts"),
    [
        ({"tables": {"t": 9, "u": 6}}, "t.weight must have shape [9, 4], got [8, 4]"),
        ({"tables": {"t": 8}}, "u.weight must not be there, got [6, 4]"),
        (
            {"tables": {**TABLES, "v": 5}},
            "v.weight must have shape [5, 4], got nothing",
        ),
        ({"optimizer": "adagrad"}, "over.weight.sum must have shape [1, 8], got nothing"),
    ],
    ids=["larger", "left out", "new", "another optimiser"],
)
def test_another_model_is_refused_by_all_and_left_alone(ranks, folder, built, facts):
    for kind, told, as_it_was in ranks.run(_refused_with, str(folder), built):
        assert kind == "ValueError"
        assert facts in told
        assert str(folder / "step-0000000002") in told
        assert as_it_was


def _refused_with(folder, built):
    return _refusal(folder, **built)


def test_another_sid_table_is_refused_by_all_and_nothing_is_changed(ranks, folder):
    for kind, told, as_it_was in ranks.run(_refused_with, str(folder), {"code": 2}):
        assert kind == "SIDVersionError"
        assert "checkpoint must hold the SID table" in told
        assert as_it_was


def test_a_sid_table_that_one_rank_has_is_refused_by_all(ranks, folder):
    for kind, _, as_it_was in ranks.run(_refused_on_one, str(folder)):
        assert kind == "SIDVersionError"
        assert as_it_was


def _refused_on_one(folder):
    return _refusal(folder, code=2 * dist.get_rank())


@pytest.mark.parametrize(
    ("name", "cut", "facts"),
    [
        ("__1_0.distcp", 100, "__1_0.distcp must be there with"),
        ("__1_0.distcp", None, "got none"),
        (".metadata", 50, "must be a whole checkpoint (the one before is step-0000000001)"),
        (".metadata", None, "must be a whole checkpoint"),
        ("progress.pt", 200, "must be a whole checkpoint"),
        ("progress.pt", None, "must be a whole checkpoint"),
    ],
)
def test_a_damaged_one_is_refused_by_all(ranks, folder, name, cut, facts):
    file = folder / "step-0000000002" / name
    content = file.read_bytes()
    file.unlink() if cut is None else file.write_bytes(content[:-cut])
    for kind, told, as_it_was in ranks.run(_refusal, str(folder)):
        assert kind == "ValueError"
        assert facts in told
        assert as_it_was


@pytest.mark.parametrize(("rank", "limit"), [(1, 300), (0, 200_000)], ids=["a part", "progress"])
def test_a_full_disk_is_told_to_all_and_nothing_is_lost(ranks, tmp_path, rank, limit):
    for told, steps, names in ranks.run(_disk_full, str(tmp_path), rank, limit):
        assert "File too large" in told
        assert steps == [1]
        assert names == ["step-0000000001", "step-0000000003"]


def test_what_cannot_be_saved_is_refused(ranks, folder):
    for step, progress, facts in [
        (2, {}, "step must be after the newest checkpoint, 2, got 2"),
        (3, {"counts": np.ones(2)}, "progress must hold tensors and plain values, got"),
        (3, {"counts": Path("x")}, "progress must hold tensors and plain values, got"),
    ]:
        for told in ranks.run(_save_refused, str(folder), step, progress):
            assert facts in told
    assert TrainingCheckpoints(folder)._steps() == [1, 2]


def test_at_least_one_is_kept():
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        TrainingCheckpoints("anywhere", keep=0)
