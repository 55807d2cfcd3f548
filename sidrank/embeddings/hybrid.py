"""A host's embedding collection with semantic IDs beside its hash IDs.

``HybridEmbeddingBagCollection`` takes the ``EmbeddingBagCollection`` of a ranker that runs and
gives back the same keys and widths, so the model around it (``DLRM``, ``DLRM_DCN``,
``DLRM_Projection``, your own) does not change. Inside: the batch gains SID features
(``SIDExpander``), one stock collection looks host and SID tables up together, the
resolutions of a SID are fused by attention, and a gate mixes the result into the hash-ID
embedding of the item.

It composes TorchRec's collection and never subclasses it: TorchRec finds sharders by exact class
and leaves subclasses unsharded without a word. The collection is the child ``ebc``, so a host
table ``embedding_bags.t.weight`` is ``ebc.embedding_bags.t.weight`` here;
``load_host_checkpoint`` maps weights and optimiser state.

Source: SID-Coord, arXiv 2604.10471 (multi-resolution SIDs, target-aware gate).
Differs from the source: see ``SIDExpander``, ``ResolutionAttention`` and the gates.

Shapes: ``B`` rows of the batch, ``R`` resolutions, ``S`` statistics, ``D`` width.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import get_embedding_names_by_table

from sidrank.embeddings import sid_expander
from sidrank.embeddings.field_tables import FieldTables
from sidrank.embeddings.sid_expander import SIDExpander
from sidrank.embeddings.sid_features import SIDFeatures
from sidrank.layers import ConvexGate, ResidualGate, ResolutionAttention

__all__ = ["HybridEmbeddingBagCollection"]


class HybridEmbeddingBagCollection(nn.Module):
    """Wrap the embedding collection of a host: hash IDs and semantic IDs of an item, mixed.

    The host's tables are taken over, not copied: their parameters (with any optimiser fused
    into the backward pass) live on in ``ebc``. With ``ResidualGate`` the output is bit-equal to
    the host's until the first update. Build it before ``DistributedModelParallel``, load
    weights after: TorchRec draws table weights anew when it shards.

    Args:
        host: The host's collection, exactly an ``EmbeddingBagCollection``.
        sid_tables: Tables for the expander's features, usually
            ``expander.embedding_bag_configs(embedding_dim=D)``.
        expander: Adds the SID features to the batch. Its keys are the host outputs to enrich.
        gates: For each key of the expander the gate that mixes the two embeddings.

    Raises:
        TypeError: If ``host`` is another kind of collection (managed-collision,
            feature-processed, fused, sharded, or a subclass), or a gate is no gate.
        ValueError: If keys, table names, widths, pooling, rows or features do not fit, or if a
            ``ResidualGate`` meets tables that are not zero at birth.

    Example:
        >>> import numpy as np
        >>> from sidrank.embeddings import RawIDSource, SIDExpander
        >>> from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
        >>> sids = SIDTable(np.arange(9), np.zeros((9, 2), dtype=int), spec=SIDSpec((4, 4)))
        >>> expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(sids))})
        >>> host = EmbeddingBagCollection(tables=[EmbeddingBagConfig(
        ...     name="t", embedding_dim=8, num_embeddings=5, feature_names=["item"])])
        >>> hybrid = HybridEmbeddingBagCollection(
        ...     host, expander.embedding_bag_configs(embedding_dim=8), expander=expander,
        ...     gates={"item": ResidualGate(statistics=["impressions"])})
        >>> [config.name for config in hybrid.embedding_bag_configs()]
        ['t']
    """

    def __init__(
        self,
        host: EmbeddingBagCollection,
        sid_tables: Sequence[EmbeddingBagConfig],
        *,
        expander: SIDFeatures,
        gates: Mapping[str, ResidualGate | ConvexGate],
    ) -> None:
        super().__init__()
        if type(host) is not EmbeddingBagCollection:
            raise TypeError(
                "host must be exactly a torchrec EmbeddingBagCollection,"
                f" got {type(host).__module__}.{type(host).__qualname__}"
            )
        self._host_configs = list(host.embedding_bag_configs())
        names = get_embedding_names_by_table(self._host_configs)
        self._hosts = {
            name: config
            for config, of_table in zip(self._host_configs, names, strict=True)
            for name in of_table
        }
        self._widths = {name: config.embedding_dim for name, config in self._hosts.items()}
        self._is_weighted = host.is_weighted()
        self._device = host.device
        _check_tables(self._host_configs, sid_tables, expander)
        self.keys = list(expander.keys)
        # Kept here: a train pipeline puts a wrapper in the expander's place.
        self._sid_features = [expander.feature_names(key) for key in self.keys]
        self._check_gates(gates, sid_tables)

        self.expander = expander
        self.ebc = _merge(host, self._host_configs, sid_tables)
        num_resolutions = len(expander.resolutions)
        self.fusions = nn.ModuleList(
            ResolutionAttention(dim=self._widths[key], num_resolutions=num_resolutions)
            if num_resolutions > 1
            else nn.Flatten()
            for key in self.keys
        )
        self.gates = nn.ModuleList(gates[key] for key in self.keys)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The host's table configs: what the model around the collection sizes itself by.

        Returns:
            Configs of the host's own tables, without the SID tables.
        """
        return self._host_configs

    def features_of(self, name: str) -> list[str]:
        """Which features of a batch the vector of a host's feature is made of.

        Args:
            name: Feature of the host, or a key of its output.

        Returns:
            The feature, those its SIDs are read from, and the statistics of its gate.
        """
        host = self._hosts.get(name)
        feature = name if host is None else name.removesuffix(f"@{host.name}")
        if name not in self.keys:
            return [feature]
        place = self.keys.index(name)
        gate = cast(ResidualGate, self.gates[place])
        return [feature, *self.expander.source_features(name), *gate.statistics]

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
            features: The host's batch, with the sources' features and the gates' statistics
                (integer features that no table reads; the first value of each bag counts, an
                empty bag is 0).

        Returns:
            Pooled embeddings with the host's keys and widths.

        Raises:
            ValueError: If a feature is missing, if the batch size varies by feature, or if an
                unsharded collection is given an empty batch.
        """
        expanded = self.expander(features)
        if type(self.ebc) is EmbeddingBagCollection:  # sharded, it serves an empty batch
            expanded = sid_expander.require_rows(expanded)
        # Taken apart once: each split costs a full-width tensor in the backward pass.
        columns = _columns(self.ebc(expanded))
        values = {key: columns[key] for key in self._widths}
        for index, key in enumerate(self.keys):
            names = self._sid_features[index]
            resolutions = torch.stack([columns[name] for name in names], dim=1)
            present = _present(expanded, names[0])
            values[key] = self._mixed(index, columns[key], resolutions, expanded, present)
        return _keyed_tensor(list(self._widths), list(self._widths.values()), list(values.values()))

    def fields(self, features: KeyedJaggedTensor, names: Sequence[str]) -> list[Tensor]:
        """Look some fields up, as :meth:`forward` does, without the cost of the others.

        Args:
            features: A batch that holds the features of these fields; others may be missing.
            names: Keys of the host's output.

        Returns:
            Pooled embeddings of each, shape ``[B, D]``.

        Raises:
            TypeError: If fields cannot be had one by one: the collection is sharded or quantised,
                or other features than those of a ``SIDExpander`` stand before it.
            ValueError: If a feature is missing.
        """
        if not self.has_fields_apart():
            raise TypeError(
                "fields must be looked up in an EmbeddingBagCollection behind a SIDExpander,"
                f" got {type(self.ebc).__name__} behind {type(self.expander).__name__}"
            )
        tables = FieldTables(self.ebc)
        found = tables.look_up(names, features)
        for place, name in enumerate(names):
            if name in self.keys:
                index = self.keys.index(name)
                rows, bag = cast(SIDExpander, self.expander).rows(features, name)
                sid = tables.look_up_rows(self._sid_features[index], rows, bag)
                present = bag.lengths() > 0
                resolutions = torch.stack(sid, dim=1)
                found[place] = self._mixed(index, found[place], resolutions, features, present)
        return found

    def has_fields_apart(self) -> bool:
        """Whether :meth:`fields` can serve: no collection of tables has been exchanged.

        Returns:
            As it says.
        """
        return type(self.ebc) is EmbeddingBagCollection and isinstance(self.expander, SIDExpander)

    def _mixed(
        self,
        index: int,
        hid: Tensor,
        resolutions: Tensor,
        features: KeyedJaggedTensor,
        present: Tensor,
    ) -> Tensor:
        """What fusion and gate of a key make of its embeddings."""
        gate = self.gates[index]
        statistics = _statistics(features, cast(ResidualGate, gate).statistics)
        return gate(hid, self.fusions[index](resolutions), statistics, present)

    def _check_gates(
        self,
        gates: Mapping[str, ResidualGate | ConvexGate],
        sid_tables: Sequence[EmbeddingBagConfig],
    ) -> None:
        if set(gates) != set(self.keys):
            raise ValueError(f"gates must have the expander's keys {self.keys}, got {list(gates)}")
        for key, gate in gates.items():
            if not isinstance(gate, ResidualGate | ConvexGate):
                raise TypeError(
                    f"gates must be ResidualGate or ConvexGate, got {type(gate).__name__} for {key}"
                )
            if key not in self._hosts:
                raise ValueError(
                    f"expander keys must be outputs of the host, {list(self._hosts)}, got {key}"
                )
            _check_fit(key, self._hosts[key], sid_tables)
            for config in sid_tables:
                if isinstance(gate, ResidualGate) and not _born_zero(config):
                    raise ValueError(
                        f"sid_tables must be zero at birth under a ResidualGate ({key}),"
                        f" got init_fn {config.init_fn} for table {config.name}"
                    )


def _born_zero(config: EmbeddingBagConfig) -> bool:
    rows = torch.ones(min(config.num_embeddings, 64), config.embedding_dim, device="cpu")
    if config.init_fn is not None:
        config.init_fn(rows)
    return not rows.any()


def _check_tables(
    host: Sequence[EmbeddingBagConfig], sid: Sequence[EmbeddingBagConfig], expander: SIDFeatures
) -> None:
    taken = {config.name for config in host}
    for config in sid:
        if config.name in taken:
            raise ValueError(f"sid_tables must have new names, got {config.name} twice")
        taken.add(config.name)
    added = {name for key in expander.keys for name in expander.feature_names(key)}
    clash = added & {name for config in host for name in config.feature_names}
    if clash:
        raise ValueError(f"host must not read the expander's features, got {sorted(clash)}")
    expander.check_tables(sid)


def _check_fit(
    key: str, host: EmbeddingBagConfig, sid_tables: Sequence[EmbeddingBagConfig]
) -> None:
    """Refuse tables that cannot stand beside, or for, the host's table of an item feature."""
    for config in sid_tables:
        if config.embedding_dim != host.embedding_dim:
            raise ValueError(
                f"sid_tables must have the width of {key}, {host.embedding_dim},"
                f" got {config.embedding_dim} in {config.name}"
            )
        if config.pooling != host.pooling:
            raise ValueError(
                f"sid_tables must pool as the host pools {key}, {host.pooling.name},"
                f" got {config.pooling.name} in {config.name}"
            )


