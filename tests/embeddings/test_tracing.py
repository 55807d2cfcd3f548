"""Law 7: the hybrid DLRM traces, scripts, compiles, exports, quantises, pickles."""

import copy
import io
import logging
import pickle

import pytest
import torch
import torchrec.fx
from torch.export import Dim
from torchrec.inference.modules import quantize_embeddings

from sidrank.embeddings import CodeFeatureSource, SIDExpander
from sidrank.layers import ConvexGate, ResidualGate, ResolutionAttention
from sidrank.semantic_ids import SIDSpec
from tests.embeddings import hosts


def trained(wide):
    """Away from birth, where a dropped branch would not be missed."""
    model = hosts.hybrid_dlrm(wide=wide)
    hosts.train(model, torch.optim.Adagrad(model.parameters(), lr=0.5), steps=3)
    return model.eval()


def fx_traced(model):
    return torch.fx.symbolic_trace(model)


def torchrec_traced(model):
    return torchrec.fx.symbolic_trace(model)


def scripted(model):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torchrec.fx.symbolic_trace(model)), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="aot_eager")


def exported(model):
    dense, sparse, _ = hosts.batch(size=4)
    auto = {0: Dim.AUTO}
    program = torch.export.export(
        model, (dense, sparse), dynamic_shapes=(auto, [auto, None, auto, None, None, None])
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    # one of its log lines has fewer arguments than places, which pytest takes for an error
    logging.getLogger("torch._export.serde.serialize").setLevel(logging.ERROR)
    return torch.export.load(buffer).module()


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def restored(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = hosts.hybrid_dlrm(seed=99, wide=hasattr(model, "branch")).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other


WAYS = [fx_traced, torchrec_traced, scripted, compiled, exported, pickled, copy.deepcopy, restored]


@pytest.mark.filterwarnings("ignore:The TorchScript type system")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_same_logits_at_any_batch_size(way, wide):
    model = trained(wide)
    other = way(model)
    for size in (4, 9, 32):
        dense, sparse, _ = hosts.batch(size=size, seed=size)
        with torch.no_grad():
            torch.testing.assert_close(other(dense, sparse), model(dense, sparse))


@pytest.mark.parametrize("wide", [False, True])
def test_compiled_gradients(wide):
    model = trained(wide).train()
    model.zero_grad()
    hosts.loss(model, hosts.batch(size=9)).backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    hosts.loss(compiled(model), hosts.batch(size=9)).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.int8, 2e-2), (torch.half, 1e-3)])
def test_quantised_tables(dtype, tolerance):
    model = trained(wide=True)
    small = quantize_embeddings(copy.deepcopy(model), dtype=dtype, inplace=True)
    for size in (4, 9):
        dense, sparse, _ = hosts.batch(size=size, seed=size)
        with torch.no_grad():
            expected = model(dense, sparse)
            torch.testing.assert_close(
                small(dense, sparse), expected, atol=tolerance, rtol=tolerance
            )


def test_traced_model_still_counts_coverage():
    """FX drops calls whose result is unused; the count must not be one."""
    model = trained(wide=False)
    dense, sparse, _ = hosts.batch(size=32)
    traced = torch.fx.symbolic_trace(model)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    (name,) = [n for n, _ in traced.named_buffers() if n.endswith("sources.0.counts")]
    traced.get_buffer(name).zero_()
    traced(dense, sparse)
    seen, unknown = traced.get_buffer(name).tolist()
    assert seen == 32
    assert unknown == int((sparse["item_raw"].values() >= hosts.ITEMS).sum()) > 0


def code_batch():
    return torchrec.KeyedJaggedTensor.from_lengths_sync(
        keys=["c1", "c2"], values=torch.tensor([3, 1, 2, 9]), lengths=torch.ones(4).int()
    )


PARTS = {
    "ResidualGate": (
        ResidualGate(statistics=["n"]),
        (torch.rand(3, 4), torch.rand(3, 4), torch.ones(3, 1), torch.ones(3).bool()),
    ),
    "ConvexGate": (
        ConvexGate(statistics=[]),
        (torch.rand(3, 4), torch.rand(3, 4), torch.ones(3, 0), torch.ones(3).bool()),
    ),
    "ResolutionAttention": (ResolutionAttention(dim=4, num_resolutions=3), (torch.rand(2, 3, 4),)),
    "CodeFeatureSource": (
        SIDExpander({"item": CodeFeatureSource(["c1", "c2"], SIDSpec((4, 4)))}),
        (code_batch(),),
    ),
}


@pytest.mark.parametrize("way", [fx_traced, compiled, pickled], ids=lambda way: way.__name__)
@pytest.mark.parametrize("part", list(PARTS))
def test_parts_alone(part, way):
    module, arguments = PARTS[part]
    one, other = module(*arguments), way(module)(*arguments)
    if isinstance(one, torchrec.KeyedJaggedTensor):
        one, other = one.values(), other.values()
    assert torch.equal(one, other)


def test_meta_device_birth_then_empty_keeps_the_codes():
    with torch.device("meta"):
        model = hosts.dlrm(hosts.hybrid(hosts.host_collection(device=torch.device("meta"))))
    model.to_empty(device="cpu")
    model.load_state_dict(hosts.hybrid_dlrm(seed=3).state_dict())
    dense, sparse, _ = hosts.batch()
    model.inter_arch.triu_indices.copy_(hosts.hybrid_dlrm().inter_arch.triu_indices)
    assert torch.equal(model(dense, sparse), hosts.hybrid_dlrm(seed=3)(dense, sparse))
