"""Tables of bytes: each row as near as its range allows, and nothing else has moved."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sidrank.serving.int8_tables import Int8Embedding, Int8EmbeddingBag, int8_tables
from tests.serving import exports

ROWS, WIDTH = 6, 5


def by_hand(weight):
    """Each row in 255 steps from its least to its largest number."""
    rows = []
    for row in weight.tolist():
        low, high = min(row), max(row)
        step = (high - low) / 255
        rows.append([low + step * round((each - low) / step) if step else low for each in row])
    return torch.tensor(rows)


def table(kind, seed=0, **options):
    torch.manual_seed(seed)
    made = kind(ROWS, WIDTH, **options)
    with torch.no_grad():
        made.weight[2] = 0.25  # a row without a range
        made.weight[3] *= 100.0
    return made


def close(found, wanted):
    """But for a number that is halfway between two steps, which may fall either way."""
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


@given(st.lists(st.lists(st.integers(0, ROWS - 1), max_size=4), min_size=1, max_size=5), st.data())
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags(mode, dtype, bags, data):
    given_table = table(nn.EmbeddingBag, mode=mode, include_last_offset=True)
    rows = by_hand(given_table.weight)
    ids = torch.tensor([each for bag in bags for each in bag], dtype=dtype)
    offsets = torch.tensor([0, *[len(bag) for bag in bags]]).cumsum(0).to(dtype)
    weights = None
    factors = [1.0] * len(ids)
    if mode == "sum" and data.draw(st.booleans()):
        factors = data.draw(
            st.lists(st.floats(-2, 2, width=32), min_size=len(ids), max_size=len(ids))
        )
        weights = torch.tensor(factors)
    wanted = torch.zeros(len(bags), WIDTH)
    left = iter(factors)
    for place, bag in enumerate(bags):
        for each in bag:
            wanted[place] += next(left) * rows[each]
        if mode == "mean" and bag:
            wanted[place] /= len(bag)
    close(Int8EmbeddingBag(given_table)(ids, offsets, per_sample_weights=weights), wanted)


@given(st.lists(st.integers(0, ROWS - 1), max_size=7))
def test_ids(ids):
    given_table = table(nn.Embedding)
    wanted = by_hand(given_table.weight)[torch.tensor(ids, dtype=torch.int64)]
    close(Int8Embedding(given_table)(torch.tensor(ids, dtype=torch.int64)), wanted)


@pytest.mark.parametrize("wrong", [ROWS, -1])
def test_ids_beyond_the_table_raise(wrong):
    with pytest.raises(RuntimeError, match="out of bounds"):
        Int8Embedding(table(nn.Embedding))(torch.tensor([wrong]))


@pytest.mark.parametrize("name", ["dlrm", "wide", "sid_ranker", "token_former", "situation_ctr"])
def test_rankers(name):
    model, requests = exports.ranker(name)
    before = {
        key: value.clone() for key, value in model.state_dict().items() if torch.is_tensor(value)
    }
    small = int8_tables(model)
    kinds = [type(part) for part in small.modules()]
    assert not any(isinstance(part, nn.EmbeddingBag) for part in small.modules()), (
        "every table of a collection is exchanged"
    )
    assert Int8EmbeddingBag in kinds or Int8Embedding in kinds
    with torch.no_grad():
        wanted, found = model.rank(requests), small.rank(requests)
    assert 0 < float((found - wanted).abs().max()) < 0.1 * float(wanted.std())
    for key, value in model.state_dict().items():
        if torch.is_tensor(value):
            assert torch.equal(value, before[key]), key
    shared = {value.data_ptr() for value in model.parameters()}
    assert all(value.data_ptr() in shared for value in small.parameters())


def test_a_quarter_of_the_bytes():
    wide = nn.EmbeddingBag(100, 64, mode="sum", include_last_offset=True)
    assert Int8EmbeddingBag(wide).rows.nbytes == 100 * (64 + 8)


class TestErrors:
    def test_a_mode_that_has_no_sum(self):
        with pytest.raises(ValueError, match=r"table must have the mode sum or mean .* got max"):
            Int8EmbeddingBag(nn.EmbeddingBag(3, 4, mode="max"))

    def test_a_padding_row(self):
        with pytest.raises(ValueError, match="no padding row, got sum and 0"):
            Int8EmbeddingBag(nn.EmbeddingBag(3, 4, mode="sum", padding_idx=0))

    def test_no_content(self):
        with pytest.raises(ValueError, match="table must be on the CPU, got meta"):
            Int8Embedding(nn.Embedding(3, 4, device="meta"))

    def test_no_table(self):
        with pytest.raises(ValueError, match="model must have tables in a collection, got Linear"):
            int8_tables(nn.Linear(2, 1))
