"""What a situation tower is worth where needs depend on situations, and how much of it is possible.

The log is planted (``sidrank.data.planted_situations``): what a user needs depends on hour, place
and type of behaviour together, and the best AUC is known. Rankers share tables and head, and all
read the situation of the request. ``DIN`` attends to items, ``DIN, situations`` to items with their
situations beside them; both have at least as many parameters as the tower and twice its passes,
which they have use for and which cost less than the tower's. The control is the tower where the
situations of each user's behaviours were dealt anew, in training and test; then the tower again
without each of its parts, on fewer logs.

The step size of each arm was chosen among ``STEPS`` by the validation users of the logs
``CHOICES`` (``--choose``); nobody had looked at the logs of ``SEEDS`` before. The pass with the
best AUC on validation labels counts.

    python -m benchmarks.situations            goes on where it was
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank.data.planted_situations import PlantedSituations, SituationSettings, plant_situations
from sidrank.metrics import auc, bayes_auc, expected_auc
from sidrank.towers.din import DIN
from sidrank.towers.situation_denoising import SituationDenoising
from sidrank.towers.situation_fields import SituationFields
from sidrank.towers.situation_tower import SituationTower

RESULT = Path(__file__).parent / "results" / "situations.json"
LOG = SituationSettings(users=4_000, visits=1, requests=3, accidents=0.05, spread=4.0)
SEEDS, CHOICES, STEPS = (21, 22, 23, 24, 25), (0, 1), (0.01, 0.02, 0.005)
PART_SEEDS = 5  # of them, on which the tower is tried without each of its parts
ITEM, DIM, HIDDEN, BATCH, PASSES = 16, 8, 32, 125, 5  # DINs have twice as many passes
ITEMS, HOURS, PLACES, TYPES = 25, 4, 3, 3
NAMES = ("hour", "place", "type")
ENDS = {"train": 0.8, "validation": 0.9, "test": 1.0}  # of the users


class Rows:
    """A log as tensors, split by user."""

    def __init__(self, log: PlantedSituations) -> None:
        self.log = log
        seen, row = ("item", *NAMES, "seconds", "time"), ("user", "item", *NAMES, "time", "label")
        self.seen = {name: torch.from_numpy(getattr(log, f"seen_{name}")) for name in seen}
        self.row = {name: torch.from_numpy(getattr(log, name)) for name in row}
        self.parts: dict[str, Tensor] = {}
        start = 0
        for name, share in ENDS.items():
            end = int(share * len(log.seen_item))
            own = (log.user >= start) & (log.user < end)
            self.parts[name], start = torch.from_numpy(np.flatnonzero(own)), end

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        some = {name: column[rows] for name, column in self.row.items()}
        return some | {f"seen_{name}": column[some["user"]] for name, column in self.seen.items()}


class Ranker(nn.Module):
    """Tables that behaviours and requests share, a tower, and a head of two layers."""

    def __init__(self, reader: "Reader") -> None:
        super().__init__()
        self.item = nn.Embedding(ITEMS, ITEM, padding_idx=0)
        self.shared = SituationFields(dim=DIM, categories=[HOURS, PLACES, TYPES])
        self.seconds = SituationFields(dim=DIM, numbers=1)
        self.reader = reader
        self.target = nn.Linear(ITEM, reader.width)
        width = 2 * reader.width + ITEM + len(NAMES) * DIM
        self.head = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Logits, and what was kept of the histories."""
        seconds = torch.log1p(batch["seen_seconds"].float()).unsqueeze(2) - 3
        shared = self.shared(torch.stack([batch[f"seen_{name}"] for name in NAMES], dim=2))
        given = {
            "target": self.item(batch["item"]).unsqueeze(1),
            "history": self.item(batch["seen_item"]),
            "situation": torch.cat([shared, self.seconds(None, seconds)], dim=2),
            "request": self.shared(torch.stack([batch[name] for name in NAMES], dim=1)),
            "types": batch["seen_type"],
            "mask": batch["seen_item"] > 0,
            "times": batch["seen_time"],
            "now": batch["time"],
        }
        answer, kept = self.reader(given)
        target, answer = given["target"].squeeze(1), answer.squeeze(1)
        read = [target, answer, answer * self.target(target), given["request"].flatten(1)]
        return self.head(torch.cat(read, dim=1)).squeeze(1), kept


