"""A target and a history as vectors ``[id; sid_1; ...; sid_N]``, out of a batch.

A pooled history is one vector; attention needs one a behaviour. The rows come from one stock
``EmbeddingCollection`` behind a ``SIDExpander``, so they shard as any sequence table does, and
target and history share them. (TorchRec 1.8 cannot shard such a collection data-parallel on a CPU;
table-, row- and column-wise are fine.)

Source: QARM V2, arXiv 2602.08559 (behaviours as ``[id; sid_1; sid_2; sid_3]``).

Shapes: ``B`` rows, ``L`` behaviours, ``N`` SID features, ``D`` width of one table, ``E`` =
``(1 + N) D``.
"""

from torch import Tensor, nn
from torchrec import EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingConfig

from sidrank.embeddings import SIDExpander
from sidrank.models import _padded_features

__all__ = ["SIDBehaviours"]


class SIDBehaviours(nn.Module):
    """Embeddings of one target and a padded history, each the ID's beside those of its codes.

    Args:
        expander: Adds the SID features of both item features to the batch, in any mode but
            byte-pair units, of which items have several.
        num_ids: Rows of the table of ids.
        embedding_dim: Width ``D`` of every table.
        max_length: Behaviours of a row that are read, the last ones of its bag.
        target: Item feature with one id a row; also the key of the expander.
        history: Item feature with the behaviours, oldest first, all earlier than the request; also
            the key.

    Raises:
        ValueError: If the expander lacks one of the two keys or spells items in byte-pair units,
            or if a size is less than one.

    Example:
        >>> import torch
        >>> from sidrank.embeddings import RawIDSource
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> lookup = SIDLookup(SIDTable([7, 8], [[0, 1], [2, 3]], spec=SIDSpec((4, 4))))
        >>> sources = {"item": RawIDSource("item", lookup), "seen": RawIDSource("seen", lookup)}
        >>> behaviours = SIDBehaviours(SIDExpander(sources, mode="level"), num_ids=9,
        ...     embedding_dim=4, max_length=5, target="item", history="seen")
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item", "seen"], values=torch.tensor([7, 8, 8, 7]),
        ...     lengths=torch.tensor([1, 1, 2, 0]))
        >>> target, history, mask = behaviours(batch)
        >>> target.shape, history.shape, mask.sum(dim=1)
        (torch.Size([2, 1, 12]), torch.Size([2, 5, 12]), tensor([2, 0]))
    """

    def __init__(
        self,
        expander: SIDExpander,
        *,
        num_ids: int,
        embedding_dim: int,
        max_length: int,
        target: str = "item",
        history: str = "history",
    ) -> None:
        super().__init__()
        sizes = {"num_ids": num_ids, "embedding_dim": embedding_dim, "max_length": max_length}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if sorted(expander.keys) != sorted((target, history)):
            raise ValueError(
                f"expander must have the keys {target}, {history}, got {expander.keys}"
            )
        if expander.mode == "bpe":
            raise ValueError("expander must give one id an item and feature, got mode 'bpe'")
        self.max_length = max_length
        self.id_dim = embedding_dim
        self.target_features = [target, *expander.source_features(target)]
        self._target = [target, *expander.feature_names(target)]
        self._history = [history, *expander.feature_names(history)]
        self.dim = embedding_dim * len(self._target)
        tables = [
            EmbeddingConfig(
                name="behaviour_id",
                embedding_dim=embedding_dim,
                num_embeddings=num_ids,
                feature_names=[target, history],
            )
        ]
        configs = expander.embedding_bag_configs(embedding_dim=embedding_dim, name="behaviour_sid")
        tables += [
            EmbeddingConfig(
                name=config.name,
                embedding_dim=embedding_dim,
                num_embeddings=config.num_embeddings,
                feature_names=config.feature_names,
            )
            for config in configs
        ]
        self.expander = expander
        self.ec = EmbeddingCollection(tables=tables)

    def forward(self, features: KeyedJaggedTensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look target and history up.

        Args:
            features: The batch.

        Returns:
            Targets ``[B, 1, E]``, histories ``[B, L, E]`` and which behaviours are real, bool
            ``[B, L]``, with ``L = max_length``. What is not real is zero, as is the vector of a
            row without a target.

        Raises:
            ValueError: If a feature is missing, the batch size varies by feature or rows have more
                targets than one on average.
        """
        return self.read(features, 1)

    def read(self, features: KeyedJaggedTensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same for several targets a row.

        Args:
            features: The batch.
            candidates: Targets of a row, ``C``.

        Returns:
            Targets ``[B, C, E]``, histories and which behaviours are real, as ``forward``.
        """
        found = self.ec(self.expander(features))
        target = _padded_features.first([found[name] for name in self._target], candidates)
        history, real = _padded_features.newest(
            [found[name] for name in self._history], self.max_length
        )
        return target, history, real
