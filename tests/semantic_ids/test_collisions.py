import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import SIDSpec, SIDTable
from sidrank.semantic_ids.collisions import Keep, NextNearest, SuffixLevel, collisions
from sidrank.semantic_ids.decoded_distances import decoded_distances
from sidrank.semantic_ids.neighbours import neighbour_recall
from sidrank.tokenizers import RQKMeans
from tests import reference

SPEC = SIDSpec((2, 3))


@st.composite
def catalogues(draw):
    """Codes of few SIDs, distances full of ties, and how many of the items are published."""
    count = draw(st.integers(1, 14))
    codes = draw(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=count, max_size=count)
    )
    number = st.sampled_from([0.0, 1.0, 2.0, 3.0, np.inf])
    rows = st.lists(number, min_size=3, max_size=3)
    distances = draw(st.lists(rows, min_size=count, max_size=count))
    ids = draw(st.permutations(range(10, 10 + count)))
    return np.array(ids), np.array(codes), np.array(distances), draw(st.integers(0, count))


def published_table(ids, codes, count, spec=SPEC):
    return SIDTable(ids[:count], codes[:count], spec=spec) if count else None


def crowd(count=600, seed=0):
    """Vectors of a few dense clusters, so that codes collide."""
    generator = torch.Generator().manual_seed(seed)
    means = 4 * torch.randn(12, 6, generator=generator)
    pick = torch.randint(0, 12, (count,), generator=generator)
    return means[pick] + torch.randn(count, 6, generator=generator)


class TestKeep:
    def test_shares(self):
        found = Keep().resolve([5, 3], [[1, 2], [1, 2]], spec=SPEC)
        assert found.table.codes.tolist() == found.proposed.tolist() == [[1, 2], [1, 2]]
        assert (found.moved.tolist(), found.unresolved.tolist()) == ([], [])

    def test_a_published_item_keeps_its_code(self):
        old = SIDTable([3], [[0, 0]], spec=SPEC)
        found = Keep().resolve([3, 5], [[1, 2], [1, 2]], spec=SPEC, published=old)
        assert found.table.codes.tolist() == [[0, 0], [1, 2]]
        assert found.table.parent == old.content_hash
        assert Keep().resolve([3], [[1, 2]], spec=SPEC, published=old).table is old


class TestNextNearest:
    @given(catalogues(), st.integers(1, 3))
    def test_equals_the_definition(self, case, capacity):
        ids, codes, distances, count = case
        found = NextNearest(capacity=capacity).resolve(
            ids[count:],
            codes[count:],
            spec=SPEC,
            published=published_table(ids, codes, count),
            distances=distances[count:],
        )
        placed, unresolved = reference.next_nearest(
            [tuple(row) for row in codes[:count].tolist()],
            dict(zip(ids[count:].tolist(), map(tuple, codes[count:].tolist()), strict=True)),
            dict(zip(ids[count:].tolist(), distances[count:].tolist(), strict=True)),
            capacity,
        )
        expected = np.array([placed[item] for item in ids[count:].tolist()]).reshape(-1, 2)
        assert found.table.lookup(ids[count:]).tolist() == expected.tolist()
        assert found.unresolved.tolist() == unresolved
        moved = (expected != codes[count:]).any(axis=1)
        assert found.moved.tolist() == sorted(ids[count:][moved].tolist())

    @given(catalogues(), st.randoms())
    def test_neither_row_order_nor_blocks_matter(self, case, random):
        ids, codes, distances, _ = case
        order = np.array(random.sample(range(len(ids)), len(ids)))
        plain = NextNearest().resolve(ids, codes, spec=SPEC, distances=distances)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sidrank.semantic_ids._last_level._BLOCK", 6)
            shuffled = NextNearest().resolve(
                ids[order],
                codes[order],
                spec=SPEC,
                distances=lambda rows: distances[order][rows],
            )
        assert shuffled.table.content_hash == plain.table.content_hash

    @given(catalogues())
    def test_enough_capacity_changes_nothing_and_asks_nothing(self, case):
        ids, codes, _, _ = case
        found = NextNearest(capacity=len(ids)).resolve(ids, codes, spec=SPEC)
        assert found.table.lookup(ids).tolist() == codes.tolist()
        assert len(found.moved) == len(found.unresolved) == 0

    def test_more_items_than_slots_stay_and_are_named(self):
        found = NextNearest().resolve(
            [4, 3, 2, 1, 0], [[1, 0]] * 5, spec=SPEC, distances=np.arange(15.0).reshape(5, 3)
        )
        assert found.table.lookup(np.array([4, 3, 2])).tolist() == [[1, 0], [1, 1], [1, 2]]
        assert found.unresolved.tolist() == [0, 1]
        assert found.table.lookup(np.array([0, 1])).tolist() == [[1, 0], [1, 0]]
        assert found.report()["after"].largest_bucket == 3

    def test_a_crowd_published_before_stays_and_takes_no_more(self):
        old = SIDTable([1, 2, 3], [[0, 1]] * 3, spec=SPEC)
        found = NextNearest(capacity=2).resolve(
            [9], [[0, 1]], spec=SPEC, published=old, distances=np.array([[2.0, 0.0, 1.0]])
        )
        assert found.table.lookup(np.array([1, 2, 3, 9])).tolist() == [[0, 1]] * 3 + [[0, 2]]
        assert (found.moved.tolist(), found.unresolved.tolist()) == ([9], [])

    def test_asks_for_the_crowded_alone(self):
        asked = []

        def distances(rows):
            asked.extend(rows.tolist())
            return np.tile([0.0, 1.0, 2.0], (len(rows), 1))

        codes = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 0]]
        NextNearest().resolve([10, 11, 12, 13, 14], codes, spec=SPEC, distances=distances)
        assert set(asked) == {3, 4}

    def test_near_codes_keep_neighbours_that_random_ones_lose(self):
        x = crowd(count=400)
        tokenizer = RQKMeans(levels=(8, 32)).fit(x)
        codes, spec = tokenizer.encode(x).numpy(), SIDSpec((8, 32))
        ids = np.arange(len(x))

        def recall(rows):
            return neighbour_recall(x, tokenizer.decode(torch.from_numpy(rows.copy())))

        after, random = (
            NextNearest(capacity=4)
            .resolve(ids, codes, spec=spec, distances=distances)
            .report(recall)["after"]
            for distances in (
                decoded_distances(tokenizer, x, codes, spec=spec),
                np.random.default_rng(0).random((len(x), 32)),
            )
        )
        before = collisions(codes, recall)
        assert after.largest_bucket == random.largest_bucket == 4 < before.largest_bucket
        assert after.excess < before.excess
        assert after.measured > random.measured + 0.02


