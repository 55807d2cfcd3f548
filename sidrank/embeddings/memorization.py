"""Memory and generalisation from semantic IDs, beside a deep ranker.

The classic wide-and-deep division with SIDs as the vocabulary. The wide side memorises: each unit
of a SID (a byte-pair unit, or a prefix) has a small row of its own, and the rows of an item add up
straight into the logit, with no layer between that would generalise. The deep side, which is
optional, generalises: an embedding of each single code, through an MLP, with whole items dropped
at random so that it cannot lean on any one of them. Their sum is zero at birth, so a trained host
keeps its predictions: ``logit = host + w . mem + MLP(gen)``.

Source: "Farewell to Item IDs" (TRM), arXiv 2601.22694: memory tokens (BPE units) on the wide side,
generalisation tokens (codes) with random dropout on the deep side.
Differs from the source: ``w`` is the vector of ones, since a linear layer behind rows that nothing
else reads adds nothing that they could not hold; their four lanes exist because TorchRec shards no
table of width one; prefixes may stand for units; what is dropped is all levels of a bag at once,
and the rest scaled up; the two sides add to a host that keeps its own deep side [derived].

Shapes: ``B`` rows of the batch, ``G`` SID features of the deep side, ``D`` their width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank import _check
from sidrank.embeddings import sid_expander
from sidrank.embeddings.sid_features import SIDFeatures

__all__ = ["GeneralizationBranch", "MemorizationBranch", "WideAndDeep"]


class MemorizationBranch(nn.Module):
    """One logit a row: the sum of everything its SID tables remember, and the deep side's.

    The memory's size is that of the tables: cap it where the merges are learned
    (``SIDBPE.train(max_units=...)``), later by ``SIDBPE.first``.

    Args:
        expander: Adds the SID features to the batch, with a ``SIDBPE`` as its mode or
            ``mode="prefix"``.
        tables: Tables for the expander's features; None builds them of width 4, zero at birth.
        deep: What generalises, ``sparse_features -> logits [B, 1]``, usually a
            ``GeneralizationBranch``; None for memory alone.
        is_weighted: Whether the batch carries a weight per id.
        device: Where the tables are made.

    Raises:
        ValueError: If the tables do not read each feature of the expander once, or one of them
            has too few rows.

    Example:
        >>> import numpy as np
        >>> from sidrank.embeddings import RawIDSource, SIDExpander
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> from sidrank.semantic_ids.bpe import SIDBPE
        >>> sids = SIDTable(np.arange(9), np.zeros((9, 2), dtype=int), spec=SIDSpec((4, 4)))
        >>> source = RawIDSource("item_raw", SIDLookup(sids))
        >>> memory = SIDExpander({"item": source}, mode=SIDBPE.train(sids, max_units=9))
        >>> levels = SIDExpander({"item": source}, mode="level")
        >>> branch = MemorizationBranch(memory, deep=GeneralizationBranch(levels))
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item_raw"], values=torch.tensor([3, 4]), lengths=torch.tensor([1, 1]))
        >>> branch(batch).tolist()
        [[0.0], [0.0]]
    """

    def __init__(
        self,
        expander: SIDFeatures,
        tables: Sequence[EmbeddingBagConfig] | None = None,
        *,
        deep: nn.Module | None = None,
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
        self.deep = deep

    def source_features(self) -> list[str] | None:
        """Which features of a batch it reads.

        Returns:
            Their names, each once; None if its deep side does not say.
        """
        read = _read(self.expander)
        if self.deep is not None:
            deep = getattr(self.deep, "source_features", lambda: None)()
            if deep is None:
                return None
            read += deep
        return list(dict.fromkeys(read))

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """The branch's share of the logit.

        Args:
            features: The host's batch.

        Returns:
            Logits, shape ``[B, 1]``.

        Raises:
            ValueError: If a source's feature is missing, if the deep side does not return
                ``[B, 1]``, or if an unsharded collection is given an empty batch.
        """
        expanded = self.expander(features)
        if type(self.ebc) is EmbeddingBagCollection:  # sharded, it serves an empty batch
            expanded = sid_expander.require_rows(expanded)
        wide = _sum_lanes(self.ebc(expanded))
        if self.deep is None:
            return wide
        return wide + _check.shape(self.deep(features), "deep logits", [-1, 1])


class GeneralizationBranch(nn.Module):
    """One logit a row: an MLP over the embeddings of an item's single codes.

    In training the codes of an item feature vanish from a row with probability ``dropout``, all
    levels at once, and those that stay are scaled by ``1 / (1 - dropout)``. The tables are
    ordinary at birth and the last layer is zero, so the logit is.

    Args:
        expander: Adds the SID features to the batch, usually with ``mode="level"``.
        tables: Tables for the expander's features, of one width; None builds them of width 16.
        hidden: Width of the hidden layer.
        dropout: Share of items to drop in training.
        is_weighted: Whether the batch carries a weight per id.
        device: Where tables and layers are made.

    Raises:
        ValueError: If the tables do not read each feature of the expander once, differ in width
            or one of them has too few rows; if ``hidden`` is below 1; or if ``dropout`` is
            outside ``[0, 1)``.

    Example:
        >>> import numpy as np
        >>> from sidrank.embeddings import RawIDSource, SIDExpander
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> sids = SIDTable(np.arange(9), np.zeros((9, 2), dtype=int), spec=SIDSpec((4, 4)))
        >>> levels = SIDExpander({"item": RawIDSource("raw", SIDLookup(sids))}, mode="level")
        >>> [config.name for config in GeneralizationBranch(levels).ebc.embedding_bag_configs()]
        ['generalization_1', 'generalization_2']
    """

    def __init__(
        self,
        expander: SIDFeatures,
        tables: Sequence[EmbeddingBagConfig] | None = None,
        *,
        hidden: int = 64,
        dropout: float = 0.1,
        is_weighted: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if tables is None:
            tables = expander.embedding_bag_configs(
                embedding_dim=16, init_fn=None, name="generalization"
            )
        expander.check_tables(tables)
        widths = {config.embedding_dim for config in tables}
        if len(widths) > 1:
            raise ValueError(f"tables must have one width, got {sorted(widths)}")
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        # Kept here: a train pipeline puts a wrapper in the expander's place.
        self._features = [expander.feature_names(key) for key in expander.keys]
        self.expander = expander
        self.ebc = EmbeddingBagCollection(
            tables=list(tables), is_weighted=is_weighted, device=device
        )
        self.dropout = nn.Dropout(dropout)  # a module of torch: a traced model keeps its switch
        width = widths.pop() * sum(len(names) for names in self._features)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden, device=device), nn.SiLU(), _Silent(hidden, 1, device=device)
        )

    def source_features(self) -> list[str]:
        """Which features of a batch it reads.

        Returns:
            Their names, each once.
        """
        return list(dict.fromkeys(_read(self.expander)))

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
        columns = _columns(self.ebc(expanded))
        codes: list[Tensor] = []
        for names in self._features:
            item = torch.cat([columns[name] for name in names], dim=1)
            codes.append(item * self.dropout(torch.ones_like(item[:, :1])))
        return self.mlp(torch.cat(codes, dim=1))


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


def _read(expander: SIDFeatures) -> list[str]:
    return [name for key in expander.keys for name in expander.source_features(key)]


@torch.fx.wrap
def _sum_lanes(pooled: KeyedTensor) -> Tensor:
    return pooled.values().sum(dim=1, keepdim=True)


@torch.fx.wrap
def _columns(pooled: KeyedTensor) -> dict[str, Tensor]:
    return pooled.to_dict()


class _Silent(nn.Linear):
    """A linear layer that is zero at birth, also when a meta-device model is given values."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
