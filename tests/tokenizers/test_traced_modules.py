"""Law 7: every module of the room traces, compiles, pickles, and is born on the meta device."""

import copy
import io
import pickle

import pytest
import torch

from sidrank.tokenizers.multimodal_fusion import MultimodalFusion
from sidrank.tokenizers.parallel_sid_head import ParallelSIDHead, SummaryEmbeddingReconstruction

BIRTHS = {
    "linear heads": lambda: ParallelSIDHead(dim=6, levels=(4, 5)),
    "heads": lambda: ParallelSIDHead(dim=6, levels=(4, 5), hidden=7),
    "summary": lambda: SummaryEmbeddingReconstruction(dim=6, levels=(4, 5), summary_dim=3),
    "fusion": lambda: MultimodalFusion(widths={"text": 6, "items": 3}, dim=8, num_heads=2),
}


def arguments(name, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, 6, generator=generator)
    if name == "summary":
        z = [torch.randn(rows, size, generator=generator) for size in (4, 5)]
        return h, z, torch.randn(rows, 3, generator=generator)
    if name == "fusion":
        views = {"text": h, "items": torch.randn(rows, 4, 3, generator=generator)}
        there = torch.rand(rows, 4, generator=generator) < 0.5
        return views, {"items": there, "text": torch.ones(rows).bool()}
    return (h,)


def fx_traced(module, name):
    return pickle.loads(pickle.dumps(torch.fx.symbolic_trace(module)))


def compiled(module, name):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def pickled(module, name):
    return pickle.loads(pickle.dumps(module))


def copied(module, name):
    return copy.deepcopy(module)


def restored(module, name):
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    with torch.device("meta"):
        other = BIRTHS[name]()
    assert all(parameter.is_meta for parameter in other.parameters())
    other.to_empty(device="cpu")
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other


WAYS = [fx_traced, compiled, pickled, copied, restored]


@pytest.mark.parametrize("name", list(BIRTHS))
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_same_numbers_at_any_batch_size(way, name):
    module = BIRTHS[name]()
    other = way(module, name)
    for rows in (4, 9):
        given = arguments(name, rows, seed=rows)
        torch.testing.assert_close(other(*given), module(*given))


@pytest.mark.parametrize("way", [fx_traced, compiled])
def test_masks_are_optional(way):
    module = BIRTHS["fusion"]()
    other, (views, _) = way(module, "fusion"), arguments("fusion", 5)
    torch.testing.assert_close(other(views), module(views))


@pytest.mark.parametrize("name", list(BIRTHS))
def test_compiled_gradients(name):
    module, given = BIRTHS[name](), arguments(name, 5)

    def gradients(called):
        module.zero_grad()
        out = called(*given)
        loss = sum(z.square().sum() for z in (out if isinstance(out, list) else [out]))
        loss.backward()
        return [parameter.grad.clone() for parameter in module.parameters()]

    whole = gradients(compiled(module, name))
    torch.testing.assert_close(whole, gradients(module))


@pytest.mark.parametrize("name", list(BIRTHS))
def test_every_parameter_learns(name):
    module = BIRTHS[name]()
    before = {key: value.detach().clone() for key, value in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(3):
        out = module(*arguments(name, 8, seed=step))
        optimizer.zero_grad()
        sum((z * torch.randn_like(z)).sum() for z in (out if isinstance(out, list) else [out])
            ).backward()  # fmt: skip
        optimizer.step()
    after = module.named_parameters()
    assert [key for key, value in after if torch.equal(value, before[key])] == []


@pytest.mark.parametrize("name", list(BIRTHS))
def test_no_rows(name):
    found = BIRTHS[name]()(*arguments(name, 0))
    if name == "summary":
        assert found.item() == 0
    else:
        assert all(len(z) == 0 for z in (found if isinstance(found, list) else [found]))


@pytest.mark.parametrize("name", list(BIRTHS))
def test_born_on_meta_then_reset(name):
    with torch.device("meta"):
        module = BIRTHS[name]()
    module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", list(BIRTHS))
def test_autocast(name):
    module, given = BIRTHS[name](), arguments(name, 5)
    wide = module(*given)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module(*given)
    for one, other in zip(
        *(x if isinstance(x, list) else [x] for x in (wide, narrow)), strict=True
    ):
        torch.testing.assert_close(other.float(), one.float(), atol=0.1, rtol=0.1)


def test_names_are_the_checkpoint_format():
    names = {kind: list(birth().state_dict()) for kind, birth in BIRTHS.items()}
    assert names["linear heads"] == [
        "heads.0.weight",
        "heads.0.bias",
        "heads.1.weight",
        "heads.1.bias",
    ]
    assert names["summary"] == [f"predictor.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")]
    layers = ["query_norm", "attention.query", "attention.value", "attention.out"]
    layers += ["hidden_norm", "hidden_in", "hidden_out"]
    layers += [f"{part}.view_{v}" for part in ("projections", "norms") for v in ("text", "items")]
    expected = [f"{layer}.{n}" for layer in layers for n in ("weight", "bias")]
    assert sorted(names["fusion"]) == sorted(["queries", "attention.key.weight", *expected])
