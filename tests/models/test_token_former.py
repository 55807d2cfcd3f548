"""TokenFormer: DLRM's signature, every part alive, rows and candidates apart, traced."""

import pytest
import torch

from sidrank.models import SIDBehaviours
from sidrank.models.token_former import TokenFormer
from sidrank.sequences.bfts import BFTSEncoder
from tests.embeddings import hosts
from tests.models.token_formers import DENSE, batch, behaviours, fields, former, train, trained
from tests.models.ways import WAYS


def bags(sparse):
    return {key: hosts.bags_of(sparse, key) for key in sparse.keys()}  # noqa: SIM118


def test_logits_of_a_dlrm():
    dense, sparse, _ = batch()
    assert former()(dense, sparse).shape == (6, 1)


def test_is_the_encoder_over_the_rows_of_the_tables():
    model, (dense, sparse, _) = trained(), batch()
    columns = bags(sparse)
    tables = {**model.fields.embedding_bags, **model.behaviours.ec.embeddings}
    for row in range(6):
        pooled = [
            tables[name].weight[columns[name][row]].sum(dim=0) for name in ("user", "context")
        ]
        static = torch.stack([model.dense(dense[row]), *(model.field(p) for p in pooled)])

        def items(prefix, row=row):
            sides = [tables[k].weight[columns[prefix + k][row][-5:]] for k in ("item", "kind")]
            return model.item(torch.cat(sides, dim=1)).unsqueeze(0)

        history = items("seen_")
        mask = torch.ones(1, history.shape[1]).bool()
        state = model.encoder(static.unsqueeze(0), history, mask, items(""))
        expected = model.head(state)[0, 0]
        torch.testing.assert_close(model(dense, sparse)[row], expected)


def test_reads_semantic_ids():
    """SIDBehaviours in place of plain items, a hybrid in place of plain fields."""
    model = TokenFormer(
        hosts.hybrid(hosts.host_collection()),
        SIDBehaviours(hosts.expander("level"), num_ids=24, embedding_dim=8, max_length=4),
        encoder=BFTSEncoder(dim=8, hidden=8),
        dense_in_features=hosts.DENSE,
    )
    dense, sparse, _ = hosts.batch(size=16)
    before = model(dense, sparse)
    assert before.shape == (16, 1)
    values = sparse["history_raw"].values()
    values.copy_((values + 1) % 24)
    assert not torch.equal(model(dense, sparse), before)


def test_every_parameter_has_moved_after_three_steps():
    model = former()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=3, size=64)
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("part", ["user", "context", "item", "kind", "seen_item", "seen_kind"])
def test_reads_each_feature(part):
    model, (dense, sparse, _) = trained(), batch(size=16)
    before = model(dense, sparse)
    values = sparse[part].values()
    values.copy_((values + 1) % 20)
    assert not torch.equal(model(dense, sparse), before)


def test_rows_do_not_see_each_other():
    model, (dense, sparse, _) = trained(), batch(size=5)
    together, columns = model(dense, sparse), bags(sparse)
    for row in range(5):
        alone = hosts.jagged({name: [column[row]] for name, column in columns.items()})
        answer = model(dense[row : row + 1], alone)
        torch.testing.assert_close(answer, together[row : row + 1])


def test_candidates_do_not_see_each_other():
    model, one = trained(num_candidates=4), former()
    one.load_state_dict(model.state_dict())
    dense, sparse, _ = batch(candidates=4)
    together, columns = model(dense, sparse), bags(sparse)
    assert together.shape == (6, 4)
    for c in range(4):
        chosen = {k: [[bag[c]] for bag in columns[k]] for k in ("item", "kind")}
        alone = one(dense, hosts.jagged(columns | chosen))
        torch.testing.assert_close(alone, together[:, c : c + 1])


def test_more_room_in_the_history_changes_nothing():
    short, long = trained(max_length=8), former(max_length=13)
    long.load_state_dict(short.state_dict())
    dense, sparse, _ = batch(size=16)
    torch.testing.assert_close(long(dense, sparse), short(dense, sparse))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_same_logits_at_any_batch_size(way):
    model = trained()
    other = way(model)
    for size in (4, 9):
        dense, sparse, _ = batch(size=size, seed=size)
        with torch.no_grad():
            torch.testing.assert_close(other(dense, sparse), model(dense, sparse))


def test_bfloat16_autocast():
    model, (dense, sparse, _) = trained(), batch(size=9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(dense, sparse)
    with torch.no_grad():
        exact = model(dense, sparse)
    scale = exact.abs().max().item() + 1.0
    torch.testing.assert_close(rounded.float(), exact, atol=0.05 * scale, rtol=0.0)


def test_exports_for_any_number_of_rows():
    model, (dense, sparse, _) = trained().eval(), batch(size=5)
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto}, [{0: auto}, None, {0: auto}, None, None, None])
    exported = torch.export.export(model, (dense, sparse), dynamic_shapes=shapes).module()
    for size in (3, 11):
        dense, sparse, _ = batch(size=size, seed=size)
        torch.testing.assert_close(exported(dense, sparse), model(dense, sparse))


def test_meta_device_birth_then_load():
    with torch.device("meta"):
        model = former()
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    expected = trained()
    model.load_state_dict(expected.state_dict())
    dense, sparse, _ = batch()
    assert torch.equal(model(dense, sparse), expected(dense, sparse))


class TestErrors:
    def test_dense_in_features(self):
        encoder = BFTSEncoder(dim=8, hidden=8)
        with pytest.raises(ValueError, match="dense_in_features must be at least 1, got 0"):
            TokenFormer(fields(), behaviours(), encoder=encoder, dense_in_features=0)

    def test_widths(self):
        encoder = BFTSEncoder(dim=8, hidden=8)
        with pytest.raises(ValueError, match=r"fields must have one width, got \[4, 8\]"):
            TokenFormer(fields((4, 8)), behaviours(), encoder=encoder, dense_in_features=DENSE)

    def test_dense_features(self):
        dense, sparse, _ = batch()
        with pytest.raises(ValueError, match=r"dense_features must have shape \[\*, 3\]"):
            former()(dense[:, 1:], sparse)