class Reader(nn.Module):
    """A tower as the ranker sees it: an answer ``[B, 1, width]`` and keep weights, if any."""

    width: int


class Items(Reader):
    """DIN over items."""

    def __init__(self, hidden: Sequence[int] = (112, 16)) -> None:
        super().__init__()
        self.tower, self.width = DIN(dim=ITEM, hidden=hidden), ITEM

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, None]:
        return self.tower(given["target"], given["history"], given["mask"]), None


class ItemsAndSituations(Reader):
    """DIN over items with their situations beside them."""

    def __init__(self, hidden: Sequence[int] = (32, 16)) -> None:
        super().__init__()
        self.width = ITEM + (len(NAMES) + 1) * DIM
        self.tower = DIN(dim=self.width, hidden=hidden)
        self.wanted = nn.Parameter(torch.zeros(DIM))  # a request has no seconds

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, None]:
        wanted = self.wanted.expand(len(given["request"]), -1)
        asked = torch.cat([given["target"].squeeze(1), given["request"].flatten(1), wanted], dim=1)
        keys = torch.cat([given["history"], given["situation"].flatten(2)], dim=2)
        return self.tower(asked.unsqueeze(1), keys, given["mask"]), None


class Situations(Reader):
    """The situation tower, less one of its parts if so told."""

    def __init__(self, without: str = "") -> None:
        super().__init__()
        self.tower = SituationTower.of(
            item_dim=ITEM,
            dim=DIM,
            num_fields=len(NAMES) + 1,
            num_request_fields=len(NAMES),
            num_types=TYPES,
        )
        self.width = self.tower.out_dim
        if without == "denoising":
            width = self.tower.denoise.situation_dim
            self.tower.denoise = SituationDenoising(
                item_dim=ITEM, situation_dim=width, keep=KeepAll()
            )
        elif without:
            setattr(self.tower.correlate, without, Nothing())

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.tower(**given)


