"""A long history is searched for each candidate; semantic IDs make the search speak of new items.

The log is made up. An item belongs to one of 16 tastes, its frozen content vector shows which, with
noise; a user likes three tastes and has clicked 60 items, mostly of those. The candidates of the
test are new: their ids were never trained. The search (GSU) finds the ten behaviours nearest to a
candidate, the attention (ESU) reads them as ``[id; sid_1; sid_2]``. Without SIDs it cannot say
whether what was found has anything to do with a new candidate; shuffled SIDs of as many rows are
the control.

    python examples/search_attention.py
"""

import numpy as np
import torch
from torch import Tensor, nn

from sidrank.metrics import auc
from sidrank.tokenizers import RQKMeans
from sidrank.towers import ESUTargetAttention, GSUSearch, SearchAttention

USERS, ITEMS, TASTES, LENGTH = 1000, 3000, 16, 60
ROWS, BATCH, DIM, LEVELS = 30_000, 500, 8, (16, 8)


def planted_log(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Impressions with a history each, and content vectors ``[ITEMS, 16]``."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, TASTES, ITEMS)
    content = rng.normal(size=(TASTES, 16))[taste] + 0.7 * rng.normal(size=(ITEMS, 16))
    new = np.arange(ITEMS) >= ITEMS * 2 // 3
    by_taste = [np.flatnonzero((taste == t) & ~new) for t in range(TASTES)]
    likes = np.stack([rng.choice(TASTES, 3, replace=False) for _ in range(USERS)])
    history = np.empty((USERS, LENGTH), dtype=np.int64)
    for user, liked in enumerate(likes):
        for place in range(LENGTH):
            t = rng.choice(liked) if rng.random() < 0.7 else rng.integers(TASTES)
            history[user, place] = rng.choice(by_taste[t])
    users = rng.integers(0, USERS, ROWS)
    test = np.arange(ROWS) >= ROWS * 3 // 4
    items = np.where(
        test, rng.choice(np.flatnonzero(new), ROWS), rng.integers(0, new.argmax(), ROWS)
    )
    liked = (likes[users] == taste[items][:, None]).any(axis=1)
    label = rng.random(ROWS) < np.where(liked, 0.6, 0.2)
    return {"item": items, "history": history[users], "label": label}, content


class Ranker(nn.Module):
    """Embeddings of items, the search tower, a small head."""

    def __init__(self, codes: Tensor, content: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("content", content)
        self.id = nn.Embedding(ITEMS, DIM)
        self.sids = nn.ModuleList(nn.Embedding(size, DIM) for size in LEVELS[: codes.shape[1]])
        width = DIM * (1 + codes.shape[1])
        attention = ESUTargetAttention(behaviour_dim=width, dim=16, num_heads=2)
        self.tower = SearchAttention(search=GSUSearch(k=10), attention=attention)
        self.target = nn.Linear(width, 16)
        self.head = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1))

    def embed(self, items: Tensor) -> Tensor:
        """What the attention reads of an item, ``[id; sid_1; ...]``."""
        codes = self.codes[items].unbind(-1)
        sids = [table(code) for table, code in zip(self.sids, codes, strict=True)]
        return torch.cat([self.id(items), *sids], dim=-1)

    def forward(self, items: Tensor, history: Tensor) -> Tensor:
        """Logits ``[B]`` of candidates ``[B]`` with histories ``[B, L]``, oldest first."""
        target = self.embed(items).unsqueeze(1)
        answer = self.tower(
            target,
            self.embed(history),
            self.content[items].unsqueeze(1),
            self.content[history],
            torch.ones_like(history, dtype=torch.bool),
            torch.arange(LENGTH).expand_as(history),
            torch.full_like(items, LENGTH),  # the request comes after all of them
        )
        own = self.target(target)
        return self.head(torch.cat([own, answer, own * answer], dim=2)).flatten()


def trained_auc(codes: Tensor, log: dict[str, np.ndarray], content: Tensor, seed: int) -> float:
    torch.manual_seed(seed)
    model = Ranker(codes, content)
    columns = [torch.from_numpy(log[name]) for name in ("item", "history", "label")]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    cut = ROWS * 3 // 4
    for rows in torch.randperm(cut).split(BATCH) + torch.randperm(cut).split(BATCH):
        items, history, label = (column[rows] for column in columns)
        optimizer.zero_grad()
        logits = model(items, history)
        nn.functional.binary_cross_entropy_with_logits(logits, label.float()).backward()
        optimizer.step()
    with torch.no_grad():
        return float(auc(columns[2][cut:], model(columns[0][cut:], columns[1][cut:])))


def main(seed: int = 0) -> dict[str, float]:
    log, content = planted_log(seed)
    vectors = torch.from_numpy(content).float()
    codes = RQKMeans(levels=LEVELS, seed=seed).fit(vectors).encode(vectors).long()
    shuffled = codes[torch.randperm(ITEMS, generator=torch.Generator().manual_seed(seed))]
    arms = {"id": codes[:, :0], "id + shuffled SIDs": shuffled, "id + SIDs": codes}
    found = {name: trained_auc(arm, log, vectors, seed) for name, arm in arms.items()}
    print("AUC on new items")
    for name, value in found.items():
        print(f"{name:<20}{value:>8.4f}")
    return found


if __name__ == "__main__":
    main()
