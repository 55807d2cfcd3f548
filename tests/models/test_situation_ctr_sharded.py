"""SituationCTR on two gloo ranks: parity and plan."""

import pytest

from tests.models import sharded_training, situation_models
from tests.models.situation_models import batch, loss, ranker


def _batch(seed):
    return batch(12, seed=seed)


def _parity(kind):
    return sharded_training.parity(situation_models.trained(), ranker(), kind, _batch, loss)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_parity_with_one_process(ranks, kind):
    sharded_training.assert_parity(ranks.run(_parity, kind), 3)  # fields, items, situations
