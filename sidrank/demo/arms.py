"""The arms: one host, the ways to give it semantic IDs, and the controls.

====================  ===========================================================================
host                  DLRM with hash ids only
hybrid                host + SIDs through the residual gate (the upgrade path's form)
hybrid_convex         host + SIDs through the convex gate (the paper's form)
hybrid_memorization   hybrid + a wide branch over SID prefixes
concat                host + every SID resolution as a field of its own
sid_only              the same without the item's hash id
host_matched          control: the host, widened to at least as many parameters as hybrid
hybrid_shuffled       control: hybrid, each item with the SID of another
host_vector           control: host + the raw item vector through a linear layer
host_scalars          control: host + the vector's like residual and log count alone
====================  ===========================================================================

``lr``, one-hot logistic regression, is in ``sidrank.demo.regression``.
Arms that share the host draw its weights first, so that with one seed they start from the same.

Shapes: ``V`` items, ``D`` width of a table.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor, PoolingType
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.demo.features import GATE_STATISTICS, Features
from sidrank.demo.item_vectors import ItemVectors
from sidrank.demo.settings import Recipe
from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    MemorizationBranch,
    RawIDSource,
    SIDExpander,
    WideAndDeep,
    replace_embeddings,
)
from sidrank.layers import ConvexGate, ResidualGate
from sidrank.semantic_ids import SIDLookup, SIDTable

__all__ = ["ARMS", "DEFAULT_ARMS", "build_arm", "gate_of", "make_host", "shuffled", "upgrade"]

ARMS = (
    *("lr", "host", "sid_only", "concat", "hybrid", "hybrid_convex", "hybrid_memorization"),
    *("host_matched", "hybrid_shuffled", "host_vector", "host_scalars"),
)
DEFAULT_ARMS = ("host", "hybrid", "hybrid_shuffled", "host_vector", "host_scalars")

Gate = ResidualGate | ConvexGate


def build_arm(
    arm: str,
    *,
    features: Features,
    table: SIDTable,
    vectors: ItemVectors,
    recipe: Recipe,
    seed: int,
) -> nn.Module:
    """Build the model of an arm, ready to train.

    Args:
        arm: One of ``ARMS`` but ``lr``.
        features: Sizes of the host's tables.
        table: The items' semantic IDs.
        vectors: The items' vectors, in the order of ``table.item_ids``.
        recipe: Widths and initial values.
        seed: Seed of all initial values, and of the shuffle.

    Returns:
        A model with DLRM's signature.

    Raises:
        ValueError: If the arm is unknown.
    """
    torch.manual_seed(seed)
    if arm == "host":
        return make_host(features, recipe)
    if arm in ("host_vector", "host_scalars"):
        values = vectors.vectors if arm == "host_vector" else vectors.scalars
        wrap = partial(_WithVector, item_ids=table.item_ids, vectors=values, dim=recipe.width)
        return _dlrm(wrap(_collection(features, recipe)), features, recipe)
    if arm in ("concat", "sid_only"):
        skipped = ("item",) if arm == "sid_only" else ()
        tables = _table_configs(features, recipe, skipped)
        expander = _expander(table, "multires")
        birth = partial(nn.init.normal_, std=recipe.init)
        tables += expander.embedding_bag_configs(embedding_dim=recipe.width, init_fn=birth)
        return _dlrm(_Expanded(expander, EmbeddingBagCollection(tables=tables)), features, recipe)
    if arm == "host_matched":
        goal = _size(upgrade(make_host(features, recipe), table, recipe))
        wide = recipe
        while _size(make_host(features, wide)) < goal:
            wide = replace(wide, width=wide.width + 1)
        torch.manual_seed(seed)
        return make_host(features, wide)
    if arm == "hybrid_shuffled":
        return upgrade(make_host(features, recipe), shuffled(table, seed), recipe)
    if arm == "hybrid":
        return upgrade(make_host(features, recipe), table, recipe)
    if arm == "hybrid_convex":
        return upgrade(make_host(features, recipe), table, recipe, convex=True)
    if arm == "hybrid_memorization":
        hybrid = upgrade(make_host(features, recipe), table, recipe)
        return WideAndDeep(hybrid, MemorizationBranch(_expander(table, "prefix")))
    raise ValueError(f"arm must be one of {ARMS[1:]}, got {arm!r}")


def make_host(features: Features, recipe: Recipe) -> DLRM:
    """The ranker that already runs: TorchRec's DLRM over one stock collection.

    Args:
        features: Sizes of the tables.
        recipe: Widths and initial values.

    Returns:
        The host.
    """
    return _dlrm(_collection(features, recipe), features, recipe)


def upgrade(host: DLRM, table: SIDTable, recipe: Recipe, *, convex: bool = False) -> DLRM:
    """Give a host semantic IDs, in place: the change that this library is about.

    Args:
        host: The ranker.
        table: The items' semantic IDs.
        recipe: Width of the tables.
        convex: Whether the gate takes the convex form, with random SID rows.

    Returns:
        The same object, upgraded.
    """
    expander = _expander(table, "multires")
    birth = partial(nn.init.normal_, std=recipe.init) if convex else nn.init.zeros_
    tables = expander.embedding_bag_configs(
        embedding_dim=recipe.width, pooling=PoolingType.MEAN, init_fn=birth
    )
    gate: Gate = (ConvexGate if convex else ResidualGate)(statistics=GATE_STATISTICS)
    replace_embeddings(
        host,
        "sparse_arch.embedding_bag_collection",
        lambda ebc: HybridEmbeddingBagCollection(
            ebc, tables, expander=expander, gates={"item": gate}
        ),
    )
    return host


def shuffled(table: SIDTable, seed: int) -> SIDTable:
    """The same codes, each on another item.

    Args:
        table: The items' semantic IDs.
        seed: Seed of the permutation.

    Returns:
        A table of the same items and spec.
    """
    order = np.random.default_rng(seed).permutation(len(table))
    return SIDTable(table.item_ids, table.codes[order], spec=table.spec)


def gate_of(model: nn.Module) -> Gate:
    """The gate of a hybrid.

    Args:
        model: A model with one ``HybridEmbeddingBagCollection``.

    Returns:
        The gate of its ``item``.

    Raises:
        ValueError: If there is none.
    """
    for module in model.modules():
        if isinstance(module, ResidualGate | ConvexGate):
            return module
    raise ValueError(f"model must hold a gate, got {type(model).__name__} without one")


def _expander(table: SIDTable, mode: str) -> SIDExpander:
    lookup = SIDLookup(table)
    source = {"item": RawIDSource("item_raw", lookup)}
    return SIDExpander(source, mode="prefix" if mode == "prefix" else "multires")


def _collection(features: Features, recipe: Recipe) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(tables=_table_configs(features, recipe, ()))


def _table_configs(
    features: Features, recipe: Recipe, skipped: tuple[str, ...]
) -> list[EmbeddingBagConfig]:
    """One table a field; the history shares the item's, mean-pooled."""
    configs: list[EmbeddingBagConfig] = []
    for name, size in features.sizes.items():
        if name.endswith("_bucket") and not recipe.buckets:
            continue
        readers = [name, "history"] if name == "item" else [name]
        configs.append(
            EmbeddingBagConfig(
                name=name,
                embedding_dim=recipe.width,
                num_embeddings=size,
                feature_names=[reader for reader in readers if reader not in skipped],
                pooling=PoolingType.MEAN,
                init_fn=partial(nn.init.normal_, std=recipe.init),
            )
        )
    return configs


