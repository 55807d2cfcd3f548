"""The planted situations: reproducible, and as true as they say."""

from dataclasses import fields, replace

import numpy as np
import pytest

from sidrank.data.planted_situations import (
    PlantedSituations,
    SituationSettings,
    plant_situations,
)
from sidrank.metrics import bayes_auc, expected_auc

SMALL = SituationSettings(users=400)
COLUMNS = [
    each.name for each in fields(PlantedSituations) if each.name not in ("settings", "parts")
]
SITUATION = ("seen_hour", "seen_place", "seen_type", "seen_seconds")


@pytest.fixture(scope="module")
def log():
    return plant_situations(SMALL)


def same(one, two):
    return [name for name in COLUMNS if np.array_equal(getattr(one, name), getattr(two, name))]


def seen_topic(log):
    return log.item_topic[log.seen_item]


class TestReproducible:
    def test_the_same_bits(self, log):
        state = np.random.get_state()[1].tolist()
        assert same(log, plant_situations(SMALL)) == COLUMNS
        assert np.random.get_state()[1].tolist() == state

    def test_another_seed_moves_everything(self, log):
        assert same(log, plant_situations(replace(SMALL, seed=1))) == ["user"]

    def test_the_share_changes_labels_alone(self, log):
        other = plant_situations(replace(SMALL, situation=0.2))
        assert set(COLUMNS) - set(same(log, other)) == {"label", "probability"}
        assert (plant_situations(replace(SMALL, situation=0.0)).parts["need"] == 0).all()
        assert (plant_situations(replace(SMALL, situation=1.0)).parts["taste"] == 0).all()


class TestTruth:
    def test_parts_have_their_shares_and_do_not_correlate(self):
        log = plant_situations(replace(SMALL, users=5000))
        columns = np.stack(list(log.parts.values()))
        assert columns.mean(axis=1) == pytest.approx([0, 0], abs=0.03)
        assert columns.std(axis=1) == pytest.approx([2 * 0.3**0.5, 2 * 0.7**0.5], rel=0.02)
        assert abs(np.corrcoef(columns)[0, 1]) < 0.02

    def test_labels_come_from_the_probabilities(self, log):
        for some in np.array_split(np.argsort(log.probability), 5):
            chances = log.probability[some]
            off = (log.label[some] - chances).sum() / np.sqrt((chances * (1 - chances)).sum())
            assert abs(off) < 4

    def test_need_is_the_topic_of_the_cell(self, log):
        wanted = log.need[log.user, log.hour - 1, log.place - 1, log.type - 1]
        hit = log.item_topic[log.item] == wanted
        assert (hit == (log.parts["need"] > 0)).all()

    def test_behaviours_are_of_their_cells_need_but_for_accidents(self, log):
        users = np.arange(400)[:, None]
        wanted = log.need[users, log.seen_hour - 1, log.seen_place - 1, log.seen_type - 1]
        own = seen_topic(log) == wanted
        assert own[~log.accident].all()
        assert own[log.accident].mean() == pytest.approx(1 / 8, abs=0.02)
        assert log.accident.mean() == pytest.approx(0.3, abs=0.02)
        assert np.median(log.seen_seconds[log.accident]) * 3 < np.median(
            log.seen_seconds[~log.accident]
        )

    def test_no_topic_stands_in_more_cells_than_another(self, log):
        for table in log.need.reshape(400, 12):
            assert np.unique(table, return_counts=True)[1].tolist() == [3] * 4

    def test_each_cell_is_visited_as_often(self, log):
        cell = (log.seen_hour * 3 + log.seen_place) * 3 + log.seen_type
        for own in cell:
            assert np.unique(own, return_counts=True)[1].tolist() == [5] * 12

    def test_neither_items_nor_two_of_the_three_are_enough(self):
        log = plant_situations(replace(SMALL, users=3000))
        user, best = log.user, bayes_auc(log.probability)
        topic = seen_topic(log)[user] == log.item_topic[log.item][:, None]
        matches = {
            name: getattr(log, f"seen_{name}")[user] == getattr(log, name)[:, None]
            for name in ("hour", "place", "type")
        }
        own = log.parts["taste"] > 0

        def found(*names):
            cell = topic & np.logical_and.reduce([matches[name] for name in names], axis=0)
            return expected_auc(log.probability, 3 * own + cell.mean(axis=1) / cell.mean())

        all_three = found("hour", "place", "type")
        assert best - all_three < 0.02  # a history tells nearly all
        assert best - expected_auc(log.probability, log.parts["taste"]) > 0.08
        for pair in (("hour", "place"), ("hour", "type"), ("place", "type")):
            assert all_three - found(*pair) > 0.02

    def test_times(self, log):
        assert (np.diff(log.seen_time, axis=1) > 0).all()
        assert (log.time > log.seen_time[log.user].max(axis=1)).all()
        for time, hour in ((log.time, log.hour), (log.seen_time, log.seen_hour)):
            assert (time % 86_400 // 28_800 + 1 == hour).all()


class TestShuffled:
    def test_deals_situations_anew_inside_each_user(self, log):
        other = log.shuffled(3)
        assert set(COLUMNS) - set(same(log, other)) == set(SITUATION)
        for user in range(0, 400, 40):
            together = [
                sorted(zip(*(getattr(each, name)[user] for name in SITUATION), strict=True))
                for each in (log, other)
            ]
            assert together[0] == together[1]
        assert same(other, log.shuffled(3)) == COLUMNS
        assert not np.array_equal(other.seen_hour, log.shuffled(4).seen_hour)

    def test_leaves_nothing_to_learn_from_cells(self, log):
        other = log.shuffled()
        users = np.arange(400)[:, None]
        wanted = log.need[users, other.seen_hour - 1, other.seen_place - 1, other.seen_type - 1]
        known = seen_topic(log) == wanted
        assert known.mean() == pytest.approx(0.7 / 4 + 0.3 / 8, abs=0.02)


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"seed": -1}, "seed must be at least 0, got -1"),
            ({"users": 0}, "users must be at least 1, got 0"),
            ({"visits": 0}, "visits must be at least 1, got 0"),
            ({"requests": 0}, "requests must be at least 1, got 0"),
            ({"situation": 1.1}, r"situation must be 0 to 1, got 1\.1"),
            ({"accidents": -0.1}, r"accidents must be 0 to 1, got -0\.1"),
            ({"spread": 0.0}, r"spread must be finite and above 0, got 0\.0"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            SituationSettings(**settings)

    def test_the_smallest_log(self):
        tiny = plant_situations(SituationSettings(users=1, visits=1, requests=1))
        assert tiny.label.shape == (1,)
        assert np.isfinite(tiny.probability).all()
