import dataclasses

import numpy as np
import pytest

from sidrank.demo.features import (
    GATE_STATISTICS,
    HISTORY,
    make_features,
    without_item_statistics,
)
from sidrank.demo.protocols import make_split


@pytest.fixture(scope="module")
def split(log):
    return make_split(log, "cold_items")


@pytest.fixture(scope="module")
def features(log, split):
    return make_features(log, split, split.train)


def row_of(features, row):
    """Everything a row carries, its label apart."""
    parts = [ids[row] for ids in features.single.values()]
    parts += [ids[row] for ids in features.multi.values()]
    return np.concatenate([np.ravel(part) for part in [*parts, features.dense[row]]])


class TestAgainstCounting:
    def test_gate_statistics_are_counts_of_strictly_earlier_rows(self, log, split, features):
        for place in range(0, len(features.rows), 97):
            row = features.rows[place]
            earlier = split.counted & (log.timestamp < log.timestamp[row])
            earlier &= log.item == log.item[row]
            assert features.single["item_impressions"][place] == earlier.sum()
            assert features.single["item_likes"][place] == (earlier & (log.label == 1)).sum()

    def test_history_is_what_the_user_liked_before(self, log, split, features):
        for place in range(0, len(features.rows), 97):
            row = features.rows[place]
            liked = split.counted & (log.label == 1) & (log.timestamp < log.timestamp[row])
            liked &= log.user == log.user[row]
            got = features.multi["history_raw"][place]
            times = sorted(log.timestamp[liked], reverse=True)[:HISTORY]
            assert (got >= 0).sum() == len(times)
            assert set(got[got >= 0]) <= set(log.item[liked])


class TestNoFuture:
    def test_later_rows_change_nothing(self, log, split, features):
        now = log.timestamp[split.train[len(split.train) // 2]]
        rng = np.random.default_rng(0)
        later = log.timestamp >= now
        rating = np.where(later, rng.permutation(log.rating), log.rating)
        # bucket edges and standardisation come from training rows: compare raw statistics
        other = make_features(dataclasses.replace(log, rating=rating), split, split.train)
        early = log.timestamp[features.rows] <= now
        for name in (*GATE_STATISTICS, "item"):
            same = features.single[name] == other.single[name]
            assert same[: len(early)][early].all()
        for name in ("history", "history_raw", "genres"):
            same = (features.multi[name] == other.multi[name]).all(axis=1)
            assert same[: len(early)][early].all()
        for column in range(features.dense.shape[1]):
            one = features.dense[: len(early)][early][:, column]
            two = other.dense[: len(early)][early][:, column]
            assert np.ptp(one) > 0
            a, b = np.polyfit(one, two, 1)  # the same up to scale and shift
            np.testing.assert_allclose(a * one + b, two, atol=2e-3)


class TestColdItems:
    def test_they_look_like_a_cold_twin(self, log, split, features):
        rows = len(features.rows)
        cold = np.flatnonzero(np.isin(log.item[features.rows], split.cold_items))
        for place in cold[::17]:
            one, twin = row_of(features, place), row_of(features, place + rows)
            np.testing.assert_array_equal(one, twin)
            assert features.single["item"][place] == 0

    def test_a_twin_keeps_what_is_not_the_items_past(self, features):
        rows = len(features.rows)
        for name in ("user", "hour", "year", "item_raw", "user_rate_bucket"):
            ids = features.single[name]
            assert np.array_equal(ids[:rows], ids[rows:])
        assert not features.single["item"][rows:].any()
        assert not features.single["item_impressions"][rows:].any()


def test_ids_fit_their_tables(features):
    for name, size in features.sizes.items():
        ids = features.single[name] if name in features.single else features.multi[name]
        assert ids.max() < size
        assert ids.min() >= (-1 if name in features.multi else 0)


def test_dense_is_standardised_on_training_rows(log, split, features):
    train = features.dense[np.searchsorted(features.rows, split.train)]
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-2)


def test_without_item_statistics(features):
    blind = without_item_statistics(features)
    assert not [name for name in blind.sizes if name.startswith("item_")]
    assert blind.dense.shape[1] == len(blind.numbers) == len(features.numbers) - 3
    assert set(GATE_STATISTICS) < set(blind.single)
