"""A DLRM that ranks: what is known of the request is looked up once, not once a candidate.

Most of what a DLRM reads describes the user: a history of two hundred ids is pooled again for
each of five hundred candidates if every candidate is a row. Here its tables are asked twice, once
for the requests and once for the candidates; the layers above run as they are.

It works on any host with TorchRec's parts (``sparse_arch``, ``dense_arch``, ``inter_arch``,
``over_arch``): ``DLRM``, ``DLRM_DCN``, ``DLRM_Projection``, with a stock or a hybrid collection
inside, and under a ``WideAndDeep``.

Source: DLRM, arXiv 1906.00091; ``[derived]``: two lookups with empty bags for the other side.

Shapes: ``R`` requests, ``N`` candidates of all of them, ``F`` fields, ``D`` width.
"""

from typing import cast

from torch import Tensor, nn
from torchrec.models.dlrm import DLRM

from sidrank.embeddings import RankingRequests, WideAndDeep
from sidrank.models import _candidate_fields, _candidate_interactions

__all__ = ["DLRMRanking"]


class DLRMRanking(nn.Module):
    """Logits of the candidates of requests, by a DLRM that has been trained on rows.

    Args:
        host: The ranker.

    Raises:
        TypeError: If it is no ``torchrec.models.dlrm.DLRM`` or a class of that family.

    Example:
        >>> import torch
        >>> from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> dlrm = DLRM(
        ...     EmbeddingBagCollection(tables=[
        ...         EmbeddingBagConfig(name=name, embedding_dim=8, num_embeddings=9,
        ...             feature_names=[name]) for name in ("user", "item")]),
        ...     dense_in_features=3, dense_arch_layer_sizes=[8], over_arch_layer_sizes=[8, 1])
        >>> def features(name, ids):
        ...     return KeyedJaggedTensor(
        ...         [name], torch.tensor(ids), lengths=torch.ones(len(ids)).int())
        >>> asked = RankingRequests(
        ...     torch.rand(2, 3), features("user", [7, 8]), features("item", [1, 2, 1]),
        ...     torch.tensor([2, 1]))
        >>> torch.allclose(DLRMRanking(dlrm).rank(asked), dlrm(*asked.pointwise()), atol=1e-6)
        True
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        deep = host.host if isinstance(host, WideAndDeep) else host
        if not isinstance(deep, DLRM):
            raise TypeError(f"host must be a DLRM, got {type(deep).__name__}")
        self.host = host

    def forward(self, dense_features: Tensor, sparse_features: object) -> Tensor:
        """The host's own way.

        Args:
            dense_features: As the host takes them.
            sparse_features: As the host takes them.

        Returns:
            As the host gives them.
        """
        return self.host(dense_features, sparse_features)

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request.

        Args:
            requests: The requests.

        Returns:
            Logits, shape ``[N, 1]``.

        Raises:
            ValueError: If the features of one field belong to both sides.
        """
        wide = self.host if isinstance(self.host, WideAndDeep) else None
        dlrm = cast(DLRM, self.host if wide is None else wide.host)
        dense = dlrm.dense_arch(requests.dense)
        collection = dlrm.sparse_arch.embedding_bag_collection
        sides = _candidate_fields.sides(collection, requests, dense.shape[1])
        logits = _candidate_interactions.interacted(dlrm, dense, sides, requests.owner())
        if wide is None:
            return logits
        return logits + _candidate_fields.branch_logits(wide.branch, requests)