def _merge(
    host: EmbeddingBagCollection,
    kept: Sequence[EmbeddingBagConfig],
    sid_tables: Sequence[EmbeddingBagConfig],
) -> EmbeddingBagCollection:
    """One stock collection over both, around the host's own parameters."""
    merged = EmbeddingBagCollection(
        tables=[*kept, *sid_tables],
        is_weighted=host.is_weighted(),
        device=torch.device("meta"),
    )
    born = EmbeddingBagCollection(tables=list(sid_tables), device=host.device)
    new = {config.name for config in sid_tables}
    for name in merged.embedding_bags:
        source = born if name in new else host
        merged.embedding_bags[name] = source.embedding_bags[name]
    merged._device = host.device  # pyright: ignore[reportPrivateUsage]
    merged.train(host.training)
    return merged


@torch.fx.wrap
def _columns(pooled: KeyedTensor) -> dict[str, Tensor]:
    return pooled.to_dict()


@torch.fx.wrap
def _present(features: KeyedJaggedTensor, name: str) -> Tensor:
    return features[name].lengths() > 0


@torch.fx.wrap
def _statistics(features: KeyedJaggedTensor, names: list[str]) -> Tensor:
    columns: list[Tensor] = []
    keys = features.keys()
    for name in names:
        if name not in keys:
            raise ValueError(f"features must contain the key {name}, got {keys}")
        bag = features[name]
        # A zero behind the values is what an empty bag reads.
        values = torch.cat([bag.values(), bag.values().new_zeros(1)])
        starts = bag.offsets()[:-1]
        last = torch.full_like(starts, values.size(0) - 1)
        columns.append(values[torch.where(bag.lengths() > 0, starts, last)])
    if len(columns) == 0:
        return torch.zeros(features.stride(), 0, device=features.device())
    return torch.stack(columns, dim=1)


@torch.fx.wrap
def _keyed_tensor(keys: list[str], widths: list[int], values: list[Tensor]) -> KeyedTensor:
    return KeyedTensor(keys=keys, length_per_key=widths, values=torch.cat(values, dim=1))
