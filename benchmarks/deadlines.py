"""What deadlines are worth to a tower where the truth is known, and nothing where it is dealt anew.

Rankers with equal tables and heads on a planted log (``sidrank.data.planted_deadlines``), judged by
the true probabilities of open candidates: DIN; DIN whose head reads the urgency too; UrgencyDIN;
and UrgencyDIN where the time left was dealt anew among all candidates. The share of the gap
between DIN and the best possible AUC that an arm closes is what it says of deadlines.

    python -m benchmarks.deadlines            goes on where it was
"""

import argparse
import json
import statistics
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank.data.planted_deadlines import DeadlineSettings, PlantedDeadlines, plant_deadlines
from sidrank.metrics import bayes_auc, expected_auc
from sidrank.towers.din import DIN
from sidrank.towers.urgency_din import UrgencyDIN, mask_expired

RESULT = Path(__file__).parent / "results" / "deadlines.json"
SEEDS, TRAIN = 5, 0.75
DIM, BATCH, EPOCHS, RATE = 16, 128, 12, 0.005
HIDDEN = (48, 16)


class Ranker(nn.Module):
    """A table of items, a tower, and a head that reads both, and the urgency if asked."""

    def __init__(self, *, items: int, urgent_tower: bool, urgent_head: bool) -> None:
        super().__init__()
        self.items = nn.Embedding(items, DIM, padding_idx=0)
        self.urgent_tower, self.urgent_head = urgent_tower, urgent_head
        self.urgency = UrgencyDIN(dim=DIM, hidden=HIDDEN, unit=3600.0)
        self.tower = self.urgency if urgent_tower else DIN(dim=DIM, hidden=HIDDEN)
        width = 2 * DIM + (self.urgency.num_features if urgent_head else 0)
        self.head = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        target, history = self.items(batch["item"]), self.items(batch["seen_item"])
        known = batch["seen_item"] > 0
        times, now, locks = batch["seen_time"], batch["time"], batch["lock"]
        if self.urgent_tower:
            context = self.tower(target, history, known, times, now, locks)
        else:
            context = self.tower(target, history, known)
        read = [target, context]
        if self.urgent_head:
            read.append(self.urgency.urgency(locks, now))
        return self.head(torch.cat(read, dim=2)).squeeze(2)


ARMS: dict[str, tuple[bool, bool, bool]] = {
    # urgent tower, urgent head, deadlines dealt anew
    "DIN": (False, False, False),
    "DIN, urgency in the head": (False, True, False),
    "UrgencyDIN": (True, True, False),
    "UrgencyDIN, deadlines dealt anew": (True, True, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"command": "python -m benchmarks.deadlines", "runs": []}
    if options.out.exists():
        report = json.loads(options.out.read_text())
    done = {(run["seed"], run["arm"]) for run in report["runs"]}
    for seed in range(1, options.seeds + 1):
        for arm in ARMS:
            if (seed, arm) not in done:
                report["runs"].append(run(arm, seed))
                report["closed"] = closed(report["runs"])
                options.out.write_text(json.dumps(report, indent=2) + "\n")
                print(report["runs"][-1], flush=True)
    print(json.dumps(report["closed"], indent=2))


def run(arm: str, seed: int, settings: DeadlineSettings | None = None) -> dict[str, Any]:
    """Train one arm on one log; AUC by the true probabilities."""
    urgent_tower, urgent_head, dealt = ARMS[arm]
    log = _log(seed, settings)
    rows = columns(log.randomised(seed) if dealt else log)
    cut = int(TRAIN * len(log.time))
    start = time.process_time()
    torch.manual_seed(seed)
    model = Ranker(items=len(log.item_topic), urgent_tower=urgent_tower, urgent_head=urgent_head)
    train(model, {name: x[:cut] for name, x in rows.items()}, seed)
    with torch.no_grad():
        test = {name: x[cut:] for name, x in rows.items()}
        logits = mask_expired(model(test), test["lock"], test["time"]).numpy()
    is_open, chance = log.open[cut:], log.probability[cut:]
    return {
        "seed": seed,
        "arm": arm,
        "expected_auc": expected_auc(chance[is_open], logits[is_open].astype(np.float64)),
        "bayes_auc": bayes_auc(chance[is_open]),
        "taste_auc": expected_auc(chance[is_open], log.parts["taste"][cut:][is_open]),
        "parameters": sum(
            p.numel() for part in (model.items, model.tower, model.head) for p in part.parameters()
        ),
        "seconds": round(time.process_time() - start, 1),
    }


def train(model: Ranker, rows: dict[str, Tensor], seed: int) -> None:
    """The same rows in the same order for every arm of a seed."""
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    count = len(rows["time"])
    steps = EPOCHS * -(-count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(count, generator=draws).split(BATCH):
            batch = {name: x[chosen] for name, x in rows.items()}
            is_open = batch["lock"] >= batch["time"].unsqueeze(1)
            loss = functional.binary_cross_entropy_with_logits(
                model(batch)[is_open], batch["label"][is_open]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def columns(log: PlantedDeadlines) -> dict[str, Tensor]:
    """What a model may know."""
    names = ("seen_item", "seen_time", "time", "item", "lock")
    found = {name: torch.from_numpy(getattr(log, name)) for name in names}
    return found | {"label": torch.from_numpy(log.label).float()}


def closed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of the gap DIN to Bayes that each arm closes, seed by seed."""
    by = {(run["arm"], run["seed"]): run for run in runs}
    found: dict[str, Any] = {}
    for arm in ARMS:
        shares = [
            (run["expected_auc"] - by["DIN", seed]["expected_auc"])
            / (run["bayes_auc"] - by["DIN", seed]["expected_auc"])
            for (name, seed), run in by.items()
            if name == arm != "DIN" and ("DIN", seed) in by
        ]
        if shares:
            found[arm] = {"mean": statistics.mean(shares), "seeds": shares}
    return found


@lru_cache(maxsize=1)
def _log(seed: int, settings: DeadlineSettings | None) -> PlantedDeadlines:
    return plant_deadlines(settings or DeadlineSettings(seed=seed))


if __name__ == "__main__":
    main()
