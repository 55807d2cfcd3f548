"""Keywords beside the semantic ID of an item, for when the ID says nothing or no longer the truth.

Codes of a new item may not be there yet, those of an old one belong to a codebook that has
drifted; the words of its title stay what they are. ``KeywordBag`` adds a feature with hashed
keywords to what an expander adds. Behind it a ``HybridEmbeddingBagCollection`` weighs the bag
against the resolutions of the SID, item by item, and of an unknown item it is what tells it
from other unknown items. Its table is zero at birth, so a trained host keeps its predictions.

Source: OpenOneRec, arXiv 2512.24762 (SID paired with keywords where SIDs drift).
Differs from the source: the bag is weighed by attention with the SID's resolutions in place of
being concatenated to them, since a host's widths are fixed [derived].

Shapes: ``n`` keywords of a feature in the batch, ``D`` width.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

from sidrank import _check
from sidrank.embeddings import _feature_rows, sid_sources
from sidrank.embeddings.content_summary import ContentSummaryHash
from sidrank.embeddings.sid_expander import SIDExpander

__all__ = ["KeywordBag"]


class KeywordBag(nn.Module):
    """Add a feature with hashed keywords to what an expander adds.

    It stands wherever an expander does. A bag holds the keywords of a row's item, or those of
    all items of a history; raw 64-bit ids of words (such as a hash of the text) of any value.

    Args:
        expander: Adds the SID features.
        keywords: For each item feature of the expander the feature of the batch that holds its
            keywords; an item feature that is left out has none, which reads as zeros.
        rows: Rows of the table of keywords; all item features share it.

    Raises:
        ValueError: If ``keywords`` is empty or names what is no item feature of the expander, if
            ``rows`` is out of range, or if the expander already adds a feature of the name.

    Example:
        >>> import numpy as np
        >>> from sidrank.embeddings import RawIDSource
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> sids = SIDTable(np.array([7]), np.array([[0, 1]]), spec=SIDSpec((4, 4)))
        >>> expander = SIDExpander({"item": RawIDSource("raw", SIDLookup(sids))}, mode="level")
        >>> bag = KeywordBag(expander, keywords={"item": "words"}, rows=99)
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["raw", "words"], values=torch.tensor([7, 8, 2**40, 5, 2**40]),
        ...     lengths=torch.tensor([1, 1, 1, 2]))
        >>> one, *two = bag(batch)["item_keywords"].values().tolist()
        >>> one in two
        True
    """

    def __init__(
        self,
        expander: SIDExpander | ContentSummaryHash,
        *,
        keywords: Mapping[str, str],
        rows: int = 100_000,
    ) -> None:
        super().__init__()
        if not keywords or not set(keywords) <= set(expander.keys):
            raise ValueError(
                f"keywords must be of item features of the expander, {list(expander.keys)},"
                f" got {list(keywords)}"
            )
        if not 1 <= rows <= _feature_rows.INT32_MAX:  # so that row ids fit an int32 batch
            raise ValueError(f"rows must be in [1, {_feature_rows.INT32_MAX}], got {rows}")
        self.expander = expander
        self.spec = expander.spec
        self.mode = expander.mode
        self.keys = list(expander.keys)
        self.keywords = dict(keywords)
        self.rows = rows
        self.resolutions = [*expander.resolutions, "keywords"]
        names = [name for key in self.keys for name in self.feature_names(key)]
        if len(set(names)) < len(names):
            raise ValueError(f"expander keys must give distinct feature names, got {sorted(names)}")

    def feature_names(self, key: str) -> list[str]:
        """Names of the features that are added for one item feature.

        Args:
            key: An item feature of the expander.

        Returns:
            The expander's names and that of the keywords.
        """
        return [*self.expander.feature_names(key), _own(key)]

    def source_features(self, key: str) -> list[str]:
        """Which features of a batch are read for one item feature.

        Args:
            key: An item feature of the expander.

        Returns:
            Those of the expander and its keywords, if it has any.
        """
        return [
            *self.expander.source_features(key),
            *(feature for item, feature in self.keywords.items() if item == key),
        ]

    def embedding_bag_configs(
        self,
        *,
        embedding_dim: int,
        pooling: PoolingType = PoolingType.SUM,
        init_fn: Callable[[Tensor], Tensor | None] | None = nn.init.zeros_,
        name: str = "sid",
    ) -> list[EmbeddingBagConfig]:
        """Configs of the tables that serve all new features: the expander's, and the keywords'.

        Args:
            embedding_dim: Width ``D`` of the tables.
            pooling: How a bag is pooled.
            init_fn: How rows are born: zeros (the default) for a branch that is added to a
                trained host; None for TorchRec's own, for a ranker that trains from scratch.
            name: First part of the tables' names.

        Returns:
            Configs whose features are those of ``feature_names`` for every key.
        """
        configs = self.expander.embedding_bag_configs(
            embedding_dim=embedding_dim, pooling=pooling, init_fn=init_fn, name=name
        )
        own = EmbeddingBagConfig(
            name=f"{name}_keywords",
            embedding_dim=embedding_dim,
            num_embeddings=self.rows,
            feature_names=[_own(key) for key in self.keys],
            pooling=pooling,
            init_fn=init_fn,
        )
        return [*configs, own]

    def check_tables(self, tables: Sequence[EmbeddingBagConfig]) -> None:
        """Check that each new feature is read once, by a table with enough rows.

        Args:
            tables: Configs of the tables behind this module.

        Raises:
            ValueError: If a feature is read by no table, by two, or by one that is too small, or
                if a table reads another feature.
        """
        _feature_rows.check_tables(self.embedding_bag_configs(embedding_dim=4), tables)

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Add the SID features and the keywords.

        Args:
            features: The batch.

        Returns:
            The batch with the new features behind its own.

        Raises:
            ValueError: If a feature is missing or not integer, if the batch already holds one of
                the new features, or if the batch size varies by feature.
        """
        names: list[str] = []
        ids: list[Tensor] = []
        bags: list[JaggedTensor] = []
        for key in self.keys:
            names.append(_own(key))
            if key in self.keywords:
                name = self.keywords[key]
                bags.append(sid_sources._bag(features, name))  # pyright: ignore[reportPrivateUsage]
                words = _check.integer(bags[-1].values(), name).to(torch.int64)
            else:
                bags.append(_empty_bag(features))
                words = bags[-1].values().to(torch.int64)
            ids.append(_feature_rows.hashed_row(words, self.rows).unsqueeze(0))
        return _feature_rows.append(self.expander(features), names, ids, bags)


def _own(key: str) -> str:
    return f"{key.replace('@', '_')}_keywords"


@torch.fx.wrap
def _empty_bag(features: KeyedJaggedTensor) -> JaggedTensor:
    weights = features.weights_or_none()
    return JaggedTensor(
        values=features.values()[:0],
        lengths=torch.zeros(
            features.stride(), dtype=features.lengths().dtype, device=features.device()
        ),
        weights=None if weights is None else weights[:0],
    )