class KeepAll(nn.Module):
    """In the place of a choice."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return mask.unsqueeze(1).expand_as(logits).float()


class Nothing(nn.Module):
    """In the place of a direction."""

    def forward(self, fields: Tensor, _: Tensor | None = None) -> Tensor:
        return torch.zeros_like(fields)


@dataclass(frozen=True)
class Arm:
    """What is trained, how many times ``PASSES``, and on what."""

    reader: Callable[[], Reader]
    rounds: int = 1
    dealt: bool = False
    step: str = "SituationTower"  # the arm whose step size it has


ARMS = {
    "DIN": Arm(Items, rounds=2, step="DIN"),
    "DIN, situations": Arm(ItemsAndSituations, rounds=2, step="DIN, situations"),
    "SituationTower": Arm(Situations),
    "SituationTower, situations dealt anew": Arm(Situations, dealt=True),
    "without denoising": Arm(lambda: Situations("denoising")),
    "without the direction across fields": Arm(lambda: Situations("fields")),
    "without the direction across behaviours": Arm(lambda: Situations("behaviours")),
    "without the direction of the request": Arm(lambda: Situations("request")),
}
CONTROLS = list(ARMS)[:4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": "python -m benchmarks.situations",
        "choice": {},
        "runs": [],
    }
    if options.out.exists():
        report = json.loads(options.out.read_text())
    if options.choose:
        choose(report, options.out)
        return
    done = {(each["seed"], each["arm"]) for each in report["runs"]}
    some = [name for name in ARMS if name in options.arms]
    # what the claim needs comes first
    order = [(arm, s) for s in SEEDS for arm in some if arm in CONTROLS]
    order += [(arm, s) for s in SEEDS[:PART_SEEDS] for arm in some if arm not in CONTROLS]
    for arm, seed in order:
        if (seed, arm) not in done:
            log = replace(LOG, seed=seed)
            report["runs"].append(run(arm, log, step_size(report, arm)))
            report["closed"] = closed(report["runs"])
            options.out.write_text(json.dumps(report, indent=2) + "\n")
            print(report["runs"][-1], flush=True)
    print(json.dumps(report["closed"], indent=2))


def choose(report: dict[str, Any], out: Path) -> None:
    """AUC of validation labels of other logs for each step size; test users are not scored."""
    for seed in CHOICES:
        for arm in dict.fromkeys(arm.step for arm in ARMS.values()):
            for step in STEPS:
                known = report["choice"].setdefault(arm, {}).setdefault(str(step), {})
                if str(seed) not in known:
                    found = run(arm, replace(LOG, seed=seed), step, test=False)
                    known[str(seed)] = found["validation_auc"]
                    out.write_text(json.dumps(report, indent=2) + "\n")
                    print(found, flush=True)


def step_size(report: dict[str, Any], arm: str) -> float:
    """The one with the best mean over the logs of the choice."""
    found = report["choice"][ARMS[arm].step]
    return float(max(found, key=lambda step: statistics.fmean(found[step].values())))


def run(
    arm: str, settings: SituationSettings, step: float, *, passes: int = PASSES, test: bool = True
) -> dict[str, Any]:
    """Train one arm on one log; AUC by the true probabilities."""
    built, seed = ARMS[arm], settings.seed
    log = _log(settings)
    rows = Rows(log.shuffled(seed) if built.dealt else log)
    start = time.process_time()
    torch.manual_seed(seed)
    model = Ranker(built.reader())
    curve = train(model, rows, built.rounds * passes, step, seed)
    found = {
        "seed": seed,
        "arm": arm,
        "step": step,
        "validation_auc": max(curve),
        "curve": [round(value, 4) for value in curve],
        "parameters": sum(each.numel() for each in model.parameters()),
    }
    if test:
        part = rows.parts["test"]
        logits, kept = scores(model, rows, part)
        truth, accident = log.probability[part], log.accident[log.user[part]]
        found |= {
            "expected_auc": expected_auc(truth, logits),
            "bayes_auc": bayes_auc(truth),
            "taste_auc": expected_auc(truth, log.parts["taste"][part]),
            "kept_accidents": None if kept is None else float(kept[accident].mean()),
            "kept_others": None if kept is None else float(kept[~accident].mean()),
        }
    return found | {"seconds": round(time.process_time() - start, 1)}


def train(model: Ranker, rows: Rows, passes: int, step: float, seed: int) -> list[float]:
    """Leaves the model as it was after its best pass; validation AUC of each."""
    learn, watched = rows.parts["train"], rows.parts["validation"]
    labels, draws = rows.row["label"].float(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=step)
    steps = passes * -(-len(learn) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, 2 - 2 * n / steps))
    curve, best = list[float](), copy.deepcopy(model.state_dict())
    for _ in range(passes):
        model.train()
        for some in learn[torch.randperm(len(learn), generator=draws)].split(BATCH):
            logits, _ = model(rows.batch(some))
            loss = functional.binary_cross_entropy_with_logits(logits, labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        found = auc(labels[watched].numpy(), scores(model, rows, watched)[0])
        if found > max(curve, default=0.0):
            best = copy.deepcopy(model.state_dict())
        curve.append(found)
    model.load_state_dict(best)
    return curve


@torch.no_grad()
def scores(model: Ranker, rows: Rows, part: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits of some rows, and what was kept of each behaviour."""
    model.eval()
    logits, kept = model(rows.batch(part))
    weights = None if kept is None else kept.squeeze(1).numpy()
    return logits.double().numpy(), weights


def closed(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Share of the gap from DIN to the best that each arm closes, seed by seed."""
    low = {each["seed"]: each["expected_auc"] for each in runs if each["arm"] == "DIN"}
    found: dict[str, list[float]] = {}
    for each in sorted(runs, key=lambda one: one["seed"]):
        if each["arm"] != "DIN" and each["seed"] in low:
            start = low[each["seed"]]
            share = (each["expected_auc"] - start) / (each["bayes_auc"] - start)
            found.setdefault(each["arm"], []).append(share)
    return {arm: found[arm] for arm in ARMS if arm in found}


@lru_cache(maxsize=1)
def _log(settings: SituationSettings) -> PlantedSituations:
    return plant_situations(settings)


if __name__ == "__main__":
    main()
