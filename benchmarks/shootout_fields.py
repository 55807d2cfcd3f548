"""Fields of the shoot-out that are computed instead of looked up in a collection.

Shapes: ``B`` rows of a batch, ``L`` history length, ``R`` resolutions, ``D`` width.
"""

from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor, PoolingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from benchmarks.shootout_rows import FOUND, LONG, SHORT, World
from sidrank.embeddings import SIDExpander
from sidrank.layers import SoftDiscretization
from sidrank.sequences import InterestAlignment, SIDTierToken, TierHistogram, bucket_means
from sidrank.towers import ESUTargetAttention, GSUSearch

__all__ = ["EXTRA_KEYS", "Alignment", "Fields", "make_field"]

EXTRA_KEYS = {
    "esu_ids": ("found",),
    "esu_sids": ("found",),
    "long_mean": ("long",),
    "glass": ("long_raw",),
    "scalars": ("impressions",),
}
TIERS = 5


class Fields(nn.Module):
    """A collection, SID features as fields beside it, and fields that are computed otherwise.

    Args:
        inner: The collection.
        init: Standard deviation of SID rows at birth.
    """

    def __init__(self, inner: Any, *, init: float) -> None:
        super().__init__()
        self.inner = inner
        self.init = init
        self.expanders = nn.ModuleList()
        self.collections = nn.ModuleList()
        self.extra = nn.ModuleDict()
        self._pooled: dict[str, Tensor] = {}

    def add_expanded(self, expander: SIDExpander, name: str) -> None:
        birth = partial(nn.init.normal_, std=self.init)
        width = self.inner.embedding_bag_configs()[0].embedding_dim
        tables = expander.embedding_bag_configs(
            embedding_dim=width, pooling=PoolingType.MEAN, init_fn=birth, name=name
        )
        self.expanders.append(expander)
        self.collections.append(EmbeddingBagCollection(tables=tables))

    def bags(self) -> dict[str, nn.Module]:
        """Tables by name."""
        return {
            name: bag
            for collection in (self.inner, *self.collections)
            if isinstance(collection, EmbeddingBagCollection)
            for name, bag in collection.embedding_bags.items()
        }

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The tables', and a stand-in for each field that DLRM must make room for."""
        configs = list(self.inner.embedding_bag_configs())
        for collection in self.collections:
            configs += cast(EmbeddingBagCollection, collection).embedding_bag_configs()
        width = configs[0].embedding_dim
        stand_ins = [
            EmbeddingBagConfig(
                name=name, embedding_dim=width, num_embeddings=1, feature_names=[name]
            )
            for name in self.extra
        ]
        return [*configs, *stand_ins]

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        columns: dict[str, Tensor] = self.inner(features).to_dict()
        for expander, collection in zip(self.expanders, self.collections, strict=True):
            columns |= collection(expander(features)).to_dict()
        for name, module in self.extra.items():
            columns[name] = module(features)
        self._pooled = columns
        return KeyedTensor(
            keys=list(columns),
            length_per_key=[column.shape[1] for column in columns.values()],
            values=torch.cat(list(columns.values()), dim=1),
        )

    def context(self) -> Tensor:
        """Fields of the last batch that say nothing of the target, ``[B, T, D]``."""
        told = [v for k, v in self._pooled.items() if not k.startswith("item")]
        return torch.stack(told, dim=1)


