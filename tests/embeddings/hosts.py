"""A small DLRM, its hybrid, and batches for both: what the tests of the room are run on."""

import numpy as np
import torch
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    MemorizationBranch,
    RawIDSource,
    SIDExpander,
    WideAndDeep,
)
from sidrank.embeddings.content_summary import ContentSummaryHash
from sidrank.embeddings.content_vectors import ContentSource, ContentVectors
from sidrank.embeddings.keyword_bag import KeywordBag
from sidrank.embeddings.memorization import GeneralizationBranch
from sidrank.embeddings.sid_replacement import SIDReplacement
from sidrank.layers import ResidualGate
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.semantic_ids.bpe import SIDBPE

DIM = 16
ITEMS = 40
DENSE = 3
TABLES = ("user", "item", "history")


def jagged(features, dtype=torch.int64, weights=None):
    """A batch from lists of bags."""
    bags = [bag for column in features.values() for bag in column]
    flat = [value for bag in bags for value in bag]
    return KeyedJaggedTensor(
        keys=list(features),
        values=torch.tensor(flat, dtype=dtype),
        lengths=torch.tensor([len(bag) for bag in bags], dtype=torch.int32),
        weights=weights,
    )


def bags_of(batch, key):
    feature = batch[key]
    values, ends = feature.values().tolist(), feature.lengths().cumsum(0).tolist()
    return [values[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def sid_table(items=ITEMS, sizes=(4, 4, 4), seed=0):
    codes = np.random.default_rng(seed).integers(0, min(sizes), (items, len(sizes)))
    return SIDTable(np.arange(items), codes, spec=SIDSpec(tuple(sizes)))


def host_collection(rows=24, device=None, tables=TABLES):
    configs = [
        EmbeddingBagConfig(
            name=f"t_{name}", embedding_dim=DIM, num_embeddings=rows, feature_names=[name]
        )
        for name in tables
    ]
    return EmbeddingBagCollection(tables=configs, device=device)


def bpe(table=None):
    """Merges that leave items of one, of two and of three units."""
    table = table or sid_table()
    return SIDBPE.train(table, np.arange(len(table)) ** 2, max_units=12 + 24)


def expander(mode="multires", table=None):
    table = table or sid_table()
    lookup = SIDLookup(table)
    sources = {
        "item": RawIDSource("item_raw", lookup),
        "history": RawIDSource("history_raw", lookup),
    }
    return SIDExpander(sources, mode=bpe(table) if mode == "bpe" else mode)


def summary(mode="level", table=None):
    """An expander with crosses and keywords; histories have no keywords."""
    pairs = [("category", (1,)), ("category", (1, 2)), ((1,), (2,))]
    attributes = {key: {"category": f"{key}_category"} for key in ("item", "history")}
    crosses = ContentSummaryHash(
        expander(mode, table), pairs=pairs, attributes=attributes, num_hashes=2, rows=30
    )
    return KeywordBag(crosses, keywords={"item": "words"}, rows=25)


def hybrid(collection, gate=ResidualGate, table=None, mode="multires"):
    expand = summary(table=table) if mode == "summary" else expander(mode=mode, table=table)
    init_fn = torch.nn.init.zeros_ if gate is ResidualGate else torch.nn.init.normal_
    return HybridEmbeddingBagCollection(
        collection,
        expand.embedding_bag_configs(embedding_dim=DIM, init_fn=init_fn),
        expander=expand,
        gates={"item": gate(statistics=["shown", "liked"]), "history": gate(statistics=[])},
    )


def dlrm(collection, seed=1):
    torch.manual_seed(seed)
    return DLRM(
        collection,
        dense_in_features=DENSE,
        dense_arch_layer_sizes=[8, DIM],
        over_arch_layer_sizes=[8, 1],
    )


def host_dlrm(seed=1, device=None):
    torch.manual_seed(seed)
    return dlrm(host_collection(device=device), seed)


def branch(table=None, mode="prefix"):
    if mode == "prefix":
        return MemorizationBranch(expander(mode, table))
    deep = GeneralizationBranch(expander("level", table), hidden=8, dropout=0.0)
    return MemorizationBranch(expander("bpe", table), deep=deep)


def replacement(collection, table=None):
    """Content vectors for the item and SIDs for the history."""
    random = np.random.default_rng(4)
    vectors = ContentVectors(np.arange(ITEMS), random.normal(size=(ITEMS, 6)))
    lookup = SIDLookup(table or sid_table())
    expand = SIDExpander({"history": RawIDSource("history_raw", lookup)}, mode="prefix")
    return SIDReplacement(
        collection,
        expand.embedding_bag_configs(embedding_dim=DIM, init_fn=None),
        expander=expand,
        contents={"item": ContentSource("item_raw", vectors)},
    )


def hybrid_dlrm(seed=1, wide=False, gate=ResidualGate, table=None):
    """``wide`` adds a branch to the hybrid: prefixes if True, if "bpe" units and a deep side.

    If "summary" the hybrid has crosses and keywords, if "replacement" it is no hybrid at all.
    """
    torch.manual_seed(seed)
    if wide == "replacement":
        return dlrm(replacement(host_collection(), table), seed)
    if wide == "summary":
        return dlrm(hybrid(host_collection(), gate, table, "summary"), seed)
    model = dlrm(hybrid(host_collection(), gate, table), seed)
    if wide:
        return WideAndDeep(model, branch(table, "bpe" if wide == "bpe" else "prefix"))
    return model


def batch(size=6, seed=0, dtype=torch.int64):
    """Dense features, sparse features and labels; items 40-44 are unknown to the SID table."""
    random = torch.Generator().manual_seed(seed)

    def ids(count, high):
        return torch.randint(0, high, (count,), generator=random)

    history = torch.randint(0, 4, (size,), generator=random)
    one = torch.ones(size, dtype=torch.int64)
    shown = torch.randint(0, 2, (size,), generator=random)
    raw, raw_history = ids(size, ITEMS + 5), ids(int(history.sum()), ITEMS + 5)
    features = {
        "user": (ids(size, 24), one),
        "item": (raw % 24, one),
        "history": (raw_history % 24, history),
        "item_raw": (raw, one),
        "history_raw": (raw_history, history),
        "shown": (ids(int(shown.sum()), 1000), shown),
        "liked": (ids(size, 30), one),
    }
    dense = torch.rand(size, DENSE, generator=random)
    labels = torch.randint(0, 2, (size,), generator=random).float()
    said = torch.randint(0, 3, (size,), generator=random)
    features |= {
        "item_category": (ids(size, 5), one),
        "history_category": (ids(int(history.sum()), 5), history),
        "words": (ids(int(said.sum()), 2**31), said),
    }
    sparse = KeyedJaggedTensor.from_lengths_sync(
        keys=list(features),
        values=torch.cat([values for values, _ in features.values()]).to(dtype),
        lengths=torch.cat([lengths for _, lengths in features.values()]).to(torch.int32),
    )
    return dense, sparse, labels


def empty_batch():
    return KeyedJaggedTensor(
        keys=list(batch()[1].keys()),
        values=torch.zeros(0, dtype=torch.int64),
        lengths=torch.zeros(0, dtype=torch.int32),
    )


def loss(model, example):
    dense, sparse, labels = example
    logits = model(dense, sparse).squeeze(1)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)


def train(model, optimizer, steps, size=6, start=0):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        loss(model, batch(size, seed=step)).backward()
        optimizer.step()
