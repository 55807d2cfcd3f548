"""Every published way to put semantic IDs into a ranker, side by side, where the truth is known.

One log a seed (``sidrank.data.plant_log``): 1M impressions, 100k items, Zipf 1.1, each day a fifth
of the offer new, the last day held out. All arms are one TorchRec DLRM trained by one recipe on the
first eight days; the ninth chooses the pass that counts (early stopping), the tenth judges, by the
true probabilities: no label noise. Codes are learned from the item vectors, never the true ones.
The recipe and the codebook sizes were chosen on the validation day of a log of another seed (100),
in two dozen trials, for the host and for the host with SIDs as fields alike: step sizes (0.003 to
0.02; constant beats falling; Adagrad at 0.05 was worse), weight decay (0 to 4, the hash-ID table's
apart), the share of rows made cold (0.15, 0.3), passes (a third one overfits), levels (32³ is
worse, 128 x 64 x 64 no better). No arm was tuned on its own.

python -m benchmarks.shootout                  under an hour on two cores; goes on where it was
python -m benchmarks.shootout --arms hid bpe --seeds 1 --out some.json
"""

import argparse
import json
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.shootout_list import ARMS
from benchmarks.shootout_rows import World, make_world
from benchmarks.shootout_training import Floats, Recipe, run_arm
from sidrank.data import PlantedSettings, plant_log
from sidrank.metrics import PairedRun, paired_interval

RESULT = Path(__file__).parent / "results" / "shootout.json"
SCORES = Path(__file__).parent.parent / "build" / "shootout"  # logits, for the joint intervals
SEEDS = 5
LEVELS = (64, 64, 64)
RECIPE = Recipe()
HOST_RECIPE = Recipe(item_decay=0.5, decay=0.5, cold=0.15)
BY_HOST_RECIPE = ("hid", "wide", "two_scalars", "random_hash", "multires_shuffled")
KNOBS = (0.0, 0.25, 0.5, 0.75)  # and 1.0, where all arms run
KNOB_ARMS = ("hid", "multires", "multires_shuffled", "two_scalars")
SLICES = ("all", "new_tail", "head")
DRAWS = 100

Task = tuple[str, int, float, int]
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--knobs", nargs="*", type=float, default=list(KNOBS))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    report = read(arguments.out, arguments.rows)
    wanted = tasks(arguments.arms, arguments.seeds, arguments.knobs, arguments.rows)
    missing = [
        task for task in wanted if task_key(task) not in {run_key(r) for r in report["runs"]}
    ]
    print(f"{len(wanted)} runs, {len(missing)} to do", flush=True)
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _start) as pool:
        for run in pool.imap_unordered(_run, missing):
            report["runs"].append(run)
            write(arguments.out, report)
            auc = run["expected_auc"]
            print(
                run["seed"], run["structure"], run["arm"], f"{run['seconds']:.0f} s",
                " ".join(f"{name} {auc[name]:.4f}" for name in SLICES), flush=True,
            )  # fmt: skip
        changed = {task[0] for task in missing if task[2] == 1.0}
        stale = [arm for arm in arguments.arms if arm in changed or arm not in report["intervals"]]
        if "hid" in changed:
            stale = arguments.arms
        pairs = [(arm, arguments.rows, arguments.seeds) for arm in stale if arm != "hid"]
        for found in pool.imap_unordered(interval, pairs):
            report["intervals"] |= found
    chosen = [] if arguments.arms == list(ARMS) else ["--arms", *arguments.arms]
    report["command"] = " ".join(["python -m benchmarks.shootout", *chosen])
    write(arguments.out, report)


def tasks(arms: Sequence[str], seeds: int, knobs: Sequence[float], rows: int) -> list[Task]:
    """Seed by seed, so that each process prepares a log once; the curve last."""
    found = [(arm, seed, 1.0, rows) for seed in range(seeds) for arm in arms]
    curve = [arm for arm in KNOB_ARMS if arm in arms]
    return found + [(a, s, knob, rows) for s in range(seeds) for knob in knobs for a in curve]


def task_key(task: Task) -> tuple[str, int, float]:
    return task[:3]


def run_key(run: Run) -> tuple[str, int, float]:
    return run["arm"], run["seed"], run["structure"]


