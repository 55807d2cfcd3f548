"""The wide branch."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import MemorizationBranch, WideAndDeep
from tests.embeddings import hosts


def test_logit_is_the_sum_of_the_rows_that_the_prefixes_read():
    expander = hosts.expander(mode="prefix")
    branch = MemorizationBranch(expander)
    for table in branch.ebc.embedding_bags.values():
        torch.nn.init.normal_(table.weight)
    _, sparse, _ = hosts.batch()
    rows = expander(sparse)
    logits = branch(sparse)
    ends = {name: rows[name].lengths().cumsum(0).tolist() for name in list(rows.keys())}
    for index in range(6):
        expected = 0.0
        for config in branch.ebc.embedding_bag_configs():
            weight = branch.ebc.embedding_bags[config.name].weight
            for name in config.feature_names:
                start = ends[name][index - 1] if index else 0
                for row in rows[name].values()[start : ends[name][index]].tolist():
                    expected += weight[row].sum().item()
        assert logits[index, 0].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_items_with_the_same_sid_share_everything():
    codes = hosts.sid_table().codes.copy()
    codes[7] = codes[3]
    table = type(hosts.sid_table())(hosts.sid_table().item_ids, codes, spec=hosts.sid_table().spec)
    branch = MemorizationBranch(hosts.expander(mode="prefix", table=table))
    torch.nn.init.normal_(branch.ebc.embedding_bags["memory_1_2_3"].weight)
    _, sparse, _ = hosts.batch()
    sparse["item_raw"].values()[:2] = torch.tensor([3, 7])
    rows = branch.expander(sparse)["item_sid_1_2_3"].values()
    assert rows[0] == rows[1]


def test_zero_at_birth_and_alive_at_step_one():
    host = hosts.host_dlrm()
    model = WideAndDeep(host, MemorizationBranch(hosts.expander(mode="prefix")))
    dense, sparse, _ = hosts.batch()
    assert torch.equal(model(dense, sparse), host(dense, sparse))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hosts.train(model, optimizer, steps=1)
    for table in model.branch.ebc.embedding_bags.values():
        assert table.weight.abs().max() > 0


def test_stands_where_a_dlrm_stood():
    from torchrec.datasets.utils import Batch
    from torchrec.models.dlrm import DLRMTrain

    model = DLRMTrain(hosts.hybrid_dlrm(wide=True))
    loss, (_, logits, labels) = model(Batch(*hosts.batch()))
    assert loss.isfinite()
    assert logits.shape == labels.shape == (6,)


class TestErrors:
    def test_table_of_another_feature(self):
        config = EmbeddingBagConfig(
            name="t", embedding_dim=4, num_embeddings=9, feature_names=["other"]
        )
        with pytest.raises(ValueError, match=r"tables must read each feature of the exp.*other"):
            MemorizationBranch(hosts.expander(), [config])

    def test_table_too_small(self):
        expander = hosts.expander(mode="prefix")
        tables = expander.embedding_bag_configs(embedding_dim=4)
        tables[1].num_embeddings = 4
        with pytest.raises(ValueError, match="tables must have 17 rows for item_sid_1_2, got 4"):
            MemorizationBranch(expander, tables)

    @pytest.mark.parametrize("part", ["host", "branch"])
    def test_logits_of_another_shape(self, part):
        class Flat(torch.nn.Module):
            def forward(self, *features):
                return torch.zeros(6)

        parts = {"host": hosts.host_dlrm(), "branch": Flat(), part: Flat()}
        dense, sparse, _ = hosts.batch()
        with pytest.raises(
            ValueError, match=rf"{part} logits must have shape \[\*, 1\], got \[6\]"
        ):
            WideAndDeep(parts["host"], parts["branch"])(dense, sparse)
