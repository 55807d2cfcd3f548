"""What a trained tower drops, and what it gains, on histories where the truth is known."""

import torch
from torch import nn
from torch.nn import functional

from sidrank.layers.gumbel_keep import keep_share
from sidrank.metrics import auc
from sidrank.towers.situation_fields import SituationFields
from sidrank.towers.situation_tower import SituationTower

ROWS, LENGTH, BATCH = 6000, 12, 200
NOISE = 0.3


def planted(seed):
    """Each behaviour is for or against, its item says which; accidents are of any side, and short.

    A candidate for the side of most behaviours that are no accidents is liked. Whether one was an
    accident is known from its seconds, with some overlap.
    """
    torch.manual_seed(seed)
    noise = torch.rand(ROWS, LENGTH) < NOISE
    side = torch.randint(0, 2, (ROWS, LENGTH))
    seconds = torch.where(noise, -1.0, 1.0) + 0.4 * torch.randn(ROWS, LENGTH)
    asked = torch.randint(0, 2, (ROWS,))
    vote = ((2 * side - 1) * ~noise).sum(dim=1) * (2 * asked - 1)
    label = (torch.rand(ROWS) < torch.sigmoid(1.5 * vote.float())).float()
    return (
        {
            "item": 2 * torch.randint(0, 4, (ROWS, LENGTH)) + side,
            "candidate": 2 * torch.randint(0, 4, (ROWS,)) + asked,
            "seconds": seconds,
        },
        label,
        noise,
    )


class Model(nn.Module):
    """One field of behaviours (seconds), one of the request (nothing), one type."""

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(8, 8)
        self.seconds = SituationFields(dim=4, numbers=1, bins=8)
        self.tower = SituationTower.of(
            item_dim=8, dim=4, num_fields=1, num_request_fields=1, num_types=1
        )
        self.target = nn.Linear(8, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, item, candidate, seconds):
        rows, target = len(item), self.item(candidate)
        mask = torch.ones_like(item).bool()
        answer, kept = self.tower(
            target.unsqueeze(1),
            self.item(item),
            self.seconds(None, seconds.unsqueeze(2)),
            torch.zeros(rows, 1, 4),
            torch.zeros_like(item),
            mask,
            torch.zeros_like(item),
            torch.ones(rows).long(),
        )
        logits = self.head(answer.squeeze(1) * self.target(target)).flatten()
        return logits, kept.squeeze(1), keep_share(kept, mask)


def trained(budget, seed=0, passes=6):
    columns, label, noise = planted(seed)
    torch.manual_seed(seed)
    model, cut = Model(), ROWS * 3 // 4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(passes):
        for rows in torch.randperm(cut).split(BATCH):
            logits, _, share = model(**{name: x[rows] for name, x in columns.items()})
            loss = functional.binary_cross_entropy_with_logits(logits, label[rows])
            optimizer.zero_grad()
            (loss + budget * share.mean()).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        logits, kept, _ = model(**{name: x[cut:] for name, x in columns.items()})
    rates = {
        "noise": kept[noise[cut:]].mean().item(),
        "signal": kept[~noise[cut:]].mean().item(),
    }
    return auc(label[cut:].numpy(), logits.numpy()), rates


def test_noise_is_kept_less_than_signal():
    found, rates = trained(budget=0.05)
    assert found > 0.9
    assert rates["noise"] < rates["signal"] - 0.2


def test_without_a_budget_nothing_need_be_dropped():
    found, rates = trained(budget=0.0)
    assert found > 0.9
    assert rates["noise"] > 0.5
