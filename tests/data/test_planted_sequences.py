from dataclasses import fields, replace

import numpy as np
import pytest

from sidrank.data.planted_sequences import (
    PlantedSequences,
    SequenceSettings,
    SequenceShares,
    plant_sequences,
)
from sidrank.metrics import bayes_auc, expected_auc

SMALL = SequenceSettings(users=300, requests=30)
DRAWN = ("label", "probability")
COLUMNS = [
    each.name
    for each in fields(PlantedSequences)
    if each.name not in ("settings", "parts", "user_fields")
]


@pytest.fixture(scope="module")
def log():
    return plant_sequences(SMALL)


def same(one, two):
    return [name for name in COLUMNS if np.array_equal(getattr(one, name), getattr(two, name))]


def past(log, row):
    """Places of the events that a row may know, oldest first."""
    own = np.flatnonzero(log.event_user == log.user[row])
    return own[log.event_time[own] < log.time[row]]


def topics(log, user, old):
    """A user's topics of one period, in the order of the round; strays are rare."""
    own = np.flatnonzero(log.event_user == user)
    day = (log.event_time[own] - log.event_time.min()) // 86_400
    mine = log.item_topic[log.event_item[own[(day < 39) if old else (day > 41)]]]
    often = np.argsort(np.bincount(mine, minlength=12))[-4:]
    runs = [t for t in mine.tolist() if t in often]
    steps = np.zeros((12, 12))
    np.add.at(steps, (runs[:-1], runs[1:]), 1)
    np.fill_diagonal(steps, 0)
    return set(often.tolist()), steps


class TestReproducible:
    def test_the_same_bits(self, log):
        state = np.random.get_state()[1].tolist()
        assert same(log, plant_sequences(SMALL)) == COLUMNS
        assert np.random.get_state()[1].tolist() == state

    def test_another_seed_moves_everything(self, log):
        assert same(log, plant_sequences(replace(SMALL, seed=1))) == ["user"]

    def test_shares_change_labels_alone(self, log):
        other = plant_sequences(replace(SMALL, shares=SequenceShares(session=3.0, instance=0.0)))
        assert set(COLUMNS) - set(same(log, other)) == set(DRAWN)
        assert (other.parts["instance"] == 0).all()


class TestTruth:
    def test_parts_have_their_shares_and_do_not_correlate(self, log):
        shares, columns = SMALL.shares, np.stack(list(log.parts.values()), axis=1)
        wanted = [SMALL.spread * shares.of(name) ** 0.5 for name in log.parts]
        assert columns.std(axis=0) == pytest.approx(wanted, rel=0.05)
        between = np.corrcoef(columns.T) - np.eye(len(wanted))
        exact = [i for i, name in enumerate(log.parts) if name != "instance"]
        assert np.abs(between[np.ix_(exact, exact)]).max() < 1e-9
        assert np.abs(between).max() < 0.06

    def test_the_raw_signals_shared_little(self, log):
        # what is taken out must not make one part of another: each is still its own two levels
        topic, place = log.item_topic[log.item], {}
        for user in range(20):
            place[user] = (topics(log, user, old=False)[0], topics(log, user, old=True)[0])
        rows = np.flatnonzero(log.user < 20)
        today = np.array([topic[r] in place[log.user[r]][0] for r in rows])
        old = np.array([topic[r] in place[log.user[r]][1] for r in rows])
        value = log.parts["long"][rows]
        assert value[old].min() > value[~old & ~today].max()

    def test_labels_come_from_the_probabilities(self, log):
        order = np.argsort(log.probability)
        for some in np.array_split(order, 10):
            chances = log.probability[some]
            off = (log.label[some] - chances).sum() / np.sqrt((chances * (1 - chances)).sum())
            assert abs(off) < 4

    def test_best_auc_and_what_each_part_is_worth(self):
        log = plant_sequences(replace(SMALL, users=1000))
        best, logit = bayes_auc(log.probability), sum(log.parts.values())
        assert 0.8 < best < 0.88
        for name, part in log.parts.items():
            lost = best - expected_auc(log.probability, logit - part)
            assert lost > 0.01, name


