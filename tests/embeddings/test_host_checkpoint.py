"""A host's checkpoint in the upgraded model. Sharded cases: test_sharded.py."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torchrec.models.dlrm import DLRMTrain
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from sidrank.embeddings import (
    WideAndDeep,
    host_names,
    load_host_checkpoint,
    replace_embeddings,
)
from tests.embeddings import hosts

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
}


def keyed(model, kind="adagrad"):
    return KeyedOptimizerWrapper(dict(model.named_parameters()), OPTIMIZERS[kind])


def trained_host(kind="adagrad"):
    host = hosts.host_dlrm(seed=3)
    optimizer = keyed(host, kind)
    hosts.train(host, optimizer, steps=4)
    return host, optimizer


def checkpoint_of(host, optimizer):
    return {"model": host.state_dict(), "optimizer": optimizer.state_dict()}


def snapshot(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_the_next_step_is_the_hosts_own(kind, wide):
    host, host_optimizer = trained_host(kind)
    model = hosts.hybrid_dlrm(seed=8, wide=wide)
    optimizer = keyed(model, kind)
    new = load_host_checkpoint(model, checkpoint_of(host, host_optimizer), optimizer=optimizer)
    dense, sparse, _ = hosts.batch(seed=77)
    assert torch.equal(model(dense, sparse), host(dense, sparse))
    hosts.train(host, host_optimizer, steps=1, start=50)
    hosts.train(model, optimizer, steps=1, start=50)
    names, mine, theirs = host_names(model), snapshot(model), snapshot(host)
    assert {names[name] for name in mine} - {None} == set(theirs)
    for name, value in mine.items():
        if names[name] is not None:
            assert torch.equal(value, theirs[names[name]]), name
    assert {name for name in mine if names[name] is None} <= set(new)


def test_without_the_optimiser_the_next_step_differs():
    """The control: equality above is not for free."""
    host, host_optimizer = trained_host()
    model = hosts.hybrid_dlrm(seed=8)
    optimizer = keyed(model)
    load_host_checkpoint(model, {"model": host.state_dict()})
    hosts.train(host, host_optimizer, steps=1, start=50)
    hosts.train(model, optimizer, steps=1, start=50)
    assert not torch.equal(model.over_arch.model[1].weight, host.over_arch.model[1].weight)


def test_new_parameters_keep_their_birth_and_fresh_state():
    host, host_optimizer = trained_host("adam")
    model = hosts.hybrid_dlrm(seed=8)
    birth, optimizer = snapshot(model), keyed(model, "adam")
    new = load_host_checkpoint(model, checkpoint_of(host, host_optimizer), optimizer=optimizer)
    for name, value in model.named_parameters():
        if name in new:
            assert torch.equal(value, birth[name])
            assert not optimizer.state.get(value)
        else:
            assert optimizer.state[value]["step"] == 4


def test_gradients_and_state_of_the_new_survive_the_load():
    host, host_optimizer = trained_host("adam")
    model = hosts.hybrid_dlrm(seed=8)
    optimizer = keyed(model, "adam")
    hosts.loss(model, hosts.batch()).backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    with pytest.raises(ValueError, match="is missing"):
        load_host_checkpoint(model, checkpoint_of(*trained_host("sgd")), optimizer=optimizer)
    assert not any(optimizer.state.values())
    load_host_checkpoint(model, checkpoint_of(host, host_optimizer), optimizer=optimizer)
    for name, value in model.named_parameters():
        assert torch.equal(value.grad, gradients[name])


class Nested(torch.nn.Module):
    """A collection under two names and a branch outside of WideAndDeep."""

    def __init__(self, upgraded):
        super().__init__()
        self.ebc = hosts.host_collection()
        self.host = torch.nn.ModuleDict({"again": self.ebc})
        if upgraded:
            replace_embeddings(self, "ebc", hosts.hybrid)
            self.side = torch.nn.ModuleList([hosts.branch()])


def test_names_of_a_model_that_uses_our_names_for_its_own():
    host, model = Nested(upgraded=False), Nested(upgraded=True)
    load_host_checkpoint(model, {"model": host.state_dict()})
    for table in ("t_user", "t_item", "t_history"):
        loaded = model.ebc.ebc.embedding_bags[table].weight
        assert torch.equal(loaded, host.ebc.embedding_bags[table].weight)


def test_wide_branches_inside_wide_branches():
    host, model = hosts.host_dlrm(), hosts.hybrid_dlrm(seed=8, wide=True)
    model = DLRMTrain(WideAndDeep(model, hosts.branch()))
    load_host_checkpoint(model, {"model": DLRMTrain(host).state_dict()})
    dense, sparse, _ = hosts.batch()
    assert torch.equal(model.model(dense, sparse), host(dense, sparse))


def test_combined_optimisers_and_the_checkpoint_stays_as_it_was():
    host, host_optimizer = trained_host()
    checkpoint = checkpoint_of(host, host_optimizer)
    before = copy.deepcopy(checkpoint)
    model = hosts.hybrid_dlrm(seed=8)
    parameters = dict(model.named_parameters())
    tables = {name: value for name, value in parameters.items() if "_bags." in name}
    rest = {name: value for name, value in parameters.items() if name not in tables}
    optimizer = CombinedOptimizer(
        [KeyedOptimizerWrapper(part, OPTIMIZERS["adagrad"]) for part in (tables, rest)]
    )
    load_host_checkpoint(model, checkpoint, optimizer=optimizer)
    hosts.train(model, optimizer, steps=1)
    assert list(checkpoint["model"]) == list(before["model"])
    for name, value in checkpoint["model"].items():
        assert torch.equal(value, before["model"][name])


def test_directory(tmp_path):
    host, host_optimizer = trained_host("adam")
    dcp.save({"net": host.state_dict(), "opt": host_optimizer.state_dict()}, checkpoint_id=tmp_path)
    model = hosts.hybrid_dlrm(seed=8, wide=True)
    optimizer = keyed(model, "adam")
    load_host_checkpoint(model, tmp_path, optimizer=optimizer, keys=("net", "opt"))
    hosts.train(host, host_optimizer, steps=1, start=50)
    hosts.train(model, optimizer, steps=1, start=50)
    names, theirs = host_names(model), snapshot(host)
    for name, value in model.named_parameters():
        if names[name] is not None:
            assert torch.equal(value, theirs[names[name]]), name


class Sized(torch.nn.Module):
    """A host part whose state is no tensor."""

    def __init__(self, version):
        super().__init__()
        self.version = version

    def get_extra_state(self):
        return self.version

    def set_extra_state(self, state):
        self.version = state

    def forward(self, x):
        return x


def test_extra_state_of_the_host(tmp_path):
    host, model = hosts.host_dlrm(), hosts.hybrid_dlrm()
    host.sized, model.sized = Sized("theirs"), Sized("ours")
    dcp.save({"model": host.state_dict()}, checkpoint_id=tmp_path)
    load_host_checkpoint(model, {"model": host.state_dict()})
    assert model.sized.version == "theirs"
    model.sized.version = "ours"
    load_host_checkpoint(model, tmp_path)
    assert model.sized.version == "theirs"


class TestErrors:
    """Whatever does not fit is named, and nothing has been changed."""

    def refuse(self, match, checkpoint, error=ValueError, optimizer=None, **options):
        model = hosts.hybrid_dlrm(seed=8)
        before = snapshot(model)
        if optimizer:
            options["optimizer"] = optimizer(model)
        with pytest.raises(error, match=match):
            load_host_checkpoint(model, checkpoint, **options)
        for name, value in model.named_parameters():
            assert torch.equal(value, before[name])

    def test_missing_entry(self):
        state = hosts.host_dlrm().state_dict()
        del state["over_arch.model.1.bias"]
        self.refuse(
            r"got 1 difference.*model\.over_arch\.model\.1\.bias is missing", {"model": state}
        )

    def test_entry_without_a_place(self):
        state = {**hosts.host_dlrm().state_dict(), "tower.weight": torch.zeros(1)}
        self.refuse(r"model\.tower\.weight has no place in the model", {"model": state})

    def test_other_shape(self):
        state = hosts.dlrm(hosts.host_collection(rows=7)).state_dict()
        self.refuse(r"t_user\.weight must have shape \(24, 16\), got \(7, 16\)", {"model": state})

    def test_a_hybrid_checkpoint_is_not_a_hosts(self):
        self.refuse("has no place in the model", {"model": hosts.hybrid_dlrm().state_dict()})

    def test_section_missing(self):
        self.refuse(r"checkpoint must hold 'model', got \['net'\]", {"net": {}})

    def test_optimiser_state_missing(self):
        host, _ = trained_host()
        self.refuse(
            r"checkpoint must hold 'optimizer'", {"model": host.state_dict()}, optimizer=keyed
        )

    def test_optimiser_of_another_kind(self):
        self.refuse(
            "is missing",
            checkpoint_of(*trained_host("sgd")),
            optimizer=lambda model: keyed(model, "adam"),
        )

    def test_optimiser_without_names(self):
        self.refuse(
            "optimizer must be a torchrec KeyedOptimizer",
            checkpoint_of(*trained_host()),
            error=TypeError,
            optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        )

    def test_not_a_directory(self, tmp_path):
        self.refuse("checkpoint must be a DCP directory", tmp_path / "nothing")

    def test_truncated_metadata(self, tmp_path):
        dcp.save({"model": hosts.host_dlrm().state_dict()}, checkpoint_id=tmp_path)
        metadata = (tmp_path / ".metadata").read_bytes()
        (tmp_path / ".metadata").write_bytes(metadata[: len(metadata) // 2])
        self.refuse("checkpoint must be a DCP directory", tmp_path)

    def test_directory_with_other_shapes(self, tmp_path):
        state = hosts.dlrm(hosts.host_collection(rows=7)).state_dict()
        dcp.save({"model": state}, checkpoint_id=tmp_path)
        self.refuse(r"t_user\.weight must have shape \(24, 16\), got \(7, 16\)", tmp_path)

    def test_directory_without_its_data(self, tmp_path):
        dcp.save({"model": hosts.host_dlrm().state_dict()}, checkpoint_id=tmp_path)
        for file in tmp_path.glob("*.distcp"):
            file.unlink()
        self.refuse("checkpoint must be readable, got a short or missing", tmp_path)

    @pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
    def test_directory_with_truncated_data(self, tmp_path, share):
        dcp.save({"model": hosts.host_dlrm().state_dict()}, checkpoint_id=tmp_path)
        (file,) = tmp_path.glob("*.distcp")
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        self.refuse("checkpoint must be readable, got a short or missing", tmp_path)

    def test_neither_mapping_nor_directory(self):
        self.refuse("checkpoint must be a mapping or a directory, got NoneType", None, TypeError)

    def test_optimiser_section_without_state(self):
        state = {"model": hosts.host_dlrm().state_dict(), "optimizer": {}}
        self.refuse(r"checkpoint must hold 'state', got \[\]", state, optimizer=keyed)

    def test_state_that_is_no_tensor(self):
        host, optimizer = trained_host("adagrad")
        checkpoint = checkpoint_of(host, optimizer)
        for part in checkpoint["optimizer"]["state"].values():
            part["step"] = 4
        self.refuse("step must have shape", checkpoint, optimizer=keyed)
