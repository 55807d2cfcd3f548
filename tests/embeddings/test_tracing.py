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
from sidrank.embeddings.keyword_bag import KeywordBag
from sidrank.embeddings.sid_replacement import SIDReplacement
from sidrank.layers import ConvexGate, ResidualGate, ResolutionAttention
from sidrank.layers.semi_causal_ntp import SemiCausalNTPHead
from sidrank.semantic_ids import SIDSpec
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.unit_encoder import SIDUnitEncoder
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
    other = hosts.hybrid_dlrm(seed=99, wide=kind_of(model)).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other


def kind_of(model):
    if hasattr(model, "branch"):
        return "bpe"
    collection = model.sparse_arch.embedding_bag_collection
    if isinstance(collection, SIDReplacement):
        return "replacement"
    return "summary" if isinstance(collection.expander, KeywordBag) else False


WAYS = [fx_traced, torchrec_traced, scripted, compiled, exported, pickled, copy.deepcopy, restored]


@pytest.mark.filterwarnings("ignore:The TorchScript type system")
@pytest.mark.parametrize("wide", [False, "bpe", "summary", "replacement"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_same_logits_at_any_batch_size(way, wide):
    model = trained(wide)
    other = way(model)
    for size in (4, 9, 32):
        dense, sparse, _ = hosts.batch(size=size, seed=size)
        with torch.no_grad():
            torch.testing.assert_close(other(dense, sparse), model(dense, sparse))


@pytest.mark.parametrize("wide", [False, "bpe", "summary", "replacement"])
def test_compiled_gradients(wide):
    model = trained(wide).train()
    model.zero_grad()
    hosts.loss(model, hosts.batch(size=9)).backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    hosts.loss(compiled(model), hosts.batch(size=9)).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name])


@pytest.mark.parametrize("wide", [True, "bpe", "summary", "replacement"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.int8, 2e-2), (torch.half, 1e-3)])
def test_quantised_tables(dtype, tolerance, wide):
    model = trained(wide)
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


CODES = CodeFeatureSource(["c1", "c2"], SIDSpec((4, 4)))
BPE = SIDBPE([[3, 6], [1, 7]], spec=SIDSpec((4, 4)))
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
    "CodeFeatureSource": (SIDExpander({"item": CODES}), (code_batch(),)),
    "SIDUnitEncoder": (SIDUnitEncoder(BPE), (torch.tensor([[3, 2], [1, 2], [-1, -1], [0, 0]]),)),
    "units of CodeFeatureSource": (SIDExpander({"item": CODES}, mode=BPE), (code_batch(),)),
    "MemorizationBranch": (hosts.branch(), (hosts.batch()[1],)),
    "SemiCausalNTPHead": (
        SemiCausalNTPHead((4, 5), dim=8, num_layers=2),
        (
            torch.rand(3, 2, 8),
            torch.tensor([[True, True], [True, False], [False, False]]),
            torch.tensor([[3, 4], [0, 1], [-1, -1]]),
            torch.tensor([1.0, 0.0, 1.0]),
        ),
    ),
}


def reloaded(module):
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(module.state_dict())
    return other


def scripted_alone(module):
    return torch.jit.script(torchrec.fx.symbolic_trace(module))


ALONE = [fx_traced, compiled, pickled, reloaded, scripted_alone]


@pytest.mark.filterwarnings("ignore:The TorchScript type system")
@pytest.mark.parametrize("way", ALONE, ids=lambda way: way.__name__)
@pytest.mark.parametrize("part", list(PARTS))
def test_parts_alone(part, way):
    module, arguments = PARTS[part]
    one, other = module(*arguments), way(module)(*arguments)
    if isinstance(one, torchrec.KeyedJaggedTensor):
        assert torch.equal(one.lengths(), other.lengths())
        one, other = one.values(), other.values()
    assert torch.equal(one, other)


@pytest.mark.parametrize("wide", [False, "bpe", "summary", "replacement"])
def test_bfloat16_autocast(wide):
    model = trained(wide)
    dense, sparse, _ = hosts.batch(size=9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(dense, sparse)
    with torch.no_grad():
        torch.testing.assert_close(rounded.float(), model(dense, sparse), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("wide", [False, "bpe", "summary", "replacement"])
def test_meta_device_birth_then_empty_keeps_the_codes(wide):
    with torch.device("meta"):
        model = hosts.hybrid_dlrm(wide=wide)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    expected = hosts.hybrid_dlrm(seed=3, wide=wide)
    model.load_state_dict(expected.state_dict())
    dense, sparse, _ = hosts.batch()
    inner, other = (getattr(each, "host", each).inter_arch for each in (model, expected))
    inner.triu_indices.copy_(other.triu_indices)
    if wide == "bpe":
        for table in expected.branch.ebc.embedding_bags.values():
            torch.nn.init.normal_(table.weight)
        model.load_state_dict(expected.state_dict())
    assert torch.equal(model(dense, sparse), expected(dense, sparse))
