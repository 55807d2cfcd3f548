"""A wide branch that memorises semantic IDs, beside a deep ranker.

The classic wide-and-deep division with SIDs as the wide side's vocabulary: each SID prefix has
a small row of its own, and the rows of an item add up straight into the logit, with no layer
between that would generalise. Zero at birth, so a trained host keeps its predictions.

Source: "Farewell to Item IDs" (TRM), arXiv 2601.22694, memory tokens on the wide side.
Differs from the source: SID prefixes, not byte-pair merged units; the deep side is whatever the
host is; rows have four lanes that are summed, because TorchRec shards no table of width one
[derived].

Shapes: ``B`` rows of the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank import _check
from sidrank.embeddings import sid_expander
from sidrank.embeddings.sid_expander import SIDExpander

__all__ = ["MemorizationBranch", "WideAndDeep"]


class MemorizationBranch(nn.Module):
    """One logit a row: the sum of everything its SID tables remember.

    Args:
        expander: Adds the SID features to the batch, usually with ``mode="prefix"``.
        tables: Tables for the expander's features; None builds them of width 4, zero at birth.
        is_weighted: Whether the batch carries a weight per id.
        device: Where the tables are made.

    Raises:
        ValueError: If the tables do not read each feature of the expander once, or one of them
            has too few rows.

    Example:
        >>> import numpy as np
        >>> from sidrank.embeddings import RawIDSource
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> sids = SIDTable(np.arange(9), np.zeros((9, 2), dtype=int), spec=SIDSpec((4, 4)))
        >>> source = RawIDSource("item_raw", SIDLookup(sids))
        >>> branch = MemorizationBranch(SIDExpander({"item": source}, mode="prefix"))
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item_raw"], values=torch.tensor([3, 4]), lengths=torch.tensor([1, 1]))
        >>> branch(batch).tolist()
        [[0.0], [0.0]]
    """

    def __init__(
        self,
        expander: SIDExpander,
        tables: Sequence[EmbeddingBagConfig] | None = None,
        *,
        is_weighted: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if tables is None:
            tables = expander.embedding_bag_configs(embedding_dim=4, name="memory")
        expander.check_tables(tables)
        self.expander = expander
        self.ebc = EmbeddingBagCollection(
            tables=list(tables), is_weighted=is_weighted, device=device
        )

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """The branch's share of the logit.

        Args:
            features: The host's batch.

        Returns:
            Logits, shape ``[B, 1]``.

        Raises:
            ValueError: If a source's feature is missing, or if an unsharded collection is given
                an empty batch.
        """
        expanded = self.expander(features)
        if type(self.ebc) is EmbeddingBagCollection:  # sharded, it serves an empty batch
            expanded = sid_expander.require_rows(expanded)
        return _sum_lanes(self.ebc(expanded))


class WideAndDeep(nn.Module):
    """Add a branch's logit to that of a host with the signature of DLRM.

    A ``DLRM`` owns its logit, so the sum needs an outer module; this one takes and returns what
    ``DLRM`` does and stands wherever one stood (``DLRMTrain(WideAndDeep(...))``).

    Args:
        host: ``(dense_features [B, F], sparse_features) -> logits [B, 1]``.
        branch: ``sparse_features -> logits [B, 1]``.

    Example:
        >>> class Host(nn.Module):
        ...     def forward(self, dense_features, sparse_features):
        ...         return dense_features.sum(dim=1, keepdim=True)
        >>> class Branch(nn.Module):
        ...     def forward(self, sparse_features):
        ...         return torch.ones(2, 1)
        >>> WideAndDeep(Host(), Branch())(torch.ones(2, 3), None).tolist()
        [[4.0], [4.0]]
    """

    def __init__(self, host: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.host = host
        self.branch = branch

    def forward(self, dense_features: Tensor, sparse_features: KeyedJaggedTensor) -> Tensor:
        """Score a batch.

        Args:
            dense_features: Shape ``[B, F]``.
            sparse_features: The batch's ids.

        Returns:
            Logits, shape ``[B, 1]``.

        Raises:
            ValueError: If host or branch do not return ``[B, 1]``.
        """
        deep = _check.shape(self.host(dense_features, sparse_features), "host logits", [-1, 1])
        return deep + _check.shape(self.branch(sparse_features), "branch logits", [-1, 1])


@torch.fx.wrap
def _sum_lanes(pooled: KeyedTensor) -> Tensor:
    return pooled.values().sum(dim=1, keepdim=True)
