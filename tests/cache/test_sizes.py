from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.cache._divide import SET, Demand, divide
from sidrank.cache.access_trace import AccessTrace
from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.cache.sizes import TableShape, cache_sizes
from tests.cache.reference_curves import best_division
from tests.cache.traffic import zipf


def curve(rows, *, cold=0.1, power=0.3, accesses=50_000.0, touched=0.7):
    """Misses that fall with a power of the slots, to the cold ones."""
    slots = np.unique(np.linspace(0, touched * rows, 60).astype(int))
    cold = accesses * cold
    misses = accesses - (accesses - cold) * (slots / slots[-1]) ** power
    return MissRatioCurve(
        rows=rows, batches=100, accesses=accesses, cold=cold, slots=slots, misses=misses
    )


def full(shapes):
    return sum(sum(shape.full_bytes().values()) for shape in shapes)


def demand(rng):
    """A table with smooth or stepwise traffic, of any width."""
    rows = int(rng.integers(1500, 20_000))
    touched = int(rows * rng.uniform(0.3, 1))
    accesses = float(rng.integers(1000, 100_000))
    cold = min(float(touched), accesses / 2)
    slots = np.unique(np.linspace(0, touched, 41).astype(int))
    share = slots / touched
    if rng.random() < 0.6:
        hits = share ** rng.choice([rng.uniform(0.05, 1), rng.uniform(1, 4)])
    else:
        cliffs = rng.uniform(0.05, 1, rng.integers(1, 4))
        hits = np.mean([share >= each for each in cliffs], axis=0)
        hits[-1] = 1.0
    misses = accesses - (accesses - cold) * hits
    misses[0] = accesses
    found = MissRatioCurve(
        rows=rows, batches=100, accesses=accesses, cold=cold, slots=slots, misses=misses
    )
    shape = TableShape(name="t", rows=rows, dim=int(rng.choice([4, 16, 64, 128])))
    fixed = sum(shape.cached_bytes(0).values())
    return Demand(
        curve=found,
        cost=1.0,
        fixed=fixed,
        slot=sum(shape.cached_bytes(1).values()) - fixed,
        full=sum(shape.full_bytes().values()),
    )


def tables_and_budget(rng, most_tables):
    tables = [demand(rng) for _ in range(rng.integers(1, most_tables + 1))]
    least, most = sum(each.least for each in tables), sum(each.full for each in tables)
    return tables, int(least + (most - least) * rng.uniform(0.01, 1.1))


def spent(demand, slots):
    return demand.full if slots is None else demand.fixed + demand.slot * slots


def cost(demand, slots):
    return 0.0 if slots is None else float(demand.missed(slots))