class TestSuffixLevel:
    @given(catalogues())
    def test_counts_within_each_sid_in_the_order_of_ids(self, case):
        ids, codes, _, count = case
        policy = SuffixLevel(size=14)
        old = policy.resolve(ids[:count], codes[:count], spec=SPEC).table
        found = policy.resolve(ids[count:], codes[count:], spec=SPEC, published=old)
        expected, seen = {}, {}
        for part in (slice(0, count), slice(count, None)):
            for item, sid in sorted(zip(ids[part].tolist(), codes[part].tolist(), strict=True)):
                expected[item] = [*sid, seen.get(tuple(sid), 0)]
                seen[tuple(sid)] = expected[item][-1] + 1
        assert found.table.lookup(ids).tolist() == [expected[item] for item in ids.tolist()]
        assert found.report()["after"].uniqueness == 1
        assert found.report()["before"] == collisions(codes[np.argsort(ids)])

    def test_finds_its_size(self):
        found = SuffixLevel().resolve([1, 2, 3], [[0, 0], [0, 0], [1, 0]], spec=SPEC)
        assert found.table.spec == SIDSpec((2, 3, 2))
        alone = SuffixLevel().resolve([1], [[0, 0]], spec=SPEC)
        assert alone.table.spec == SIDSpec((2, 3, 1))

    def test_too_many_items(self):
        message = r"size must be at least 3 for the 3 items of SID \[1, 2\], got 2"
        with pytest.raises(ValueError, match=message):
            SuffixLevel(size=2).resolve([1, 2, 3, 4], [[0, 0]] + [[1, 2]] * 3, spec=SPEC)
        old = SuffixLevel(size=2).resolve([1, 2], [[1, 2]] * 2, spec=SPEC).table
        with pytest.raises(ValueError, match=message):
            SuffixLevel().resolve([3], [[1, 2]], spec=SPEC, published=old)

    def test_another_size_than_published(self):
        old = SuffixLevel(size=2).resolve([1], [[1, 2]], spec=SPEC).table
        message = r"published must have the levels \[2, 3, 5\], got \[2, 3, 2\]"
        with pytest.raises(ValueError, match=message):
            SuffixLevel(size=5).resolve([3], [[1, 2]], spec=SPEC, published=old)
        with pytest.raises(ValueError, match=r"published must have the levels \[2, 3, 'K'\], got"):
            SuffixLevel().resolve(
                [3], [[1, 2]], spec=SPEC, published=SIDTable([1], [[1, 2]], spec=SPEC)
            )


