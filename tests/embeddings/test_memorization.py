"""The wide branch."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import MemorizationBranch, WideAndDeep
from sidrank.embeddings.memorization import GeneralizationBranch
from tests.embeddings import hosts


@pytest.mark.parametrize("mode", ["prefix", "bpe"])
def test_logit_is_the_sum_of_the_rows_that_prefixes_or_units_read(mode):
    expander = hosts.expander(mode=mode)
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


@pytest.mark.parametrize("mode", ["prefix", "bpe"])
def test_items_with_the_same_sid_share_everything(mode):
    codes = hosts.sid_table().codes.copy()
    codes[7] = codes[3]
    table = type(hosts.sid_table())(hosts.sid_table().item_ids, codes, spec=hosts.sid_table().spec)
    expander = hosts.expander(mode=mode, table=table)
    _, sparse, _ = hosts.batch()
    sparse["item_raw"].values()[:2] = torch.tensor([3, 7])
    name = {"prefix": "item_sid_1_2_3", "bpe": "item_sid_units"}[mode]
    one, other = hosts.bags_of(expander(sparse), name)[:2]
    assert one == other


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mode", ["prefix", "bpe"])
def test_zero_at_birth_and_alive_soon(mode, autocast):
    host = hosts.host_dlrm()
    model = WideAndDeep(host, hosts.branch(mode=mode))
    dense, sparse, _ = hosts.batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(model(dense, sparse), host(dense, sparse))
    birth = {name: value.detach().clone() for name, value in model.branch.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hosts.train(model, optimizer, steps=1)
    for table in model.branch.ebc.embedding_bags.values():
        assert table.weight.abs().max() > 0
    hosts.train(model, optimizer, steps=2)
    for name, value in model.branch.named_parameters():
        assert not torch.equal(value, birth[name]), name


def test_names_are_the_checkpoint_format():
    lookups = [f"expander.sources.{index}.lookup._extra_state" for index in (0, 1)]
    assert set(hosts.branch(mode="bpe").state_dict()) == {
        "ebc.embedding_bags.memory_units.weight",
        *lookups,
        "expander.units._extra_state",
        *(f"deep.ebc.embedding_bags.generalization_{level}.weight" for level in (1, 2, 3)),
        *(f"deep.{name}" for name in lookups),
        *(f"deep.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
    }


class TestDeepSide:
    def branch(self, dropout=0.5):
        branch = GeneralizationBranch(hosts.expander("level"), hidden=8, dropout=dropout)
        torch.nn.init.normal_(branch.mlp[2].weight)
        return branch

    def test_equals_an_mlp_over_the_sums_of_the_code_rows(self):
        branch = self.branch().eval()
        _, sparse, _ = hosts.batch()
        rows = branch.expander(sparse)
        inputs = []
        for key in ("item", "history"):
            for level in (1, 2, 3):
                table = branch.ebc.embedding_bags[f"generalization_{level}"].weight
                bags = hosts.bags_of(rows, f"{key}_sid_{level}")
                inputs.append(torch.stack([table[bag].sum(dim=0) for bag in bags]))
        first, last = branch.mlp[0], branch.mlp[2]
        hidden = torch.nn.functional.silu(torch.cat(inputs, dim=1) @ first.weight.T + first.bias)
        expected = hidden @ last.weight.T + last.bias
        torch.testing.assert_close(branch(sparse), expected)

    def test_is_added_to_the_memory(self):
        deep = self.branch(dropout=0.0)
        branch = MemorizationBranch(hosts.expander("bpe"), deep=deep)
        _, sparse, _ = hosts.batch()
        assert deep(sparse).abs().max() > 0
        assert torch.equal(branch(sparse), deep(sparse))
        torch.nn.init.normal_(branch.ebc.embedding_bags["memory_units"].weight)
        memory = MemorizationBranch(hosts.expander("bpe"))
        memory.load_state_dict(branch.state_dict(), strict=False)
        torch.testing.assert_close(branch(sparse), memory(sparse) + deep(sparse))

    @pytest.mark.parametrize("traced", [False, True])
    def test_all_codes_of_an_item_vanish_together_and_only_in_training(self, traced):
        branch = self.branch(dropout=0.25)
        torch.nn.init.zeros_(branch.mlp[0].bias)
        _, sparse, _ = hosts.batch(size=2000)
        model = torch.fx.symbolic_trace(branch) if traced else branch
        seen = []
        model.get_submodule("mlp.0").register_forward_hook(lambda m, x, y: seen.append(x[0]))
        model.eval()(sparse)
        model.train()(sparse)
        whole, dropped = (each.detach().unflatten(1, (2, 3, 16)) for each in seen)
        for item in (0, 1):
            full = whole[:, item].abs().amin(dim=(1, 2)) > 0  # empty histories are zero as they are
            kept = dropped[full, item].abs().sum(dim=2) > 0
            assert torch.equal(kept.all(dim=1), kept.any(dim=1))
            share = kept[:, 0].float().mean().item()
            assert abs(share - 0.75) < 0.05
            torch.testing.assert_close(
                dropped[full, item][kept[:, 0]], whole[full, item][kept[:, 0]] / 0.75
            )
        both = (dropped.abs().sum(dim=(2, 3)) > 0)[whole[:, 1].abs().amin(dim=(1, 2)) > 0]
        assert len(both.unique(dim=0)) == 4  # features are dropped one without the other


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

    def test_tables_of_two_widths(self):
        expander = hosts.expander(mode="level")
        tables = expander.embedding_bag_configs(embedding_dim=4)
        tables[1].embedding_dim = 8
        with pytest.raises(ValueError, match=r"tables must have one width, got \[4, 8\]"):
            GeneralizationBranch(expander, tables)

    @pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
    def test_dropout(self, dropout):
        with pytest.raises(ValueError, match=rf"dropout must be in \[0, 1\), got {dropout}"):
            GeneralizationBranch(hosts.expander("level"), dropout=dropout)

    def test_hidden(self):
        with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
            GeneralizationBranch(hosts.expander("level"), hidden=0)

    def test_deep_side_of_another_shape(self):
        class Flat(torch.nn.Module):
            def forward(self, features):
                return torch.zeros(6)

        _, sparse, _ = hosts.batch()
        with pytest.raises(ValueError, match=r"deep logits must have shape \[\*, 1\], got \[6\]"):
            MemorizationBranch(hosts.expander("bpe"), deep=Flat())(sparse)

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
