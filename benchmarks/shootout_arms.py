"""The shoot-out's arms: one TorchRec DLRM, and every way to give it semantic IDs.

The host reads user, segment, hour, the item's hash ID and the mean of the hash IDs of the ten
newest likes, and four numbers. What an arm adds is a *field* (the host's interactions then pair
it with every other) unless the paper says otherwise. Arms that share the host draw its weights
first, so that with one seed they start from the same.

Shapes: ``B`` rows of a batch, ``L`` history length, ``R`` resolutions, ``D`` width.
"""

from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, PoolingType
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from benchmarks.shootout_fields import EXTRA_KEYS, Alignment, Fields, make_field
from benchmarks.shootout_list import ARMS
from benchmarks.shootout_rows import World
from sidrank.embeddings import (
    GeneralizationBranch,
    HybridEmbeddingBagCollection,
    MemorizationBranch,
    RawIDSource,
    SIDExpander,
    WideAndDeep,
)
from sidrank.layers import ConvexGate, ResidualGate
from sidrank.layers.semi_causal_ntp import SemiCausalNTPHead
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.semantic_ids.bpe import SIDBPE

__all__ = [
    "COUNTS",
    "RAW_KEYS",
    "Ranker",
    "codes_of",
    "expander_of",
    "find",
    "make_arm",
    "sparse_parameters",
]

RAW_KEYS = ("item_raw", "history_raw")
COUNTS = ("impressions", "likes")
NTP_WEIGHT = 0.1


