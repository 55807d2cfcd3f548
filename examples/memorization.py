"""Memory for the frequent, generalisation for the rest: byte-pair units beside single codes.

The log is made up. What an item is worth has two parts: an effect of each of its codes, which all
items with the code share, and a twist of its own, which only impressions of that very item teach.
Single codes cannot hold the twist. Byte-pair units can, for items that are shown often enough to
earn one; a control that learns its merges from shuffled exposures gets as many rows and spends them
on the wrong items.

    python examples/memorization.py
"""

import numpy as np
import torch
from torchrec import KeyedJaggedTensor

from sidrank.embeddings import RawIDSource, SIDExpander
from sidrank.embeddings.memorization import GeneralizationBranch, MemorizationBranch, WideAndDeep
from sidrank.metrics import auc
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.unit_usage import unit_usage

ITEMS, LEVELS, MERGES = 4000, (32, 32, 32), 400
ROWS, BATCH, HEAD = 160_000, 1024, 200
Log = dict[str, np.ndarray]


class Host(torch.nn.Module):
    """Stands for the ranker that is there: it knows the user and nothing of the item."""

    def __init__(self) -> None:
        super().__init__()
        self.user = torch.nn.Linear(1, 1)

    def forward(
        self, dense_features: torch.Tensor, sparse_features: KeyedJaggedTensor
    ) -> torch.Tensor:
        """Logits, shape ``[B, 1]``."""
        return self.user(dense_features)


def planted_log(seed: int) -> tuple[Log, np.ndarray]:
    """Impressions in time order, and the items' codes ``[ITEMS, N]``."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, ITEMS) for size in LEVELS], axis=1)
    shared = sum(rng.normal(0, 0.5, size)[codes[:, i]] for i, size in enumerate(LEVELS))
    worth = shared + rng.normal(0, 1, ITEMS)
    popularity = 1 / (1 + rng.permutation(ITEMS))
    items = rng.choice(ITEMS, ROWS, p=popularity / popularity.sum())
    user = rng.normal(size=ROWS)
    labels = rng.random(ROWS) < 1 / (1 + np.exp(1.0 - user - worth[items]))
    return {"item": items, "user": user, "label": labels}, codes


def batch(log: Log, rows: slice) -> tuple[torch.Tensor, KeyedJaggedTensor, torch.Tensor]:
    items = torch.from_numpy(log["item"][rows])
    sparse = KeyedJaggedTensor.from_lengths_sync(
        keys=["item_raw"], values=items, lengths=torch.ones(len(items), dtype=torch.int32)
    )
    dense = torch.from_numpy(log["user"][rows]).float().unsqueeze(1)
    return dense, sparse, torch.from_numpy(log["label"][rows]).float()


def trained(branch: torch.nn.Module, log: Log, rows: int) -> WideAndDeep:
    model = WideAndDeep(Host(), branch)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    for start in range(0, rows, BATCH):  # in time order
        dense, sparse, labels = batch(log, slice(start, start + BATCH))
        optimizer.zero_grad()
        logits = model(dense, sparse).squeeze(1)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
    return model.eval()


def score(model: WideAndDeep, log: Log, rows: slice, head: np.ndarray) -> dict[str, float]:
    dense, sparse, labels = batch(log, rows)
    with torch.no_grad():
        logits = model(dense, sparse).squeeze(1)
    frequent = torch.from_numpy(head[log["item"][rows]])
    return {
        "all": auc(labels, logits),
        "head": auc(labels[frequent], logits[frequent]),
        "tail": auc(labels[~frequent], logits[~frequent]),
    }


def main(seed: int = 0) -> dict[str, dict[str, float]]:
    torch.manual_seed(seed)
    log, codes = planted_log(seed)
    # Merges come from a day before the one that the ranker trains on: no future in them.
    day = ROWS // 10
    shown = np.bincount(log["item"][:day], minlength=ITEMS)
    log = {name: column[day:] for name, column in log.items()}
    past, test = ROWS * 8 // 10, slice(ROWS * 8 // 10, ROWS - day)
    head = np.zeros(ITEMS, dtype=bool)
    head[np.argsort(-shown, kind="stable")[:HEAD]] = True

    sids = SIDTable(np.arange(ITEMS), codes, spec=SIDSpec(LEVELS))
    source = RawIDSource("item_raw", SIDLookup(sids))

    def deep() -> GeneralizationBranch:
        return GeneralizationBranch(SIDExpander({"item": source}, mode="level"), dropout=0.1)

    def with_memory(exposures: np.ndarray) -> MemorizationBranch:
        bpe = SIDBPE.train(sids, exposures, max_units=sum(LEVELS) + MERGES)
        usage = unit_usage(bpe, sids, shown)
        print(
            f"{bpe.num_units} units: {usage.units_per_item:.2f} an item,"
            f" {usage.units_per_exposure:.2f} an impression;"
            f" {usage.items_sharing_all_units} items share theirs with another"
        )
        return MemorizationBranch(SIDExpander({"item": source}, mode=bpe), deep=deep())

    arms = {
        "codes": deep(),
        "codes + units": with_memory(shown),
        "codes + shuffled": with_memory(np.random.default_rng(seed).permutation(shown)),
    }
    found = {name: score(trained(arm, log, past), log, test, head) for name, arm in arms.items()}
    print(f"{'AUC':<18}{'all':>8}{'head':>8}{'tail':>8}")
    for name, values in found.items():
        print(f"{name:<18}" + "".join(f"{value:>8.4f}" for value in values.values()))
    return found


if __name__ == "__main__":
    main()
