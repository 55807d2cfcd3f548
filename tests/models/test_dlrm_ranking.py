"""A DLRM over requests: what belongs to a request is computed once, whatever the host."""

import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection

from sidrank.embeddings import RankingRequests
from sidrank.models import DLRMRanking
from tests.embeddings import hosts

TABLES = ("user", "item", "place", "shop", "history")
ITEM = {"item", "shop"}


class Scaled(nn.Module):
    """An over-arch of another kind."""

    def __init__(self, size):
        super().__init__()
        self.last = nn.Linear(size, 1)

    def forward(self, x):
        return self.last(x * 0.5)


def built(kind, over=(8, 1), **options):
    torch.manual_seed(1)
    model = kind(
        hosts.host_collection(tables=TABLES),
        dense_in_features=hosts.DENSE,
        dense_arch_layer_sizes=[8, hosts.DIM],
        over_arch_layer_sizes=list(over),
        **options,
    )
    for table in model.sparse_arch.embedding_bag_collection.embedding_bags.values():
        nn.init.normal_(table.weight)
    return model


def plain():
    return built(DLRM)


def deep():
    return built(DLRM, over=(12, 8, 6, 1))


def sequential():
    model = built(DLRM)
    size = model.over_arch.model[0]._mlp[0]._linear.in_features
    model.over_arch = nn.Sequential(
        nn.Sequential(nn.Linear(size, 9, bias=False), nn.Tanh()), nn.Linear(9, 1)
    )
    return model


def normed():
    """Its first layer is not linear: no part of it belongs to the request alone."""
    model = built(DLRM)
    size = model.over_arch.model[0]._mlp[0]._linear.in_features
    model.over_arch = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 1))
    return model


def scaled():
    model = built(DLRM)
    model.over_arch = Scaled(model.over_arch.model[0]._mlp[0]._linear.in_features)
    return model


def dcn():
    return built(DLRM_DCN, dcn_num_layers=2, dcn_low_rank_dim=4)


def projection():
    sizes = [2 * hosts.DIM]
    return built(
        DLRM_Projection,
        interaction_branch1_layer_sizes=sizes,
        interaction_branch2_layer_sizes=sizes,
    )


SPLIT = [plain, deep, sequential]
WHOLE = [normed, scaled, dcn, projection]


def requests(counts, own=ITEM, seed=0):
    """Bags of none to three ids."""
    draw = torch.Generator().manual_seed(seed)

    def bags(rows):
        sizes = torch.randint(0, 4, (rows,), generator=draw).tolist()
        return [torch.randint(0, 24, (size,), generator=draw).tolist() for size in sizes]

    return RankingRequests(
        torch.rand(len(counts), hosts.DENSE, generator=draw),
        hosts.jagged({name: bags(len(counts)) for name in TABLES if name not in own}),
        hosts.jagged({name: bags(sum(counts)) for name in TABLES if name in own}),
        torch.tensor(counts),
    )


@torch.no_grad()
def difference(model, asked):
    wanted = model(*asked.pointwise())
    assert wanted.std() > 1e-3
    return (DLRMRanking(model).rank(asked) - wanted).abs().max() / wanted.abs().max()


