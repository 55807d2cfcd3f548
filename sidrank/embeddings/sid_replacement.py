"""What an item *is* in place of its hash ID, behind the host's own keys.

A table of hash IDs knows nothing of an item before it was shown. ``SIDReplacement`` takes the
collection of a ranker and gives back the same keys and widths, but the embedding of the item
comes from its semantic ID or from its content vector, and its hash table is gone: the arm that an
item-cold-start study compares with the hash ID, and with both (``HybridEmbeddingBagCollection``).

It is a replacement: the model around it starts anew, its predictions are other ones from the
first step, and the host's checkpoint does not load.

Source: R3-VAE, arXiv 2604.11440 (SIDs, or the vectors they are made of, in place of item ids).
Differs from the source: resolutions are fused by ``ResolutionAttention``; the content vector goes
through one linear layer and unknown items have a learned vector [derived].

Shapes: ``B`` rows of the batch, ``R`` resolutions, ``D`` width.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import get_embedding_names_by_table

from sidrank.embeddings import hybrid, sid_expander
from sidrank.embeddings.content_vectors import ContentSource
from sidrank.embeddings.sid_features import SIDFeatures
from sidrank.layers import ResolutionAttention

__all__ = ["SIDReplacement"]


class SIDReplacement(nn.Module):
    """Wrap the embedding collection of a host: semantic IDs or content vectors, no hash IDs.

    The host's other tables are taken over, not copied. A table that serves replaced keys alone is
    dropped; one that serves others too goes on without the replaced feature.

    Args:
        host: The host's collection, exactly an ``EmbeddingBagCollection``.
        sid_tables: Tables for the expander's features, usually
            ``expander.embedding_bag_configs(embedding_dim=D, init_fn=None)``.
        expander: Adds the SID features to the batch. Its keys are host outputs to replace by
            semantic IDs; None is for content vectors alone.
        contents: Host outputs to replace by content vectors, and where those come from.

    Raises:
        TypeError: If ``host`` is another kind of collection (managed-collision,
            feature-processed, fused, sharded, or a subclass), or contents are something else.
        ValueError: If nothing is to be replaced, or one key twice, or all tables; or if keys,
            table names, widths, pooling, rows or features do not fit.

    Example:
        >>> import numpy as np
        >>> from sidrank.embeddings.content_vectors import ContentVectors
        >>> host = EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name=f"t_{name}", embedding_dim=8, num_embeddings=5, feature_names=[name])
        ...     for name in ("user", "item")])
        >>> vectors = ContentVectors([3, 4], np.eye(2))
        >>> model = SIDReplacement(host, contents={"item": ContentSource("item_raw", vectors)})
        >>> list(model.ebc.embedding_bags)
        ['t_user']
    """

    def __init__(
        self,
        host: EmbeddingBagCollection,
        sid_tables: Sequence[EmbeddingBagConfig] = (),
        *,
        expander: SIDFeatures | None = None,
        contents: Mapping[str, ContentSource] | None = None,
    ) -> None:
        super().__init__()
        if type(host) is not EmbeddingBagCollection:
            raise TypeError(
                "host must be exactly a torchrec EmbeddingBagCollection,"
                f" got {type(host).__module__}.{type(host).__qualname__}"
            )
        contents = dict(contents or {})
        self.keys = [] if expander is None else list(expander.keys)
        self.content_keys = list(contents)
        _check_contents(contents, self.keys)
        self._host_configs = list(host.embedding_bag_configs())
        outputs = get_embedding_names_by_table(self._host_configs)
        self._hosts = {
            name: config
            for config, names in zip(self._host_configs, outputs, strict=True)
            for name in names
        }
        self._widths = {name: config.embedding_dim for name, config in self._hosts.items()}
        self._is_weighted = host.is_weighted()
        self._device = host.device
        replaced = [*self.keys, *self.content_keys]
        for key in replaced:
            if key not in self._hosts:
                raise ValueError(
                    f"keys to replace must be outputs of the host, {list(self._hosts)}, got {key}"
                )
        kept, self._columns = _without(self._host_configs, outputs, set(replaced))
        self._check_sids(kept, sid_tables, expander)
        if not [*kept, *sid_tables]:
            raise ValueError("host must keep a table or get one, got none of either")
        # Kept here: a train pipeline puts a wrapper in the expander's place.
        self._sid_features = [] if expander is None else [*map(expander.feature_names, self.keys)]

        self.expander = expander
        self.ebc = hybrid._merge(host, kept, sid_tables)  # pyright: ignore[reportPrivateUsage]
        num_resolutions = 0 if expander is None else len(expander.resolutions)
        self.fusions = nn.ModuleList(
            ResolutionAttention(dim=self._widths[key], num_resolutions=num_resolutions)
            if num_resolutions > 1
            else nn.Flatten()
            for key in self.keys
        )
        self._content_features = [source.feature for source in contents.values()]
        self.contents = nn.ModuleList(contents.values())
        self.projections = nn.ModuleList(
            nn.Linear(source.vectors.dim, self._widths[key], bias=False)
            for key, source in contents.items()
        )

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The host's table configs: what the model around the collection sizes itself by.

        Returns:
            Configs of all the host's tables, also of those that are gone.
        """
        return self._host_configs

    def features_of(self, name: str) -> list[str]:
        """Which features of a batch the vector of a host's feature is made of.

        Args:
            name: Feature of the host, or a key of its output.

        Returns:
            The feature, and those its SIDs or its content are read from.
        """
        host = self._hosts.get(name)
        read = [name if host is None else name.removesuffix(f"@{host.name}")]
        if self.expander is not None and name in self.keys:
            read += self.expander.source_features(name)
        if name in self.content_keys:
            read.append(self._content_features[self.content_keys.index(name)])
        return read

    def is_weighted(self) -> bool:
        """Whether the batch carries a weight per id.

        Returns:
            As the host says.
        """
        return self._is_weighted

    @property
    def device(self) -> torch.device:
        """Where the host's tables were made."""
        return self._device

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look the batch up.

        Args:
            features: The host's batch, with the sources' features. What the replaced tables read
                may be missing.

        Returns:
            Pooled embeddings with the host's keys and widths; an empty bag is zero.

        Raises:
            ValueError: If a feature is missing, if the batch size varies by feature, or if an
                unsharded collection is given an empty batch.
        """
        expanded = features if self.expander is None else self.expander(features)
        if type(self.ebc) is EmbeddingBagCollection:  # sharded, it serves an empty batch
            expanded = sid_expander.require_rows(expanded)
        columns = hybrid._columns(self.ebc(expanded))  # pyright: ignore[reportPrivateUsage]
        values = {name: columns[column] for name, column in self._columns.items()}
        for index, (key, fusion) in enumerate(zip(self.keys, self.fusions, strict=True)):
            names = self._sid_features[index]
            values[key] = fusion(torch.stack([columns[name] for name in names], dim=1))
        for index, (key, source, projection) in enumerate(
            zip(self.content_keys, self.contents, self.projections, strict=True)
        ):
            values[key] = projection(source(features))
            if self._hosts[key].pooling == PoolingType.MEAN:
                values[key] = _mean(values[key], features, self._content_features[index])
        return hybrid._keyed_tensor(  # pyright: ignore[reportPrivateUsage]
            list(self._widths), list(self._widths.values()), [values[key] for key in self._widths]
        )

    def _check_sids(
        self,
        kept: Sequence[EmbeddingBagConfig],
        sid_tables: Sequence[EmbeddingBagConfig],
        expander: SIDFeatures | None,
    ) -> None:
        if expander is None:
            if sid_tables:
                raise ValueError(
                    "sid_tables must come with an expander,"
                    f" got {[config.name for config in sid_tables]} alone"
                )
            return
        hybrid._check_tables(kept, sid_tables, expander)  # pyright: ignore[reportPrivateUsage]
        for key in self.keys:
            hybrid._check_fit(key, self._hosts[key], sid_tables)  # pyright: ignore[reportPrivateUsage]


def _check_contents(contents: Mapping[str, ContentSource], keys: Sequence[str]) -> None:
    for key, source in contents.items():
        if not isinstance(source, ContentSource):
            raise TypeError(
                f"contents must be ContentSource, got {type(source).__name__} for {key}"
            )
        if key in keys:
            raise ValueError(f"contents must not hold keys of the expander, got {key}")
    if not contents and not keys:
        raise ValueError("expander or contents must be given, got neither")


def _without(
    configs: Sequence[EmbeddingBagConfig], outputs: Sequence[Sequence[str]], replaced: set[str]
) -> tuple[list[EmbeddingBagConfig], dict[str, str]]:
    """The tables without the replaced outputs, and the column of each output that is left."""
    kept: list[EmbeddingBagConfig] = []
    left: list[str] = []
    for config, names in zip(configs, outputs, strict=True):
        stay = [i for i, name in enumerate(names) if name not in replaced]
        if stay:
            features = [config.feature_names[i] for i in stay]
            kept.append(dataclasses.replace(config, feature_names=features))
            left += [names[i] for i in stay]
    # A feature that several tables read is called feature@table: with one table gone, it may not.
    columns = [name for names in get_embedding_names_by_table(kept) for name in names]
    return kept, dict(zip(left, columns, strict=True))


@torch.fx.wrap
def _mean(sums: Tensor, features: KeyedJaggedTensor, name: str) -> Tensor:
    return sums / features[name].lengths().clamp(min=1).unsqueeze(1)
