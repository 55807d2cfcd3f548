"""A ranker in the manner of DLRM, assembled from the parts of the other rooms.

Nothing here is needed to use a part: each plugs into a foreign host alone. It shows how they go
together, and it takes and returns what a ``DLRM`` does:

* every item field is a hash ID with a semantic ID beside it, mixed by a gate
  (``HybridEmbeddingBagCollection``);
* the target attends to the history as ``[id; sid_1; ...; sid_N]`` (``ESUTargetAttention``), and
  the answer is one more field;
* how well the target's SID fits those of the history enters the last layers as features
  (``InterestAlignment``);
* what is remembered of an item adds to the logit (``MemorizationBranch``).

Source: DLRM, arXiv 1906.00091 (bottom MLP, pairwise products, top MLP); the parts name theirs.

Shapes: ``B`` rows, ``F`` fields, ``D`` their width, ``L`` behaviours, ``E`` width of a behaviour.
"""

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor, KeyedTensor

from sidrank import _check
from sidrank.embeddings import HybridEmbeddingBagCollection, RankingRequests
from sidrank.models import _candidate_fields
from sidrank.models.sid_behaviours import SIDBehaviours
from sidrank.sequences import InterestAlignment
from sidrank.towers import ESUTargetAttention

__all__ = ["SIDRanker"]


class SIDRanker(nn.Module):
    """Logits from dense features and a sparse batch.

    Args:
        embeddings: Pooled fields, of one width ``D``.
        behaviours: Target and history, one vector a behaviour.
        alignment: Compares the SIDs of target and history.
        branch: What adds to the logit, ``sparse_features -> logits [B, 1]``, usually a
            ``MemorizationBranch``; None for nothing.
        dense_in_features: Number of dense features.
        hidden: Width of the hidden layers.

    Raises:
        ValueError: If the fields differ in width or a size is less than one.

    Example:
        >>> from torchrec import EmbeddingBagCollection
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from sidrank.embeddings import RawIDSource, SIDExpander
        >>> from sidrank.layers import ResidualGate, SoftDiscretization
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> lookup = SIDLookup(SIDTable([7, 8], [[0, 1], [2, 3]], spec=SIDSpec((4, 4))))
        >>> sources = {name: RawIDSource(name, lookup) for name in ("item", "history")}
        >>> fields = EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name="t", embedding_dim=8, num_embeddings=9, feature_names=["item"])])
        >>> pairs = SIDExpander({"item": sources["item"]})
        >>> hybrid = HybridEmbeddingBagCollection(
        ...     fields, pairs.embedding_bag_configs(embedding_dim=8), expander=pairs,
        ...     gates={"item": ResidualGate(statistics=[])})
        >>> ranker = SIDRanker(
        ...     hybrid,
        ...     SIDBehaviours(
        ...         SIDExpander(sources, mode="level"), num_ids=9, embedding_dim=4, max_length=5),
        ...     alignment=InterestAlignment(discretization=SoftDiscretization(dim=4)),
        ...     dense_in_features=3)
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item", "history"], values=torch.tensor([7, 8, 8, 7]),
        ...     lengths=torch.tensor([1, 1, 2, 0]))
        >>> ranker(torch.rand(2, 3), batch).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        embeddings: HybridEmbeddingBagCollection,
        behaviours: SIDBehaviours,
        *,
        alignment: InterestAlignment,
        branch: nn.Module | None = None,
        dense_in_features: int,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        for name, size in (("dense_in_features", dense_in_features), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        tables = embeddings.embedding_bag_configs()
        widths = {table.embedding_dim for table in tables}
        if len(widths) > 1:
            raise ValueError(f"embeddings must have one width, got {sorted(widths)}")
        self.dim = widths.pop()
        self.num_fields = sum(len(table.feature_names) for table in tables)
        self.embeddings = embeddings
        self.behaviours = behaviours
        self.attention = ESUTargetAttention(behaviour_dim=behaviours.dim, dim=self.dim)
        self.alignment = alignment
        self.branch = branch
        self.bottom = nn.Sequential(
            nn.Linear(dense_in_features, hidden), nn.ReLU(), nn.Linear(hidden, self.dim), nn.ReLU()
        )
        vectors = self.num_fields + 2  # the fields, the dense features, the history
        pairs = vectors * (vectors - 1) // 2
        aligned = 2 * alignment.discretization.dim
        self.top = nn.Sequential(
            nn.Linear(self.dim + pairs + aligned, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, dense_features: Tensor, sparse_features: KeyedJaggedTensor) -> Tensor:
        """Score a batch.

        Args:
            dense_features: Shape ``[B, dense_in_features]``.
            sparse_features: The batch's ids; its histories hold behaviours before the request.

        Returns:
            Logits, shape ``[B, 1]``.

        Raises:
            ValueError: If a feature is missing, or if an unsharded collection is given an empty
                batch.
        """
        fields = _fields(self.embeddings(sparse_features), self.num_fields, self.dim)
        target, history, mask = self.behaviours(sparse_features)
        read = self.attention(target, history.unsqueeze(1), mask.unsqueeze(1))
        fit = self._fit(target, history, mask).squeeze(1)
        logits = self._logits(self.bottom(dense_features), fields, read, fit)
        if self.branch is None:
            return logits
        # a column, or the sum would be a square
        return logits + _check.shape(self.branch(sparse_features), "branch logits", [-1, 1])

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request; its fields and history are read once.

        Args:
            requests: The requests.

        Returns:
            Logits, shape ``[N, 1]``.

        Raises:
            ValueError: If the features of one field belong to both sides.
        """
        owner = requests.owner()
        fields = _candidate_fields.sides(self.embeddings, requests, self.dim).rows(owner)
        room = _candidate_fields.most(requests)
        features = requests.together(self.behaviours.target_features)
        target, history, mask = self.behaviours.read(features, room)
        # the attention itself: the tower would read the history again for each candidate
        read = self.attention.attention(target, history, mask)
        read = _candidate_fields.unpadded(read, requests).unsqueeze(1)
        fit = _candidate_fields.unpadded(self._fit(target, history, mask), requests)
        dense = self.bottom(requests.dense)[owner]
        logits = self._logits(dense, fields, read, fit)
        if self.branch is None:
            return logits
        return logits + _candidate_fields.branch_logits(self.branch, requests)

    def _fit(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        sid = self.behaviours.id_dim  # where the codes begin
        return self.alignment(target[:, :, sid:], history[:, :, sid:], mask)

    def _logits(self, dense: Tensor, fields: Tensor, read: Tensor, fit: Tensor) -> Tensor:
        products = _products(torch.cat([dense.unsqueeze(1), fields, read], dim=1))
        return self.top(torch.cat([dense, products, fit], dim=1))


@torch.fx.wrap
def _fields(pooled: KeyedTensor, number: int, width: int) -> Tensor:
    return pooled.values().reshape(-1, number, width)


@torch.fx.wrap
def _products(vectors: Tensor) -> Tensor:
    """Inner product of each two of the vectors, ``[B, F, D]`` to ``[B, F (F - 1) / 2]``."""
    count = vectors.size(1)
    above = torch.triu_indices(count, count, 1, device=vectors.device)
    return torch.bmm(vectors, vectors.transpose(1, 2))[:, above[0], above[1]]