def _dlrm(collection: nn.Module, features: Features, recipe: Recipe) -> DLRM:
    return DLRM(
        embedding_bag_collection=collection,  # pyright: ignore[reportArgumentType]
        dense_in_features=features.dense.shape[1],
        dense_arch_layer_sizes=[recipe.hidden, recipe.width],
        over_arch_layer_sizes=[2 * recipe.hidden, recipe.hidden, 1],
    )


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class _Expanded(nn.Module):
    """SIDs as ordinary fields: the expander in front of one stock collection."""

    def __init__(self, expander: SIDExpander, ebc: EmbeddingBagCollection) -> None:
        super().__init__()
        self.expander = expander
        self.ebc = ebc
        self.embedding_bag_configs: Callable[[], list[EmbeddingBagConfig]]
        self.embedding_bag_configs = ebc.embedding_bag_configs

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        return self.ebc(self.expander(features))


class _WithVector(nn.Module):
    """A raw vector of each item through a linear layer, as one more field of the host."""

    vectors: Tensor

    def __init__(
        self,
        ebc: EmbeddingBagCollection,
        *,
        item_ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
        dim: int,
    ) -> None:
        super().__init__()
        self.ebc = ebc
        self.dim = dim
        by_id = torch.zeros(int(item_ids.max()) + 1, vectors.shape[1])
        by_id[torch.from_numpy(item_ids.copy())] = torch.from_numpy(vectors)
        self.register_buffer("vectors", by_id, persistent=False)
        self.project = nn.Linear(vectors.shape[1], dim)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The host's configs and a stand-in for the field that DLRM must make room for."""
        field = EmbeddingBagConfig(
            name="vector", embedding_dim=self.dim, num_embeddings=1, feature_names=["vector"]
        )
        return [*self.ebc.embedding_bag_configs(), field]

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        host = self.ebc(features)
        vector = self.project(self.vectors[features["item_raw"].values()])
        return KeyedTensor(
            keys=[*host.keys(), "vector"],
            length_per_key=[*host.length_per_key(), self.dim],
            values=torch.cat([host.values(), vector], dim=1),
        )
