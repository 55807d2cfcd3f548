import dataclasses

import numpy as np
import pytest

from sidrank.demo.protocols import FOLDS, PROTOCOLS, make_split, stable_hash


@pytest.fixture(params=PROTOCOLS)
def split(request, log):
    return make_split(log, request.param, fold=2 if request.param == "cold_items" else 0)


class TestEveryProtocol:
    def test_parts_are_disjoint(self, split):
        parts = [split.train, split.validation, split.test, split.vector_rows]
        together = np.concatenate(parts)
        assert len(np.unique(together)) == len(together)

    def test_no_user_of_the_ranker_is_in_the_log_of_the_vectors(self, log, split):
        ours = log.user[np.concatenate([split.train, split.validation, split.test])]
        assert not np.isin(log.user[split.vector_rows], ours).any()

    def test_only_the_rankers_surface_is_counted(self, log, split):
        assert not split.counted[split.vector_rows].any()
        assert split.counted[split.train].all()

    def test_order_in_time(self, log, split):
        users = log.user[split.test] if split.protocol != "global_time" else [None]
        for user in np.unique(users):
            mine = (log.user == user) if user else np.ones(len(log.user), dtype=bool)
            ends = [
                [log.timestamp[part[mine[part]]] for part in (early, late)]
                for early, late in (
                    (split.train, split.validation),
                    (split.validation, split.test),
                )
            ]
            for early, late in ends:
                assert not len(early) or not len(late) or early.max() <= late.min()


class TestColdItems:
    def test_a_cold_item_is_only_scored(self, log):
        split = make_split(log, "cold_items", fold=1)
        assert not np.isin(log.item[split.train], split.cold_items).any()
        assert not np.isin(log.item[split.counted], split.cold_items).any()
        assert np.isin(log.item[split.test], split.cold_items).any()

    def test_folds_share_out_the_items(self, log):
        cold = [make_split(log, "cold_items", fold=fold).cold_items for fold in range(FOLDS)]
        assert sorted(np.concatenate(cold)) == np.unique(log.item).tolist()

    def test_other_protocols_have_none(self, log):
        assert not len(make_split(log, "per_user").cold_items)


def test_global_time_vectors_are_older_than_the_test(log):
    split = make_split(log, "global_time")
    assert log.timestamp[split.vector_rows].max() < log.timestamp[split.test].min()


def test_later_labels_change_no_split(log, split):
    other = dataclasses.replace(log, rating=6 - log.rating)
    again = make_split(other, split.protocol, fold=split.fold)
    assert np.array_equal(split.test, again.test)


def test_the_hash_is_a_fixed_function():
    ids = np.arange(2000)
    assert stable_hash(ids[:2], salt=0).tolist() == stable_hash(np.array([0, 1]), salt=0).tolist()
    assert len(np.unique(stable_hash(ids, salt=0))) == 2000
    assert 0.45 < (stable_hash(ids, salt=0) % np.uint64(2)).mean() < 0.55
    assert not np.array_equal(stable_hash(ids, salt=0), stable_hash(ids, salt=1))


class TestErrors:
    def test_protocol(self, log):
        with pytest.raises(ValueError, match=r"protocol must be one of .*, got 'random'"):
            make_split(log, "random")

    def test_fold(self, log):
        with pytest.raises(ValueError, match="fold must be 0 to 4, got 5"):
            make_split(log, "cold_items", fold=5)

    def test_too_few_rows(self, log):
        one = {n: getattr(log, n)[:1] for n in ("user", "item", "rating", "timestamp")}
        with pytest.raises(ValueError, match=r"data must leave rows for .* of per_user, got none"):
            make_split(dataclasses.replace(log, **one), "per_user")
