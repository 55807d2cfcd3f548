"""Embedding tables larger than memory that train bit for bit as if they were not.

The rows live in a slow tier, in RAM or in a file, each with its optimiser's state. A few of them
sit in the slots of an ordinary FBGEMM table, which does the lookup, the gradient and the step as it
would for the whole table: a batch's ids are renamed to slots before it, and rows come and go
between batches. What comes out is equal to the uncached table's to the last bit:

- a slot is not given up while a batch in flight uses it: planned, looked up, or before its step;
- a row is fetched only if no slot holds it;
- one worker, or none, moves the rows in the order in which the batches were planned, and what a
  slot held is written back before anything is read into it;
- the optimiser changes nothing but the rows of the batch (`RowOptimizer`).

Used alone, it fetches what a batch lacks when the batch is looked up. `LookAheadLoader` around the
loader fetches during the batch before, and gives up the rows that the coming batches want last.

Source: CachedEmbedding, arXiv 2208.05321; ScratchPipe, arXiv 2205.04702; BagPipe, arXiv 2202.12429.
Differs from the sources: exact for each of its optimisers, and a slot's holders are counted, so
that several forward passes may wait for their backward passes [derived]. No GPU has run this.

Shapes: ``B`` rows of the batch, ``D`` width of a table.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor, KeyedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import get_embedding_names_by_table

from sidrank.cache._bag_group import BagGroup, grouped
from sidrank.cache._cached_table import CachedTable
from sidrank.cache._row_cache import RowCache
from sidrank.cache._table_ids import features_by_name, table_ids
from sidrank.cache._tiered_arguments import slots_by_table, tiers_by_table
from sidrank.cache.flight import Flight
from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.slot_map import SlotMap
from sidrank.cache.slow_tier import MemoryTier, SlowTier
from sidrank.cache.traffic import Traffic

__all__ = ["TieredEmbeddingBagCollection"]

_outside_graphs = cast(
    Callable[[Callable[..., KeyedTensor]], Callable[..., KeyedTensor]], torch.compiler.disable
)


class TieredEmbeddingBagCollection(nn.Module):
    """An ``EmbeddingBagCollection`` of which only some rows are in the memory that trains.

    The optimiser steps in the backward pass, as in TorchRec's fused collections, and there is no
    parameter that another optimiser could see. A graph is backed through once; several may be open
    if their rows fit together. In evaluation rows come and go too, and lose nothing.

    ``state_dict`` holds the weights under the names of an ``EmbeddingBagCollection``, so either
    loads the other's; the optimiser's part is `optimizer_state_dict`. Both hold tables in memory
    alone: rows in files are saved where they are, by `sidrank.cache.commit`. A pickle, or a deep
    copy, holds the tiers and starts with empty slots. ``torch.compile`` runs the lookup outside its
    graph; FX has to take the module for a leaf; ``torch.export``, TorchScript and construction on
    ``meta`` do not work.

    Args:
        tables: TorchRec's own configs, float32.
        slots: How many rows of each table are in the cache, or of all the tables alike.
        optimizer: What steps, and what a row carries of it.
        tiers: Where the rows of a table live, ``rows`` by ``optimizer.row_width(D)``, filled; a
            table that is not named gets a `MemoryTier` and its ``init_fn``.
        is_weighted: Whether the batch carries a weight per id.
        device: Where the slots are; None: torch's default device.

    Raises:
        ValueError: If a table is named twice, is not float32 or has a width that FBGEMM refuses; if
            ``slots`` or ``tiers`` name other tables, a tier has other sizes or serves two tables;
            or if the device is neither CPU nor CUDA.

    Example:
        >>> table = EmbeddingBagConfig(
        ...     name="item", embedding_dim=4, num_embeddings=1000, feature_names=["item"])
        >>> collection = TieredEmbeddingBagCollection(
        ...     [table], slots=3, optimizer=RowOptimizer(torch.optim.SGD, lr=0.1))
        >>> def batch(*ids):
        ...     lengths = torch.ones(len(ids), dtype=torch.int32)
        ...     return KeyedJaggedTensor(["item"], torch.tensor(ids), lengths=lengths)
        >>> for ids in ((1, 2), (2, 900), (7, 8)):
        ...     collection(batch(*ids)).values().sum().backward()
        >>> collection.traffic["item"]
        Traffic(lookups=6, misses=5, evictions=2, written=3)
        >>> collection(batch(1, 2, 3, 4))
        Traceback (most recent call last):
            ...
        sidrank.cache.errors.CacheError: slots of item must be at least 4, the rows in flight, got 3
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        *,
        slots: int | Mapping[str, int],
        optimizer: RowOptimizer,
        tiers: Mapping[str, SlowTier] | None = None,
        is_weighted: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self._configs = [_with_features(table) for table in tables]
        self._optimizer = optimizer
        self._is_weighted = is_weighted
        self._device = torch.get_default_device() if device is None else torch.device(device)
        self._slots = slots_by_table(self._configs, slots)
        self._learning_rate = optimizer.lr
        self._build(tiers_by_table(self._configs, optimizer, tiers or {}))

    def _build(self, tiers: Mapping[str, SlowTier]) -> None:
        if self._device.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self._device}")
        self._members = grouped(self._configs)
        self._groups: list[BagGroup] = []
        made: dict[int, CachedTable] = {}
        for members in self._members:
            configs = [self._configs[number] for number in members]
            counts = [self._slots[config.name] for config in configs]
            group = BagGroup(configs, counts, self._optimizer, self._device)
            group.set_learning_rate(self._learning_rate)
            self._groups.append(group)
            memory = zip(members, configs, group.weights(), group.states(), strict=True)
            for number, config, weight, state in memory:
                cache = SlotMap(rows=config.num_embeddings, slots=self._slots[config.name])
                made[number] = CachedTable(config.name, cache, tiers[config.name], weight, state)
        self._tables = [made[number] for number in range(len(self._configs))]
        self._cache = RowCache(self._tables, self._members)
        self._names = get_embedding_names_by_table(self._configs)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool.

        Args:
            features: The batch, with the features of every table among its keys.

        Returns:
            ``[B, sum of D over tables and their features]``, in the order of the tables.

        Raises:
            ValueError: If a feature or its weights are missing, an id is outside its table, or
                features differ in their number of rows.
            CacheError: If the rows do not fit beside those in flight, or a tier has failed.
        """
        return self._lookup(features)

    @_outside_graphs
    def _lookup(self, features: KeyedJaggedTensor) -> KeyedTensor:
        if torch.is_inference_mode_enabled():  # in which FBGEMM's operators do not run
            with torch.inference_mode(False), torch.no_grad():
                return self._lookup(features)
        read = features_by_name(features, is_weighted=self._is_weighted)
        flight = self._cache.board(table_ids(self._configs, read))
        pooled: list[Tensor] = []
        try:
            for group, members in zip(self._groups, self._members, strict=True):
                pooled.append(group.pool([flight.slots[number] for number in members], read))
        finally:
            self._cache.watch(flight, pooled)
        return KeyedTensor(
            keys=[name for names in self._names for name in names],
            length_per_key=[
                table.embedding_dim for table in self._configs for _ in table.feature_names
            ],
            values=self._by_table(pooled),
        )

    @property
    def tiers(self) -> dict[str, SlowTier]:
        """Where the rows live; without what is newer in the slots until `flush`."""
        return {table.name: table.tier for table in self._tables}

    @property
    def traffic(self) -> dict[str, Traffic]:
        """What has gone between tiers and slots, by table."""
        return {table.name: table.traffic for table in self._tables}

    @property
    def device(self) -> torch.device:
        """Where the slots are."""
        return self._device

    @property
    def optimizer(self) -> RowOptimizer:
        """What steps."""
        return self._optimizer

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The tables."""
        return self._configs

    def is_weighted(self) -> bool:
        """Whether the batch carries a weight per id."""
        return self._is_weighted

    def set_learning_rate(self, lr: float) -> None:
        """Step with another learning rate from the next backward pass on."""
        self._learning_rate = lr
        for group in self._groups:
            group.set_learning_rate(lr)

    def announce(self, features: KeyedJaggedTensor) -> None:
        """Say that a batch will be looked up, after those announced before.

        Args:
            features: The batch, as it will be looked up.

        Raises:
            ValueError: As in `forward`.
        """
        self._cache.announce(self._ids(features))

    def prefetch(self, features: KeyedJaggedTensor, *, background: bool = True) -> Flight:
        """Fetch the rows of a batch that will be looked up soon, while others train.

        They stay until the batch has been looked up, or until `abandon`.

        Args:
            features: The batch, as it will be looked up.
            background: Fetch on the worker's thread; False: now.

        Returns:
            The batch in flight, for `abandon`.

        Raises:
            ValueError: As in `forward`.
            CacheError: As in `forward`.
        """
        return self._cache.prefetch(self._ids(features), background=background)

    def abandon(self, flight: Flight) -> None:
        """Let a prefetched batch go that will not be looked up."""
        self._cache.abandon(flight)

    def forget_announced(self) -> None:
        """Unsay what was announced."""
        self._cache.forget_announced()

    @property
    def strays(self) -> int:
        """How many batches were looked up for training without having been prefetched."""
        return self._cache.strays

    def flush(self) -> None:
        """Write every row that is newer in its slot to its tier; the disk is not waited for.

        Raises:
            CacheError: If a tier has failed.
        """
        self._cache.flush()

    def drop(self) -> None:
        """Forget every slot, written or not: the next lookup reads the tiers.

        For tiers that were changed from outside, or set back after a failure. Batches in flight
        are forgotten too, and a graph that is open cannot be backed through any more.
        """
        self._cache.drop()

    def _ids(self, features: KeyedJaggedTensor) -> list[Tensor]:
        return table_ids(self._configs, features_by_name(features, is_weighted=False))

    def _by_table(self, pooled: list[Tensor]) -> Tensor:
        """One block per table, in the order of the tables."""
        if len(pooled) == 1:
            return pooled[0]
        blocks: dict[int, Tensor] = {}
        for members, block in zip(self._members, pooled, strict=True):
            tables = [self._configs[number] for number in members]
            widths = [table.embedding_dim * len(table.feature_names) for table in tables]
            blocks.update(zip(members, block.split(widths, dim=1), strict=True))
        return torch.cat([blocks[number] for number in range(len(blocks))], dim=1)

    def optimizer_state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The optimiser's state of every table in memory, a copy.

        Returns:
            By the weight's name, ``momentum1``: ``[rows]`` for row-wise Adagrad, ``[rows, D]`` for
            Adagrad; nothing for SGD.

        Raises:
            CacheError: If a tier has failed.
        """
        self.flush()
        states: dict[str, dict[str, Tensor]] = {}
        for table, name in self._in_memory():
            state = table.columns(slice(table.weight.shape[1], None))
            if state.shape[1]:
                states[name] = {"momentum1": state[:, 0] if state.shape[1] == 1 else state}
        return states

    def load_optimizer_state_dict(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what `optimizer_state_dict` gave; every slot is forgotten.

        Args:
            states: The state of every table in memory.

        Raises:
            ValueError: If tables or shapes differ.
            CacheError: If a tier has failed.
        """
        own = self.optimizer_state_dict()
        if states.keys() != own.keys():
            raise ValueError(f"states must hold {sorted(own)}, got {sorted(states)}")
        for name, state in own.items():
            wanted, got = state["momentum1"].shape, states[name]["momentum1"].shape
            if wanted != got:
                raise ValueError(f"states must be {list(wanted)} for {name}, got {list(got)}")
        for table, name in self._in_memory():
            if name in states:
                state = states[name]["momentum1"].reshape(table.tier.rows, -1)
                table.set_columns(slice(table.weight.shape[1], None), state)
        self.drop()

    def _in_memory(self) -> list[tuple[CachedTable, str]]:
        return [
            (table, f"embedding_bags.{table.name}.weight")
            for table in self._tables
            if isinstance(table.tier, MemoryTier)
        ]

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        self.flush()
        for table, name in self._in_memory():
            destination[prefix + name] = table.columns(slice(table.weight.shape[1]))

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self.flush()
        names = {f"{prefix}embedding_bags.{table.name}.weight": table for table in self._tables}
        needed = {prefix + name for _, name in self._in_memory()}
        for name, table in names.items():
            shape = [table.tier.rows, table.weight.shape[1]]
            if name not in state_dict:
                missing_keys += [name] if strict and name in needed else []
            elif list(state_dict[name].shape) != shape:
                got = list(state_dict[name].shape)
                error_msgs.append(f"{name} must have shape {shape}, got {got}")
            else:
                table.set_columns(slice(shape[1]), state_dict[name].detach())
        if strict:
            unexpected_keys += [
                name for name in state_dict if name.startswith(prefix) and name not in names
            ]
        self.drop()

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        kept = ("_configs", "_optimizer", "_is_weighted", "_device", "_slots", "_learning_rate")
        state = {name: self.__dict__[name] for name in kept}
        return {**state, "tiers": self.tiers, "training": self.training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        tiers = cast(dict[str, SlowTier], state.pop("tiers"))
        super().__init__()
        self.__dict__.update(state)
        self._build(tiers)


def _with_features(table: EmbeddingBagConfig) -> EmbeddingBagConfig:
    """A table without features reads the one of its own name, as in TorchRec."""
    table = copy.copy(table)
    table.feature_names = list(table.feature_names) or [table.name]
    return table
