"""TokenFormer on a made-up log: fields, a long history and the target as one stream of tokens.

A user clicks runs of items of one category. Whether a target is clicked depends on two things in
the history: whether its category is that of the latest run, and whether it is among the first
categories the user ever looked at, which only a layer without a window can see. And on one thing
in the fields: on phones people click more. Batches are ``KeyedJaggedTensor``s, the tables stock
TorchRec collections, so the model shards and pipelines as any other. The control is the same
model whose histories belong to somebody else.

    python examples/train_token_former.py
"""

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig

from sidrank.metrics import auc
from sidrank.models.item_behaviours import ItemBehaviours
from sidrank.models.token_former import TokenFormer
from sidrank.sequences.bfts import BFTSEncoder

ROWS, ITEMS, CATEGORIES, LONGEST, BATCH, EPOCHS = 8000, 60, 6, 24, 200, 5
Log = dict[str, np.ndarray]


def planted_log(seed: int) -> Log:
    """Impressions: a device, a target, a history of 8 to 24 items, a click."""
    rng = np.random.default_rng(seed)
    runs = rng.integers(0, CATEGORIES, (ROWS, LONGEST // 4)).repeat(4, axis=1)
    lengths = rng.integers(8, LONGEST + 1, ROWS)
    seen = np.arange(LONGEST) >= LONGEST - lengths[:, None]  # the newest are on the right
    target = rng.integers(0, CATEGORIES, ROWS)
    oldest = np.take_along_axis(runs, (LONGEST - lengths)[:, None], axis=1)[:, 0]
    device = rng.integers(0, 2, ROWS)
    score = 3.0 * (target == runs[:, -1]) + 3.0 * (target == oldest) + device - 2.0

    def item_of(category: np.ndarray) -> np.ndarray:
        return category * (ITEMS // CATEGORIES) + rng.integers(
            0, ITEMS // CATEGORIES, category.shape
        )

    return {
        "device": device,
        "item": item_of(target),
        "kind": target,
        "seen_item": item_of(runs),
        "seen_kind": runs,
        "seen": seen,
        "click": rng.random(ROWS) < 1 / (1 + np.exp(-score)),
    }


def batch_of(log: Log, rows: np.ndarray) -> tuple[Tensor, KeyedJaggedTensor, Tensor]:
    """Dense features, ids and labels of some rows."""
    seen = log["seen"][rows]
    single, bags = ("device", "item", "kind"), ("seen_item", "seen_kind")
    values = [log[name][rows] for name in single] + [log[name][rows][seen] for name in bags]
    lengths = [np.ones(len(rows))] * len(single) + [seen.sum(axis=1)] * len(bags)
    sparse = KeyedJaggedTensor(
        keys=[*single, *bags],
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths)).int(),
    )
    dense = torch.from_numpy(seen.mean(axis=1, keepdims=True)).float()
    return dense, sparse, torch.from_numpy(log["click"][rows]).float()


def token_former(windows: tuple[int, ...]) -> TokenFormer:
    """Three layers; those that are not given a window see everything."""
    fields = EmbeddingBagConfig(
        name="device", embedding_dim=16, num_embeddings=2, feature_names=["device"]
    )
    items = [
        EmbeddingConfig(
            name=name, embedding_dim=16, num_embeddings=rows, feature_names=[name, f"seen_{name}"]
        )
        for name, rows in (("item", ITEMS), ("kind", CATEGORIES))
    ]
    model = TokenFormer(
        EmbeddingBagCollection(tables=[fields]),
        ItemBehaviours(
            EmbeddingCollection(tables=items),
            target=["item", "kind"],
            history=["seen_item", "seen_kind"],
            max_length=LONGEST,
        ),
        encoder=BFTSEncoder(
            dim=16, num_heads=2, hidden=32, full_layers=3 - len(windows), windows=windows
        ),
        dense_in_features=1,
    )
    for table in model.behaviours.ec.embeddings.values():
        nn.init.normal_(table.weight, std=1.0 if len(table.weight) == CATEGORIES else 0.1)
    return model


def trained_auc(model: TokenFormer, log: Log, seed: int) -> float:
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    cut = ROWS * 3 // 4
    for _ in range(EPOCHS):
        for rows in np.split(rng.permutation(cut), cut // BATCH):
            dense, sparse, click = batch_of(log, rows)
            optimizer.zero_grad()
            logits = model(dense, sparse).squeeze(1)
            nn.functional.binary_cross_entropy_with_logits(logits, click).backward()
            optimizer.step()
    dense, sparse, click = batch_of(log, np.arange(cut, ROWS))
    with torch.no_grad():
        return float(auc(click, model(dense, sparse).squeeze(1)))


def main(seed: int = 0) -> dict[str, float]:
    log = planted_log(seed)
    other = np.random.default_rng(seed).permutation(ROWS)
    swapped = log | {name: log[name][other] for name in ("seen_item", "seen_kind", "seen")}
    arms = {
        "windows 8, 4": ((8, 4), log),
        "somebody else's history": ((8, 4), swapped),
    }
    found = {}
    print("AUC of clicks")
    for name, (windows, rows) in arms.items():
        torch.manual_seed(seed)
        found[name] = trained_auc(token_former(windows), rows, seed)
        print(f"{name:<26}{found[name]:>8.4f}")
    return found


if __name__ == "__main__":
    main()
