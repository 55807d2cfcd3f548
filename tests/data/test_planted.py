from dataclasses import fields, replace

import numpy as np
import pytest

from sidrank.data._planted_exposure import raw_ids
from sidrank.data._planted_taste import RANK, plant_tastes
from sidrank.data.planted import PlantedLog, PlantedSettings, plant_log

SMALL = PlantedSettings(rows=30_000, items=2_000, users=300, days=5)

ARRAYS = [field.name for field in fields(PlantedLog) if field.name not in ("settings", "parts")]


@pytest.fixture(scope="module")
def log():
    return plant_log(SMALL)


def same(one, two, names):
    return [name for name in names if not np.array_equal(getattr(one, name), getattr(two, name))]


class TestReproducible:
    def test_the_same_bits(self, log):
        np.random.seed(5)
        state = np.random.get_state()[1].tolist()
        assert same(log, plant_log(SMALL), ARRAYS) == []
        assert np.random.get_state()[1].tolist() == state

    def test_another_seed(self, log):
        other = plant_log(replace(SMALL, seed=1))
        assert same(log, other, ARRAYS) == ARRAYS
        assert not set(log.item_ids.tolist()) & set(other.item_ids.tolist())

    def test_only_the_logit_depends_on_the_knobs(self, log):
        other = plant_log(replace(SMALL, structure=0.3, memory=0.4))
        assert same(log, other, ARRAYS) == ["label", "probability"]


class TestRows:
    def test_in_the_order_of_time(self, log):
        assert (np.diff(log.timestamp) > 0).all()
        assert np.bincount(log.day).tolist() == [6000] * 5

    def test_rows_that_days_do_not_divide(self):
        for rows in (1, 3, 64, 101):
            odd = plant_log(PlantedSettings(rows=rows, items=50, users=64, days=7))
            assert (len(odd.label), odd.day.max()) == (rows, 6)
            assert (np.diff(odd.timestamp) > 0).all()

    def test_ids_are_scattered_over_63_bits(self, log):
        for ids, values, index in (
            (log.item_ids, log.item, log.item_index),
            (log.user_ids, log.user, log.user_index),
        ):
            assert (np.diff(ids) > 0).all()
            assert ids.min() >= 0
            assert 0.4 < np.median(ids) / 2**63 < 0.6
            assert np.array_equal(ids[index], values)

    @pytest.mark.parametrize("salt", [0, 1, 2**33])
    def test_no_two_ids_are_equal(self, salt):
        assert len(np.unique(raw_ids(200_000, salt=salt))) == 200_000

    def test_every_user_has_a_past(self, log):
        count = np.bincount(log.user_index, minlength=300)
        assert np.median(count) > 70
        assert np.quantile(count, 0.05) > 30

    def test_labels_come_from_the_probabilities(self, log):
        edges = np.quantile(log.probability, np.linspace(0, 1, 11)[1:-1])
        place = np.searchsorted(edges, log.probability)
        for each in range(10):
            labels, chances = log.label[place == each], log.probability[place == each]
            deviation = (labels - chances).sum() / np.sqrt((chances * (1 - chances)).sum())
            assert abs(deviation) < 4

    def test_probability_is_the_sum_of_its_parts(self, log):
        logit = np.log(log.probability / (1 - log.probability))
        rest = logit - sum(part.astype(np.float64) for part in log.parts.values())
        assert np.ptp(rest) < 1e-5

    @pytest.mark.parametrize("seed", [0, 1])
    def test_each_part_has_its_share_of_the_variance(self, seed):
        log = plant_log(replace(SMALL, seed=seed, structure=0.25, memory=0.2))
        shares = {"quality": 0.75 * 0.7, "taste": 0.25 * 0.7, "memory": 0.2, "bias": 0.1}
        for name, share in shares.items():
            assert log.parts[name].var() == pytest.approx(4 * share, rel=0.1)
        assert sum(log.parts.values()).var() == pytest.approx(4, rel=0.1)

    def test_segment_is_right_for_most_users(self):
        many = plant_log(PlantedSettings(rows=10, items=50, users=20_000))
        right = (many.user_segment == many.user_codes[:, 0]).mean()
        assert right == pytest.approx(0.75 + 0.25 / 8, abs=0.015)


class TestLikedBefore:
    def test_equals_a_walk_through_the_log(self, log):
        past, expected = {}, []
        for user, item, label in zip(
            log.user.tolist(), log.item.tolist(), log.label.tolist(), strict=True
        ):
            seen = past.setdefault(user, [])
            expected.append((seen[::-1] + [-1] * 4)[:4])
            if label:
                seen.append(item)
        assert log.liked_before(4).tolist() == expected
        rows = np.array([29_999, 17, 17])
        assert log.liked_before(4, rows=rows).tolist() == [expected[row] for row in rows]

    def test_more_rows_than_a_block(self, log, monkeypatch):
        whole = log.liked_before(3)
        monkeypatch.setattr("sidrank.data.planted._BLOCK", 777)
        assert np.array_equal(log.liked_before(3), whole)

    def test_count(self, log):
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            log.liked_before(0)