class TestBehaviours:
    def test_sessions_are_what_long_gaps_separate(self, log):
        own = log.event_user[1:] == log.event_user[:-1]
        gaps, fresh = np.diff(log.event_time)[own], np.diff(log.event_session)[own] > 0
        assert gaps[~fresh].min() > 0
        assert gaps[~fresh].max() <= 600 < 3 * 600 < gaps[fresh].min()

    def test_histories_are_long(self, log):
        count = np.bincount(log.event_user)
        assert count.min() > 250
        assert 450 < np.median(count) < 700
        assert np.bincount(log.event_type)[:3] / len(log.event_type) == pytest.approx(
            [0.6, 0.3, 0.1], abs=0.01
        )

    def test_old_topics_are_far_back(self, log):
        for user in range(10):
            now, old = topics(log, user, old=False)[0], topics(log, user, old=True)[0]
            assert not now & old
            row = int(np.flatnonzero(log.user == user)[0])
            newest = log.item_topic[log.event_item[past(log, row)[-150:]]]
            assert np.isin(newest, sorted(old)).mean() < 0.1

    def test_the_order_of_events_does_not_tell_which_topics_share_a_session(self, log):
        inside = across = 0
        for user in range(40):
            own = np.flatnonzero(log.event_user == user)
            topic, session = log.item_topic[log.event_item[own]], log.event_session[own]
            for name in np.unique(session):
                assert len(set(topic[session == name].tolist())) >= 1
            change = topic[1:] != topic[:-1]
            new = session[1:] != session[:-1]
            inside += (change & ~new).sum()
            across += (change & new).sum()
            steps = topics(log, user, old=False)[1]
            often = np.sort(steps.ravel())[-4:]  # four steps of the round, all as frequent
            assert often.max() / often.min() < 2
        assert 0.5 < across / inside < 1  # strays change the topic inside a session

    def test_pairs_of_a_session_are_the_same_every_time(self, log):
        by_sign = {1: [], -1: []}
        for row in range(0, len(log.label), 7):
            part = log.parts["session"][row]
            if abs(part) < 1:
                continue
            events = past(log, row)
            topic, session = log.item_topic[log.event_item[events]], log.event_session[events]
            mine = set(session[topic == log.item_topic[log.item[row]]].tolist())
            page = set(session[topic == log.page[row]].tolist())
            by_sign[int(np.sign(part))].append(len(mine & page) / min(len(mine), len(page)))
        assert np.mean(by_sign[1]) > 0.8
        assert np.mean(by_sign[-1]) < 0.35

    def test_the_brand_bought_lasts_ten_days(self, log):
        buys = log.event_type == 2
        user, brand = log.event_user[buys], log.item_brand[log.event_item[buys]]
        time = log.event_time[buys] - 1_767_571_200  # Monday 2026-01-05
        spans, first = np.unique(user * 100 + time // (10 * 86_400), return_index=True)
        span = np.searchsorted(spans, user * 100 + time // (10 * 86_400))
        assert (brand == brand[first][span]).all()
        same_user = np.diff(user[first]) == 0
        kept = np.diff(brand[first])[same_user] == 0
        assert 0.25 < kept.mean() < 0.42  # one of three brands, anew each time
        assert max(len(set(brand[user == who].tolist())) for who in range(50)) == 3


class TestRequests:
    def test_times(self, log):
        own = log.user[1:] == log.user[:-1]
        assert (np.diff(log.time)[own] > 0).all()
        assert (np.diff(log.user) >= 0).all()
        assert (log.label_time - log.time).min() >= 60
        assert np.median(log.label_time - log.time) > 6 * 3600
        assert np.bincount(log.user).tolist() == [30] * 300

    def test_recent_part_is_a_match_with_the_newest_events(self, log):
        hit, miss = [], []
        for row in range(0, len(log.label), 11):
            newest = past(log, row)[-8:]
            seen = log.item_topic[log.item[row]] in log.item_topic[log.event_item[newest]]
            (hit if seen else miss).append(log.parts["recent"][row])
        assert np.min(hit) > np.max(miss)

    def test_instance_part_is_what_known_labels_of_the_same_style_say(self, log):
        found, says = [], np.array([1.0, 0.5, -1.0])
        for row in range(len(log.label) // 2, len(log.label), 3):
            before = np.flatnonzero(log.user == log.user[row])
            before = before[(before < row) & (log.style[before] == log.style[row])]
            known = before[log.label_time[before] < log.time[row]][-6:]
            found.append((says[log.slot[known]] * (2 * log.label[known] - 1)).sum())
        part = log.parts["instance"][len(log.label) // 2 :: 3]
        assert np.corrcoef(found, part)[0, 1] == pytest.approx(1)

    def test_periodic_part_is_the_hour_of_clicks(self, log):
        share = {True: [], False: []}
        for row in range(0, len(log.label), 7):
            part = log.parts["periodic"][row]
            if abs(part) < 0.3:
                continue
            events = past(log, row)
            events = events[log.event_type[events] == 1]
            form = log.item_form[log.event_item[events]] == log.item_form[log.item[row]]
            now = log.event_time[events] % 86_400 // 21_600 == log.time[row] % 86_400 // 21_600
            share[bool(part > 0)].append(form[now].mean() if now.any() else np.nan)
        assert np.nanmean(share[True]) > 0.7
        assert np.nanmean(share[False]) < 0.2

    def test_types_part_is_the_form_of_the_brand_bought_last(self, log):
        share = {True: [], False: []}
        for row in range(0, len(log.label), 7):
            part, events = log.parts["types"][row], past(log, row)
            buys, views = (events[log.event_type[events] == kind] for kind in (2, 0))
            if abs(part) < 0.3 or not len(buys):
                continue
            brand = log.item_brand[log.event_item[views]]
            views = views[brand == log.item_brand[log.event_item[buys[-1]]]]
            form = log.item_form[log.event_item[views]] == log.item_form[log.item[row]]
            share[bool(part > 0)].append(form.mean())
        assert np.mean(share[True]) > 0.7
        assert np.mean(share[False]) < 0.2

    def test_static_part_needs_the_segment_and_the_events(self, log):
        value = log.parts["static"]
        segment = log.user_fields["segment"][log.user]
        topic = log.item_topic[log.item]
        means = [value[(segment == s) & (topic == t)].mean() for s in range(3) for t in range(12)]
        # neither the segment with the candidate nor either alone tells the sign
        assert np.std(means) < 0.4 * value.std()


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"seed": -1}, "seed must be at least 0, got -1"),
            ({"users": 1}, "users must be at least 2, got 1"),
            ({"requests": 0}, "requests must be at least 1, got 0"),
            ({"old_sessions": (5, 4)}, r"old_sessions must rise inside 1 to 240, got \(5, 4\)"),
            ({"new_sessions": (0, 4)}, r"new_sessions must rise inside 1 to 120, got \(0, 4\)"),
            ({"spread": float("nan")}, "spread must be finite and above 0, got nan"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            SequenceSettings(**settings)

    def test_shares(self):
        with pytest.raises(ValueError, match=r"long must be finite and at least 0, got -1\.0"):
            SequenceShares(long=-1.0)
        nothing = {each.name: 0.0 for each in fields(SequenceShares)}
        with pytest.raises(ValueError, match="shares must have one above 0, got none"):
            SequenceShares(**nothing)

    def test_the_smallest_log(self):
        tiny = plant_sequences(
            SequenceSettings(users=2, requests=1, old_sessions=(1, 1), new_sessions=(1, 1))
        )
        assert np.isfinite(tiny.probability).all()
