"""TokenFormer: one transformer over the fields, the history and the target of a request.

A ranker usually models sequences in one place and feature interactions in another. Here every
field, every behaviour and every candidate is a token of one stream, ``[fields; sep; behaviours;
sep; target]``, and ``BFTSEncoder`` keeps the few static tokens from flattening the many others.

The tables are stock collections, so the model shards, pipelines and loads checkpoints as a DLRM
does, whose signature it has. Fields may be a ``HybridEmbeddingBagCollection``, behaviours
``SIDBehaviours``: then its tokens know semantic IDs.

Source: TokenFormer, arXiv 2604.13737. Differs from the source: one linear map for all fields and
one for all items [derived]; dense features are one more token [derived]; several candidates of a
request are scored at once, each as if it were alone [derived].

Shapes: ``B`` rows, ``F`` fields, ``C`` candidates, ``L`` behaviours, ``E`` width of an item, ``D``
width.
"""

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor

from sidrank import _check
from sidrank.embeddings import HybridEmbeddingBagCollection, RankingRequests
from sidrank.models import _candidate_fields
from sidrank.models.item_behaviours import ItemBehaviours
from sidrank.models.sid_behaviours import SIDBehaviours
from sidrank.sequences.bfts import BFTSEncoder

__all__ = ["TokenFormer"]

Behaviours: TypeAlias = tuple[Tensor, Tensor, Tensor]


class TokenFormer(nn.Module):
    """Logits from dense features and a sparse batch.

    Args:
        fields: Pooled fields of one width: user, context and, if it has any, target features.
        behaviours: Candidates and history, one vector an item.
        encoder: The transformer.
        dense_in_features: Number of dense features.

    Raises:
        ValueError: If the fields differ in width or ``dense_in_features`` is less than one.

    Example:
        >>> from torchrec import EmbeddingCollection
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
        >>> fields = EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name="user", embedding_dim=8, num_embeddings=9, feature_names=["user"])])
        >>> items = EmbeddingCollection(tables=[EmbeddingConfig(
        ...     name="item", embedding_dim=4, num_embeddings=9, feature_names=["item", "seen"])])
        >>> model = TokenFormer(
        ...     fields,
        ...     ItemBehaviours(items, target=["item"], history=["seen"], max_length=5),
        ...     encoder=BFTSEncoder(dim=16, num_heads=2, hidden=32, windows=[4, 2]),
        ...     dense_in_features=3)
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["user", "item", "seen"], values=torch.tensor([1, 2, 7, 8, 8, 7]),
        ...     lengths=torch.tensor([1, 1, 1, 1, 2, 0]))
        >>> model(torch.rand(2, 3), batch).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        fields: EmbeddingBagCollection | HybridEmbeddingBagCollection,
        behaviours: ItemBehaviours | SIDBehaviours,
        *,
        encoder: BFTSEncoder,
        dense_in_features: int,
    ) -> None:
        super().__init__()
        if dense_in_features < 1:
            raise ValueError(f"dense_in_features must be at least 1, got {dense_in_features}")
        tables = fields.embedding_bag_configs()
        widths = {table.embedding_dim for table in tables}
        if len(widths) > 1:
            raise ValueError(f"fields must have one width, got {sorted(widths)}")
        self.field_dim = widths.pop()
        self.num_fields = sum(len(table.feature_names) for table in tables)
        self.fields = fields
        self.behaviours = behaviours
        self.dense = nn.Linear(dense_in_features, encoder.dim)
        self.field = nn.Linear(self.field_dim, encoder.dim)
        self.item = nn.Linear(behaviours.dim, encoder.dim)
        self.encoder = encoder
        self.head = nn.Linear(encoder.dim, 1)

    def forward(self, dense_features: Tensor, sparse_features: KeyedJaggedTensor) -> Tensor:
        """Score a batch.

        Args:
            dense_features: Shape ``[B, dense_in_features]``.
            sparse_features: The batch's ids; its histories hold behaviours before the request.

        Returns:
            Logits, shape ``[B, C]``.

        Raises:
            ValueError: If the dense features are not as many as they should be.
        """
        return self._logits(dense_features, sparse_features, self.behaviours(sparse_features))

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request; fields and history are read once a request.

        Args:
            requests: The requests. Every feature of a candidate belongs to ``behaviours``.

        Returns:
            Logits, shape ``[N, 1]``.

        Raises:
            ValueError: If a field describes the candidates: here a field is of all the stream.
        """
        _candidate_fields.refuse(self.fields, requests)
        features = requests.together(self.behaviours.target_features)
        behaviours = self.behaviours.read(features, _candidate_fields.most(requests))
        logits = self._logits(requests.dense, features, behaviours)
        return _candidate_fields.unpadded(logits, requests).unsqueeze(1)

    def _logits(
        self, dense_features: Tensor, sparse_features: KeyedJaggedTensor, behaviours: Behaviours
    ) -> Tensor:
        dense = _check.shape(dense_features, "dense_features", [-1, self.dense.in_features])
        pooled = _fields(self.fields(sparse_features), self.num_fields, self.field_dim)
        targets, history, mask = behaviours
        static = torch.cat([self.dense(dense).unsqueeze(1), self.field(pooled)], dim=1)
        states = self.encoder(static, self.item(history), mask, self.item(targets))
        return self.head(states).squeeze(2)


@torch.fx.wrap
def _fields(pooled: KeyedTensor, number: int, width: int) -> Tensor:
    return pooled.values().reshape(-1, number, width)
