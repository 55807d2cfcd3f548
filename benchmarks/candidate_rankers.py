"""Rankers of ordinary size, and requests for them: what ``benchmarks/candidate_scorer.py`` times.

A request has one user, a history and candidates; ids are drawn without a pattern, which no time
depends on. Weights are moved away from birth, where gates are closed and a part that is dropped
would not be missed.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig

from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    MemorizationBranch,
    RankingRequests,
    RawIDSource,
    SIDExpander,
)
from sidrank.layers import ConvexGate, SoftDiscretization
from sidrank.models import (
    DLRMRanking,
    ItemBehaviours,
    SIDBehaviours,
    SIDRanker,
    SituationBehaviours,
    SituationCTR,
    TokenFormer,
)
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.sequences import InterestAlignment
from sidrank.sequences.bfts import BFTSEncoder
from sidrank.serving import Ranks
from sidrank.towers.situation_fields import SituationFields
from sidrank.towers.situation_tower import SituationTower

__all__ = ["RANKERS", "Ranker"]

ITEMS, USERS, SMALL, DENSE = 100_000, 100_000, 1000, 13
CONTEXT = tuple(f"context_{place}" for place in range(6))
SPEC = SIDSpec((256, 256, 256))
Rows = Callable[[Tensor, KeyedJaggedTensor], Tensor]
Host = TypeVar("Host", bound=nn.Module)


class Ranker(NamedTuple):
    """A model, how it scores rows, and requests for it."""

    model: Ranks
    """Scores requests."""
    rows: Rows
    """Scores rows: dense features and sparse ones, to logits ``[N, 1]``."""
    requests: Callable[[int, int], RankingRequests]
    """One request, from a number of candidates and a seed."""
    said: str
    """Its sizes, for the page."""


def dlrm(length: int) -> Ranker:
    """The history is a pooled feature with semantic IDs, as the item is."""
    model = moved(
        DLRM(
            hybrid(width=32),
            dense_in_features=DENSE,
            dense_arch_layer_sizes=[128, 32],
            over_arch_layer_sizes=[256, 128, 1],
        )
    )
    said = "width 32, 9 fields, semantic IDs of item and pooled history, layers 256-128"
    return Ranker(DLRMRanking(model).eval(), model, items_and_context(length), said)


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
    "hybrid DLRM": dlrm,
    "SIDRanker": sid_ranker,
    "TokenFormer": token_former,
    "SituationCTR": situation_ctr,
}


class Draw:
    """Random ids."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def bag(self, number: int, rows: int) -> list[list[int]]:
        return [self.generator.integers(0, rows, number).tolist()]

    def each(self, number: int, rows: int) -> list[list[int]]:
        return self.generator.integers(0, rows, (number, 1)).tolist()

    def request(
        self, asked: dict[str, list[list[int]]], own: dict[str, list[list[int]]]
    ) -> RankingRequests:
        dense = torch.from_numpy(self.generator.random((1, DENSE), np.float32))
        counts = torch.tensor([len(next(iter(own.values())))])
        return RankingRequests(dense, jagged(asked), jagged(own), counts)


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


def codes() -> SIDLookup:
    drawn = np.random.default_rng(0).integers(0, 256, (ITEMS, len(SPEC.codebook_sizes)))
    return SIDLookup(SIDTable(np.arange(ITEMS), drawn, spec=SPEC))


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


def jagged(features: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    bags_ = [bag for column in features.values() for bag in column]
    return KeyedJaggedTensor(
        keys=list(features),
        values=torch.tensor([value for bag in bags_ for value in bag]),
        lengths=torch.tensor([len(bag) for bag in bags_], dtype=torch.int32),
    )


def moved(model: Host) -> Host:
    """No parameter is as it was born: tables and biases far, matrices near."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan = parameter.shape[1] if parameter.dim() == 2 else 100
            parameter.add_(noise, alpha=0.6 * min(fan, 100) ** -0.5)
    return model.eval()
