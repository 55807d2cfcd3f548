"""Candidates that close: what shifts a whole request misleads a pointwise loss, not a listwise one.

The log is made up. A request shows rounds of games that lock at different times; those already
locked are not shown, so lists differ in length. Within a request a user likes rounds on their
topic, and those that lock soon. But nights differ, and nothing the tower reads says how: on a busy
night every lock is near, and users play little of what they see. Over all rows a near lock thus
goes with fewer plays. Cross-entropy explains rows and learns that; NeuralNDCG compares the rows of
one request, where the night is the same for all. Deadlines shuffled within each request are the
control.

    python examples/listwise_deadlines.py
"""

import numpy as np
import torch
from torch import Tensor, nn

from sidrank.losses.neural_ndcg import neural_ndcg
from sidrank.losses.pointwise import binary_cross_entropy
from sidrank.metrics import auc, ndcg

REQUESTS, CANDIDATES, TOPICS = 6000, 10, 5
BATCH, EPOCHS, DIM = 150, 3, 8


def planted_log(seed: int) -> dict[str, Tensor]:
    """Candidates of each request, ``[REQUESTS, CANDIDATES]``; ``hours`` below 0 have locked."""
    rng = np.random.default_rng(seed)
    shape = (REQUESTS, CANDIDATES)
    busy = rng.normal(size=(REQUESTS, 1))
    hours = np.exp(1.5 - 1.2 * busy + 0.8 * rng.normal(size=shape))
    hours[rng.random(shape) < 0.3] = -1.0  # the first always stays
    hours[:, 0] = np.abs(hours[:, 0])
    topic, likes = rng.integers(0, TOPICS, shape), rng.integers(0, TOPICS, (REQUESTS, 1))
    urgency = -0.8 * np.log(np.abs(hours))
    logit = 1.5 * (topic == likes) + urgency - 2.0 * busy - 1.5
    return {
        "topic": torch.from_numpy(topic),
        "likes": torch.from_numpy(likes).expand(shape),
        "hours": torch.from_numpy(hours).float(),
        "played": torch.from_numpy(rng.random(shape) < 1 / (1 + np.exp(-logit))),
    }


class Tower(nn.Module):
    """One logit for each row: topic, what the user likes, the time that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.topic = nn.Embedding(TOPICS, DIM)
        self.likes = nn.Embedding(TOPICS, DIM)
        self.mlp = nn.Sequential(nn.Linear(2 * DIM + 1, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, topic: Tensor, likes: Tensor, hours: Tensor) -> Tensor:
        """Logits ``[R]`` of rows of any requests."""
        own, user = self.topic(topic), self.likes(likes)
        return self.mlp(torch.cat([own * user, own, hours.log().unsqueeze(1)], dim=1)).squeeze(1)


def rows_of(log: dict[str, Tensor], requests: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Jagged rows of some requests: what the tower reads, labels, and the request of each row."""
    shown = log["hours"][requests] > 0
    columns = [log[name][requests][shown] for name in ("topic", "likes", "hours")]
    return columns, log["played"][requests][shown], requests.repeat_interleave(shown.sum(dim=1))


def trained(loss: str, log: dict[str, Tensor], seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    tower = Tower()
    optimizer = torch.optim.Adam(tower.parameters(), lr=0.01)
    cut = REQUESTS * 2 // 3
    for _ in range(EPOCHS):
        for requests in torch.randperm(cut).split(BATCH):
            columns, played, request = rows_of(log, requests)
            logits = tower(*columns)
            optimizer.zero_grad()
            if loss == "NeuralNDCG":
                neural_ndcg(logits, played, request).backward()
            else:
                binary_cross_entropy(logits, played).backward()
            optimizer.step()
    columns, played, request = rows_of(log, torch.arange(cut, REQUESTS))
    with torch.no_grad():
        logits = tower(*columns)
    return {"nDCG@1": ndcg(played, logits, request, k=1), "AUC": auc(played, logits)}


def shuffled(log: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same log, the deadlines of each request's rows exchanged."""
    hours, generator = log["hours"].clone(), torch.Generator().manual_seed(seed)
    shown = hours > 0
    order = torch.rand(hours.shape, generator=generator).masked_fill(~shown, 2).argsort(dim=1)
    # the rows that are shown, in random order, go to the places of those that are shown
    hours[shown] = hours.gather(1, order)[torch.arange(CANDIDATES) < shown.sum(1, keepdim=True)]
    return {**log, "hours": hours}


def main(seed: int = 0) -> dict[str, dict[str, float]]:
    log = planted_log(seed)
    found = {
        "BCE": trained("BCE", log, seed),
        "NeuralNDCG": trained("NeuralNDCG", log, seed),
        "NeuralNDCG, shuffled": trained("NeuralNDCG", shuffled(log, seed), seed),
    }
    print(f"{'':<22}{'nDCG@1':>8}{'AUC':>8}")
    for name, values in found.items():
        print(f"{name:<22}{values['nDCG@1']:>8.4f}{values['AUC']:>8.4f}")
    return found


if __name__ == "__main__":
    main()
