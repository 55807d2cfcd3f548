"""A ranker that reads old behaviours through compression tokens, to score candidates with.

The tokens of a user's old behaviours were computed off the request path and are read from a
``TokenKVCache``; a request encodes the newest behaviours over them, and each candidate attends to
what came out.
"""

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingConfig

from benchmarks.candidate_requests import ITEMS, Draw, Ranker, moved
from sidrank.embeddings import RankingRequests
from sidrank.layers.cross_attention import CrossAttention
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.self_attention import SelfAttention
from sidrank.models import ItemBehaviours
from sidrank.sequences import CompressionTokens, TokenKVCache

__all__ = ["RECENT", "TOKENS", "compressed"]

DIM, HEADS, LAYERS, TOKENS, RECENT = 64, 2, 2, 16, 100
NOW = 1_000_000


class CompressedRanker(nn.Module):
    """Candidates against the newest behaviours, which have read the compressed old ones."""

    cache: TokenKVCache

    def __init__(self, old: int) -> None:
        super().__init__()
        tables = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name="item",
                    embedding_dim=DIM,
                    num_embeddings=ITEMS,
                    feature_names=["item", "seen_item"],
                )
            ]
        )
        self.items = ItemBehaviours(
            tables, target=["item"], history=["seen_item"], max_length=RECENT
        )
        blocks = [
            DecoderBlock(attention=SelfAttention(dim=DIM, num_heads=HEADS), hidden=176)
            for _ in range(LAYERS)
        ]
        # one token after each 16th of the history: as many tokens for every length
        insert = sorted({-RECENT - old * place // TOKENS for place in range(TOKENS)})
        self.encoder = CompressionTokens(blocks=blocks, insert=[(at, 1) for at in insert])
        self.attention = CrossAttention(dim=DIM, query_dim=DIM, key_dim=DIM, num_heads=HEADS)
        self.head = nn.Sequential(nn.Linear(3 * DIM, 128), nn.ReLU(), nn.Linear(128, 1))

    def remember(self, old: Tensor) -> None:
        """Compress old behaviours of user 0, shape ``[L]``."""
        rows = self.items.ec.embeddings["item"](old).unsqueeze(0)
        states = self.encoder.compress(rows, torch.ones(1, len(old)).bool())
        self.cache = TokenKVCache(
            users=torch.zeros(1).long(), until=torch.tensor([NOW]), states=states, model="v1"
        )

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        del dense
        return self.logits(features, 1).squeeze(2)

    def rank(self, requests: RankingRequests) -> Tensor:
        most = int(requests.counts.max())
        logits = self.logits(requests.together(["item"]), most)
        places = torch.arange(most)
        return logits[places < requests.counts.unsqueeze(1)]

    def logits(self, features: KeyedJaggedTensor, candidates: int) -> Tensor:
        target, newest, mask = self.items.read(features, candidates)
        users = features["user"].values()
        states, _ = self.cache.read(users, torch.full_like(users, NOW), model="v1")
        answer = self.attention(target, self.encoder.recent(newest, mask, states), mask)
        return self.head(torch.cat([target, answer, target * answer], dim=2))


@torch.no_grad()
def compressed(length: int) -> Ranker:
    """One user with so many behaviours, of which the newest 100 are not compressed."""
    torch.manual_seed(0)
    model = moved(CompressedRanker(length - RECENT))
    model.remember(torch.tensor(Draw(99).bag(length - RECENT, ITEMS)[0]))

    def requests(candidates: int, seed: int) -> RankingRequests:
        draw = Draw(seed)
        asked = {"user": [[0]], "seen_item": draw.bag(RECENT, ITEMS)}
        return draw.request(asked, {"item": draw.each(candidates, ITEMS)})

    said = (
        f"width {DIM}, {LAYERS} layers, {TOKENS} tokens for all but the newest {RECENT}"
        " behaviours, each candidate attends to those"
    )
    return Ranker(model, model, requests, said)