class Ranker(nn.Module):
    """A DLRM, what else feeds it, and an auxiliary loss if there is one."""

    def __init__(self, host: nn.Module, keys: tuple[str, ...]) -> None:
        super().__init__()
        self.host = host
        self.keys = keys
        self.fields: Fields | None = None
        self.alignment: nn.Module | None = None
        self.ntp: SemiCausalNTPHead | None = None
        self.codes: Tensor | None = None

    def forward(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        if self.alignment is not None:
            dense = torch.cat([dense, self.alignment(sparse)], dim=1)
        return self.host(dense, sparse).squeeze(1)

    def loss(self, dense: Tensor, sparse: KeyedJaggedTensor, label: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self(dense, sparse), label)
        if self.ntp is not None and self.codes is not None and self.fields is not None:
            liked = label > 0
            tokens = self.fields.context()[liked]
            codes = self.codes[sparse["item_raw"].values()[liked]]
            real = torch.ones(tokens.shape[:2], dtype=torch.bool)
            loss = loss + NTP_WEIGHT * self.ntp(tokens, real, codes, label[liked])
        return loss


def make_arm(name: str, world: World, *, seed: int) -> Ranker:
    """Build an arm, ready to train."""
    arm, width = ARMS[name], world.size.width
    torch.manual_seed(seed)
    if arm.matched:
        goal = sum(p.numel() for p in make_arm(arm.matched, world, seed=seed).parameters())
        while sum(p.numel() for p in _host(world, width).parameters()) < goal:
            width += 1
        torch.manual_seed(seed)
        return _host(world, width)
    if arm == ARMS["hid"]:
        return _host(world, width)
    table = codes_of(arm.codes, world, seed)
    tables = _tables(world, width, hash_id=arm.hash_id)
    keys = [key for key in world.keys if arm.hash_id or key not in ("item", "history")]
    keys += [*RAW_KEYS, *(["long_raw"] if arm.past == "long" else [])]
    inner: Any = EmbeddingBagCollection(tables=tables)  # drawn first
    sid_bags: dict[str, nn.Module] = {}
    fusion: nn.Module | None = None
    if arm.gate:
        expander = expander_of(table, arm.mode)
        birth = (
            nn.init.zeros_
            if arm.gate == "residual"
            else partial(nn.init.normal_, std=world.size.init)
        )
        counts = {"true": COUNTS, "shuffled": tuple(f"shuffled_{c}" for c in COUNTS), "": ()}
        read = counts[arm.statistics]
        keys += read
        gate = (ConvexGate if arm.gate == "convex" else ResidualGate)(statistics=read)
        inner = HybridEmbeddingBagCollection(
            inner,
            expander.embedding_bag_configs(
                embedding_dim=width, pooling=PoolingType.MEAN, init_fn=birth
            ),
            expander=expander,
            gates={"item": gate},
        )
        sid_bags = {k: v for k, v in inner.ebc.embedding_bags.items() if k.startswith("sid_")}
        fusion = inner.fusions[0]
    fields = Fields(inner, init=world.size.init)
    if arm.fields:
        mode = _bpe(table, world) if arm.fields == "bpe" else arm.fields
        fields.add_expanded(expander_of(table, mode, past=arm.past), "sid")
        if arm.fields == "bpe" and arm.past:
            fields.add_expanded(expander_of(table, "level", past=arm.past), "code")
    elif arm.past:
        fields.add_expanded(expander_of(table, "level", past=arm.past, target=False), "past")
    for extra in arm.extra:
        keys += EXTRA_KEYS.get(extra, ())
        bags = fields.bags()
        levels = [bag for key, bag in bags.items() if key.startswith("sid_") and len(key) == 5]
        fields.extra[extra] = make_field(
            extra,
            world,
            item=bags["item"],
            levels=levels,
            codes=_resolution_rows(table, "level"),
            dim=width,
        )
    alignment = None
    if arm.alignment and fusion is not None:
        rows = _resolution_rows(table, arm.mode)
        alignment = Alignment(rows, [*sid_bags.values()], fusion)
    dlrm = _dlrm(fields, world, width, numbers=0 if alignment is None else alignment.width)
    host: nn.Module = dlrm
    if arm.memory:
        branch = MemorizationBranch(
            expander_of(table, _bpe(table, world)),
            deep=GeneralizationBranch(expander_of(table, "level")),
        )
        host = WideAndDeep(dlrm, branch)
    ranker = Ranker(host, tuple(dict.fromkeys(keys)))
    ranker.alignment = alignment
    if arm.memory:
        ranker.fields = fields
        ranker.codes = torch.from_numpy(table.codes.astype(np.int64))
        ranker.ntp = SemiCausalNTPHead(
            table.spec.codebook_sizes, dim=width, num_layers=2, num_heads=2
        )
    return ranker


def sparse_parameters(model: nn.Module) -> int:
    """Numbers in the tables."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "embedding_bags" in name or name.endswith(".table.weight")
    )


def find(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> nn.Module | None:
    """The first module of a kind."""
    return next((module for module in model.modules() if isinstance(module, kind)), None)


def _host(world: World, width: int) -> Ranker:
    tables = EmbeddingBagCollection(tables=_tables(world, width))
    return Ranker(_dlrm(Fields(tables, init=world.size.init), world, width), world.keys)


def _tables(world: World, width: int, *, hash_id: bool = True) -> list[EmbeddingBagConfig]:
    """One table a field; the history shares the item's, mean-pooled."""
    return [
        EmbeddingBagConfig(
            name=name,
            embedding_dim=width,
            num_embeddings=size,
            feature_names=["item", "history"] if name == "item" else [name],
            pooling=PoolingType.MEAN,
            init_fn=partial(nn.init.normal_, std=world.size.init),
        )
        for name, size in world.sizes.items()
        if hash_id or name != "item"
    ]


def _dlrm(fields: Fields, world: World, width: int, *, numbers: int = 0) -> DLRM:
    return DLRM(
        embedding_bag_collection=cast(Any, fields),
        dense_in_features=world.dense.shape[1] + numbers,
        dense_arch_layer_sizes=[world.size.hidden, width],
        over_arch_layer_sizes=[2 * world.size.hidden, world.size.hidden, 1],
    )


def codes_of(which: str, world: World, seed: int) -> SIDTable:
    """The codes of an arm."""
    table, draws = world.table, np.random.default_rng(seed)
    if which == "learned":
        return table
    if which == "true":
        assert world.true_codes is not None, "only a planted log has true codes"
        return SIDTable(table.item_ids, world.true_codes, spec=SIDSpec((8, 8, 8)))
    sizes = table.spec.codebook_sizes
    codes = table.codes[draws.permutation(len(table))]
    if which == "random":
        codes = draws.integers(0, sizes, (len(table), len(sizes)))
    return SIDTable(table.item_ids, codes, spec=table.spec)


def _bpe(table: SIDTable, world: World) -> SIDBPE:
    return SIDBPE.train(table, world.frequency, max_units=world.size.units, min_weight=20)


def expander_of(
    table: SIDTable, mode: str | SIDBPE, *, past: str = "", target: bool = True
) -> SIDExpander:
    """Codes of the target, of its history, or of both."""
    lookup = SIDLookup(table)
    names = [*(["item"] if target else []), *([past] if past else [])]
    sources = {name: RawIDSource(f"{name}_raw", lookup) for name in names}
    return SIDExpander(sources, mode=cast(Any, mode))


def _resolution_rows(table: SIDTable, mode: str) -> Tensor:
    """Table rows of every item and, last, of none: ``[V + 1, R]``."""
    expander = expander_of(table, mode)
    ids = torch.arange(len(table) + 1)
    batch = KeyedJaggedTensor.from_lengths_sync(
        keys=["item_raw"], values=ids, lengths=torch.ones_like(ids)
    )
    found = expander(batch)
    return torch.stack([found[name].values() for name in expander.feature_names("item")], dim=1)
