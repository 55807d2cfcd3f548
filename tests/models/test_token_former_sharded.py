"""TokenFormer on two gloo ranks: parity, plan, pipeline."""

import pytest

from tests.models import sharded_training, token_formers
from tests.models.token_formers import batch, former, loss


def _batch(seed):
    return batch(12, seed=seed)


def _parity(kind):
    return sharded_training.parity(token_formers.trained(), former(), kind, _batch, loss)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "data_parallel"])
def test_parity_with_one_process(ranks, kind):
    sharded_training.assert_parity(ranks.run(_parity, kind), 2)  # fields, items


def _pipeline():
    return sharded_training.pipelined(former, _batch)


def test_both_collections_are_pipelined_and_train_as_a_plain_loop_does(ranks):
    for gap, pipelined in ranks.run(_pipeline):
        assert pipelined == 2
        assert gap <= 1e-6
