"""A trained DLRM gains semantic IDs: same predictions at first, better on new items later.

The log is made up, with a planted signal: an item belongs to one of 16 tastes, a user likes some
of them, and the item's content vector shows its taste. A third of the items appear late in the
log: their hash-ID rows are hardly trained, while their SIDs are shared with items long known.

    python examples/upgrade_dlrm.py
"""

import numpy as np
import torch
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim.keyed import KeyedOptimizerWrapper

from sidrank.embeddings import (
    HybridEmbeddingBagCollection,
    RawIDSource,
    SIDExpander,
    check_coverage,
    load_host_checkpoint,
)
from sidrank.layers import ResidualGate
from sidrank.metrics import auc
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.tokenizers import RQKMeans

USERS, ITEMS, TASTES, DIM = 300, 2000, 16, 16
ROWS, BATCH, LEVELS = 60_000, 512, (16, 8)
Log = dict[str, np.ndarray]


def planted_log(seed: int) -> tuple[Log, np.ndarray]:
    """Impressions in time order, and the items' content vectors ``[ITEMS, 8]``."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, TASTES, ITEMS)
    content = rng.normal(size=(TASTES, 8))[taste] + 0.1 * rng.normal(size=(ITEMS, 8))
    likes = rng.normal(size=(USERS, TASTES))
    users = rng.integers(0, USERS, ROWS)
    popularity = 1 / np.arange(1, ITEMS + 1)
    items = rng.choice(ITEMS, ROWS, p=popularity / popularity.sum())
    new = rng.random(ITEMS) < 0.3  # appear in the last fifth of the log only
    items[: ROWS * 4 // 5] = rng.choice(np.flatnonzero(~new), ROWS * 4 // 5)
    labels = rng.random(ROWS) < 1 / (1 + np.exp(-2 * likes[users, taste[items]]))
    shown = np.zeros(ITEMS, dtype=np.int64)
    before = np.empty(ROWS, dtype=np.int64)
    for row, item in enumerate(items):  # strictly earlier rows: a count of the past
        before[row] = shown[item]
        shown[item] += 1
    log = {"user": users, "item": items, "shown": before, "label": labels, "new": new[items]}
    return log, content


def batch(log: Log, rows: np.ndarray) -> tuple[torch.Tensor, KeyedJaggedTensor, torch.Tensor]:
    """A batch as the host's loader gives it, plus raw ids and counts that no host table reads."""
    columns = {
        "user": log["user"][rows],
        "item": log["item"][rows] * 2654435761 % ITEMS,  # the host hashes its ids
        "item_raw": log["item"][rows],
        "shown": log["shown"][rows],
    }
    sparse = KeyedJaggedTensor.from_lengths_sync(
        keys=list(columns),
        values=torch.from_numpy(np.concatenate(list(columns.values()))),
        lengths=torch.ones(len(columns) * len(rows), dtype=torch.int32),
    )
    labels = torch.from_numpy(log["label"][rows]).float()
    return torch.ones(len(rows), 1), sparse, labels


def host_embeddings() -> EmbeddingBagCollection:
    tables = [
        EmbeddingBagConfig(name=f"t_{n}", embedding_dim=DIM, num_embeddings=r, feature_names=[n])
        for n, r in (("user", USERS), ("item", ITEMS))
    ]
    return EmbeddingBagCollection(tables=tables)


def ranker(embeddings: torch.nn.Module) -> DLRM:
    return DLRM(
        embeddings,  # pyright: ignore[reportArgumentType]  a collection in all but its class
        dense_in_features=1,
        dense_arch_layer_sizes=[DIM],
        over_arch_layer_sizes=[32, 1],
    )


def optimizer_of(model: torch.nn.Module) -> KeyedOptimizerWrapper:
    parameters = dict(model.named_parameters())
    return KeyedOptimizerWrapper(parameters, lambda params: torch.optim.Adagrad(params, lr=0.1))


def train(model: DLRM, optimizer: KeyedOptimizerWrapper, log: Log, rows: np.ndarray) -> None:
    for start in range(0, len(rows), BATCH):  # in time order
        dense, sparse, labels = batch(log, rows[start : start + BATCH])
        optimizer.zero_grad()
        logits = model(dense, sparse).squeeze(1)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()


def score(model: DLRM, log: Log, rows: np.ndarray) -> dict[str, float]:
    dense, sparse, labels = batch(log, rows)
    with torch.no_grad():
        logits = model(dense, sparse).squeeze(1)
    new = log["new"][rows]
    return {"all": auc(labels, logits), "new items": auc(labels[new], logits[new])}


def main(seed: int = 0) -> dict[str, dict[str, float]]:
    torch.manual_seed(seed)
    log, content = planted_log(seed)
    cut = ROWS * 9 // 10
    past, extra, test = np.arange(ROWS * 4 // 5), np.arange(ROWS // 2, cut), np.arange(cut, ROWS)
    host = ranker(host_embeddings())
    host_optimizer = optimizer_of(host)
    train(host, host_optimizer, log, past)
    checkpoint = {"model": host.state_dict(), "optimizer": host_optimizer.state_dict()}

    vectors = torch.from_numpy(content).float()
    codes = RQKMeans(levels=LEVELS, seed=seed).fit(vectors).encode(vectors)
    sids = SIDTable(np.arange(ITEMS), codes.numpy(), spec=SIDSpec(LEVELS))
    expander = SIDExpander({"item": RawIDSource("item_raw", SIDLookup(sids))})
    embeddings = HybridEmbeddingBagCollection(  # the change: what the DLRM is given
        host_embeddings(),
        expander.embedding_bag_configs(embedding_dim=DIM),
        expander=expander,
        gates={"item": ResidualGate(statistics=["shown"])},
    )
    upgraded = ranker(embeddings)
    optimizer = optimizer_of(upgraded)
    load_host_checkpoint(upgraded, checkpoint, optimizer=optimizer)

    dense, sparse, _ = batch(log, test)
    with torch.no_grad():
        print("step 0 bit-equal:", torch.equal(host(dense, sparse), upgraded(dense, sparse)))
    train(host, host_optimizer, log, extra)
    train(upgraded, optimizer, log, extra)
    check_coverage(upgraded, floor=0.99)
    found = {"host": score(host, log, test), "upgraded": score(upgraded, log, test)}
    print(f"{'AUC':<12}{'all':>8}{'new items':>12}")
    for name, values in found.items():
        print(f"{name:<12}{values['all']:>8.4f}{values['new items']:>12.4f}")
    return found


if __name__ == "__main__":
    main()