class TestNewItems:
    def test_share_of_each_days_pool(self):
        # rows enough for every item on offer to be shown: the pool is what a day shows
        log = plant_log(PlantedSettings(rows=60_000, items=180, users=64, days=5, zipf=0.5))
        places, fresh = log.settings.pools
        assert (places, fresh) == (100, 20)
        known = set()
        for day in range(5):
            shown = set(log.item[log.day == day].tolist())
            assert len(shown) == 100
            assert len(shown - known) == (20 if day else 100)
            known |= shown
        assert len(known) == 180

    def test_come_at_all_popularities(self):
        shares = []
        for seed in range(20):
            log = plant_log(replace(SMALL, seed=seed, rows=20_000))
            shares += [(log.item_age[log.day == day] == 0).mean() for day in range(1, 5)]
        error = np.std(shares) / np.sqrt(len(shares))
        assert abs(np.mean(shares) - 0.2) < 4 * error
        assert error < 0.01

    def test_have_no_row_before_their_first_day(self, log):
        assert log.item_age.min() == 0
        first = np.full(len(log.item_ids), 99)
        np.minimum.at(first, log.item_index, log.day)
        often = np.bincount(log.item_index, minlength=len(first)) > 60
        assert np.array_equal(first[often], log.item_first_day[often])

    @pytest.mark.parametrize(("share", "items"), [(0.0, 9), (0.37, 1000), (1.0, 1000), (1.0, 15)])
    def test_other_shares(self, share, items):
        settings = PlantedSettings(rows=5000, items=items, users=64, days=4, new_share=share)
        places, fresh = settings.pools
        assert fresh == pytest.approx(places * share, abs=4)
        assert places + 3 * fresh == items
        assert places >= fresh
        log = plant_log(settings)
        assert np.bincount(log.item_first_day, minlength=4).tolist() == [places, *[fresh] * 3]


class TestExposure:
    @pytest.mark.parametrize("zipf", [0.8, 1.1, 1.4])
    def test_falls_with_the_rank_as_zipf_says(self, zipf):
        log = plant_log(PlantedSettings(rows=400_000, items=2_000, users=64, days=4, zipf=zipf))
        ranks = np.arange(1, 61)
        for rows, tolerance in ((log.day == 0, 0.03), (log.day == 3, 0.03), (log.day >= 0, 0.15)):
            count = np.sort(np.bincount(log.item_index[rows]))[::-1][:60]
            slope = np.polyfit(np.log(ranks), np.log(count), 1, w=np.sqrt(count))[0]
            assert slope == pytest.approx(-zipf, abs=tolerance)


class TestTaste:
    def test_no_item_is_liked_more_or_less_on_average(self):
        draws = np.random.default_rng(0)
        weight = draws.random(500)
        weight /= weight.sum()
        tastes = plant_tastes(draws, items=40, user_weight=weight)
        for item in range(40):
            taste = tastes.of(np.arange(500), np.full(500, item))
            assert (weight * taste).sum() == pytest.approx(0, abs=1e-12)
            assert (weight * taste**2).sum() == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_each_path_has_a_direction_of_its_own(self, depth):
        tastes = plant_tastes(np.random.default_rng(0), items=3000, user_weight=np.full(64, 1 / 64))
        directions = tastes.item_directions[:, depth * RANK : (depth + 1) * RANK]
        paths = tastes.item_codes[:, : depth + 1]
        both = np.unique(np.column_stack([paths, directions]), axis=0)
        assert len(both) == len(np.unique(paths, axis=0)) == len(np.unique(directions, axis=0))

    def test_goes_by_the_places_in_the_tree(self):
        draws = np.random.default_rng(0)
        tastes = plant_tastes(draws, items=3000, user_weight=np.full(400, 1 / 400))
        codes = tastes.item_codes
        user = np.arange(400)
        one = tastes.of(user, np.zeros(400, np.int64))

        def likeness(depth):
            """Correlation with items that leave item 0's path at this depth."""
            near = (codes[:, :depth] == codes[0, :depth]).all(axis=1)
            near &= codes[:, depth] != codes[0, depth] if depth < 3 else True
            others = np.flatnonzero(near)[1 if depth == 3 else 0 :][:50]
            return np.mean([one @ tastes.of(user, np.full(400, item)) for item in others]) / 400

        found = [likeness(depth) for depth in range(4)]
        assert found[3] == pytest.approx(1)
        assert found[0] < found[1] < found[2] < found[3]


class TestVectors:
    def test_show_the_tree_and_the_quality(self, log):
        vectors = log.item_vectors.astype(np.float64)
        path = log.item_codes[:, 0] * 8 + log.item_codes[:, 1]
        centres = np.stack([vectors[path == each].mean(axis=0) for each in range(64)])
        nearest = ((vectors[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == path).mean() > 0.8
        assert explained(vectors, log.item_quality) > 0.7

    def test_do_not_show_the_memory(self, log):
        memory = np.zeros(len(log.item_ids))
        memory[log.item_index] = log.parts["memory"]
        shown = memory != 0
        assert explained(log.item_vectors[shown].astype(np.float64), memory[shown]) < 0.05


def explained(vectors, target):
    """Share of the target's variance that a linear map of the vectors explains."""
    design = np.column_stack([vectors, np.ones(len(vectors))])
    fitted = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return 1 - ((target - fitted) ** 2).sum() / ((target - target.mean()) ** 2).sum()


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"seed": -1}, "seed must be at least 0, got -1"),
            ({"rows": 0}, "rows must be at least 1, got 0"),
            ({"users": 63}, "users must be at least 64, got 63"),
            ({"width": 12}, "width must be at least 13, got 12"),
            ({"structure": 1.5}, r"structure must be 0 to 1\.0, got 1\.5"),
            ({"structure": float("nan")}, r"structure must be 0 to 1\.0, got nan"),
            ({"memory": 0.95}, r"memory must be 0 to 0\.9, got 0\.95"),
            ({"zipf": -1.0}, r"zipf must be finite and at least 0, got -1\.0"),
            ({"noise": float("inf")}, "noise must be finite and at least 0, got inf"),
            ({"rows": 2**31, "days": 1}, "rows must leave a millisecond each, got 2147483648"),
            ({"items": 0}, "items must be at least 1, got 0"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            PlantedSettings(**settings)
