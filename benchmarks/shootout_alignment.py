"""Does skipping the alignment stage hurt? A trained host gains SIDs and trains on, two ways.

*Staged*: in the first half of the further steps only what is new moves (``alignment_stage``), in
the second half all does. *Joint*: all moves in both. Same rows in the same order, and the optimiser
keeps its state of the host. Rows of the new tables start at zero, as the library's upgrade wants
it, so that the host's predictions stand at step 0; or at random, as new words of a language model
do. Controls: codes shuffled over items; and the host alone, trained on as long.

The further steps read fresh rows (planted log: the host knows the first half of the training rows,
each quarter after it is read once) or the host's own rows again, twice (the cold items of
MovieLens, as in the upgrade of the demo).

python -m benchmarks.shootout_alignment        five minutes on a core; goes on where it was
"""

import argparse
import copy
import json
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import PoolingType

from benchmarks.shootout import HOST_RECIPE, LEVELS, write
from benchmarks.shootout_arms import COUNTS, RAW_KEYS, Ranker, codes_of, expander_of, make_arm
from benchmarks.shootout_movielens_rows import demo_plan, movielens_world
from benchmarks.shootout_rows import World, make_world
from benchmarks.shootout_training import (
    Plan,
    kind_of,
    make_optimizer,
    one_pass,
    predict,
    ranking,
)
from sidrank.data import PlantedSettings, plant_log, read_movielens
from sidrank.demo.settings import read_settings
from sidrank.embeddings import HybridEmbeddingBagCollection, alignment_stage, replace_embeddings
from sidrank.layers import ResidualGate

RESULT = Path(__file__).parent / "results" / "shootout_alignment.json"
SEEDS = 5
ROWS = 150_000
FRESH, AGAIN = "planted log, fresh rows", "MovieLens, rows again"
DATA = (FRESH, AGAIN)
SLICES = ("all", "new_tail", "head")
WAYS = {  # birth of the new rows, codes, whether staged
    "staged": ("zero", "learned", True),
    "joint": ("zero", "learned", False),
    "staged, random birth": ("random", "learned", True),
    "joint, random birth": ("random", "learned", False),
    "staged, shuffled": ("zero", "shuffled", True),
    "joint, shuffled": ("zero", "shuffled", False),
}
PATH = "host.sparse_arch.embedding_bag_collection.inner"

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--data", nargs="*", choices=DATA, default=list(DATA))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchrec|torch|fbgemm_gpu")
    command = "python -m benchmarks.shootout_alignment"
    report: dict[str, Any] = {"command": command, "rows": ROWS, "runs": []}
    if arguments.out.exists():
        report = json.loads(arguments.out.read_text())
    done = {(run["data"], run["seed"]) for run in report["runs"]}
    for seed in range(arguments.seeds):
        for data in arguments.data:
            if (data, seed) not in done:
                report["runs"].append({"data": data, "seed": seed, "auc": trial(data, seed)})
                write(arguments.out, report, key)
                print(data, seed, flush=True)


def key(run: Run) -> tuple[int, int]:
    return DATA.index(run["data"]), run["seed"]


def trial(data: str, seed: int) -> dict[str, dict[str, float]]:
    """AUC by way and slice."""
    if data == AGAIN:
        demo = read_settings()
        world = movielens_world(read_movielens(), "cold_items", demo, seed=seed)
        plan: Plan = demo_plan(demo, "cold_items", "hybrid")
    else:
        settings = PlantedSettings(seed=seed, rows=ROWS, items=ROWS // 10, users=ROWS // 200)
        world = make_world(plant_log(settings), LEVELS)
        plan = replace(HOST_RECIPE, epochs=1, batch=1024)
    rows = torch.from_numpy(world.parts["train"])
    own, first, second = rows, rows, rows
    if data == FRESH:
        own, later = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        first, second = later[: len(later) // 2], later[len(later) // 2 :]
    host = make_arm("hid", world, seed=seed)
    optimizer = make_optimizer(host, plan)
    for epoch in range(plan.epochs):
        one_pass(host, optimizer, world, own, plan, seed=1000 * seed + epoch)
    found = {"host before": auc_of(host, world)}
    for way in ("host", *WAYS):
        model, its = copy.deepcopy((host, optimizer))  # in one, so that they stay together
        stage = nullcontext
        if way != "host":
            birth, codes, staged = WAYS[way]
            torch.manual_seed(seed)
            upgrade(model, world, birth=birth, codes=codes, seed=seed)
            learn_too(its, model, plan)
            stage = partial(alignment_stage, model) if staged else nullcontext
        with stage():
            one_pass(model, its, world, first, plan, seed=1000 * seed + 500)
        one_pass(model, its, world, second, plan, seed=1000 * seed + 501)
        found[way] = auc_of(model, world)
    return found


def upgrade(model: Ranker, world: World, *, birth: str, codes: str, seed: int) -> None:
    """Put SIDs behind the hash ID of a trained host, in place, by the residual gate."""
    expander = expander_of(codes_of(codes, world, seed), "multires")
    tables = expander.embedding_bag_configs(
        embedding_dim=world.size.width, pooling=PoolingType.MEAN, init_fn=nn.init.zeros_
    )
    replace_embeddings(
        model,
        PATH,
        lambda ebc: HybridEmbeddingBagCollection(
            ebc, tables, expander=expander, gates={"item": ResidualGate(statistics=COUNTS)}
        ),
    )
    if birth == "random":  # which the constructor refuses
        for name, parameter in model.named_parameters():
            if kind_of(name) == "sid":
                nn.init.normal_(parameter, std=world.size.init)
    model.keys = tuple(dict.fromkeys([*model.keys, *RAW_KEYS, *COUNTS]))


def learn_too(optimizer: torch.optim.Optimizer, model: nn.Module, plan: Plan) -> None:
    """Give an optimiser the parameters that it does not hold yet."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    fresh: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in held:
            fresh.setdefault(kind_of(name), []).append(parameter)
    for kind, parameters in fresh.items():
        lr, decay = plan.steps()[kind]
        optimizer.add_param_group({"params": parameters, "lr": lr, "weight_decay": decay})


def auc_of(model: Ranker, world: World) -> dict[str, float]:
    found = ranking(world, predict(model, world, "test"))
    by_slice = found.get("expected_auc") or found["auc"]
    return {name: by_slice[name] for name in SLICES}


if __name__ == "__main__":
    main()
