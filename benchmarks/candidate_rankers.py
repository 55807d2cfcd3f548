"""Rankers of ordinary size, and requests for them: what ``benchmarks/candidate_scorer.py`` times.

A request has one user, a history and candidates; ids are drawn without a pattern, which no time
depends on. Weights are moved away from birth, where gates are closed and a part that is dropped
would not be missed.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig

from benchmarks.candidate_compression import compressed
from benchmarks.candidate_dlrms import DLRMS
from benchmarks.candidate_requests import (
    DENSE,
    ITEMS,
    SMALL,
    USERS,
    Draw,
    Ranker,
    codes,
    moved,
)
from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    MemorizationBranch,
    RankingRequests,
    RawIDSource,
    SIDExpander,
)
from sidrank.layers import ConvexGate, SoftDiscretization
from sidrank.models import (
    ItemBehaviours,
    SIDBehaviours,
    SIDRanker,
    SituationBehaviours,
    SituationCTR,
    TokenFormer,
)
from sidrank.sequences import InterestAlignment
from sidrank.sequences.bfts import BFTSEncoder
from sidrank.towers.situation_fields import SituationFields
from sidrank.towers.situation_tower import SituationTower

__all__ = ["RANKERS", "Ranker"]

CONTEXT = tuple(f"context_{place}" for place in range(6))


def sid_ranker(length: int) -> Ranker:
    """With a branch that remembers items."""
    lookup = codes()
    sources = {name: RawIDSource(f"{name}_raw", lookup) for name in ("item", "history")}
    model = SIDRanker(
        hybrid(width=32),
        SIDBehaviours(
            SIDExpander(sources, mode="level"),
            num_ids=ITEMS,
            embedding_dim=16,
            max_length=length,
        ),
        alignment=InterestAlignment(discretization=SoftDiscretization(dim=8)),
        branch=MemorizationBranch(SIDExpander({"item": sources["item"]}, mode="prefix")),
        dense_in_features=DENSE,
        hidden=256,
    )
    said = "width 32, 9 fields, behaviours of width 64, hidden 256"
    return Ranker(moved(model), model, items_and_context(length), said)


def token_former(length: int) -> Ranker:
    """Four layers: one of the whole stream, three of windows."""
    fields = bags({"user": USERS, **dict.fromkeys(CONTEXT, SMALL)}, width=32)
    items = ItemBehaviours(
        sequences({"item": ITEMS, "kind": SMALL}, width=32),
        target=["item", "kind"],
        history=["seen_item", "seen_kind"],
        max_length=length,
    )
    encoder = BFTSEncoder(dim=64, num_heads=2, hidden=176, windows=(128, 64, 32))
    model = TokenFormer(fields, items, encoder=encoder, dense_in_features=DENSE)

    def requests(candidates: int, seed: int) -> RankingRequests:
        draw = Draw(seed)
        own = {"item": draw.each(candidates, ITEMS), "kind": draw.each(candidates, SMALL)}
        asked = {name: draw.bag(1, SMALL) for name in ("user", *CONTEXT)}
        asked |= {"seen_item": draw.bag(length, ITEMS), "seen_kind": draw.bag(length, SMALL)}
        return draw.request(asked, own)

    said = "width 64, 2 heads, hidden 176, 4 layers (windows 128, 64, 32), 7 fields"
    return Ranker(moved(model), model, requests, said)


def situation_ctr(length: int) -> Ranker:
    """Situations of hour and place, three types of behaviour, two tasks."""
    places = {"hour": 25, "place": SMALL}
    items = ItemBehaviours(
        sequences({"item": ITEMS}, width=32),
        target=["item"],
        history=["seen_item"],
        max_length=length,
    )
    situations = ItemBehaviours(
        sequences(places, width=16),
        target=list(places),
        history=[f"seen_{name}" for name in places],
        max_length=length,
    )
    model = SituationCTR(
        SituationBehaviours(
            items,
            situations,
            own=SituationFields(dim=16, categories=[4], numbers=2),
            numbers=["seen_seconds"],
        ),
        tower=SituationTower.of(
            item_dim=32, dim=16, num_fields=5, num_request_fields=2, num_types=4
        ),
        heads=[nn.Linear(128, 1), nn.Linear(128, 1)],
        fields=bags({"user": USERS, **dict.fromkeys(CONTEXT, SMALL)}, width=16),
        hidden=128,
    )

    def requests(candidates: int, seed: int) -> RankingRequests:
        draw = Draw(seed)
        asked = {name: draw.bag(1, SMALL) for name in ("user", *CONTEXT)}
        asked |= {name: draw.bag(1, rows) for name, rows in places.items()}
        asked |= {f"seen_{name}": draw.bag(length, rows) for name, rows in places.items()}
        asked |= {"seen_item": draw.bag(length, ITEMS), "seen_type": draw.bag(length, 4)}
        asked |= {"seen_seconds": draw.bag(length, 600), "time": [[10_000_000]]}
        asked |= {"seen_time": [sorted(draw.bag(length, 9_000_000)[0])]}
        return draw.request(asked, {"item": draw.each(candidates, ITEMS)})

    def rows(dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        return model(features)[0].squeeze(1)

    said = "items of width 32, 5 fields of width 16, hidden 128, 2 tasks"
    return Ranker(moved(model), rows, requests, said)


RANKERS: dict[str, Callable[[int], Ranker]] = {
    **DLRMS,
    "SIDRanker": sid_ranker,
    "TokenFormer": token_former,
    "SituationCTR": situation_ctr,
    "compression tokens": compressed,
}


def items_and_context(length: int) -> Callable[[int, int], RankingRequests]:
    def requests(candidates: int, seed: int) -> RankingRequests:
        draw = Draw(seed)
        item, history = draw.each(candidates, ITEMS), draw.bag(length, ITEMS)
        asked = {name: draw.bag(1, SMALL) for name in ("user", *CONTEXT)}
        asked |= {"history": history, "history_raw": history}
        return draw.request(asked, {"item": item, "item_raw": item})

    return requests


def hybrid(width: int) -> HybridEmbeddingBagCollection:
    lookup = codes()
    sources = {name: RawIDSource(f"{name}_raw", lookup) for name in ("item", "history")}
    expander = SIDExpander(sources, mode="multires")
    sizes = {"item": ITEMS, "history": ITEMS, "user": USERS, **dict.fromkeys(CONTEXT, SMALL)}
    return HybridEmbeddingBagCollection(
        bags(sizes, width),
        expander.embedding_bag_configs(embedding_dim=width, init_fn=None),
        expander=expander,
        gates={name: ConvexGate(statistics=[]) for name in sources},
    )


def bags(sizes: dict[str, int], width: int) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t_{name}", embedding_dim=width, num_embeddings=rows, feature_names=[name]
            )
            for name, rows in sizes.items()
        ]
    )


def sequences(sizes: dict[str, int], width: int) -> EmbeddingCollection:
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=f"s_{name}",
                embedding_dim=width,
                num_embeddings=rows,
                feature_names=[name, f"seen_{name}"],
            )
            for name, rows in sizes.items()
        ]
    )
