"""The assembled ranker on two gloo ranks: parity, plan, pipeline."""

import pytest
import torch

from tests.embeddings import hosts
from tests.models import sharded_training
from tests.models.rankers import ranker


def _batch(seed):
    return hosts.batch(seed=seed)


def _parity(kind):
    whole = ranker()
    torch.nn.init.normal_(whole.branch.deep.mlp[2].weight)  # zero at birth
    return sharded_training.parity(whole, ranker(), kind, _batch, hosts.loss)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_parity_with_one_process(ranks, kind):
    found = ranks.run(_parity, kind)
    sharded_training.assert_parity(found, 4)  # fields, behaviours, units, codes


def _pipeline():
    return sharded_training.pipelined(ranker, _batch, pipeline_postproc=True)


def test_all_four_collections_are_pipelined_and_train_as_a_plain_loop_does(ranks):
    for gap, pipelined in ranks.run(_pipeline):
        assert pipelined == 4
        assert gap <= 1e-6
