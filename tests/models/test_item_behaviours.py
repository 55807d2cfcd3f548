"""Candidates and histories out of a batch."""

import pytest
import torch

from sidrank.models.item_behaviours import ItemBehaviours
from tests.embeddings import hosts
from tests.models import token_formers


def row_of(module, item, kind):
    tables = module.ec.embeddings
    return torch.cat([tables["item"].weight[item], tables["kind"].weight[kind]])


@pytest.mark.parametrize("max_length", [1, 3, 20])
def test_equals_reading_the_tables_row_by_row(max_length):
    module = token_formers.behaviours(max_length)
    _, sparse, _ = token_formers.batch(size=12)
    target, history, mask = module(sparse)
    bags = {key: hosts.bags_of(sparse, key) for key in ("item", "kind", "seen_item", "seen_kind")}
    assert not bags["seen_item"][0]
    for row in range(12):
        expected = row_of(module, bags["item"][row][0], bags["kind"][row][0])
        assert torch.equal(target[row, 0], expected)
        seen = list(zip(bags["seen_item"][row], bags["seen_kind"][row], strict=True))
        newest = seen[-max_length:]
        assert mask[row].tolist() == [place < len(newest) for place in range(max_length)]
        for place in range(max_length):
            if place < len(newest):
                assert torch.equal(history[row, place], row_of(module, *newest[place]))
            else:
                assert not history[row, place].any()


def test_candidates_beyond_a_row_are_zero():
    module = token_formers.behaviours(num_candidates=3)
    features = {"item": [[1, 2], [3, 4, 5]], "kind": [[6, 7], [8, 9, 10]]}
    target, history, mask = module(
        hosts.jagged({**features, "seen_item": [[], []], "seen_kind": [[], []]})
    )
    assert torch.equal(target[1, 2], row_of(module, 5, 10))
    assert not target[0, 2].any()
    assert history.shape == (2, 5, 16)
    assert not mask.any()


class TestErrors:
    def test_more_candidates_than_room(self):
        module = token_formers.behaviours(num_candidates=2)
        features = {"item": [[1, 2], [3, 4, 5]], "kind": [[6, 7], [8, 9, 10]]}
        batch = hosts.jagged({**features, "seen_item": [[], []], "seen_kind": [[], []]})
        with pytest.raises(ValueError, match="target must have at most 2 ids a row, got 5 for 4"):
            module(batch)

    @pytest.mark.parametrize("name", ["max_length", "num_candidates"])
    def test_sizes(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            token_formers.behaviours(**{name: 0})

    def test_a_feature_without_a_table(self):
        collection = token_formers.behaviours().ec
        with pytest.raises(ValueError, match="collection must have the feature clicks, got"):
            ItemBehaviours(collection, target=["item"], history=["clicks"], max_length=3)

    @pytest.mark.parametrize("history", [[], ["seen_item", "seen_kind"]])
    def test_number_of_features(self, history):
        collection = token_formers.behaviours().ec
        target = ["item"] if history else []
        with pytest.raises(ValueError, match=r"history must have as many features as target.*got"):
            ItemBehaviours(collection, target=target, history=history, max_length=3)

    def test_features_of_unequal_length(self):
        features = {"item": [[1]], "kind": [[1]], "seen_item": [[1, 2]], "seen_kind": [[1]]}
        with pytest.raises(ValueError, match=r"history must have as many ids.*got \[2, 1\]"):
            token_formers.behaviours()(hosts.jagged(features))
