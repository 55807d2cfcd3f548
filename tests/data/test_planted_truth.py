"""What a planted log promises of its parts, judged by the true probabilities."""

import numpy as np
import pytest

from sidrank.data.planted import PlantedSettings, plant_log
from sidrank.metrics import auc
from sidrank.metrics.expected_auc import bayes_auc, expected_auc


def plant(structure, **others):
    sizes = {"rows": 60_000, "items": 4_000, "users": 300, "days": 6}
    return plant_log(PlantedSettings(structure=structure, **(sizes | others)))


def logistic(log, train, *columns):
    """Logits of a logistic regression by Newton's method, learned from the training rows."""
    design = np.column_stack([*columns, np.ones(len(log.label))])
    known, label = design[train], log.label[train]
    weight = np.zeros(design.shape[1])
    for _ in range(12):
        chance = 1 / (1 + np.exp(-known @ weight))
        curvature = (known * (chance * (1 - chance))[:, None]).T @ known
        slope = known.T @ (label - chance) - weight
        weight += np.linalg.solve(curvature + np.eye(len(weight)), slope)
    return design @ weight


def scalars(log, train):
    """An item's quality and the logarithm of its training impressions."""
    count = np.bincount(log.item_index[train], minlength=len(log.item_ids))
    return log.item_quality[log.item_index], np.log1p(count)[log.item_index]


def crosses(log, depth):
    """One column for each pair of a user's and an item's branch at a depth."""
    user = log.user_codes[log.user_index, depth]
    item = log.item_codes[log.item_index, depth]
    return (user * 8 + item)[:, None] == np.arange(64)


@pytest.mark.parametrize("structure", [0.0, 0.5, 1.0])
def test_the_probability_ranks_better_than_any_part(structure):
    log = plant(structure)
    best = bayes_auc(log.probability)
    for part in log.parts.values():
        assert expected_auc(log.probability, part) < best - 0.02


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_possible_is_about_the_same_for_any_structure(seed):
    found = [
        bayes_auc(plant(structure, seed=seed).probability)
        for structure in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert np.ptp(found) < 0.03


def test_the_labels_realise_it():
    log = plant(0.5)
    last = log.day == 5
    error = 0.5 / np.sqrt(log.label[last].sum())  # above that of any AUC
    found = auc(log.label[last], log.probability[last])
    assert found == pytest.approx(bayes_auc(log.probability, last), abs=2 * error)


class TestAllQuality:
    def test_two_scalars_and_the_users_bias_are_enough(self):
        log = plant(0.0, memory=0.0)
        train, last = log.day < 5, log.day == 5
        known = [*scalars(log, train), log.parts["bias"]]
        best = bayes_auc(log.probability, last)
        two = expected_auc(log.probability, logistic(log, train, *known), last)
        assert best - two < 0.001
        tree = crosses(log, 0)
        more = expected_auc(log.probability, logistic(log, train, *known, tree), last)
        assert more - two < 0.001


class TestAllStructure:
    def test_two_scalars_are_chance_and_the_tree_is_not(self):
        log = plant(1.0, memory=0.0)
        train, last = log.day < 5, log.day == 5
        known = scalars(log, train)
        chance = expected_auc(log.probability, logistic(log, train, *known), last)
        assert chance == pytest.approx(0.5, abs=0.02)
        depths = [
            expected_auc(log.probability, logistic(log, train, crosses(log, depth)), last)
            for depth in range(3)
        ]
        assert depths[0] > 0.6
        assert depths[0] > depths[1]
        assert depths[0] > depths[2]

    def test_so_it_is_for_items_never_seen(self):
        log = plant(1.0)
        train, new = log.day < 5, (log.day == 5) & (log.item_age == 0)
        tree = expected_auc(log.probability, logistic(log, train, crosses(log, 0)), new)
        assert tree > 0.6

    def test_only_the_item_itself_tells_the_memory(self):
        log = plant(1.0, memory=0.3)
        train, last = log.day < 5, log.day == 5
        likes = np.bincount(log.item_index[train], log.label[train], len(log.item_ids))
        shown = np.bincount(log.item_index[train], minlength=len(log.item_ids))
        rate = ((likes + 5 * log.label[train].mean()) / (shown + 5))[log.item_index]
        head = last & (shown[log.item_index] > 100)
        assert expected_auc(log.probability, rate, head) > 0.6
        assert expected_auc(log.probability, rate, last & (log.item_age == 0)) == 0.5
