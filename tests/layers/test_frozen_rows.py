"""Old rows stand still, whatever the optimiser."""

import copy

import pytest
import torch
from torch import nn

from sidrank.layers import FrozenRowsEmbedding

OLD, NEW, DIM = 5, 3, 4
OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
}


def grown():
    return FrozenRowsEmbedding(torch.randn(OLD, DIM), num_new=NEW, init_fn=nn.init.normal_)


def step(embedding, optimizer):
    ids = torch.randint(0, OLD + NEW, (20,))
    optimizer.zero_grad()
    (embedding(ids) * torch.randn(20, DIM)).sum().backward()
    optimizer.step()


def test_equals_an_ordinary_embedding():
    embedding = grown()
    plain = nn.Embedding(OLD + NEW, DIM)
    plain.load_state_dict(embedding.state_dict())
    ids = torch.randint(0, OLD + NEW, (2, 3, 7))
    assert torch.equal(embedding(ids), plain(ids))
    assert torch.equal(embedding(ids.int()), plain(ids))
    (embedding(ids) ** 2).sum().backward()
    (plain(ids) ** 2).sum().backward()
    torch.testing.assert_close(embedding.new.grad, plain.weight.grad[OLD:])


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_old_rows_are_bit_identical_and_new_ones_move(name):
    embedding = grown()
    optimizer = OPTIMISERS[name](embedding.parameters())
    before = embedding.state_dict()["weight"].clone()
    for _ in range(5):
        step(embedding, optimizer)
    after = embedding.state_dict()["weight"]
    assert torch.equal(after[:OLD], before[:OLD])
    assert (after[OLD:] != before[OLD:]).all()


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_a_masked_gradient_would_not_have_held_them(name):
    """The control: momentum of before and weight decay move a row without a gradient."""
    plain = nn.Embedding(OLD + NEW, DIM)
    optimizer = OPTIMISERS[name](plain.parameters())
    step(plain, optimizer)
    before = plain.weight.detach().clone()
    optimizer.zero_grad()
    plain(torch.arange(OLD, OLD + NEW)).sum().backward()
    assert not plain.weight.grad[:OLD].any()
    optimizer.step()
    assert not torch.equal(plain.weight[:OLD], before[:OLD])


def test_thawed_goes_on_with_the_same_rows_and_learns_all():
    embedding = grown()
    plain = embedding.thawed()
    assert torch.equal(plain.weight, embedding.state_dict()["weight"])
    step(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    assert not torch.equal(plain.weight[:OLD], embedding.frozen.rows)
    assert not torch.equal(plain.weight[OLD:], embedding.new)


def test_takes_a_copy_of_the_rows():
    rows = torch.randn(OLD, DIM)
    embedding = FrozenRowsEmbedding(rows, num_new=NEW)
    rows.zero_()
    assert embedding(torch.arange(OLD)).abs().min() > 0
    assert not embedding.new.any()


class TestCheckpoint:
    def test_of_an_ordinary_embedding_within_a_model(self):
        model, plain = nn.Sequential(grown()), nn.Sequential(nn.Embedding(OLD + NEW, DIM))
        model.load_state_dict(plain.state_dict())
        ids = torch.arange(OLD + NEW)
        assert torch.equal(model(ids), plain(ids))
        plain.load_state_dict(copy.deepcopy(model).state_dict())

    @pytest.mark.parametrize(
        ("state", "match"),
        [
            ({"0.weight": torch.zeros(OLD, DIM)}, r"0\.weight must have shape \(8, 4\), got"),
            ({}, "Missing key"),
            ({"0.weight": torch.zeros(8, DIM), "0.new": torch.zeros(3, 4)}, "Unexpected key"),
        ],
        ids=["shape", "missing", "unexpected"],
    )
    def test_that_does_not_fit(self, state, match):
        model = nn.Sequential(grown())
        before = model.state_dict()["0.weight"]
        with pytest.raises(RuntimeError, match=match):
            model.load_state_dict(state)
        if "0.weight" not in state or len(state["0.weight"]) != 8:
            assert torch.equal(model.state_dict()["0.weight"], before)


class TestErrors:
    @pytest.mark.parametrize(
        "rows", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(3, 4, dtype=torch.int64)]
    )
    def test_rows(self, rows):
        with pytest.raises(ValueError, match="rows must be a matrix of floating point numbers"):
            FrozenRowsEmbedding(rows, num_new=1)

    def test_num_new(self):
        with pytest.raises(ValueError, match="num_new must be at least 1, got 0"):
            FrozenRowsEmbedding(torch.zeros(3, 4), num_new=0)

    def test_ids_of_another_dtype(self):
        with pytest.raises(ValueError, match=r"ids must be int32 or int64, got torch\.float32"):
            grown()(torch.zeros(2))

    @pytest.mark.parametrize("bad", [-1, OLD + NEW])
    def test_ids_beyond_the_table(self, bad):
        with pytest.raises(IndexError):
            grown()(torch.tensor([bad]))