class TestEveryPolicy:
    @given(catalogues(), st.sampled_from([Keep(), NextNearest(), SuffixLevel(size=20)]))
    def test_appending_never_changes_an_old_row(self, case, policy):
        ids, codes, distances, count = case
        table = None
        for part in (slice(0, count), slice(count, None), slice(None)):
            # the last part proposes other codes for everything: all of it is published
            proposed = codes[part] if table is None or part.stop != part.start else 1 - codes // 2
            before = table
            table = policy.resolve(
                ids[part], proposed, spec=SPEC, published=before, distances=distances[part]
            ).table
            if before is not None:
                assert table.lookup(before.item_ids).tolist() == before.codes.tolist()
                assert table is before or table.parent == before.content_hash
        assert table is before
        assert len(table) == len(ids)

    @pytest.mark.parametrize("policy", [Keep(), NextNearest(), SuffixLevel(size=2)])
    def test_nothing_to_add(self, policy):
        found = policy.resolve([], [], spec=SPEC)
        assert len(found.table) == len(found.proposed) == 0
        with pytest.raises(ValueError, match="codes must hold at least one item, got 0"):
            found.report()

    @pytest.mark.parametrize("policy", [Keep(), NextNearest(), SuffixLevel(size=2)])
    def test_bad_input(self, policy):
        with pytest.raises(ValueError, match="item_ids must be distinct, got 4 more than once"):
            policy.resolve([4, 4], [[0, 0], [0, 1]], spec=SPEC)
        with pytest.raises(ValueError, match=r"codes of level 1 must be within \[0, 3\), got 3"):
            policy.resolve([4], [[0, 3]], spec=SPEC)
        with pytest.raises(ValueError, match=r"item_ids must have shape \[n\], got \[1, 1\]"):
            policy.resolve([[4]], [[0, 0]], spec=SPEC)
        with pytest.raises(TypeError, match="item_ids must be integers, got float64"):
            policy.resolve([4.5], [[0, 0]], spec=SPEC)
        other = SIDTable([1], [[0, 0]], spec=SIDSpec((9, 9)))
        with pytest.raises(ValueError, match=r"published must have the levels \[2, 3.*\[9, 9\]"):
            policy.resolve([4], [[0, 0]], spec=SPEC, published=other)

    @pytest.mark.parametrize(
        ("distances", "message"),
        [
            (None, "distances must be given if too many items want one SID, got None"),
            (np.zeros((2, 4)), r"distances must have shape \[2, 3\], got \[2, 4\]"),
            (np.zeros((1, 3)), r"distances must have shape \[2, 3\], got \[1, 3\]"),
            (lambda rows: np.zeros((1, 3)), r"distances must have shape \[2, 3\], got \[1, 3\]"),
            (np.array([[0, 1, 2], [0, np.nan, 1]]), "distances must be numbers, got nan in row 1"),
        ],
    )
    def test_bad_distances(self, distances, message):
        with pytest.raises(ValueError, match=message):
            NextNearest().resolve([4, 5], [[0, 0]] * 2, spec=SPEC, distances=distances)

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
            NextNearest(capacity=0)
        with pytest.raises(ValueError, match="size must be at least 1, got 0"):
            SuffixLevel(size=0)


class TestDecodedDistances:
    def test_are_those_of_the_rebuilt_vectors(self, monkeypatch):
        x = crowd(count=40)
        tokenizer = RQKMeans(levels=(4, 5)).fit(x)
        codes = tokenizer.encode(x)
        distances = decoded_distances(tokenizer, x, codes, spec=SIDSpec((4, 5)))
        rows = np.array([7, 3, 30, 3])
        found = distances(rows)
        for place, row in enumerate(rows):
            for last in range(5):
                rebuilt = tokenizer.decode(torch.tensor([[int(codes[row, 0]), last]]))[0]
                expected = float((rebuilt.double() - x[row].double()).square().sum())
                assert found[place, last] == pytest.approx(expected)
        monkeypatch.setattr(sys.modules[decoded_distances.__module__], "_BLOCK", 1)
        again = decoded_distances(tokenizer, x.numpy(), codes.numpy(), spec=SIDSpec((4, 5)))
        assert (again(rows) == found).all()

    def test_bad_vectors(self):
        with pytest.raises(
            ValueError, match=r"vectors must be a floating matrix, got torch\.int64"
        ):
            decoded_distances(RQKMeans(), np.zeros((1, 2), np.int64), [[0]], spec=SIDSpec((1,)))
