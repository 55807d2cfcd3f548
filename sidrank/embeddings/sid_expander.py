r"""Semantic-ID features for a batch: ``KeyedJaggedTensor`` in, ``KeyedJaggedTensor`` out.

Stock TorchRec collections do the lookup, so SID tables shard, cache, quantise, pipeline and
checkpoint as any other table; this module only computes their ids. Each mode is a list of
*resolutions*, groups of levels whose codes together make one id:

======== ============================ ======================================
mode     resolutions for N = 3        says
======== ============================ ======================================
level    1, 2, 3                      one id per level
prefix   1, 1_2, 1_2_3                one id per depth (prefix n-grams)
multires 1, 2, 3, 1_2, 2_3            levels and adjacent pairs (SID-Coord)
a SIDBPE units                        one to N ids, one feature (TRM's memory)
======== ============================ ======================================

Codes of a group become one number by mixed radix in 64 bits. Where all of them fit a table of
``max_rows`` rows they are its rows; otherwise a bijective 64-bit mix and a modulo choose the row.
Byte-pair units are rows as they are, and a bag holds those of all its items. Row 0 of every table
is the learned row of the unknown item.

Source: SID-Coord, arXiv 2604.10471 (multires; prefix n-grams are its baseline); "Farewell to Item
IDs" (TRM), arXiv 2601.22694 (byte-pair units).
Differs from the source: the radix is the real codebook size, not 10,000, so no two pairs share a
number; ids are mixed before the modulo, since a plain modulo by a divisor of the radix would
forget the first code [derived]; unknown items have a row of their own [derived]; a unit keeps the
weight of its item [derived].

Shapes: ``n`` ids of a feature in the batch, ``N`` levels, ``R`` resolutions, ``D`` width.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

from sidrank.embeddings import _feature_rows, unit_bags
from sidrank.embeddings.sid_sources import CodeFeatureSource, RawIDSource
from sidrank.semantic_ids.bpe import SIDBPE

__all__ = ["SIDExpander", "check_coverage"]


class SIDExpander(nn.Module):
    """Add SID features to a batch.

    The output holds the input's features, untouched and in their order, then for each item
    feature and resolution one new feature with the bags of the source: jagged, weighted,
    multi-valued and empty bags stay what they were, ids keep the batch's dtype. With a ``SIDBPE``
    there is one new feature, ``item_sid_units``, whose bags hold all units of their items.

    In front of a sharded collection give the train pipeline ``pipeline_postproc=True``;
    without it TorchRec does not pipeline the collection and says so only in its log.

    Args:
        sources: For each item feature of the host (a key of its output, ``item`` or
            ``item@table``) where its codes come from. All sources have the same spec, and
            their features share the tables.
        mode: Which groups of levels become ids; or the byte-pair merges whose units do.
        max_rows: Rows of one table, not counting the row of the unknown item; groups with more
            values are hashed, merges with more units refused (``SIDBPE.first`` keeps fewer).

    Raises:
        TypeError: If a source is something else.
        ValueError: If ``sources`` is empty, its specs differ or its keys give equal feature names,
            if ``mode`` is unknown or of another spec, or if ``max_rows`` is out of range.

    Example:
        >>> import numpy as np
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> table = SIDTable(np.array([7]), np.array([[0, 1, 3]]), spec=SIDSpec((4, 4, 4)))
        >>> expand = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(table))}, mode="prefix")
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["item_raw"], values=torch.tensor([7, 8]), lengths=torch.tensor([1, 1]))
        >>> expand(batch).to_dict()["item_sid_1_2"].values().tolist()
        [2, 0]
    """

    def __init__(
        self,
        sources: Mapping[str, RawIDSource | CodeFeatureSource],
        *,
        mode: Literal["level", "prefix", "multires"] | SIDBPE = "multires",
        max_rows: int = 1_000_000,
    ) -> None:
        super().__init__()
        if not sources:
            raise ValueError("sources must name at least one item feature, got none")
        for key, source in sources.items():
            if not isinstance(source, RawIDSource | CodeFeatureSource):
                raise TypeError(
                    f"sources must be RawIDSource or CodeFeatureSource, got {type(source).__name__}"
                    f" for {key}"
                )
        if not 1 <= max_rows <= _feature_rows.INT32_MAX - 1:  # so that row ids fit an int32 batch
            raise ValueError(
                f"max_rows must be in [1, {_feature_rows.INT32_MAX - 1}], got {max_rows}"
            )
        specs = {source.spec for source in sources.values()}
        if len(specs) > 1:
            raise ValueError(f"sources must have one SIDSpec, got {sorted(map(str, specs))}")
        self.spec = specs.pop()
        self.max_rows = max_rows
        self.keys = list(sources)
        self._read = {
            key: source.features if isinstance(source, CodeFeatureSource) else [source.feature]
            for key, source in sources.items()
        }
        if isinstance(mode, SIDBPE):
            self.mode = "bpe"
            mode.check_spec(self.spec)
            if mode.num_units > max_rows:
                raise ValueError(f"max_rows must hold {mode.num_units} units, got {max_rows}")
            self.sources = unit_bags.unit_sources(list(sources.values()), mode)
            self.units = unit_bags.UnitVersion(mode.content_hash)
            self.resolutions = [tuple(range(self.spec.num_levels))]
            self._labels, self._hashed, self._rows = ["units"], [False], [mode.num_units]
        else:
            self.mode = mode
            self.sources = nn.ModuleList(sources.values())
            self.resolutions = _resolutions(mode, self.spec.num_levels)
            self._labels = [_label(levels) for levels in self.resolutions]
            sizes = self.spec.codebook_sizes
            spaces = [math.prod([sizes[i] for i in levels]) for levels in self.resolutions]
            self._hashed = [space > max_rows for space in spaces]
            self._rows = [min(space, max_rows) for space in spaces]
        names = [name for key in self.keys for name in self.feature_names(key)]
        if len(set(names)) < len(names):
            raise ValueError(f"sources must give distinct feature names, got {sorted(names)}")

    def feature_names(self, key: str) -> list[str]:
        """Names of the features that the expander adds for one item feature.

        Args:
            key: An item feature, as in ``sources``.

        Returns:
            One name a resolution, in the order of ``resolutions``.
        """
        return [f"{key.replace('@', '_')}_sid_{label}" for label in self._labels]

    def embedding_bag_configs(
        self,
        *,
        embedding_dim: int,
        pooling: PoolingType = PoolingType.SUM,
        init_fn: Callable[[Tensor], Tensor | None] | None = nn.init.zeros_,
        name: str = "sid",
    ) -> list[EmbeddingBagConfig]:
        """Configs of the tables that serve the new features, one a resolution.

        Args:
            embedding_dim: Width ``D`` of the tables.
            pooling: How a bag of several items is pooled.
            init_fn: How rows are born: zeros (the default) for a branch that is added to a
                trained host; None for TorchRec's own, for a ranker that trains from scratch.
            name: First part of the tables' names.

        Returns:
            Configs whose features are those of ``feature_names`` for every key.
        """
        features = [self.feature_names(key) for key in self.keys]
        return [
            EmbeddingBagConfig(
                name=f"{name}_{label}",
                embedding_dim=embedding_dim,
                num_embeddings=self._rows[index] + 1,
                feature_names=[names[index] for names in features],
                pooling=pooling,
                init_fn=init_fn,
            )
            for index, label in enumerate(self._labels)
        ]

    def check_tables(self, tables: Sequence[EmbeddingBagConfig]) -> None:
        """Check that each new feature is read once, by a table with enough rows.

        Args:
            tables: Configs of the tables behind the expander.

        Raises:
            ValueError: If a feature is read by no table, by two, or by one that is too small, or
                if a table reads another feature.
        """
        _feature_rows.check_tables(self.embedding_bag_configs(embedding_dim=4), tables)

    def source_features(self, key: str) -> list[str]:
        """Which features of a batch the SIDs of a key are read from.

        Args:
            key: One of ``keys``.

        Returns:
            Their names.
        """
        return self._read[key]

    def coverage(self) -> dict[str, float]:
        """Share of ids with a known SID, by item feature, since the last reset.

        Returns:
            A share in ``[0, 1]`` for each key, NaN where nothing was seen. Waits for the device.
        """
        sources = cast(Iterable[RawIDSource], self.sources)
        return {key: source.coverage() for key, source in zip(self.keys, sources, strict=True)}

    def reset_coverage(self) -> None:
        """Start counting anew."""
        for source in cast(Iterable[RawIDSource], self.sources):
            source.reset_coverage()

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Add the SID features.

        Args:
            features: The batch.

        Returns:
            The batch with the new features behind its own.

        Raises:
            ValueError: If a source's feature is missing or not integer, if the batch already
                holds one of the new features, or if the batch size varies by feature.
        """
        names: list[str] = []
        ids: list[Tensor] = []
        bags: list[JaggedTensor] = []
        for key in self.keys:
            rows, bag = self.rows(features, key)
            names.extend(self.feature_names(key))
            ids.append(rows)
            bags.append(bag)
        return _feature_rows.append(features, names, ids, bags)

    def rows(self, features: KeyedJaggedTensor, key: str) -> tuple[Tensor, JaggedTensor]:
        """Table rows of one item feature, as they go into its new features.

        Args:
            features: The batch; only the source of this key must be there.
            key: One of ``keys``.

        Returns:
            Rows of each of ``feature_names(key)``, int64 ``[R, n]``, and the bags they are in.

        Raises:
            ValueError: If the source's feature is missing or not integer, or if the batch size
                varies by feature.
        """
        codes, bag = self.sources[self.keys.index(key)](features)
        if self.mode == "bpe":
            units = unit_bags.unit_bag(codes, bag)
            return units.values().unsqueeze(0), units
        return self._ids(codes), bag

    def _ids(self, codes: Tensor) -> Tensor:
        """Table rows of each code tuple, int64 ``[R, n]``."""
        level = codes.to(torch.int64).unbind(dim=1)
        sizes = self.spec.codebook_sizes
        rows: list[Tensor] = []
        for which, levels in enumerate(self.resolutions):
            number = _feature_rows.group_number(
                [level[index] for index in levels], [sizes[index] for index in levels]
            )
            if self._hashed[which]:
                number = _feature_rows.hashed_row(number, self._rows[which])
                number = number.masked_fill(level[0] < 0, -1)
            rows.append(number)
        # where nothing was hashed, an unknown item's digits of -1 make a negative number
        return torch.stack(rows).add_(1).clamp_(min=0)