class TestDivide:
    def test_within_a_hundredth_of_brute_force(self):
        rng = np.random.default_rng(0)
        for _ in range(400):
            tables, budget = tables_and_budget(rng, 3)
            choices = []
            for each in tables:
                levels = {-(-each.curve.rows * level // 20 // SET) * SET for level in range(1, 21)}
                slots = [size for size in levels | {SET} if each.largest and size <= each.largest]
                choices.append([(spent(each, size), cost(each, size)) for size in [*slots, None]])
            division = divide(tables, budget)
            ours = sum(map(cost, tables, division))
            assert sum(map(spent, tables, division)) <= budget
            assert ours <= 1.01 * best_division(choices, budget) + 1e-9

    def test_spends_all_but_what_no_table_can_use(self):
        rng = np.random.default_rng(0)
        for _ in range(100):
            tables, budget = tables_and_budget(rng, 8)
            division = divide(tables, budget)
            left = budget - sum(map(spent, tables, division))
            assert left >= 0
            for each, slots in zip(tables, division, strict=True):
                if slots is not None:
                    more = spent(each, slots + SET) if slots < each.largest else each.full
                    assert left < more - spent(each, slots)

    def test_many_tables_as_well_as_few(self):
        # what is best for two tables is best for each of many pairs of them
        rng = np.random.default_rng(0)
        shapes, curves = [], {}
        for pair in range(30):
            for kind, power in (("a", 0.1), ("b", 0.6)):
                shapes.append(TableShape(name=f"{kind}{pair}", rows=50_000, dim=64))
                curves[shapes[-1].name] = curve(50_000, power=power)
        rng.shuffle(shapes)
        two = [each for each in shapes if each.name in ("a0", "b0")]
        budget = full(two) // 5
        few = cache_sizes(two, {each.name: curves[each.name] for each in two}, budget)
        many = cache_sizes(shapes, curves, 30 * budget)
        assert many.misses <= 1.0001 * 30 * few.misses


class TestCacheSizes:
    def test_spends_the_budget_and_no_more(self):
        shapes = [TableShape(name=f"t{dim}", rows=100_000, dim=dim) for dim in (32, 64, 128)]
        curves = {shape.name: curve(100_000, power=0.2) for shape in shapes}
        for share in (0.1, 0.3, 0.7, 0.99):
            budget = int(share * full(shapes))
            sizes = cache_sizes(shapes, curves, budget)
            assert 0.99 * budget <= sizes.hbm_bytes <= budget
            assert sizes.budget_bytes == budget
        assert all(
            table.kernel == "fused" for table in cache_sizes(shapes, curves, 10**9).tables.values()
        )

    def test_misses_are_those_of_the_curve(self):
        shapes = [TableShape(name="a", rows=20_000, dim=64), TableShape(name="b", rows=10, dim=64)]
        curves = {"a": curve(20_000), "b": curve(10)}
        sizes = cache_sizes(shapes, curves, full(shapes) // 2)
        a, b = sizes.tables["a"], sizes.tables["b"]
        assert a.kernel == "fused_uvm_caching"
        assert a.misses == pytest.approx(float(curves["a"].misses_at(a.slots)) / 100)
        assert a.miss_rate == pytest.approx(curves["a"].miss_rate(a.load_factor))
        assert (b.kernel, b.slots, b.load_factor, b.misses) == ("fused", 10, 1.0, 0.0)
        assert sizes.misses == a.misses

    @pytest.mark.parametrize("points", [6, 40, 400])
    @pytest.mark.parametrize("part", [0.1, 0.3])
    def test_equal_tables_get_equal_caches(self, points, part):
        """Pieces of equal slope are taken table by table, which must not show."""
        shapes = [TableShape(name=f"t{place}", rows=100_000, dim=64) for place in range(4)]
        slots = np.unique(np.geomspace(1, 100_000, points).astype(np.int64))
        misses = 1e6 * (0.1 + 0.9 * (1 - np.log(slots) / np.log(100_000)) ** 1.5)
        same = MissRatioCurve(
            rows=100_000, batches=100, accesses=1.2e6, cold=1e5, slots=slots, misses=misses
        )
        budget = int(part * full(shapes))
        sizes = cache_sizes(shapes, {shape.name: same for shape in shapes}, budget)
        assert len({table.load_factor for table in sizes.tables.values()}) == 1
        assert sizes.hbm_bytes > 0.995 * budget

    def test_a_hotter_table_never_gets_fewer_rows(self):
        shapes = [TableShape(name=name, rows=100_000, dim=64) for name in ("cold", "hot")]
        curves = {"cold": curve(100_000, accesses=20_000.0), "hot": curve(100_000, accesses=2e5)}
        for share in (0.05, 0.2, 0.6):
            tables = cache_sizes(shapes, curves, int(share * full(shapes))).tables
            assert tables["hot"].slots >= tables["cold"].slots

    @given(st.integers(0, 2**32), st.floats(0.1, 0.9))
    def test_more_never_misses_more(self, seed, share):
        rng = np.random.default_rng(seed)
        shapes = [
            TableShape(name=str(place), rows=int(rng.integers(2000, 50_000)), dim=64)
            for place in range(3)
        ]
        curves = {shape.name: curve(shape.rows, power=rng.uniform(0.1, 0.9)) for shape in shapes}
        less = cache_sizes(shapes, curves, int(share * full(shapes)))
        more = cache_sizes(shapes, curves, int((share + 0.1) * full(shapes)))
        assert more.misses <= less.misses * 1.001

    def test_costs_of_misses_count(self):
        shapes = [TableShape(name=name, rows=100_000, dim=64) for name in ("a", "b")]
        curves = {"a": curve(100_000), "b": curve(100_000)}
        tables = cache_sizes(
            shapes, curves, full(shapes) // 4, miss_costs={"a": 1.0, "b": 4.0}
        ).tables
        assert tables["b"].slots > 1.5 * tables["a"].slots
        assert tables["a"].misses == pytest.approx(
            float(curves["a"].misses_at(tables["a"].slots)) / 100
        )

    def test_rows_that_the_trace_did_not_name(self):
        shapes = [TableShape(name=name, rows=40_000, dim=64) for name in ("told", "short")]
        curves = {"told": curve(40_000, touched=0.1), "short": curve(5000, touched=0.8)}
        budget = full(shapes) // 2
        tables = cache_sizes(shapes, curves, budget).tables
        whole = {"short": replace(curves["short"], rows=40_000)}
        assert tables == cache_sizes(shapes, curves | whole, budget).tables
        assert tables["short"].slots > 5000

    def test_a_table_that_is_never_read_waits(self):
        none = MissRatioCurve(rows=50_000, batches=5, accesses=0.0, cold=0.0, slots=[0], misses=[0])
        shapes = [TableShape(name=name, rows=50_000, dim=64) for name in ("never", "read")]
        curves = {"never": none, "read": curve(50_000)}
        tables = cache_sizes(shapes, curves, full(shapes) // 2).tables
        assert (tables["never"].slots, tables["never"].miss_rate) == (SET, 0.0)

    def test_from_a_trace(self):
        trace, draw = AccessTrace({"t": 5000}), zipf(5000)
        for _ in range(20):
            trace.observe({"t": draw(300)})
        shape = TableShape(name="t", rows=5000, dim=64)
        table = cache_sizes([shape], trace.curves(), full([shape]) // 4).tables["t"]
        assert table.misses == pytest.approx(float(trace.curves()["t"].misses_at(table.slots)) / 20)

    def test_explains_itself(self):
        shapes = [
            TableShape(name="item", rows=20_000, dim=64),
            TableShape(name="u", rows=9, dim=64),
        ]
        curves = {"item": curve(20_000), "u": curve(9)}
        sizes = cache_sizes(shapes, curves, full(shapes) // 3)
        head, item, user = sizes.explain().splitlines()
        assert "of 0.002 GiB spent" in head
        assert f"item: fused_uvm_caching, {sizes.tables['item'].slots:,} rows (0." in item
        assert "another MiB would avoid" in item
        assert f"row map {80_000:,}" in item
        assert "u: fused, 9 rows (1.0000), 0.00% missed" in user
        assert "no cache of it would be smaller than the table" in user

    def test_next_mebibyte_avoids_what_is_said(self):
        shape = TableShape(name="t", rows=500_000, dim=64)
        curves = {"t": curve(500_000)}
        budget = full([shape]) // 5
        now = cache_sizes([shape], curves, budget)
        more = cache_sizes([shape], curves, budget + 2**20)
        said = float(now.tables["t"].reason.split("avoid ")[1].split(" ")[0])
        assert said == pytest.approx(now.misses - more.misses, rel=0.05)


class TestBytes:
    def test_of_a_cache(self):
        shape = TableShape(name="t", rows=1000, dim=64, weight_bytes=2, elementwise_states=1)
        assert shape.cached_bytes(96) == {
            "cache": 96 * 64 * 2,
            "tags": 96 * 8,
            "recency": 96 * 8,
            "locks": 0,
            "row map": 4000,
            "optimizer": 4000,
        }
        assert shape.cached_bytes(96, prefetch=True)["locks"] == 96 * 4
        lfu = shape.cached_bytes(96, algorithm="lfu")
        assert (lfu["frequency"], "recency" in lfu) == (8 * 1001, False)
        assert TableShape(name="t", rows=9, dim=4, weight_bytes=1).cached_bytes(32)["cache"] == 256

    def test_of_a_table(self):
        shape = TableShape(name="t", rows=10, dim=8, weight_bytes=2, elementwise_states=2)
        assert shape.full_bytes() == {"weights": 160, "optimizer": 10 * 4 * (1 + 16)}

    def test_prefetch_and_lfu_cost_more(self):
        shape = TableShape(name="t", rows=100_000, dim=64)
        curves, budget = {"t": curve(100_000)}, full([shape]) // 3
        slots = [
            cache_sizes([shape], curves, budget, **options).tables["t"].slots
            for options in ({}, {"prefetch": True}, {"algorithm": "lfu"})
        ]
        assert slots[0] > slots[1]
        assert slots[0] > slots[2]


class TestBadInput:
    SHAPES = (TableShape(name="a", rows=50_000, dim=64), TableShape(name="b", rows=20_000, dim=64))
    CURVES = {"a": curve(50_000), "b": curve(20_000)}  # noqa: RUF012

    @pytest.mark.parametrize("names", [["a"], ["a", "c"], ["a", "b", "c"]])
    def test_trace_of_other_tables(self, names):
        curves = {name: curve(20_000) for name in names}
        with pytest.raises(ValueError, match=r"curves must be of the tables \['a', 'b'\], got \["):
            cache_sizes(self.SHAPES, curves, 10**7)

    def test_ids_beyond_the_table(self):
        curves = self.CURVES | {"b": curve(20_001)}
        with pytest.raises(
            ValueError, match="curves must be of at most 20,000 rows for table b, got 20,001"
        ):
            cache_sizes(self.SHAPES, curves, 10**7)

    @pytest.mark.parametrize("budget", [0, -1])
    def test_no_budget(self, budget):
        with pytest.raises(ValueError, match=f"budget_bytes must be above 0, got {budget}"):
            cache_sizes(self.SHAPES, self.CURVES, budget)

    def test_a_budget_that_is_too_small_names_the_table_and_what_would_do(self):
        with pytest.raises(ValueError, match=r"budget_bytes must be at least .*; a alone needs"):
            cache_sizes(self.SHAPES, self.CURVES, 1000)
        least = sum(sum(shape.cached_bytes(SET).values()) for shape in self.SHAPES)
        with pytest.raises(ValueError, match=f"at least {least:,} for the smallest"):
            cache_sizes(self.SHAPES, self.CURVES, least - 1)
        assert cache_sizes(self.SHAPES, self.CURVES, least).hbm_bytes == least

    def test_empty_trace(self):
        none = MissRatioCurve(rows=9, batches=0, accesses=0.0, cold=0.0, slots=[], misses=[])
        with pytest.raises(ValueError, match="curves must be of at least 1 batch, got none for b"):
            cache_sizes(self.SHAPES, self.CURVES | {"b": none}, 10**7)

    def test_tables_twice_or_never(self):
        for shapes in ([], [self.SHAPES[0]] * 2):
            with pytest.raises(ValueError, match="shapes must be of one table or more, each once"):
                cache_sizes(shapes, self.CURVES, 10**7)

    def test_prefetch_with_lfu(self):
        with pytest.raises(ValueError, match="prefetch must be False with lfu, which FBGEMM"):
            cache_sizes(self.SHAPES, self.CURVES, 10**7, algorithm="lfu", prefetch=True)

    def test_algorithm(self):
        with pytest.raises(ValueError, match="algorithm must be lru or lfu, got fifo"):
            cache_sizes(self.SHAPES, self.CURVES, 10**7, algorithm="fifo")

    @pytest.mark.parametrize("costs", [{"a": 1.0}, {"a": 1.0, "b": -1.0}, {"a": 1.0, "b": np.nan}])
    def test_costs(self, costs):
        with pytest.raises(ValueError, match="miss_costs must be finite, at least 0, one for each"):
            cache_sizes(self.SHAPES, self.CURVES, 10**7, miss_costs=costs)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"rows": 0}, "rows must be at least 1, got 0"),
            ({"dim": 0}, "dim must be at least 1, got 0"),
            ({"weight_bytes": 3}, "weight_bytes must be 1, 2 or 4, got 3"),
            ({"rowwise_states": -1}, "rowwise_states must be at least 0, got -1"),
            ({"elementwise_states": -1}, "elementwise_states must be at least 0, got -1"),
        ],
    )
    def test_shape(self, changed, message):
        with pytest.raises(ValueError, match=message):
            TableShape(**{"name": "t", "rows": 5, "dim": 4} | changed)
