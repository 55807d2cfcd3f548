import numpy as np
import pytest

from sidrank.demo.settings import Recipe
from sidrank.demo.upgrade import run_upgrade

RECIPE = Recipe(width=4, hidden=8, epochs=2, batch=128)


@pytest.fixture(scope="module")
def done(fold):
    return run_upgrade(fold, RECIPE, seed=0)


def test_logits_are_bit_equal_before_the_first_step(done):
    assert done.delta == 0.0


def test_every_new_parameter_moves(done):
    assert done.new > 0
    assert done.moved == done.new


def test_all_three_train_on_and_part_ways(fold, done):
    assert done.steps == -(-len(fold.learn) // RECIPE.batch)
    host, upgraded, null = (
        done.logits[n] for n in ("host_continued", "upgraded", "upgraded_shuffled")
    )
    assert np.abs(host - upgraded).max() > 0
    assert np.abs(null - upgraded).max() > 0


def test_the_host_is_what_it_is_without_the_upgrade(fold, done):
    again = run_upgrade(fold, RECIPE, seed=0)
    assert np.array_equal(again.logits["host_continued"], done.logits["host_continued"])
