"""Target and history as vectors [id; sid...], padded."""

import pytest
import torch
from torchrec import KeyedJaggedTensor

from sidrank.models import SIDBehaviours
from tests.embeddings import hosts
from tests.models.rankers import behaviours


def rows_of(model, feature, raw, item):
    """What the tables hold for one item: the id's row beside those of its codes."""
    table = hosts.sid_table()
    known = dict(zip(table.item_ids.tolist(), table.codes.tolist(), strict=True))
    codes = [code + 1 for code in known[raw]] if raw in known else [0, 0, 0]
    tables = [model.ec.embeddings[name].weight for name in ("behaviour_id",)]
    tables += [model.ec.embeddings[f"behaviour_sid_{level}"].weight for level in (1, 2, 3)]
    return torch.cat([t[row] for t, row in zip(tables, [item, *codes], strict=True)])


@pytest.mark.parametrize("max_length", [1, 4, 9])
def test_equals_reading_the_tables_row_by_row(max_length):
    model = behaviours(max_length)
    _, sparse, _ = hosts.batch(size=16, seed=2)
    target, history, mask = model(sparse)
    items, raw = hosts.bags_of(sparse, "item"), hosts.bags_of(sparse, "item_raw")
    seen, raw_seen = hosts.bags_of(sparse, "history"), hosts.bags_of(sparse, "history_raw")
    assert any(len(bag) > 1 for bag in seen)
    assert not all(seen)
    for row in range(16):
        expected = rows_of(model, "item", raw[row][0], items[row][0])
        assert torch.equal(target[row, 0], expected)
        length = min(len(seen[row]), max_length)
        assert mask[row].tolist() == [place < length for place in range(max_length)]
        for place in range(max_length):
            got = history[row, place]
            if place < length:
                newest = len(seen[row]) - length + place
                expected = rows_of(model, "history", raw_seen[row][newest], seen[row][newest])
                assert torch.equal(got, expected)
            else:
                assert not got.any()


def test_a_row_without_a_target_is_zero():
    model = behaviours()
    features = {"item": [[], [3]], "item_raw": [[], [3]], "history": [[], []]}
    target, _, mask = model(hosts.jagged({**features, "history_raw": [[], []]}))
    assert not target[0].any()
    assert target[1].any()
    assert not mask.any()


class TestErrors:
    @pytest.mark.parametrize("name", ["num_ids", "embedding_dim", "max_length"])
    def test_sizes(self, name):
        sizes = {"num_ids": 5, "embedding_dim": 4, "max_length": 3, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SIDBehaviours(hosts.expander("level"), **sizes)

    def test_keys(self):
        with pytest.raises(ValueError, match="expander must have the keys item, clicks, got"):
            SIDBehaviours(
                hosts.expander("level"), num_ids=5, embedding_dim=4, max_length=3, history="clicks"
            )

    def test_units(self):
        with pytest.raises(ValueError, match=r"expander must give one id an item.*'bpe'"):
            SIDBehaviours(hosts.expander("bpe"), num_ids=5, embedding_dim=4, max_length=3)

    def test_a_missing_feature(self):
        batch = KeyedJaggedTensor.from_lengths_sync(
            keys=["item"], values=torch.tensor([1]), lengths=torch.tensor([1])
        )
        with pytest.raises(ValueError, match="features must contain the key item_raw"):
            behaviours()(batch)
