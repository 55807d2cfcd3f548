"""Sequence models on histories whose truth is known, and on MovieLens: arms, seeds, one process.

Arms live in ``benchmarks/sequence_arms_<topic>.py``, each of which has a dictionary ``ARMS``:
name to ``Arm``. All arms of one *setting* (which log, with which shares) and seed see the
same rows; the seed names the planted log too, so that arms are paired. Seeds count from 1: on the
log of seed 0 the host and its settings were made.

python -m benchmarks.sequence_study                       goes on where it was
python -m benchmarks.sequence_study --arms mean_pooling --seeds 2 --out some.json
python -m benchmarks.sequence_study --oracle              what each part is worth, without training
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_settings import SETTINGS, Arm
from benchmarks.sequence_training import Floats, count, difference, figures, train
from sidrank.data.planted_sequences import SequenceSettings
from sidrank.metrics import bayes_auc, expected_auc

__all__ = ["arms", "main", "oracles", "run"]

FOLDER = Path(__file__).parent
RESULT = FOLDER / "results" / "sequence_study.json"
SCORES = FOLDER.parent / "build" / "sequence_study"  # logits, weights
SEEDS = 5

Run = dict[str, Any]


@cache
def arms() -> dict[str, Arm]:
    """All arms of all files ``sequence_arms_<topic>.py``."""
    found: dict[str, Arm] = {}
    for path in sorted(FOLDER.glob("sequence_arms_*.py")):
        some: dict[str, Arm] = importlib.import_module(f"benchmarks.{path.stem}").ARMS
        if twice := found.keys() & some.keys():
            raise ValueError(f"ARMS of {path.name} must have new names, got {sorted(twice)}")
        found |= some
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Run what is missing, seed by seed, and write after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", choices=list(arms()), default=list(arms()))
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--users", type=int, default=SequenceSettings().users)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--oracle", action="store_true")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    report = read(asked.out, asked.users)
    words = sys.argv[1:] if given is None else [str(word) for word in given]
    report["command"] = " ".join(["python -m benchmarks.sequence_study", *words])
    if asked.oracle:
        report["oracles"] = oracles(asked.settings, asked.seeds, asked.users)
        write(asked.out, report)
        return
    done = {_key(each) for each in report["runs"]}
    wanted = [
        (setting, seed, name)
        for seed in range(1, asked.seeds + 1)
        for setting in asked.settings
        for name in asked.arms
        if setting in arms()[name].settings
    ]
    missing = [each for each in wanted if each not in done]
    print(f"{len(wanted)} runs, {len(missing)} to do", flush=True)
    for setting, seed, name in missing:
        found = run(name, setting, seed, asked.users)
        report["runs"].append(found)
        write(asked.out, report)
        reached = found.get("expected_auc", found["auc"])
        print(f"{seed} {setting} {name} {found['seconds']:.0f} s {reached:.4f}", flush=True)
    report["differences"] |= differences(asked.arms, asked.seeds, asked.users)
    write(asked.out, report)


def run(name: str, setting: str, seed: int, users: int) -> Run:
    """Train one arm; its figures. Logits of the test rows and weights go to ``build/``."""
    rows = _rows(setting, seed, users)
    start = time.process_time()
    arm = arms()[name]
    torch.manual_seed(seed)
    model = arm.build(rows, seed)
    recipe = arm.recipes.get(setting, arm.recipe)
    trained = train(model, rows, recipe, seed=seed)
    SCORES.mkdir(parents=True, exist_ok=True)
    np.save(scores(name, setting, seed, users), trained.logits)
    torch.save(model.state_dict(), scores(name, setting, seed, users).with_suffix(".pt"))
    return {
        "setting": setting, "seed": seed, "arm": name,
        **figures(rows, trained.logits),
        **count(model),
        "epoch": trained.epoch,
        "validation_auc": round(trained.validation_auc, 6),
        "seconds": round(time.process_time() - start, 1),
        "recipe": asdict(recipe),
    }  # fmt: skip


def differences(names: Sequence[str], seeds: int, users: int) -> dict[str, Any]:
    """Arms against their controls by drawn labels: mean and joint interval over users and seeds."""
    every = arms()
    pairs = [(name, other) for name in names for other in (every[name].control, *every[name].also)]
    runs: dict[str, list[tuple[SequenceRows, Floats, Floats]]] = {}
    for setting in SETTINGS:
        ours = [pair for pair in pairs if pair[1] and setting in every[pair[0]].settings]
        for seed in range(1, seeds + 1):
            paths = {pair: [scores(each, setting, seed, users) for each in pair] for pair in ours}
            held = {pair: both for pair, both in paths.items() if all(p.exists() for p in both)}
            if not held:
                continue
            rows = _judged(_rows(setting, seed, users))
            for (name, control), both in held.items():
                told = runs.setdefault(f"{setting}: {name} - {control}", [])
                told.append((rows, np.load(both[0]), np.load(both[1])))
    return {
        name: {"seeds": len(some), "auc": list(difference(some))} for name, some in runs.items()
    }


def _judged(rows: SequenceRows) -> SequenceRows:
    """Without what is not needed to judge, so that the rows of all seeds fit in memory."""
    return replace(rows, events={}, event_time=rows.event_time[:0], columns={}, logit_parts={})


def oracles(settings: Sequence[str], seeds: int, users: int) -> dict[str, Any]:
    """Best AUC of the test rows, and what is lost by who knows all parts but one."""
    found: dict[str, Any] = {}
    for setting in settings:
        if SETTINGS[setting].shares is None:
            continue
        table: dict[str, list[float]] = {}
        for seed in range(1, seeds + 1):
            rows = SETTINGS[setting].rows(seed, users=users)
            test = rows.parts["test"]
            parts = {part: values[test].numpy() for part, values in rows.logit_parts.items()}
            truth = rows.probability
            if truth is None:
                raise ValueError(f"setting must be planted, got {setting}")
            chance, logit = truth[test].numpy(), np.sum(list(parts.values()), axis=0)
            best = bayes_auc(chance)
            table.setdefault("bayes_auc", []).append(best)
            for part, values in parts.items():
                table.setdefault(part, []).append(best - expected_auc(chance, logit - values))
        found[setting] = {part: round(float(np.mean(values)), 4) for part, values in table.items()}
        print(setting, found[setting], flush=True)
    return found


def scores(name: str, setting: str, seed: int, users: int) -> Path:
    """Where the logits of a run are."""
    return SCORES / f"{name}-{setting}-{seed}-{users}.npy"


@lru_cache(maxsize=1)
def _rows(setting: str, seed: int, users: int) -> SequenceRows:
    return SETTINGS[setting].rows(seed, users=users)


def _key(found: Run) -> tuple[str, int, str]:
    return found["setting"], found["seed"], found["arm"]


def read(path: Path, users: int) -> dict[str, Any]:
    """The report as far as it is."""
    fresh = {"command": "", "users": users, "oracles": {}, "differences": {}, "runs": []}
    if not path.exists():
        return fresh
    report = json.loads(path.read_text())
    if report["users"] != users:
        raise SystemExit(f"{path} holds runs of {report['users']} users: name another --out")
    return report


def write(path: Path, report: dict[str, Any]) -> None:
    """Whole or not at all: the run may be stopped at any time."""
    report["runs"].sort(key=_key)
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_suffix(".part")
    whole = {name: value for name, value in report.items() if name != "runs"}
    head = json.dumps(whole, ensure_ascii=False, indent=1).removesuffix("\n}")
    lines = ",\n".join(json.dumps(each) for each in report["runs"])  # a line each
    waiting.write_text(f'{head},\n "runs": [\n{lines}\n]\n}}\n')
    waiting.replace(path)


if __name__ == "__main__":
    main()
