"""The shoot-out's arms on MovieLens-100K, in the demo's three protocols.

Rows, features, item vectors and settings are the demo's (``sidrank.demo``); the arms are those of
``benchmarks.shootout``. Nothing was tuned here: the demo's settings were chosen on validation rows,
for its host, its hybrid and its two controls; every other arm has the hybrid's. The hybrid
that stands for all is therefore the demo's, behind the residual gate.

python -m benchmarks.shootout_movielens        about half an hour on a core; goes on where it was
python -m benchmarks.shootout_movielens --arms hid bpe --seeds 1 --out some.json
"""

import argparse
import json
import multiprocessing
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.shootout import write
from benchmarks.shootout_list import ARMS
from benchmarks.shootout_movielens_page import CONTROLS, HYBRID, PAIRS
from benchmarks.shootout_movielens_rows import TwinWorld, demo_plan, movielens_world
from benchmarks.shootout_training import run_arm
from sidrank.data import read_movielens
from sidrank.demo.protocols import PROTOCOLS
from sidrank.demo.settings import SETTINGS_FILE, read_settings
from sidrank.metrics import PairedRun, paired_interval

RESULT = Path(__file__).parent / "results" / "shootout_movielens.json"
SCORES = Path(__file__).parent.parent / "build" / "shootout_movielens"
SEEDS = 5
SLICES = ("all", "new", "new_tail", "head")
COMPARED = ("all", "new_tail", "head")
DRAWS = 500
# Nobody knows the true codes; three other controls have codes that say nothing; and the gate has a
# study of its own on this data (``sidrank.demo.gate_study``).
LEFT_OUT = ("true_codes", "multires_shuffled", "coord_noise_gate", "history")

Task = tuple[str, str, int]  # protocol, arm, seed
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    arms = [name for name in ARMS if name not in LEFT_OUT]
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="*", choices=arms, default=arms)
    parser.add_argument("--protocols", nargs="*", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    report = read(arguments.out)
    done = {key(run) for run in report["runs"]}
    wanted = tasks(arguments.protocols, arguments.arms, arguments.seeds)
    missing = [task for task in wanted if task not in done]
    print(f"{len(wanted)} runs, {len(missing)} to do", flush=True)
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _start) as pool:
        for run in pool.imap_unordered(_run, missing):
            report["runs"].append(run)
            write(arguments.out, report, key)
            auc = run["auc"]
            print(
                *key(run), f"{run['seconds']:.0f} s",
                " ".join(f"{name} {auc[name]:.4f}" for name in SLICES if name in auc), flush=True,
            )  # fmt: skip
        pairs = comparisons(report["runs"], arguments.protocols, arguments.seeds)
        for found in pool.imap_unordered(interval, pairs):
            report["intervals"] |= found
    report["intervals"] = dict(sorted(report["intervals"].items()))
    write(arguments.out, report, key)


def tasks(protocols: Sequence[str], arms: Sequence[str], seeds: int) -> list[Task]:
    """Fold by fold, so that each process prepares one once."""
    found: list[Task] = []
    for seed in range(seeds):
        for protocol in protocols:
            found += [(protocol, arm, seed) for arm in arms]
    return found


def key(run: Run) -> Task:
    return run["protocol"], run["arm"], run["seed"]


def read(path: Path) -> dict[str, Any]:
    """The report as far as it is."""
    settings = {"settings": json.loads(SETTINGS_FILE.read_text()), "draws": DRAWS}
    command = "python -m benchmarks.shootout_movielens"
    if not path.exists():
        return {"command": command, **settings, "intervals": {}, "runs": []}
    report = json.loads(path.read_text())
    if any(report[name] != value for name, value in settings.items()):
        raise SystemExit(f"{path} holds runs of other settings: remove it, or name another --out")
    return report


def comparisons(
    runs: list[Run], protocols: Sequence[str], seeds: int
) -> list[tuple[str, str, str, int]]:
    """Pairs of arms that the page compares: with the host, and as the papers do."""
    found: list[tuple[str, str, str, int]] = []
    for protocol in protocols:
        held = {run["arm"] for run in runs if run["protocol"] == protocol}
        pairs = [(arm, "hid") for arm in held if arm != "hid"] + list(PAIRS)
        pairs += [(HYBRID, control) for control in CONTROLS]
        found += [(protocol, a, b, seeds) for a, b in dict.fromkeys(pairs) if {a, b} <= held]
    return found


def interval(pair: tuple[str, str, str, int]) -> dict[str, Any]:
    """Difference of two arms' AUC by slice, over users and seeds."""
    protocol, arm, other, seeds = pair
    found: dict[str, list[float]] = {}
    for name in COMPARED:
        runs: list[PairedRun] = []
        for seed in range(seeds):
            paths = [scores((protocol, which, seed)) for which in (arm, other)]
            if not all(path.exists() for path in paths):
                return {}
            world = np.load(truth(protocol, seed))
            treatment, control = (np.load(path) for path in paths)
            if len(np.unique(world["labels"][world[name]])) == 2:
                runs.append(
                    PairedRun(
                        users=world["users"],
                        labels=world["labels"],
                        treatment=treatment,
                        control=control,
                        mask=world[name],
                    )
                )
        found[name] = [round(value, 6) for value in paired_interval(runs, draws=DRAWS)]
    return {f"{protocol} {arm} {other}": found}


def scores(task: Task) -> Path:
    return SCORES / ("-".join(map(str, task)) + ".npy")


def truth(protocol: str, seed: int) -> Path:
    return SCORES / f"{protocol}-{seed}.npz"


def _start() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")


@lru_cache(maxsize=1)
def _world(protocol: str, seed: int) -> TwinWorld:
    world = movielens_world(read_movielens(), protocol, read_settings(), seed=seed)
    SCORES.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {name: world.slices[name] for name in SLICES}
    columns |= {"users": world.users[world.parts["test"]], "labels": world.labels("test")}
    waiting = truth(protocol, seed).with_suffix(f".{multiprocessing.current_process().pid}.npz")
    np.savez(waiting, **columns)
    waiting.replace(truth(protocol, seed))
    return world


def _run(task: Task) -> Run:
    protocol, arm, seed = task
    plan = demo_plan(read_settings(), protocol, arm)
    figures, logits = run_arm(arm, _world(protocol, seed), plan, seed=seed)
    waiting = scores(task).with_suffix(".part.npy")
    np.save(waiting, logits)
    waiting.replace(scores(task))
    if arm != "hid":  # the same for all arms
        del figures["rows"]
    return {"protocol": protocol, "arm": arm, "seed": seed, **figures}


if __name__ == "__main__":
    main()