def check_coverage(model: nn.Module, floor: float = 0.5) -> None:
    """Raise if fewer ids than ``floor`` have a SID: the sign of hashed ids or of a stale table.

    Call it now and then between steps; it waits for the device and reads this rank's batches. It
    finds the expanders of a model wherever they are, also once a train pipeline has wrapped them.
    (Plain DDP must not broadcast buffers, or rank 0's counts replace the others'; TorchRec's
    does not.)

    Args:
        model: A model that holds expanders, sharded or not.
        floor: Least share of known ids.

    Raises:
        ValueError: If an item feature is below the floor or saw no id at all, or if the model
            holds no expander.
    """
    expanders = [module for module in model.modules() if isinstance(module, SIDExpander)]
    if not expanders:
        raise ValueError(f"model must hold a SIDExpander, got {type(model).__name__} without one")
    for expander in expanders:
        for key, share in expander.coverage().items():
            if not share >= floor:
                raise ValueError(
                    f"coverage of {key} must be at least {floor}, got {share:.4f}: are its ids raw"
                    " item ids (not hashed table rows), and is the SID table up to date?"
                )


@torch.fx.wrap
def require_rows(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Return the batch if it has rows: TorchRec's unsharded collections die of an empty one.

    Args:
        features: A batch on its way into an unsharded collection.

    Returns:
        ``features`` itself.

    Raises:
        ValueError: If the batch is empty.
    """
    if features.stride() == 0:
        raise ValueError("features must have at least one row, got an empty batch")
    return features


def _resolutions(mode: str, num_levels: int) -> list[tuple[int, ...]]:
    levels = [(level,) for level in range(num_levels)]
    if mode == "level":
        return levels
    if mode == "prefix":
        return [tuple(range(depth)) for depth in range(1, num_levels + 1)]
    if mode == "multires":
        return levels + [(level, level + 1) for level in range(num_levels - 1)]
    raise ValueError(f"mode must be 'level', 'prefix', 'multires' or a SIDBPE, got {mode!r}")


def _label(levels: tuple[int, ...]) -> str:
    return "_".join(str(level + 1) for level in levels)
