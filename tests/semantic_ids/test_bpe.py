"""Byte-pair units over semantic IDs."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.semantic_ids import SIDSpec, SIDTable
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.unit_encoder import SIDUnitEncoder
from sidrank.semantic_ids.unit_usage import unit_usage
from tests.semantic_ids import reference_bpe


def table(rows, sizes):
    return SIDTable(np.arange(len(rows)), np.array(rows), spec=SIDSpec(tuple(sizes)))


def catalogue(items=3000, sizes=(8, 8, 8, 8), seed=0):
    """Zipf exposures over codes that are skewed too."""
    random = np.random.default_rng(seed)
    rows = (random.random((items, len(sizes))) ** 2 * np.array(sizes)).astype(int)
    exposures = (10**6 / (1 + random.permutation(items)) ** 1.1).astype(np.int64)
    return table(rows, sizes), exposures


@st.composite
def small_tables(draw):
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    least = draw(st.integers(1, 25))  # left to itself, hypothesis draws tables of one row
    rows = draw(st.lists(row, min_size=least, max_size=30))
    # few distinct weights: most steps are ties
    weights = draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    return sizes, rows, weights


def trimmed(units):
    return [[unit for unit in row if unit >= 0] for row in units.tolist()]


class TestAgainstReference:
    @given(small_tables(), st.integers(0, 40), st.integers(1, 4))
    def test_merges_and_units(self, case, extra, min_weight):
        sizes, rows, weights = case
        sids = table(rows, sizes)
        cap = sum(sizes) + extra
        bpe = SIDBPE.train(sids, weights, max_units=cap, min_weight=min_weight)
        expected = reference_bpe.train(rows, weights, sizes, cap, min_weight)
        assert bpe.merges.tolist() == expected
        assert trimmed(bpe.encode(sids.codes)) == reference_bpe.encode(rows, sizes, expected)

    def test_a_larger_table(self):
        sids, exposures = catalogue(items=400, sizes=(4, 4, 4, 4, 4, 4, 4, 4))
        bpe = SIDBPE.train(sids, exposures, max_units=32 + 150)
        sizes = sids.spec.codebook_sizes
        expected = reference_bpe.train(sids.codes, exposures, sizes, 32 + 150)
        assert bpe.merges.tolist() == expected
        units = trimmed(bpe.encode(sids.codes))
        assert units == reference_bpe.encode(sids.codes, sizes, expected)

    @given(small_tables())
    def test_items_that_were_not_in_training(self, case):
        sizes, rows, weights = case
        bpe = SIDBPE.train(table(rows, sizes), weights, max_units=sum(sizes) + 20)
        random = np.random.default_rng(0)
        others = np.stack([random.integers(0, size, 50) for size in sizes], axis=1)
        expected = reference_bpe.encode(others, sizes, bpe.merges.tolist())
        assert trimmed(bpe.encode(others)) == expected


class TestProperties:
    @given(small_tables())
    def test_decoding_is_exact_and_units_are_distinct_stretches(self, case):
        sizes, rows, weights = case
        sids = table(rows, sizes)
        bpe = SIDBPE.train(sids, weights, max_units=sum(sizes) + 30)
        units = bpe.encode(sids.codes)
        assert bpe.decode(units).tolist() == sids.codes.tolist()
        assert units.max() < bpe.num_units <= sum(sizes) + 30
        stretches = [tuple(stretch) for stretch in bpe._codes.tolist()]
        assert len(set(stretches)) == bpe.num_units

    def test_every_item_of_a_large_table_is_decoded(self):
        sids, exposures = catalogue(items=100_000, sizes=(64, 64, 64))
        bpe = SIDBPE.train(sids, exposures, max_units=192 + 500)
        assert np.array_equal(bpe.decode(bpe.encode(sids.codes)), sids.codes)

    def test_order_of_rows_and_division_of_exposures_change_nothing(self):
        random = np.random.default_rng(1)
        sids, exposures = catalogue(items=500)
        exposures %= 5  # nothing but ties
        expected = SIDBPE.train(sids, exposures, max_units=32 + 100)
        order = random.permutation(500)
        shuffled = table(sids.codes[order], sids.spec.codebook_sizes)
        assert np.array_equal(
            SIDBPE.train(shuffled, exposures[order], max_units=132).merges, expected.merges
        )
        split = table(np.r_[sids.codes, sids.codes], sids.spec.codebook_sizes)
        part = random.integers(0, exposures + 1)
        halves = np.r_[part, exposures - part]
        assert np.array_equal(SIDBPE.train(split, halves, max_units=132).merges, expected.merges)

    def test_cap_and_least_weight(self):
        sids, exposures = catalogue()
        for cap in (32, 33, 100):
            assert SIDBPE.train(sids, exposures, max_units=cap).num_units == cap
        all_seen = SIDBPE.train(sids, exposures, max_units=10**6)
        assert all_seen.num_units < 10**6
        assert (all_seen.encode(sids.codes)[:, 1:] == -1).all()  # nothing left to merge
        picky = SIDBPE.train(sids, exposures, max_units=10**6, min_weight=10**4)
        assert 32 < picky.num_units < all_seen.num_units
        assert np.array_equal(picky.merges, all_seen.merges[: len(picky.merges)])

    def test_more_merges_never_mean_more_units(self):
        sids, exposures = catalogue()
        bpe = SIDBPE.train(sids, exposures, max_units=32 + 400)
        before = np.full(len(sids), 5)
        for cap in range(32, 433, 50):
            fewer = bpe.first(cap)
            assert fewer == SIDBPE.train(sids, exposures, max_units=cap)
            lengths = (fewer.encode(sids.codes) >= 0).sum(axis=1)
            assert (lengths <= before).all()
            before = lengths
        assert before.mean() < 3.5

    def test_frequent_items_have_longer_units_and_shuffled_exposures_do_not(self):
        sids, exposures = catalogue()

        def spearman(weights):
            bpe = SIDBPE.train(sids, weights, max_units=32 + 300)
            length = 4 / (bpe.encode(sids.codes) >= 0).sum(axis=1)
            ranks = [np.unique(x, return_inverse=True)[1] for x in (exposures, length)]
            return np.corrcoef([_mean_ranks(rank) for rank in ranks])[0, 1]

        shuffled = np.random.default_rng(3).permutation(exposures)
        assert spearman(exposures) > 0.15
        assert spearman(exposures) > abs(spearman(shuffled)) + 0.1

    def test_items_of_one_sid_share_everything_and_are_counted(self):
        rows = [[0, 1, 2], [0, 1, 2], [0, 1, 3], [3, 1, 2], [3, 1, 2], [3, 1, 2]]
        sids = table(rows, (4, 4, 4))
        for cap in (12, 14, 30):
            bpe = SIDBPE.train(sids, [9, 0, 1, 0, 5, 0], max_units=cap)
            units = bpe.encode(sids.codes)
            assert np.array_equal(units[0], units[1])
            assert unit_usage(bpe, sids).items_sharing_all_units == 5

    def test_usage(self):
        sids = table([[0, 1, 2], [0, 1, 3], [2, 1, 2], [2, 1, 2]], (4, 4, 4))
        bpe = SIDBPE.train(sids, [90, 5, 9, 0], max_units=14)
        usage = unit_usage(bpe, sids, [90, 5, 9, 0])
        assert (usage.items, usage.items_sharing_all_units, usage.items_of_one_unit) == (4, 2, 1)
        assert usage.units_per_item == (1 + 3 + 2 + 2) / 4
        assert usage.units_per_exposure == (90 * 1 + 5 * 3 + 9 * 2) / 104
        assert usage.units_used == 6

    def test_unseen_items_of_the_next_version(self):
        sids, exposures = catalogue(items=200)
        bpe = SIDBPE.train(sids, exposures, max_units=200)
        grown = sids.append([10_000], [[7, 7, 7, 7]])
        assert bpe.table_hash == sids.content_hash != grown.content_hash
        assert np.array_equal(bpe.decode(bpe.encode(grown.codes)), grown.codes)
        assert unit_usage(bpe, grown).items == 201


class TestEncoding:
    def bpe(self):
        return SIDBPE([[0, 5], [12, 10]], spec=SIDSpec((4, 4, 4)))

    def test_symbols_of_two_levels_are_two_symbols(self):
        assert self.bpe().encode(np.array([[1, 0, 0]])).tolist() == [[1, 4, 8]]

    def test_unknown_items_and_tensors(self):
        codes = torch.tensor([[0, 1, 2], [-1, -1, -1], [0, 1, 0]], dtype=torch.int32)
        units = self.bpe().encode(codes)
        assert units.dtype == torch.int32
        assert units.tolist() == [[13, -1, -1], [-1, -1, -1], [12, 8, -1]]
        assert self.bpe().decode(units).tolist() == codes.tolist()

    def test_no_items(self):
        assert self.bpe().encode(np.zeros((0, 3), int)).shape == (0, 3)
        assert SIDBPE.train(table(np.zeros((0, 2), int), (2, 2)), max_units=9).num_units == 4

    def test_one_level_has_nothing_to_merge(self):
        bpe = SIDBPE.train(table([[0], [1]], (2,)), max_units=9)
        assert bpe.encode(np.array([[1], [0]])).tolist() == [[1], [0]]

    def test_pickle_and_equality(self):
        bpe = self.bpe()
        bpe.encode(np.array([[0, 1, 2]]))
        assert pickle.loads(pickle.dumps(bpe)) == bpe
        assert hash(bpe) == hash(self.bpe())
        # the same unit ids, other codebooks
        assert bpe != SIDBPE([[0, 5], [12, 10]], spec=SIDSpec((5, 3, 4)))

    def test_encoder_equals_the_table_on_any_device_and_block(self, monkeypatch):
        sids, exposures = catalogue(items=300)
        bpe = SIDBPE.train(sids, exposures, max_units=200)
        units = bpe.encode(sids.codes)
        monkeypatch.setattr("sidrank.semantic_ids.bpe._BLOCK", 7)
        assert np.array_equal(bpe.encode(sids.codes), units)
        alone = SIDUnitEncoder(bpe)(torch.from_numpy(sids.codes.copy()))
        assert np.array_equal(alone.numpy(), units)


class TestErrors:
    SPEC = SIDSpec((4, 4, 4))

    @pytest.mark.parametrize(
        ("merges", "message"),
        [
            ([[0, 1]], r"merges must join neighbours, got \[0, 1\]"),
            ([[0, 8]], r"merges must join neighbours, got \[0, 8\]"),
            ([[5, 0]], r"merges must join neighbours, got \[5, 0\]"),
            ([[0, 12]], r"merges must join units that exist before, got \[0, 12\] for unit 12"),
            ([[-1, 4]], r"merges must join units that exist before, got \[-1, 4\]"),
            ([[0, 4], [0, 4]], r"merges must be distinct, got \[0, 4\] twice"),
            ([[0, 4, 8]], r"merges must have shape \[M, 2\], got \[1, 3\]"),
        ],
    )
    def test_merges(self, merges, message):
        with pytest.raises(ValueError, match=message):
            SIDBPE(merges, spec=self.SPEC)

    def test_merges_that_are_no_integers(self):
        with pytest.raises(TypeError, match="merges must be integers, got float64"):
            SIDBPE([[0.0, 4.0]], spec=self.SPEC)

    @pytest.mark.parametrize("cap", [11, 2**31 - 1])
    def test_cap(self, cap):
        with pytest.raises(
            ValueError, match=rf"max_units must be in \[12, 2147483646\].*got {cap}"
        ):
            SIDBPE.train(table([[0, 1, 2]], (4, 4, 4)), max_units=cap)

    def test_least_weight(self):
        with pytest.raises(ValueError, match="min_weight must be at least 1, got 0"):
            SIDBPE.train(table([[0, 1, 2]], (4, 4, 4)), max_units=12, min_weight=0)

    @pytest.mark.parametrize(
        ("exposures", "error", "message"),
        [
            ([1.5, 2.0], TypeError, "exposures must be integers, got float64"),
            ([1], ValueError, r"exposures must have shape \[2\], got \[1\]"),
            ([1, -2], ValueError, r"exposures must not be negative, got -2 \(row 1\)"),
            ([2**62, 2**62], ValueError, r"exposures must sum to at most 2\*\*62, got 9.22e\+18"),
        ],
    )
    def test_exposures(self, exposures, error, message):
        with pytest.raises(error, match=message):
            SIDBPE.train(table([[0, 1], [1, 0]], (2, 2)), exposures, max_units=9)

    @pytest.mark.parametrize(
        ("codes", "message"),
        [
            ([[0, 1]], r"codes must have shape \[n, 3\], got \[1, 2\]"),
            ([[0, 1, 2], [0, 4, 1]], r"codes of level 1 must be within \[0, 4\), got 4 \(row 1\)"),
            ([[0, -1, 2]], r"codes of level 1 must be within \[0, 4\), got -1 \(row 0\)"),
        ],
    )
    def test_codes(self, codes, message):
        with pytest.raises(ValueError, match=message):
            SIDBPE([[0, 5]], spec=self.SPEC).encode(np.array(codes))

    @pytest.mark.parametrize(
        "units",
        [
            [0, 4, -1],
            [0, 8, 4],
            [12, 8, 8],
            [13, -1, -1],
            [-1, 12, 8],
            [12, -1, 8],
            [0, -1, -1],
            [12, 4, 8],
        ],
    )
    def test_units_that_spell_no_sid(self, units):
        with pytest.raises(ValueError, match=r"units must spell a SID of 3 levels, got.*row 1"):
            SIDBPE([[0, 5]], spec=self.SPEC).decode(np.array([[12, 8, -1], units]))

    def test_shape_of_units(self):
        with pytest.raises(ValueError, match=r"units must have shape \[n, 3\], got \[3\]"):
            SIDBPE([], spec=self.SPEC).decode(np.array([0, 4, 8]))

    @pytest.mark.parametrize("count", [11, 14])
    def test_first(self, count):
        with pytest.raises(ValueError, match=rf"num_units must be in \[12, 13\], got {count}"):
            SIDBPE([[0, 5]], spec=self.SPEC).first(count)

    def test_table_of_another_spec(self):
        with pytest.raises(ValueError, match="spec must be that of the SIDBPE"):
            unit_usage(SIDBPE([], spec=self.SPEC), table([[0, 1]], (4, 4)))


def _mean_ranks(dense):
    """Ranks with ties averaged, of values numbered from 0."""
    counts = np.bincount(dense)
    return (np.cumsum(counts) - (counts - 1) / 2)[dense]
