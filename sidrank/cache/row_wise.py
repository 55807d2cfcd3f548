r"""Tiered tables cut into ranges of rows, one for each rank.

Of ``R`` ranks, rank ``r`` has the rows from ``r * block`` to ``(r + 1) * block - 1`` of each table;
``block`` is the rows over ``R``, rounded up: TorchRec's row-wise cut. Ids go to the rank that has
their row, are looked up and pooled there for the whole global batch, and the sums go back where
they came from, by TorchRec's own exchanges; only what looks up is a `TieredEmbeddingBagCollection`.

Gradients are averaged over ranks, as TorchRec does. A table trains bit for bit as on one rank if no
bag has ids of two ranks, such as bags of one id; else the sum of a bag is made of the ranks' sums,
and the last bit may differ.

Source: TorchRec 1.8's row-wise sharding. Differs from it: sums only, and equal batches. No GPU has
run this.

Shapes: ``B`` rows of this rank's batch, ``D`` width of a table.
"""

import copy
from collections.abc import Sequence

import torch.distributed as dist
from torch import nn
from torchrec import KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.dist_data import PooledEmbeddingsReduceScatter
from torchrec.distributed.sharding.rw_sharding import RwSparseFeaturesDist
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import get_embedding_names_by_table

from sidrank.cache.tiered import TieredEmbeddingBagCollection

__all__ = ["RowWiseTieredCollection", "row_range", "row_wise_tables"]


def row_range(rows: int, rank: int, ranks: int) -> range:
    """Which rows of a table a rank has.

    Args:
        rows: Of the table.
        rank: Whose.
        ranks: How many there are.

    Returns:
        Row numbers of the whole table.

    Raises:
        ValueError: If a rank would have none.

    Example:
        >>> [row_range(10, rank, 4) for rank in range(4)]
        [range(0, 3), range(3, 6), range(6, 9), range(9, 10)]
    """
    block = -(-rows // ranks)
    if block * (ranks - 1) >= rows:
        raise ValueError(f"rows must give each of {ranks} ranks a row, got {rows}")
    return range(rank * block, min((rank + 1) * block, rows))


def row_wise_tables(
    tables: Sequence[EmbeddingBagConfig], rank: int, ranks: int
) -> list[EmbeddingBagConfig]:
    """A rank's part of the tables, for the tiers and the collection of that rank.

    Args:
        tables: The whole tables.
        rank: Whose part.
        ranks: How many there are.

    Returns:
        Tables of the same names with the rank's rows. Each reads features of its own, named
        ``feature@table``, since an id has another place in each table.

    Raises:
        ValueError: If a table does not pool by sum, or a rank would have no row of it.
    """
    parts: list[EmbeddingBagConfig] = []
    for table in tables:
        if table.pooling != PoolingType.SUM:
            raise ValueError(f"tables must pool by sum, got {table.pooling} for {table.name}")
        part = copy.copy(table)
        part.num_embeddings = len(row_range(table.num_embeddings, rank, ranks))
        part.feature_names = [f"{name}@{table.name}" for name in _features(table)]
        parts.append(part)
    return parts


class RowWiseTieredCollection(nn.Module):
    """A tiered collection whose rows are spread over ranks.

    All ranks call it, as often and with as many rows in the batch.

    Args:
        tables: The whole tables.
        local: This rank's rows, of ``row_wise_tables(tables, rank, ranks)``.
        process_group: The ranks.

    Raises:
        ValueError: If ``local`` has other tables.
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        *,
        local: TieredEmbeddingBagCollection,
        process_group: dist.ProcessGroup,
    ) -> None:
        super().__init__()
        self._tables, self._group = list(tables), process_group
        parts = row_wise_tables(
            tables, dist.get_rank(process_group), dist.get_world_size(process_group)
        )
        wanted = [(part.name, part.num_embeddings, part.feature_names) for part in parts]
        found = [
            (part.name, part.num_embeddings, part.feature_names)
            for part in local.embedding_bag_configs()
        ]
        if found != wanted:
            raise ValueError(f"local must have the tables {wanted}, got {found}")
        self.local = local
        self._ours = [name for table in tables for name in _features(table)]
        self._names = [name for part in parts for name in part.feature_names]
        by_table = get_embedding_names_by_table(self._tables)
        self._names_out = [name for names in by_table for name in names]
        self._widths = [table.embedding_dim for table in tables for _ in _features(table)]
        self._to_rows = RwSparseFeaturesDist(
            process_group,
            len(self._ours),
            [table.num_embeddings for table in tables for _ in _features(table)],
            device=local.device,
        )
        self._to_batches = PooledEmbeddingsReduceScatter(process_group)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool; `distribute` and `pool` in one.

        Args:
            features: This rank's batch.

        Returns:
            ``[B, sum of D over tables and their features]``, in the order of the tables.

        Raises:
            ValueError: If ranks differ in ``B``, a feature is missing or an id outside its table.
            CacheError: As in `TieredEmbeddingBagCollection`.
        """
        return self.pool(self.distribute(features))

    def distribute(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Bring the ids of all ranks' batches to where their rows are.

        A step of its own, so that a `LookAheadLoader` can stand behind it.

        Args:
            features: This rank's batch.

        Returns:
            What ``local`` looks up: the global batch, with this rank's ids.

        Raises:
            ValueError: If ranks differ in ``B``, a feature is missing or an id outside its table.
        """
        keys = features.keys()
        missing = [name for name in self._ours if name not in keys]
        if missing:
            raise ValueError(f"features must hold {missing[0]!r}, got {keys}")
        for table in self._tables:
            for name in _features(table):
                ids = features[name].values()
                if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < table.num_embeddings:
                    raise ValueError(
                        f"features must hold ids in [0, {table.num_embeddings}) for {table.name}, "
                        f"got others in {name!r}"
                    )
        ours = features.permute([keys.index(name) for name in self._ours])
        theirs: KeyedJaggedTensor = self._to_rows(ours).wait().wait()
        ranks = dist.get_world_size(self._group)
        if theirs.stride() != ranks * features.stride():
            raise ValueError(
                "features must have as many rows on every rank, "
                f"got {features.stride()} of {theirs.stride()}"
            )
        return KeyedJaggedTensor(
            self._names,
            theirs.values(),
            weights=theirs.weights_or_none(),
            lengths=theirs.lengths().view(-1),
        )

    def pool(self, distributed: KeyedJaggedTensor) -> KeyedTensor:
        """Look up what `distribute` gave, and bring the sums back.

        Args:
            distributed: The global batch, with this rank's ids.

        Returns:
            ``[B, sum of D over tables and their features]`` of this rank's batch.

        Raises:
            CacheError: As in `TieredEmbeddingBagCollection`.
        """
        sums = self._to_batches(self.local(distributed).values()).wait()
        return KeyedTensor(keys=self._names_out, length_per_key=self._widths, values=sums)


def _features(table: EmbeddingBagConfig) -> list[str]:
    return list(table.feature_names) or [table.name]
