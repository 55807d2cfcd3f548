"""Why some things that the papers say are not so on the planted log: each cause turned alone.

*The gate* is to trust the hash ID of often shown items more, and SIDs *in place of* hash IDs are to
lose on the head. But the hash ID of the shoot-out's log has little to remember: a tenth of the
logit's variance lies in the item and not in its vector. Here it is half. *Pairs* of levels are to
help. But the shoot-out's codebooks hold 64 codes a level, so its tables of pairs 4,096 rows.
Here they hold 8, and pairs 64.

Logs of a third of the shoot-out's rows, of the same density and all structure; its recipes.

python -m benchmarks.shootout_gate             a quarter of an hour on a core; goes on where it was
"""

import argparse
import json
import multiprocessing
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.shootout import BY_HOST_RECIPE, HOST_RECIPE, RECIPE, write
from benchmarks.shootout_arms import Ranker, find, make_arm
from benchmarks.shootout_rows import BUCKETS, World, make_world
from benchmarks.shootout_training import gate_range, ranking, train
from sidrank.data import PlantedSettings, plant_log
from sidrank.layers import ConvexGate

RESULT = Path(__file__).parent / "results" / "shootout_gate.json"
SEEDS = 5
ROWS = 300_000
SLICES = ("all", "new_tail", "head")


class Setting(NamedTuple):
    """A log, its codes, and the arms that are asked."""

    memory: float
    codes: int
    arms: tuple[str, ...]


HASH_IDS = ("hid", "sid_only", "sid_coord", "coord_noise_gate", "coord_no_gate")
SETTINGS = {
    "as the shoot-out": Setting(0.1, 64, (*HASH_IDS, "coord_level")),
    "more memory": Setting(0.5, 64, HASH_IDS),
    "smaller codebooks": Setting(0.1, 8, ("sid_coord", "coord_level")),
}
Task = tuple[str, str, int, int]  # setting, arm, seed, rows
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "command": "python -m benchmarks.shootout_gate",
        "rows": arguments.rows,
        "settings": {name: setting._asdict() for name, setting in SETTINGS.items()},
        "runs": [],
    }
    if arguments.out.exists():
        report = json.loads(arguments.out.read_text())
        if report["rows"] != arguments.rows:
            raise SystemExit(f"{arguments.out} holds other runs: remove it, or name another --out")
    done = {(run["setting"], run["arm"], run["seed"]) for run in report["runs"]}
    missing: list[Task] = [
        (name, arm, seed, arguments.rows)
        for seed in range(arguments.seeds)
        for name, setting in SETTINGS.items()
        for arm in setting.arms
        if (name, arm, seed) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _start) as pool:
        for run in pool.imap_unordered(trial, missing):
            report["runs"].append(run)
            write(arguments.out, report, order)
            print({name: run[name] for name in run if name != "gate"}, flush=True)


def order(run: Run) -> tuple[int, str, int]:
    return list(SETTINGS).index(run["setting"]), run["arm"], run["seed"]


def _start() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")


@lru_cache(maxsize=1)
def planted(name: str, seed: int, rows: int) -> World:
    setting = SETTINGS[name]
    settings = PlantedSettings(
        seed=seed,
        rows=rows,
        items=max(rows // 10, 100),
        users=max(rows // 200, 64),
        memory=setting.memory,
    )
    return make_world(plant_log(settings), (setting.codes,) * 3)


def trial(task: Task) -> Run:
    name, arm, seed, rows = task
    world = planted(name, seed, rows)
    model = make_arm(arm, world, seed=seed)
    recipe = HOST_RECIPE if arm in BY_HOST_RECIPE else RECIPE
    logits, chosen = train(model, world, recipe, seed=seed)
    found = ranking(world, logits)["expected_auc"]
    return {
        "setting": name,
        "arm": arm,
        "seed": seed,
        "expected_auc": {key: found[key] for key in SLICES},
        **chosen,
        "gate_range": gate_range(model, world),
        "gate": gate_by_rows(model, world),
    }


@torch.no_grad()
def gate_by_rows(model: Ranker, world: World) -> dict[str, float] | None:
    """Mean trust in the hash ID by training rows of the item, from its true counts."""
    gate = find(model, ConvexGate)
    if not isinstance(gate, ConvexGate) or not gate.statistics:
        return None
    test = torch.from_numpy(world.parts["test"])
    counts = torch.stack([world.single[name][test] for name in ("impressions", "likes")], dim=1)
    trust, shown = gate.weight(counts).squeeze(1).numpy(), counts[:, 0].numpy()
    ends = [*BUCKETS.values(), np.inf]
    masks = {
        n: (shown >= a) & (shown < b) for n, a, b in zip(BUCKETS, ends, ends[1:], strict=False)
    }
    return {name: round(float(trust[mask].mean()), 4) for name, mask in masks.items() if mask.any()}


if __name__ == "__main__":
    main()
