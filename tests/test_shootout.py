"""The shoot-out runs end to end on a small log, and its page says what the figures say."""

from typing import Any

import numpy as np
import pytest
from torch import arange

from benchmarks.shootout_arms import make_arm, sparse_parameters
from benchmarks.shootout_list import ARMS
from benchmarks.shootout_page import best_hybrid, curve, gap_closed, shootout
from benchmarks.shootout_rows import World, make_world
from benchmarks.shootout_training import Recipe, run_arm
from sidrank.data import PlantedSettings, plant_log


@pytest.fixture(scope="module")
def world() -> World:
    settings = PlantedSettings(rows=20_000, items=2_000, users=100, days=5)
    return make_world(plant_log(settings), (8, 8, 8))


def test_an_arm_runs(world: World) -> None:
    figures, logits = run_arm("history", world, Recipe(epochs=1, batch=1024), seed=0)
    assert logits.shape == world.parts["test"].shape
    assert np.isfinite(logits).all()
    assert 0.5 < figures["expected_auc"]["all"] < figures["bayes_auc"]["all"]
    assert figures["rows"]["new"] == int(world.slices["new"].sum()) > 0


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_has_a_loss_that_learns(world: World, name: str) -> None:
    model = make_arm(name, world, seed=0)
    loss = model.loss(*world.cut(arange(64), model.keys, arange(64) % 2 == 0))
    loss.backward()
    assert all(
        bool(parameter.grad.isfinite().all())
        for parameter in model.parameters()
        if parameter.grad is not None
    )


def test_the_matched_host_is_as_large(world: World) -> None:
    wide, full = (make_arm(name, world, seed=0) for name in ("wide", "sid_coord"))
    assert sparse_parameters(wide) > sparse_parameters(make_arm("hid", world, seed=0))
    assert sum(p.numel() for p in wide.parameters()) >= sum(p.numel() for p in full.parameters())


def test_items_without_a_training_row_have_no_hash_id(world: World) -> None:
    rows = world.parts["test"]
    item, raw = world.single["item"][rows].numpy(), world.single["item_raw"][rows].numpy()
    assert ((item == 0) == (world.frequency[raw] == 0)).all()
    assert (world.single["impressions"][rows].numpy() == world.frequency[raw]).all()


def test_the_page_says_what_the_figures_say() -> None:
    report = made_up({"hid": 0.6, "multires": 0.75, "two_scalars": 0.61, "random_hash": 0.76})
    assert best_hybrid(report["runs"]) == "multires"
    assert gap_closed(report["runs"], "multires") == pytest.approx(0.75)
    page = shootout(report)
    assert "| best hybrid closes 60% of the gap on new + tail items | confirmed | 75% |" in page
    assert "| best hybrid beats `random_hash` | **denied** |" in page


def test_the_curve_shows_arms_of_all_seeds() -> None:
    whole = {"hid": 0.6, "multires": 0.7, "two_scalars": 0.65, "history": 0.7}
    runs = [
        {**run, "structure": knob}
        for knob in (0.0, 1.0)
        for run in made_up(whole)["runs"]
        if (run["arm"], run["seed"], knob) != ("history", 1, 0.0)
    ]
    page = curve(runs)
    assert "| `structure`, 2 seeds each | 0 | 1 |" in page
    assert "| `multires` | 0.7000 (50%; +0.1000 ± 0.0000) |" in page
    assert "| `multires` − `two_scalars` | +0.0500 ± 0.0000 |" in page
    assert "`history` |" not in page


def made_up(new_tail: dict[str, float]) -> dict[str, Any]:
    runs = [
        {
            "arm": arm,
            "seed": seed,
            "structure": 1.0,
            "expected_auc": dict.fromkeys(SLICES, auc),
            "validation_auc": auc,
            "bayes_auc": dict.fromkeys(SLICES, 0.8),
            "rows": dict.fromkeys(SLICES, 10),
            "sparse_parameters": 1,
            "seconds": 1.0,
            "gate_range": None,
        }
        for arm, auc in new_tail.items()
        for seed in range(2)
    ]
    settings = {"rows": 10, "levels": [8], "recipe": {"epochs": 1}}
    return {**settings, "runs": runs, "intervals": {}}


SLICES = ("all", "new", "tail", "new_tail", "head", "rows 0", "age 0")
