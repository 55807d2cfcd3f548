"""The planted log of deadlines is what its description says."""

from dataclasses import fields, replace

import numpy as np
import pytest

from sidrank.data.planted_deadlines import DeadlineSettings, PlantedDeadlines, plant_deadlines
from sidrank.metrics import bayes_auc, expected_auc

COLUMNS = [each.name for each in fields(PlantedDeadlines) if each.name not in ("settings", "parts")]


@pytest.fixture(scope="module")
def log():
    return plant_deadlines(DeadlineSettings(users=5_000))


def same(one, two):
    return [name for name in COLUMNS if np.array_equal(getattr(one, name), getattr(two, name))]


def side(log):
    """1 where the candidate's topic is one of these days, -1 for an old one, else 0."""
    topic = log.item_topic[log.item]
    recent = (log.topics[:, None, :2] == topic[:, :, None]).any(axis=2)
    old = (log.topics[:, None, 2:] == topic[:, :, None]).any(axis=2)
    return recent.astype(int) - old


class TestReproducible:
    def test_the_same_bits(self, log):
        state = np.random.get_state()[1].tolist()
        assert same(log, plant_deadlines(log.settings)) == COLUMNS
        assert np.random.get_state()[1].tolist() == state

    def test_another_seed_moves_everything(self, log):
        assert same(log, plant_deadlines(replace(log.settings, seed=1))) == []

    def test_the_share_of_urgency_changes_labels_alone(self, log):
        other = plant_deadlines(replace(log.settings, urgency=0.1))
        moved = [name for name in COLUMNS if name not in same(log, other)]
        assert moved == ["label", "probability"]


class TestHistory:
    def test_is_in_order_and_before_the_request(self, log):
        assert (np.diff(log.seen_time, axis=1) >= 0).all()
        assert (log.seen_time < log.time[:, None]).all()
        assert log.seen_item.min() == 1
        assert log.item_topic[0] == -1

    def test_shows_each_topic_as_often_and_tells_when(self, log):
        gap = log.time[:, None] - log.seen_time
        topic = log.item_topic[log.seen_item]
        for place in range(4):
            own = topic == log.topics[:, [place]]
            assert (own.sum(axis=1) == 4).all()
            assert ((gap < 86_400) == (place < 2))[own].all()


class TestTruth:
    def test_parts_have_their_shares_and_do_not_correlate(self, log):
        taste, need = (log.parts[name][log.open] for name in ("taste", "need"))
        assert abs(taste.mean()) < 0.05
        assert abs(need.mean()) < 0.05
        assert taste.var() == pytest.approx(4 * 0.3, rel=0.03)
        assert need.var() == pytest.approx(4 * 0.7, rel=0.03)
        assert abs(np.corrcoef(taste, need)[0, 1]) < 0.02

    def test_need_turns_with_the_time_left(self, log):
        left = log.lock - log.time[:, None]
        soon = left < 12 * 3600
        need, which = log.parts["need"], side(log)
        told = log.open & (which != 0) & (left != 12 * 3600)
        assert (np.sign(need) == which * np.where(soon, 1, -1))[told].all()
        assert (need[log.open & (which == 0)] == 0).all()

    def test_labels_come_from_their_probabilities(self, log):
        order = np.argsort(log.probability[log.open])
        for part in np.array_split(order, 10):
            chance, label = log.probability[log.open][part], log.label[log.open][part]
            assert abs(chance.mean() - label.mean()) < 4 * np.sqrt(0.25 / len(part))

    def test_nobody_chooses_what_has_locked(self, log):
        assert np.array_equal(log.open, log.lock >= log.time[:, None])
        assert (~log.open).mean() == pytest.approx(0.1, abs=0.01)
        assert log.probability[~log.open].max() == 0
        assert log.label[~log.open].max() == 0

    def test_neither_time_nor_topic_says_it_alone(self, log):
        chance, left = log.probability[log.open], (log.lock - log.time[:, None])[log.open]
        taste, need = (log.parts[name][log.open] for name in ("taste", "need"))
        assert bayes_auc(chance) > 0.8
        assert expected_auc(chance, taste + need) == pytest.approx(bayes_auc(chance))
        assert abs(expected_auc(chance, left) - 0.5) < 0.01
        assert expected_auc(chance, taste) < bayes_auc(chance) - 0.1
        assert abs(expected_auc(chance, side(log)[log.open]) - 0.5) < 0.01


class TestControl:
    def test_only_the_time_left_is_dealt_anew(self, log):
        other = log.randomised(3)
        assert [name for name in COLUMNS if name not in same(log, other)] == ["lock"]
        left, dealt = (each.lock - each.time[:, None] for each in (log, other))
        assert np.array_equal(np.sort(left[log.open]), np.sort(dealt[log.open]))
        assert np.array_equal(left[~log.open], dealt[~log.open])

    def test_the_truth_is_gone(self, log):
        def by_deadline(each):
            left = (each.lock - each.time[:, None])[log.open]
            return expected_auc(
                log.probability[log.open], np.log(43_200 / left) * side(log)[log.open]
            )

        assert by_deadline(log) > 0.7
        assert abs(by_deadline(log.randomised()) - 0.5) < 0.01


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"users": 0}, "users must be at least 1, got 0"),
            ({"seed": -1}, "seed must be at least 0, got -1"),
            ({"candidates": 0}, "candidates must be at least 1, got 0"),
            ({"urgency": 1.5}, "urgency must be 0 to 1, got 1.5"),
            ({"expired": -0.1}, "expired must be 0 to 1, got -0.1"),
            ({"spread": 0.0}, "spread must be finite and above 0, got 0.0"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            DeadlineSettings(**settings)
