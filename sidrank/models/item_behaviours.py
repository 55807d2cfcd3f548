"""Candidates and a history as vectors, out of a batch and one ``EmbeddingCollection``.

An item is what several features say of it (id, category, shop, action): their embeddings side by
side. The newest behaviours are kept where a history is longer than there is room for. The
collection is a stock one, so it shards as any sequence table does. (TorchRec 1.8 cannot shard it
data-parallel on a CPU; table-, row- and column-wise are fine.)

Shapes: ``B`` rows, ``C`` candidates, ``L`` behaviours, ``E`` width of an item.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchrec import EmbeddingCollection, KeyedJaggedTensor

from sidrank.models import _padded_features

__all__ = ["ItemBehaviours"]


class ItemBehaviours(nn.Module):
    """Embeddings of the candidates of a row and of its padded history.

    Args:
        collection: The tables of all features named below.
        target: Features of the candidates, one id a candidate in each.
        history: The same features of the behaviours, oldest first, one id a behaviour in each.
        max_length: Behaviours of a row that are read, the last ones of its bags.
        num_candidates: Candidates of a row, ``C``; rows with fewer are filled with zeros. A batch
            with more ids than ``B * C`` is refused; one row's surplus is not seen while others have
            room, since seeing it would stall a GPU.

    Raises:
        ValueError: If a size is less than one, a feature has no table, or target and history
            differ in number.

    Example:
        >>> import torch
        >>> from torchrec.modules.embedding_configs import EmbeddingConfig
        >>> tables = EmbeddingCollection(tables=[EmbeddingConfig(
        ...     name="t", embedding_dim=4, num_embeddings=9, feature_names=["item", "seen"])])
        >>> behaviours = ItemBehaviours(tables, target=["item"], history=["seen"], max_length=5)
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item", "seen"], values=torch.tensor([7, 8, 8, 7]),
        ...     lengths=torch.tensor([1, 1, 2, 0]))
        >>> target, history, mask = behaviours(batch)
        >>> target.shape, history.shape, mask.sum(dim=1)
        (torch.Size([2, 1, 4]), torch.Size([2, 5, 4]), tensor([2, 0]))
    """

    def __init__(
        self,
        collection: EmbeddingCollection,
        *,
        target: Sequence[str],
        history: Sequence[str],
        max_length: int,
        num_candidates: int = 1,
    ) -> None:
        super().__init__()
        for name, size in (("max_length", max_length), ("num_candidates", num_candidates)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        tables = collection.embedding_configs()
        known = [feature for table in tables for feature in table.feature_names]
        for feature in (*target, *history):
            if feature not in known:
                raise ValueError(f"collection must have the feature {feature}, got {known}")
        if not target or len(target) != len(history):
            raise ValueError(
                "history must have as many features as target and at least one, "
                f"got {list(history)} for {list(target)}"
            )
        self.max_length = max_length
        self.num_candidates = num_candidates
        self.dim = len(target) * tables[0].embedding_dim  # a collection has one width
        self.target_features = list(target)
        self._history = list(history)
        self.ec = collection

    def forward(self, features: KeyedJaggedTensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look candidates and history up.

        Args:
            features: The batch.

        Returns:
            Candidates ``[B, C, E]``, histories ``[B, L, E]`` and which behaviours are real, bool
            ``[B, L]``, with ``L = max_length``. What is not real is zero and comes last.

        Raises:
            ValueError: If the features of an item are not as many ids, or there are more
                candidates than rows have room for.
        """
        return self.read(features, self.num_candidates)

    def read(self, features: KeyedJaggedTensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same with room for another number of candidates.

        Args:
            features: The batch.
            candidates: Candidates of a row, ``C``.

        Returns:
            As ``forward``.
        """
        found = self.ec(features)
        target = _padded_features.first([found[name] for name in self.target_features], candidates)
        history, real = _padded_features.newest(
            [found[name] for name in self._history], self.max_length
        )
        return target, history, real