class Alignment(nn.Module):
    """SID-Coord's comparison of target and history, by the embeddings behind the gate.

    Args:
        rows: Table rows of each item and, last, of none, shape ``[V + 1, R]``.
        bags: The tables, shared.
        fusion: The attention over resolutions, shared.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, bags: list[nn.Module], fusion: nn.Module) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.bags = nn.ModuleList(bags)
        self.fusion = fusion
        self.align = InterestAlignment(discretization=SoftDiscretization(dim=8))
        self.width = 16

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        past = _padded(features, "history_raw", SHORT, len(self.rows) - 1)
        items = torch.cat([features["item_raw"].values().unsqueeze(1), past], dim=1)
        distinct, place = items.unique(return_inverse=True)  # a third of them: it saves time
        rows = self.rows[distinct]
        looked_up = [
            F.embedding(rows[:, which], cast(nn.EmbeddingBag, bag).weight)
            for which, bag in enumerate(self.bags)
        ]
        sid = F.embedding(place, self.fusion(torch.stack(looked_up, dim=1)))
        return self.align(sid[:, :1], sid[:, 1:], past < len(self.rows) - 1).squeeze(1)


class _Linear(nn.Module):
    """The raw vector of the item through a linear layer."""

    numbers: Tensor

    def __init__(self, numbers: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("numbers", numbers, persistent=False)
        self.project = nn.Linear(numbers.shape[1], dim)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        return self.project(self.numbers[features["item_raw"].values()])


class _Scalars(nn.Module):
    """What its vector says of an item's like rate, and the log of how often it was shown."""

    forecast: Tensor

    def __init__(self, forecast: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("forecast", forecast, persistent=False)
        self.project = nn.Linear(2, dim)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        shown = features["impressions"].values().float().log1p()
        both = torch.stack([self.forecast[features["item_raw"].values()], shown], dim=1)
        return self.project(both)


class _Search(nn.Module):
    """ESU over what the dense search found: hash IDs alone, or SIDs too.

    Args:
        item: The host's item table, shared.
        hid: Row in it of each item, and of none, shape ``[V + 1]``.
        codes: Rows in ``sids`` of each item, and of none, shape ``[V + 1, N]``.
        sids: Tables of the levels, shared.
    """

    hid: Tensor
    codes: Tensor

    def __init__(self, item: nn.Module, hid: Tensor, codes: Tensor, sids: list[nn.Module]) -> None:
        super().__init__()
        self.register_buffer("hid", hid, persistent=False)
        self.register_buffer("codes", codes, persistent=False)
        self.bags = nn.ModuleList([item, *sids])
        dim = cast(nn.EmbeddingBag, item).weight.shape[1]
        self.attend = ESUTargetAttention(behaviour_dim=len(self.bags) * dim, dim=dim, num_heads=2)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        none = len(self.hid) - 1
        found = _padded(features, "found", FOUND, none)
        target = features["item_raw"].values().unsqueeze(1)
        items = torch.cat([target, found], dim=1)
        ids = [torch.cat([features["item"].values().unsqueeze(1), self.hid[found]], dim=1)]
        ids += [self.codes[:, level][items] for level in range(len(self.bags) - 1)]
        each = [
            F.embedding(i, cast(nn.EmbeddingBag, b).weight)
            for i, b in zip(ids, self.bags, strict=True)
        ]
        e = torch.cat(each, dim=2)
        return self.attend(e[:, :1], e[:, 1:].unsqueeze(1), (found < none).unsqueeze(1)).squeeze(1)


class _LongMean(nn.Module):
    """Mean of the hash-ID embeddings of a long history: the host's own table, shared."""

    def __init__(self, item: nn.Module) -> None:
        super().__init__()
        self.item = item

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        bag = features["long"]
        weight = cast(nn.EmbeddingBag, self.item).weight
        return F.embedding_bag(bag.values(), weight, bag.offsets()[:-1], mode="mean")


class _Tiers(nn.Module):
    """SID-Tier token; counts of a history are the sum of its items', made once."""

    counts: Tensor

    def __init__(self, tiers: TierHistogram, vectors: Tensor, dim: int) -> None:
        super().__init__()
        real = torch.ones(len(vectors), 1, dtype=torch.bool)
        counts = torch.cat(
            [
                tiers(v.unsqueeze(1), r).flatten(1)
                for v, r in zip(vectors.split(8192), real.split(8192), strict=True)
            ]
        )
        self.register_buffer("counts", counts, persistent=False)
        self.shape = (tiers.num_prototypes, tiers.num_tiers)
        self.token = SIDTierToken(histogram=tiers, dim=dim)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        bag = features["long_raw"]
        summed = F.embedding_bag(bag.values(), self.counts, bag.offsets()[:-1], mode="sum")
        return self.token.from_counts(summed.unflatten(1, self.shape)).squeeze(1)


def make_field(
    name: str, world: World, *, item: nn.Module, levels: list[nn.Module], codes: Tensor, dim: int
) -> nn.Module:
    """Build a computed field.

    Args:
        name: Which.
        world: The log.
        item: The host's item table.
        levels: SID tables of the single levels.
        codes: Rows in them of each item, and of none, shape ``[V + 1, N]``.
        dim: Width.
    """
    if name == "vector":
        return _Linear(world.vectors, dim)
    if name == "scalars":
        if world.scalars is not None:
            return _Linear(world.scalars, dim)
        return _Scalars(_forecast(world), dim)
    if name.startswith("esu"):
        _search(world)
        hid = np.where(world.frequency > 0, np.arange(1, len(world.frequency) + 1), 0)
        hid = torch.from_numpy(np.append(hid, 0))
        return _Search(item, hid, codes, levels if name == "esu_sids" else [])
    if name == "long_mean":
        return _LongMean(item)
    if name == "glass":
        first, size = torch.tensor(world.table.codes[:, 0]), world.table.spec.codebook_sizes[0]
        prototypes = bucket_means(world.vectors[:-1], first.long(), size)
        return _Tiers(TierHistogram(prototypes=prototypes, num_tiers=TIERS), world.vectors, dim)
    raise ValueError(f"name must be a computed field, got {name}")


def _padded(features: KeyedJaggedTensor, key: str, length: int, none: int) -> Tensor:
    dense = features[key].to_padded_dense(length, none)
    return dense.long()


def _forecast(world: World) -> Tensor:
    """Like rate of each item by a ridge regression on its vector, standardised, ``[V]``."""
    items = world.single["item_raw"][world.parts["train"]].numpy()
    liked = np.bincount(items, world.labels("train"), len(world.frequency))
    vectors = world.vectors[:-1].numpy()
    x = np.column_stack([vectors, np.ones(len(liked))]).astype(np.float64)
    weighted = x * world.frequency[:, None]
    forecast = x @ np.linalg.solve(weighted.T @ x + 10 * np.eye(x.shape[1]), x.T @ liked)
    return torch.from_numpy(((forecast - forecast.mean()) / forecast.std()).astype(np.float32))


def _search(world: World) -> None:
    """Find, once for all rows, the liked items nearest to the target."""
    if "found" in world.multi:
        return
    search, none = GSUSearch(k=FOUND), len(world.frequency)
    blocks: list[Tensor] = []
    places = torch.arange(LONG, 0, -1)  # newest first
    for target, past in zip(
        world.single["item_raw"].split(8192), world.multi["long_raw"].split(8192), strict=True
    ):
        real = past >= 0
        safe = torch.where(real, past, none)
        when, now = places.expand_as(past), torch.full_like(target, LONG + 1)
        vectors = world.vectors
        index, held = search(vectors[target].unsqueeze(1), vectors[safe], real, when, now)
        chosen = past.gather(1, index.squeeze(1))
        blocks.append(torch.where(held.squeeze(1), chosen, -1))
    world.multi["found"] = torch.cat(blocks)
