"""Single fields of a stock collection, without the cost of the others.

``EmbeddingBagCollection`` looks all of its features up, whatever is asked. Here its own tables are
called one by one, and the batch is taken apart once.

Shapes: ``B`` rows of the batch, ``R`` features, ``n`` ids of each in the batch, ``D`` width.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor
from torchrec import EmbeddingBagCollection, JaggedTensor, KeyedJaggedTensor
from torchrec.modules.embedding_modules import get_embedding_names_by_table

__all__ = ["FieldTables"]


class FieldTables:
    """The tables of a collection by the keys of its output.

    Args:
        collection: A stock collection, neither sharded nor quantised.

    Example:
        >>> import torch
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> tables = FieldTables(EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name=f"t_{name}", embedding_dim=4, num_embeddings=9, feature_names=[name])
        ...     for name in ("user", "item")]))
        >>> items = KeyedJaggedTensor(["item"], torch.tensor([1, 2]), lengths=torch.tensor([1, 1]))
        >>> [column.shape for column in tables.look_up(["item"], items)]
        [torch.Size([2, 4])]
    """

    def __init__(self, collection: EmbeddingBagCollection) -> None:
        configs = collection.embedding_bag_configs()
        self._bags = collection.embedding_bags
        self._is_weighted = collection.is_weighted()
        self._of = {
            output: (table.name, feature)
            for table, outputs in zip(configs, get_embedding_names_by_table(configs), strict=True)
            for feature, output in zip(table.feature_names, outputs, strict=True)
        }

    def look_up(self, names: Iterable[str], features: KeyedJaggedTensor) -> list[Tensor]:
        """Some columns of the output.

        Args:
            names: Their keys.
            features: A batch that holds their features.

        Returns:
            Columns, each ``[B, D]``.

        Raises:
            ValueError: If a feature is missing.
        """
        bags = features.to_dict()
        found: list[Tensor] = []
        for name in names:
            table, feature = self._of[name]
            if feature not in bags:
                raise ValueError(f"features must contain the key {feature}, got {list(bags)}")
            found.append(self._pooled(table, bags[feature].values(), bags[feature]))
        return found

    def look_up_rows(self, names: Sequence[str], rows: Tensor, bag: JaggedTensor) -> list[Tensor]:
        """Columns of features that are not in a batch.

        Args:
            names: Keys of the output.
            rows: Rows in the table of each, shape ``[R, n]``.
            bag: The bags that they are in.

        Returns:
            Columns, each ``[B, D]``.
        """
        return [
            self._pooled(self._of[name][0], ids, bag)
            for name, ids in zip(names, rows.unbind(), strict=True)
        ]

    def _pooled(self, table: str, ids: Tensor, bag: JaggedTensor) -> Tensor:
        weights = bag.weights() if self._is_weighted else None
        return self._bags[table](ids, bag.offsets(), per_sample_weights=weights).float()