@pytest.mark.parametrize("counts", [[9], [3, 0, 7, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize("host", SPLIT + WHOLE)
def test_equals_a_row_a_candidate(host, counts):
    assert difference(host(), requests(counts)) < 1e-5


@pytest.mark.parametrize(
    "own",
    [{"user"}, {"history"}, {"user", "place", "history"}, {"item", "place", "shop"}],
)
def test_whichever_fields_are_the_candidates(own):
    assert difference(plain(), requests([4, 2], own)) < 1e-5


def test_no_field_is_the_candidates():
    """Then the candidates of a request are all alike."""
    asked = requests([3, 2], {"user"})
    kept = {name: hosts.bags_of(asked.features, name) for name in asked.features.keys()}  # noqa: SIM118
    asked = asked._replace(
        features=hosts.jagged(kept | {"user": [[1], [2]]}),
        candidates=hosts.jagged({"unread": [[1]] * 5}),
    )
    assert difference(plain(), asked) < 1e-5


@pytest.mark.parametrize("counts", [[5], [4, 1]])
def test_all_fields_are_the_candidates(counts):
    asked = requests(counts, set(TABLES) - {"user"})
    users = {"user": [[place] for place in range(sum(counts))]}
    kept = {name: hosts.bags_of(asked.candidates, name) for name in asked.candidates.keys()}  # noqa: SIM118
    asked = asked._replace(
        features=hosts.jagged({"unread": [[1]] * len(counts)}),
        candidates=hosts.jagged(kept | users),
    )
    assert difference(plain(), asked) < 1e-5


def seen(module, name):
    """How many rows each call of a part was given."""
    rows = []
    module.get_submodule(name).register_forward_hook(
        lambda _, given, out: rows.append(len(given[0] if out is None else out))
    )
    return rows


@torch.no_grad()
def test_what_is_the_requests_is_computed_once():
    model = hosts.hybrid_dlrm()
    dense, sparse, _ = hosts.batch(size=7)
    own = ("item", "item_raw", "shown", "liked")
    sides = [
        {
            name: hosts.bags_of(sparse, name)[:rows]
            for name in sparse.keys()  # noqa: SIM118
            if (name in own) is candidates
        }
        for rows, candidates in ((2, False), (7, True))
    ]
    asked = RankingRequests(dense[:2], *map(hosts.jagged, sides), torch.tensor([3, 4]))
    tables = "sparse_arch.embedding_bag_collection"
    calls = {
        name: seen(model, name)
        for name in (
            "dense_arch",
            f"{tables}.ebc.embedding_bags.t_user",
            f"{tables}.ebc.embedding_bags.t_history",
            f"{tables}.ebc.embedding_bags.t_item",
            f"{tables}.fusions.0",
            f"{tables}.fusions.1",
            "inter_arch",
        )
    }
    DLRMRanking(model).rank(asked)
    assert list(calls.values()) == [[2], [2], [2], [7], [7], [2], []]


def test_a_branch_is_given_what_it_reads():
    model = hosts.hybrid_dlrm(wide=True)
    dense, sparse, _ = hosts.batch(size=6)
    sides = [
        {
            name: hosts.bags_of(sparse, name)[:rows]
            for name in sparse.keys()  # noqa: SIM118
            if name.startswith(("user", "history")) is not candidates
        }
        for rows, candidates in ((2, False), (6, True))
    ]
    asked = RankingRequests(dense[:2], *map(hosts.jagged, sides), torch.tensor([2, 4]))
    given = []
    model.branch.register_forward_pre_hook(lambda _, rows: given.append(rows[0].keys()))
    DLRMRanking(model).rank(asked)
    assert given == [["history_raw", "item_raw"]]


class TestPointwise:
    """Only the features that are wanted, from whichever side."""

    @pytest.mark.parametrize(
        ("keys", "found"),
        [
            (["item"], ["item"]),
            (["user"], ["user"]),
            (["shop", "history", "nothing"], ["history", "shop"]),
            (None, ["user", "place", "history", "item", "shop"]),
        ],
    )
    def test_some_features(self, keys, found):
        asked = requests([2, 3])
        whole = asked.pointwise()[1]
        _, rows = asked.pointwise(keys)
        assert rows.keys() == found
        for key in found:
            assert hosts.bags_of(rows, key) == hosts.bags_of(whole, key)

    @pytest.mark.parametrize("side", ["features", "candidates"])
    def test_weights_are_not_dropped(self, side):
        asked = requests([2, 3])
        batch = getattr(asked, side)
        weighted = type(batch)(
            keys=batch.keys(),
            values=batch.values(),
            lengths=batch.lengths(),
            weights=torch.ones(len(batch.values())),
        )
        with pytest.raises(ValueError, match="requests must have no weights, got some of"):
            asked._replace(**{side: weighted}).pointwise(batch.keys())