def read(path: Path, rows: int) -> dict[str, Any]:
    """The report as far as it is."""
    settings = {
        "rows": rows,
        "levels": list(LEVELS),
        "recipe": asdict(RECIPE),
        "host_recipe": asdict(HOST_RECIPE),
    }
    fresh = {"command": "python -m benchmarks.shootout", **settings, "runs": [], "intervals": {}}
    if not path.exists():
        return fresh
    report = json.loads(path.read_text())
    if any(report[name] != value for name, value in settings.items()):
        raise SystemExit(f"{path} holds runs of other settings: remove it, or name another --out")
    return report


def write(path: Path, report: dict[str, Any], order: Callable[[Run], Any] | None = None) -> None:
    """Whole or not at all: the run may be stopped at any time."""
    report["runs"].sort(key=order or _order)
    path.parent.mkdir(exist_ok=True)
    waiting = path.with_suffix(".part")
    whole = {name: value for name, value in report.items() if name != "runs"}
    head = json.dumps(whole, ensure_ascii=False, indent=1).removesuffix("\n}")
    runs = ",\n".join(json.dumps(run) for run in report["runs"])  # a line each
    waiting.write_text(f'{head},\n "runs": [\n{runs}\n]\n}}\n')
    waiting.replace(path)


def _order(run: Run) -> tuple[float, int, int]:
    return run["structure"], list(ARMS).index(run["arm"]), run["seed"]


def interval(pair: tuple[str, int, int]) -> dict[str, Any]:
    """Difference of an arm's AUC from the host's by the drawn labels, over users and seeds."""
    arm, rows, seeds = pair
    found: dict[str, list[float]] = {}
    runs: dict[str, list[PairedRun]] = {name: [] for name in SLICES}
    for seed in range(seeds):
        paths = [scores((name, seed, 1.0, rows)) for name in (arm, "hid")]
        if not all(path.exists() for path in paths):
            return {}
        world = np.load(truth(seed, rows))
        treatment, control = (np.load(path) for path in paths)
        for name in SLICES:
            runs[name].append(
                PairedRun(
                    users=world["users"],
                    labels=world["labels"],
                    treatment=treatment,
                    control=control,
                    mask=world[name],
                )
            )
    for name, of_slice in runs.items():
        found[name] = list(paired_interval(of_slice, draws=DRAWS))
    return {arm: found}


def scores(task: Task) -> Path:
    arm, seed, structure, rows = task
    return SCORES / f"{arm}-{seed}-{structure:g}-{rows}.npy"


def truth(seed: int, rows: int) -> Path:
    return SCORES / f"truth-{seed}-{rows}.npz"


def _start() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")


@lru_cache(maxsize=1)
def _world(seed: int, structure: float, rows: int) -> World:
    # items and users follow the rows, so that a small trial has the same density
    settings = PlantedSettings(
        seed=seed,
        structure=structure,
        rows=rows,
        items=max(rows // 10, 100),
        users=max(rows // 200, 64),
    )
    world = make_world(plant_log(settings), LEVELS)
    if structure == 1.0:
        SCORES.mkdir(parents=True, exist_ok=True)
        test = world.parts["test"]
        columns: dict[str, Any] = {name: world.slices[name] for name in SLICES}
        columns |= {"users": world.users[test], "labels": world.labels("test")}
        waiting = truth(seed, rows).with_suffix(f".{multiprocessing.current_process().pid}.npz")
        np.savez(waiting, **columns)
        waiting.replace(truth(seed, rows))
    return world


def _run(task: Task) -> Run:
    arm, seed, structure, rows = task
    recipe = HOST_RECIPE if arm in BY_HOST_RECIPE else RECIPE
    figures, logits = run_arm(arm, _world(seed, structure, rows), recipe, seed=seed)
    if structure == 1.0:
        _save(scores(task), logits)
    if arm != "hid":  # the same for all arms
        del figures["bayes_auc"], figures["rows"]
    return {"arm": arm, "seed": seed, "structure": structure, **figures}


def _save(path: Path, logits: Floats) -> None:
    waiting = path.with_suffix(".part.npy")
    np.save(waiting, logits)
    waiting.replace(path)


if __name__ == "__main__":
    main()
