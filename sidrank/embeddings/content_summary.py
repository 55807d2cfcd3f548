r"""A hashed summary of what an item is: crosses of attributes and SID prefixes.

A table for ``(category, first code)`` holds what neither table alone can: that this code means
something else in that category. ``ContentSummaryHash`` adds such crosses to a batch beside the SID
features of a ``SIDExpander``: each pair of parts is hashed ``M`` times, with another salt each,
into one table, and each hash is a feature of its own, so that two items that share one row hardly
ever share all ``M``.

It stands wherever an expander does: in front of a collection (its features are new fields then),
in a ``HybridEmbeddingBagCollection`` (they are further resolutions of the item, silent at birth),
in a ``MemorizationBranch``.

Source: UniRec, arXiv 2604.12234, the content summary ``c = concat_m T[hash_m(pair)]`` with three
hashes, over the pairs (category, code) and (code 1, code 2).
Differs from the source: parts may be prefixes; one table a pair; an unknown item reads a learned
row [derived].

Shapes: ``n`` ids of a feature in the batch, ``P`` pairs, ``M`` hashes, ``D`` width.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

from sidrank import _check
from sidrank.embeddings import _feature_rows, sid_sources
from sidrank.embeddings.sid_expander import SIDExpander

__all__ = ["ContentSummaryHash"]


class ContentSummaryHash(nn.Module):
    """Add crosses of attributes and SID prefixes to what an expander adds.

    A part of a pair is the name of an attribute, or levels of the SID, counted from 1 as in the
    names of features: ``(1,)`` is the first code, ``(1, 2)`` the prefix of two. An attribute is a
    feature of the batch with one value for each id of the item feature; any integer is a value.
    Where its bags are of other lengths, the crosses of the whole batch are those of an unknown
    item (that costs no wait; another *number* of values is refused).

    Args:
        expander: Finds the codes, in any mode but byte-pair units.
        pairs: What to cross, such as ``[("category", (1,)), ("category", (1, 2)), ((1,), (2,))]``.
        attributes: For each item feature of the expander the features of the batch that hold
            its attributes: ``{"item": {"category": "item_category"}}``.
        num_hashes: Hashes ``M`` of each pair.
        rows: Rows of each pair's table, not counting the row of the unknown item.

    Raises:
        ValueError: If there is no pair, one holds no levels, repeats another or has a level
            beyond the SID, if an attribute has no feature, if the expander gives byte-pair
            units, or if a number is out of range.

    Example:
        >>> import numpy as np
        >>> from sidrank.embeddings import RawIDSource
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> sids = SIDTable(np.array([7]), np.array([[0, 1]]), spec=SIDSpec((4, 4)))
        >>> expander = SIDExpander({"item": RawIDSource("raw", SIDLookup(sids))}, mode="level")
        >>> summary = ContentSummaryHash(expander, pairs=[("kind", (1,))], rows=99,
        ...     attributes={"item": {"kind": "item_kind"}})
        >>> batch = KeyedJaggedTensor.from_lengths_sync(
        ...     keys=["raw", "item_kind"], values=torch.tensor([7, 8, 5, 5]),
        ...     lengths=torch.tensor([1, 1, 1, 1]))
        >>> summary(batch)["item_cross_kind_x_1_hash2"].values().tolist()
        [44, 0]
    """

    def __init__(
        self,
        expander: SIDExpander,
        *,
        pairs: Sequence[tuple[str | tuple[int, ...], str | tuple[int, ...]]],
        attributes: Mapping[str, Mapping[str, str]] | None = None,
        num_hashes: int = 3,
        rows: int = 100_000,
    ) -> None:
        super().__init__()
        if expander.mode == "bpe":
            raise ValueError("expander must find codes, got one that finds byte-pair units")
        if not pairs:
            raise ValueError("pairs must hold at least one pair, got none")
        if num_hashes < 1:
            raise ValueError(f"num_hashes must be at least 1, got {num_hashes}")
        if not 1 <= rows <= _feature_rows.INT32_MAX - 1:  # so that row ids fit an int32 batch
            raise ValueError(f"rows must be in [1, {_feature_rows.INT32_MAX - 1}], got {rows}")
        self.expander = expander
        self.spec = expander.spec
        self.mode = expander.mode
        self.keys = list(expander.keys)
        self.pairs = [_checked(pair, self.spec.num_levels) for pair in pairs]
        self.num_hashes = num_hashes
        self.rows = rows
        self._attributes = _checked_attributes(attributes or {}, self.keys, self.pairs)
        self._labels = [f"{_label(left)}_x_{_label(right)}" for left, right in self.pairs]
        if len(set(self._labels)) < len(self._labels):
            raise ValueError(f"pairs must be distinct, got {self._labels}")
        crosses = [pair for pair in self.pairs for _ in range(num_hashes)]
        self.resolutions = [*expander.resolutions, *crosses]
        names = [name for key in self.keys for name in self.feature_names(key)]
        if len(set(names)) < len(names):
            raise ValueError(f"expander keys must give distinct feature names, got {sorted(names)}")

    def feature_names(self, key: str) -> list[str]:
        """Names of the features that are added for one item feature.

        Args:
            key: An item feature of the expander.

        Returns:
            The expander's names, then ``M`` for each pair, in the order of ``resolutions``.
        """
        return [*self.expander.feature_names(key), *self._cross_names(key)]

    def source_features(self, key: str) -> list[str]:
        """Which features of a batch are read for one item feature.

        Args:
            key: An item feature of the expander.

        Returns:
            Those of its SIDs and its attributes.
        """
        return [*self.expander.source_features(key), *self._attributes.get(key, {}).values()]

    def embedding_bag_configs(
        self,
        *,
        embedding_dim: int,
        pooling: PoolingType = PoolingType.SUM,
        init_fn: Callable[[Tensor], Tensor | None] | None = nn.init.zeros_,
        name: str = "sid",
    ) -> list[EmbeddingBagConfig]:
        """Configs of the tables that serve all new features: the expander's, and one a pair.

        Args:
            embedding_dim: Width ``D`` of the tables.
            pooling: How a bag of several items is pooled.
            init_fn: How rows are born: zeros (the default) for a branch that is added to a
                trained host; None for TorchRec's own, for a ranker that trains from scratch.
            name: First part of the tables' names.

        Returns:
            Configs whose features are those of ``feature_names`` for every key.
        """
        configs = self.expander.embedding_bag_configs(
            embedding_dim=embedding_dim, pooling=pooling, init_fn=init_fn, name=name
        )
        crosses = [self._cross_names(key) for key in self.keys]
        for index, label in enumerate(self._labels):
            own = slice(index * self.num_hashes, (index + 1) * self.num_hashes)
            configs.append(
                EmbeddingBagConfig(
                    name=f"{name}_cross_{label}",
                    embedding_dim=embedding_dim,
                    num_embeddings=self.rows + 1,
                    feature_names=[name for names in crosses for name in names[own]],
                    pooling=pooling,
                    init_fn=init_fn,
                )
            )
        return configs

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
        """Add the SID features and the crosses.

        Args:
            features: The batch.

        Returns:
            The batch with the new features behind its own.

        Raises:
            ValueError: If a feature is missing, not integer or has another number of values than
                the item feature, if the batch already holds one of the new features, or if the
                batch size varies by feature.
        """
        names: list[str] = []
        ids: list[Tensor] = []
        bags: list[JaggedTensor] = []
        for key, source in zip(self.keys, self.expander.sources, strict=True):
            codes, bag = source(features)
            names.extend(self.feature_names(key))
            crosses = self._crosses(features, key, codes, bag)
            ids.append(torch.cat([self.expander._ids(codes), crosses]))  # pyright: ignore[reportPrivateUsage]
            bags.append(bag)
        return _feature_rows.append(features, names, ids, bags)

    def _cross_names(self, key: str) -> list[str]:
        stem = f"{key.replace('@', '_')}_cross"
        hashes = range(1, self.num_hashes + 1)
        return [f"{stem}_{label}_hash{index}" for label in self._labels for index in hashes]

    def _crosses(
        self, features: KeyedJaggedTensor, key: str, codes: Tensor, bag: JaggedTensor
    ) -> Tensor:
        """Table rows of each cross, int64 ``[P * M, n]``."""
        level = codes.to(torch.int64).unbind(dim=1)
        unknown = level[0] < 0
        numbers: dict[str | tuple[int, ...], Tensor] = {}
        for part in {part: None for pair in self.pairs for part in pair}:  # each once, in order
            if isinstance(part, str):
                name = self._attributes[key][part]
                attribute = sid_sources._bag(features, name)  # pyright: ignore[reportPrivateUsage]
                numbers[part] = _values(_check.integer(attribute.values(), name), codes, name)
                unknown = unknown | ~sid_sources._aligned([bag, attribute])  # pyright: ignore[reportPrivateUsage]
            else:
                numbers[part] = _feature_rows.group_number(
                    [level[index - 1] for index in part],
                    [self.spec.codebook_sizes[index - 1] for index in part],
                )
        rows: list[Tensor] = []
        for left, right in self.pairs:
            for index in range(self.num_hashes):
                first = _feature_rows.mix(numbers[left] + _salt(index))
                row = _feature_rows.hashed_row(first + numbers[right], self.rows)
                rows.append((row + 1).masked_fill(unknown, 0))
        return torch.stack(rows)


@torch.fx.wrap
def _values(values: Tensor, codes: Tensor, name: str) -> Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript knows only this much)
        if torch.compiler.is_compiling():  # sizes have no number then; this makes them one
            torch._check(values.size(0) == codes.size(0))  # pyright: ignore[reportPrivateUsage]
    if values.size(0) != codes.size(0):
        raise ValueError(
            f"{name} must have one value for each of {codes.size(0)} item ids, got {values.size(0)}"
        )
    return values.to(torch.int64)


def _salt(index: int) -> int:
    """Multiples of the golden ratio in 64 bits, signed; none is zero, which the mix keeps."""
    salt = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
    return salt - 2**64 if salt >= 2**63 else salt


def _label(part: str | tuple[int, ...]) -> str:
    return part if isinstance(part, str) else "_".join(str(level) for level in part)


def _checked(
    pair: tuple[str | tuple[int, ...], str | tuple[int, ...]], num_levels: int
) -> tuple[str | tuple[int, ...], str | tuple[int, ...]]:
    if isinstance(pair, str) or len(pair) != 2 or all(isinstance(part, str) for part in pair):
        raise ValueError(
            f"pairs must each hold two parts, an attribute and levels or levels twice, got {pair!r}"
        )
    for part in pair:
        if isinstance(part, str):
            continue
        levels = list(part) if isinstance(part, tuple) else []
        if not levels or levels != sorted({n for n in levels if 1 <= n <= num_levels}):
            raise ValueError(
                f"pairs must hold rising levels from 1 to {num_levels}, got {part!r} in {pair!r}"
            )
    left, right = (part if isinstance(part, str) else tuple(part) for part in pair)
    return left, right


def _checked_attributes(
    attributes: Mapping[str, Mapping[str, str]],
    keys: Sequence[str],
    pairs: Sequence[tuple[str | tuple[int, ...], str | tuple[int, ...]]],
) -> dict[str, dict[str, str]]:
    used = sorted({part for pair in pairs for part in pair if isinstance(part, str)})
    given = {key: sorted(of_key) for key, of_key in attributes.items()}
    wanted = dict.fromkeys(keys, used) if used else {}
    if given != wanted:
        raise ValueError(
            f"attributes must name a feature for each item feature and attribute, {wanted},"
            f" got {given}"
        )
    return {key: dict(of_key) for key, of_key in attributes.items()}
