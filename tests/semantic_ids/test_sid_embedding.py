"""SIDs in the place of an ``nn.Embedding``: equal at birth, alive, blind to padding."""

import numpy as np
import pytest
import torch
from torch import nn

from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable, SIDVersionError
from sidrank.semantic_ids.sid_embedding import SIDEmbedding

ROWS, DIM, SIZES = 12, 4, (3, 5)


def table(sizes=SIZES, seed=0):
    """Items 1 to 9; 0 is padding, 10 and 11 are unknown."""
    codes = np.random.default_rng(seed).integers(0, min(sizes), (9, len(sizes)))
    return SIDTable(np.arange(1, 10), codes, spec=SIDSpec(sizes))


def embedding(padding_idx=0, sizes=SIZES):
    host = nn.Embedding(ROWS, DIM, padding_idx=padding_idx)
    return SIDEmbedding(host, lookup=SIDLookup(table(sizes)))


def alive(**given):
    module = embedding(**given)
    for parameter in (module.weight, *module.fusion.parameters(), *module.gate.parameters()):
        nn.init.normal_(parameter)
    return module


def slowly(module, ids):
    """The definition, an id at a time, with a dictionary of codes."""
    items = table()
    codes = dict(zip(items.item_ids.tolist(), items.codes.tolist(), strict=True))
    share = 1 - torch.sigmoid(module.gate.mlp(torch.empty(1, 0))).item()
    out = []
    for item in ids:
        levels, start = [], 0
        for level, size in enumerate(SIZES):
            row = start if item not in codes else start + 1 + codes[item][level]
            levels.append(module.weight[row])
            start += size + 1
        sid = module.fusion(torch.stack(levels).unsqueeze(0))[0]
        out.append(module.host.weight[item] + (0 if item == 0 else share) * sid)
    return torch.stack(out)


def test_equals_the_definition():
    module = alive()
    ids = torch.tensor([0, 1, 5, 9, 10, 11, 5])
    torch.testing.assert_close(module(ids), slowly(module, ids.tolist()))


@pytest.mark.parametrize("shape", [(0,), (5,), (2, 3), (2, 0), (1, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("sizes", [(4,), (3, 5), (3, 3, 3)])
def test_bit_equal_at_birth(shape, dtype, sizes):
    module = embedding(sizes=sizes)
    ids = torch.randint(0, ROWS, shape, dtype=dtype)
    assert torch.equal(module(ids), module.host(ids))


@pytest.mark.parametrize("sizes", [(4,), (3, 5)])
def test_every_parameter_learns(sizes):
    module = embedding(sizes=sizes)
    birth = {name: value.clone() for name, value in module.named_parameters()}
    optimizer = torch.optim.Adagrad(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (module(torch.arange(ROWS)) - 1).square().sum().backward()
        optimizer.step()
    assert len(birth) == (3 if len(sizes) == 1 else 7)
    for name, value in module.named_parameters():
        assert not torch.equal(value, birth[name]), name


def test_padding_stays_zero_while_unknown_items_learn():
    module = alive()
    assert not module(torch.tensor([0])).any()
    moved = (module(torch.tensor([10, 11])) - module.host(torch.tensor([10, 11]))).abs()
    assert (moved.sum(1) > 0).all()


def test_a_host_without_padding_gives_id_zero_its_share():
    module = alive(padding_idx=None)
    assert (module(torch.tensor([0])) - module.host(torch.tensor([0]))).abs().sum() > 0


def test_face_of_the_host():
    module = embedding()
    assert (module.num_embeddings, module.embedding_dim, module.padding_idx) == (ROWS, DIM, 0)
    assert module.host.weight.dtype == module.weight.dtype
    half = SIDEmbedding(nn.Embedding(3, 4).half(), lookup=SIDLookup(table()))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}


def test_a_checkpoint_of_another_table_is_refused():
    other = SIDEmbedding(nn.Embedding(ROWS, DIM), lookup=SIDLookup(table(seed=1)))
    with pytest.raises(SIDVersionError):
        embedding().load_state_dict(other.state_dict())


@pytest.mark.parametrize("host", [nn.Linear(2, 3), nn.EmbeddingBag(2, 3), None])
def test_host_of_another_kind(host):
    with pytest.raises(TypeError, match=r"host must be an nn\.Embedding, got"):
        SIDEmbedding(host, lookup=SIDLookup(table()))


def test_lookup_of_another_kind():
    with pytest.raises(TypeError, match="lookup must be a SIDLookup, got SIDTable"):
        SIDEmbedding(nn.Embedding(ROWS, DIM), lookup=table())
