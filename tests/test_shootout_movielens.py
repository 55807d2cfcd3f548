"""The shoot-out on MovieLens stands on the demo's rows, and its pages say what the figures say."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.shootout import LEVELS
from benchmarks.shootout_alignment import learn_too, upgrade
from benchmarks.shootout_arms import make_arm
from benchmarks.shootout_list import ARMS
from benchmarks.shootout_movielens import LEFT_OUT
from benchmarks.shootout_movielens_page import judged, shootout_movielens
from benchmarks.shootout_movielens_rows import TwinWorld, demo_plan, movielens_world
from benchmarks.shootout_rows import SHORT, make_world
from benchmarks.shootout_training import make_optimizer, one_pass, predict, run_arm
from benchmarks.shootout_why_page import alignment_stage_page, gate_page
from sidrank.data import MovieLens, PlantedSettings, plant_log, read_movielens
from sidrank.demo.arms import build_arm
from sidrank.demo.preparation import prepare
from sidrank.demo.settings import Recipe, Settings, VectorRecipe
from sidrank.demo.training import make_optimizer as demo_optimizer
from sidrank.embeddings import alignment_stage
from sidrank.metrics import auc
from tests.data.movielens_files import made_up, write_recbole

SETTINGS = Settings(
    recipes={"cold_items": {"host": Recipe(hidden=8, item_lr=1e-3), "hybrid": Recipe(hidden=8)}},
    vectors={"cold_items": VectorRecipe(levels=(4, 4, 4))},
    regression={},
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> MovieLens:
    folder: Path = tmp_path_factory.mktemp("movielens")
    return read_movielens(write_recbole(folder, made_up()))


@pytest.fixture(scope="module")
def world(log: MovieLens) -> TwinWorld:
    return movielens_world(log, "cold_items", SETTINGS, seed=0)


def test_the_host_is_the_demos(log: MovieLens, world: TwinWorld) -> None:
    fold = prepare(log, "cold_items", 0, SETTINGS.vectors["cold_items"])
    recipe = SETTINGS.recipe("cold_items", "host")
    theirs = build_arm(
        "host",
        features=fold.features,
        table=fold.table,
        vectors=fold.vectors,
        recipe=recipe,
        seed=0,
    )
    ours = make_arm("hid", world, seed=0)
    shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    plan = demo_plan(SETTINGS, "cold_items", "hid")
    groups = [
        sorted(
            (group["lr"], group["weight_decay"], sum(p.numel() for p in group["params"]))
            for group in groups
        )
        for groups in (
            make_optimizer(ours, plan).param_groups,
            demo_optimizer(theirs, recipe).param_groups,
        )
    ]
    assert groups[0] == [group for group in groups[1] if group[2]]


def test_the_history_is_the_demos(log: MovieLens, world: TwinWorld) -> None:
    fold = prepare(log, "cold_items", 0, SETTINGS.vectors["cold_items"])
    features = fold.features
    raw = world.multi["history_raw"].numpy()
    ids = np.where(raw >= 0, log.item_ids[raw], -1)
    assert np.array_equal(ids, features.multi["history_raw"])
    assert np.array_equal(world.multi["history"].numpy(), features.multi["history"])
    assert np.array_equal(world.multi["long_raw"].numpy()[:, :SHORT], raw)
    assert (world.multi["long_raw"][:, SHORT] >= 0).any()


def test_a_row_made_cold_is_its_twin(world: TwinWorld) -> None:
    rows = torch.from_numpy(world.parts["train"][-6:])
    cold = torch.arange(6) % 2 == 0
    keys = ("item", "item_raw", "impressions", "item_rate_bucket")
    _, sparse, label = world.cut(rows, keys, cold)
    _, plain, same = world.cut(rows, keys)
    assert torch.equal(label, same)
    assert torch.equal(sparse["item_raw"].values(), plain["item_raw"].values())
    assert (sparse["item"].values()[cold] == 0).all()
    assert (sparse["impressions"].values()[cold] == 0).all()
    assert torch.equal(sparse["item"].values()[~cold], plain["item"].values()[~cold])
    assert not torch.equal(
        sparse["item_rate_bucket"].values()[cold], plain["item_rate_bucket"].values()[cold]
    )


@pytest.mark.parametrize("name", [name for name in ARMS if name not in LEFT_OUT])
def test_every_arm_has_a_loss_that_learns(world: TwinWorld, name: str) -> None:
    model = make_arm(name, world, seed=0)
    loss = model.loss(*world.cut(torch.arange(64), model.keys, torch.arange(64) % 2 == 0))
    loss.backward()
    assert loss.isfinite()


def test_figures_are_by_label(world: TwinWorld) -> None:
    figures, logits = run_arm(
        "multires", world, demo_plan(SETTINGS, "cold_items", "multires"), seed=0
    )
    mask = world.slices["new_tail"]
    labels = world.labels("test")
    assert figures["auc"]["new_tail"] == pytest.approx(auc(labels[mask], logits[mask]), abs=1e-6)
    assert "epoch" not in figures  # nothing is chosen by what is judged
    new = world.frequency[world.single["item_raw"][world.parts["test"]].numpy()] == 0
    assert np.array_equal(world.slices["new"], new)


def test_the_upgrade_keeps_predictions_and_the_stage_keeps_the_host() -> None:
    settings = PlantedSettings(rows=20_000, items=2_000, users=100, days=5)
    world = make_world(plant_log(settings), LEVELS)
    plan = demo_plan(SETTINGS, "cold_items", "hybrid")
    rows = torch.from_numpy(world.parts["train"][:2000])
    host = make_arm("hid", world, seed=0)
    optimizer = make_optimizer(host, plan)
    one_pass(host, optimizer, world, rows, plan, seed=0)
    before = predict(host, world, "test")
    model, its = copy.deepcopy((host, optimizer))
    kept = {id(p): p.detach().clone() for p in model.parameters()}
    upgrade(model, world, birth="zero", codes="learned", seed=0)
    learn_too(its, model, plan)
    held = {id(p) for group in its.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert np.array_equal(predict(model, world, "test"), before)
    with alignment_stage(model):
        one_pass(model, its, world, rows, plan, seed=1)
    for parameter in model.parameters():
        if id(parameter) in kept:
            assert torch.equal(parameter, kept[id(parameter)])
    assert not np.array_equal(predict(model, world, "test"), before)


def test_the_page_says_what_the_figures_say() -> None:
    report = made_up_report()
    page = shootout_movielens(report)
    assert "| SID only: up (new + tail) | confirmed +0.0300 [+0.0100, +0.0500] |" in page
    assert "| SID only: down (head) | **denied** +0.0300 [+0.0100, +0.0500] |" in page
    assert "| `level` | + one field a level | 0.8000 |" in page


@pytest.mark.parametrize(
    ("interval", "sign", "word"),
    [
        ((0.1, 0.01, 0.2), 1, "confirmed"),
        ((0.1, -0.01, 0.2), 1, "open"),
        ((-0.1, -0.2, -0.01), 1, "**denied**"),
        ((-0.1, -0.2, -0.01), -1, "confirmed"),
        ((0.0, -0.0004, 0.001), 0, "confirmed"),
        ((0.0, -0.001, 0.001), 0, "open"),
        ((-0.002, -0.003, -0.001), 0, "**denied**"),
    ],
)
def test_a_verdict_needs_the_whole_interval(
    interval: tuple[float, float, float], sign: int, word: str
) -> None:
    assert judged(interval, sign).startswith(word)


def test_the_stage_page_compares_like_with_like() -> None:
    ways = ("host before", "host", "staged", "joint")
    ways += tuple(f"{way}, {kind}" for kind in ("random birth", "shuffled") for way in ways[2:])
    figures = {way: dict.fromkeys(("all", "new_tail", "head"), 0.7) for way in ways}
    figures["host"] = dict.fromkeys(("all", "new_tail", "head"), 0.6)
    figures["staged"] = dict.fromkeys(("all", "new_tail", "head"), 0.72)
    runs = [{"data": "somewhere", "seed": seed, "auc": figures} for seed in range(2)]
    page = alignment_stage_page({"rows": 10, "runs": runs})
    assert "staged − joint | rows born zero | +0.0200 (2 of 2 seeds up)" in page
    assert "staged − joint | control: codes shuffled | +0.0000 (0 of 2 seeds up)" in page


def test_the_gate_page_pairs_by_seed() -> None:
    def runs(step: float, **more: Any) -> list[dict[str, Any]]:
        return [
            {
                "arm": arm,
                "seed": seed,
                "expected_auc": dict.fromkeys(("all", "new_tail", "head"), 0.1 * seed + step * i),
                "gate_range": 0.1 * (i + 1),
                **more,
            }
            for seed in range(3)
            for i, arm in enumerate(("sid_coord", "coord_noise_gate", "coord_level"))
        ]

    report = {
        "rows": 10,
        "settings": {"a": {"memory": 0.1, "codes": 64}, "b": {"memory": 0.5, "codes": 8}},
        "runs": runs(0.01, setting="a", gate=None)
        + runs(-0.01, setting="b", gate={"0": 0.25, "1-4": 0.5}),
    }
    page = gate_page(report)
    assert "| SID-Coord − pairs (levels only) | 0.1 | 64³ | +0.0200 (3 of 3 seeds up) |" in page
    assert "| SID-Coord − pairs (levels only) | 0.5 | 8³ | -0.0200 (0 of 3 seeds up) |" in page
    assert "| 0.1 | 64³ | true counts | +0.100 |  |  |" in page
    assert "| 0.5 | 8³ | another row's | +0.200 | 0.250 | 0.500 |" in page


def made_up_report() -> dict[str, Any]:
    reached = {"hid": 0.7, "sid_only": 0.73, "level": 0.8, "multires": 0.75}
    slices = ("all", "new", "new_tail", "head", "rows 0", "age 0-6")
    runs = [
        {
            "protocol": "cold_items",
            "arm": arm,
            "seed": seed,
            "auc": dict.fromkeys(slices, value),
            "rows": dict.fromkeys(slices, 10),
            "sparse_parameters": 1000,
            "seconds": 1.0,
            "gate_range": None,
        }
        for arm, value in reached.items()
        for seed in range(2)
    ]
    interval = [0.03, 0.01, 0.05]
    found = dict.fromkeys(slices, interval)
    return {
        "draws": 10,
        "runs": runs,
        "intervals": {f"cold_items {arm} hid": found for arm in reached if arm != "hid"},
    }
