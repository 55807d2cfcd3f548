"""A ranker that knows the situation: of the request, and of everything the user did.

A ``SituationTower`` reads the history for each candidate; its answer, the candidate, their product
and the request's situation go through a shared layer to one head a task: clicks alone, or clicks
and conversions, ...

Source: DSAIN, arXiv 2604.12298. ``[derived]``: the layers above the tower, and that tasks share
all but the last one.

Shapes: ``B`` rows, ``C`` candidates, ``M`` tasks, ``E`` width of an item, ``H`` hidden width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor

from sidrank.embeddings import RankingRequests
from sidrank.layers.gumbel_keep import keep_share
from sidrank.models import _candidate_fields
from sidrank.models.situation_behaviours import SituationBehaviours
from sidrank.towers.situation_tower import SituationTower

__all__ = ["SituationCTR"]


class SituationCTR(nn.Module):
    """Logits of each task from a batch.

    Args:
        behaviours: Candidates, histories and situations.
        tower: Reads them.
        heads: One a task, each from width ``hidden`` to 1, as ``nn.Linear(hidden, 1)``.
        fields: Pooled fields of the user or the request, if there are any.
        hidden: Width ``H`` of what the tasks share.

    Raises:
        ValueError: If there is no head, ``hidden`` is less than one, or the tower was made for
            other behaviours.

    Example:
        >>> from torchrec import EmbeddingCollection
        >>> from torchrec.modules.embedding_configs import EmbeddingConfig
        >>> from sidrank.models.item_behaviours import ItemBehaviours
        >>> from sidrank.towers.situation_fields import SituationFields
        >>> def tables(name, width):
        ...     return EmbeddingCollection(tables=[EmbeddingConfig(name=name, num_embeddings=9,
        ...         embedding_dim=width, feature_names=[name, f"seen_{name}"])])
        >>> model = SituationCTR(
        ...     SituationBehaviours(
        ...         ItemBehaviours(
        ...             tables("item", 8), target=["item"], history=["seen_item"], max_length=5),
        ...         ItemBehaviours(
        ...             tables("hour", 4), target=["hour"], history=["seen_hour"], max_length=5),
        ...         own=SituationFields(dim=4, categories=[3], numbers=1)),
        ...     tower=SituationTower.of(
        ...         item_dim=8, dim=4, num_fields=3, num_request_fields=1, num_types=3),
        ...     heads=[nn.Linear(16, 1), nn.Linear(16, 1)], hidden=16)
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item", "hour", "time", "seen_item", "seen_hour", "seen_type", "seen_time"],
        ...     values=torch.tensor([7, 8, 1, 2, 90, 91, 3, 4, 1, 2, 1, 1, 80, 85]),
        ...     lengths=torch.tensor([1, 1, 1, 1, 1, 1, 2, 0, 2, 0, 2, 0, 2, 0]))
        >>> logits, kept = model(batch)
        >>> logits.shape, kept.shape
        (torch.Size([2, 1, 2]), torch.Size([2]))
    """

    def __init__(
        self,
        behaviours: SituationBehaviours,
        *,
        tower: SituationTower,
        heads: Sequence[nn.Module],
        fields: EmbeddingBagCollection | None = None,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError("heads must be one at least, got none")
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        wanted = {
            "item_dim": behaviours.dim,
            "dim": behaviours.own.dim,
            "num_fields": behaviours.num_fields,
            "num_request_fields": behaviours.num_request_fields,
        }
        for name, size in wanted.items():
            if getattr(tower, name) != size:
                raise ValueError(f"tower must have {name} {size}, got {getattr(tower, name)}")
        if tower.parameterize.num_types != behaviours.num_types:
            raise ValueError(
                f"tower must have {behaviours.num_types} types, got {tower.parameterize.num_types}"
            )
        pooled = 0
        if fields is not None:
            tables = fields.embedding_bag_configs()
            pooled = sum(table.embedding_dim * len(table.feature_names) for table in tables)
        width = tower.item_dim + 2 * tower.out_dim + tower.num_request_fields * tower.dim + pooled
        self.behaviours = behaviours
        self.fields = fields
        self.tower = tower
        self.candidate = nn.Linear(tower.item_dim, tower.out_dim)
        self.shared = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.heads = nn.ModuleList(heads)

    def forward(self, features: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            features: The batch's ids, types and times.

        Returns:
            Logits, shape ``[B, C, M]``, and the share of each row's behaviours that was kept,
            shape ``[B]``: add ``budget * kept.mean()`` to the loss to press on it.

        Raises:
            ValueError: If the features of a behaviour are not as many.
        """
        return self._logits(features, self.behaviours(features))

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request; its situations and history are read once.

        Args:
            requests: The requests; dense features are not read. Every feature of a candidate
                belongs to ``behaviours``.

        Returns:
            Logits, shape ``[N, M]``.

        Raises:
            ValueError: If a field describes the candidates: here fields are of the request.
        """
        if self.fields is not None:
            _candidate_fields.refuse(self.fields, requests)
        features = requests.together(self.behaviours.items.target_features)
        given = self.behaviours.read(features, _candidate_fields.most(requests))
        return _candidate_fields.unpadded(self._logits(features, given)[0], requests)

    def _logits(
        self, features: KeyedJaggedTensor, given: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        answer, kept = self.tower(*given)
        target, request, mask = given[0], given[3], given[5]
        parts = [target, answer, answer * self.candidate(target)]
        rest = [request.flatten(1)]
        if self.fields is not None:
            rest.append(_pooled(self.fields(features)))
        row = torch.cat(rest, dim=1).unsqueeze(1).expand(-1, target.shape[1], -1)
        state = self.shared(torch.cat([*parts, row], dim=2))
        return torch.cat([head(state) for head in self.heads], dim=2), keep_share(kept, mask)


@torch.fx.wrap
def _pooled(fields: KeyedTensor) -> Tensor:
    return fields.values()
