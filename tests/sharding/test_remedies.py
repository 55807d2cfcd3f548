"""When nothing fits: the table is named, and each change that is proposed makes it fit."""

import numpy as np
import pytest

from sidrank.sharding.fitting import Shortage
from sidrank.sharding.planning import CachePlan
from sidrank.sharding.remedies import Cluster, Remedy, plan_specs, remedies
from sidrank.sharding.table_specs import TableSpec
from tests.sharding import traffic

GIANT = TableSpec("giant", 20_000_000, 64, ("g",))
SPECS = [TableSpec("small", 10_000, 64, ("s",)), GIANT, TableSpec("other", 5_000, 16, ("o",))]


def curves(specs):
    return {spec.name: traffic.curve(spec.rows) for spec in specs}


def tried(specs, cluster):
    """The shortage, and all remedies that were found."""
    short = plan_specs(specs, curves(specs), cluster)
    assert isinstance(short, Shortage)
    return short, remedies(specs, curves(specs), cluster, short)


def applied(remedy, specs, cluster):
    specs, cluster = remedy.apply(specs, cluster)
    return plan_specs(specs, curves(specs), cluster)


@pytest.mark.parametrize(
    ("cluster", "scarce"),
    [
        (Cluster(2, hbm_gib=0.05, ddr_gib=100, batch_size=16), "HBM"),
        (Cluster(2, hbm_gib=0.2, ddr_gib=1.5, batch_size=16), "host memory"),
        (Cluster(1, hbm_gib=0.001, ddr_gib=0.001, batch_size=16), None),
    ],
)
def test_each_remedy_makes_it_fit(cluster, scarce):
    short, found = tried(SPECS, cluster)
    assert short.table == "giant"
    assert scarce in (None, short.scarce)
    assert short.table_bytes > 0
    if scarce:
        assert {remedy.change for remedy in found} >= {"rows", "world_size"}
    for remedy in found:
        assert isinstance(applied(remedy, SPECS, cluster), CachePlan), remedy
    of_memory = "hbm_gib" if scarce == "HBM" else "ddr_gib"
    if scarce:
        assert of_memory in {remedy.change for remedy in found}


def test_a_change_that_does_not_help_is_not_proposed():
    """Narrower weights spare no HBM where they lie in host memory anyway."""
    _, found = tried(SPECS, Cluster(2, hbm_gib=0.05, ddr_gib=100, batch_size=16))
    assert "dtype" not in {remedy.change for remedy in found}
    _, found = tried(SPECS, Cluster(2, hbm_gib=0.2, ddr_gib=1.5, batch_size=16))
    assert Remedy("giant", "dtype", "fp32", "fp16") in found


def test_less_optimizer_state_is_a_remedy_of_host_memory():
    heavy = [SPECS[0], TableSpec("giant", 20_000_000, 64, ("g",), optimizer="adam")]
    _, found = tried(heavy, Cluster(2, hbm_gib=0.2, ddr_gib=4, batch_size=16))
    assert Remedy("giant", "optimizer", "adam", "rowwise_adagrad") in found


def test_an_ordinary_cluster_needs_none():
    found = plan_specs(SPECS, curves(SPECS), Cluster(2, hbm_gib=0.5))
    assert isinstance(found, CachePlan)
    assert [table.name for table in found.tables] == [spec.name for spec in SPECS]


class TestWords:
    def test_of_the_cluster(self):
        assert Remedy(None, "world_size", 2, 1024).text == "1,024 GPUs instead of 2"
        assert Remedy(None, "hbm_gib", 0.5, 3.0).text == "3 GiB of HBM a GPU instead of 0.5"
        assert "of host memory a GPU" in Remedy(None, "ddr_gib", 0.5, 3.0).text

    def test_of_a_table(self):
        text = Remedy("t", "rows", 2000, 1000).text
        assert text.startswith("rows 1,000 instead of 2,000 for the table t, its ids hashed")
        assert Remedy("t", "dtype", "fp32", "fp16").text == "dtype fp16 instead of fp32 for the" + (
            " table t"
        )


class TestCluster:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"world_size": 0}, r"world_size must lie in \[1, 1024\], got 0"),
            ({"world_size": 1025}, r"world_size must lie in \[1, 1024\], got 1025"),
            ({"hbm_gib": 0.0}, r"hbm_gib must be above 0, got 0\.0"),
            ({"hbm_gib": float("nan")}, "hbm_gib must be above 0, got nan"),
            ({"ddr_gib": -1.0}, r"ddr_gib must be above 0, got -1\.0"),
            ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ],
    )
    def test_out_of_range(self, change, words):
        with pytest.raises(ValueError, match=words):
            Cluster(**{"world_size": 1, "hbm_gib": 1.0, **change})


def test_a_trace_of_other_tables():
    with pytest.raises(ValueError, match="trace must hold the tables of the model"):
        plan_specs(SPECS, {"giant": traffic.curve(5)}, Cluster(1, 1.0))


def test_curves_stay_as_they_were():
    given = curves(SPECS)
    before = {name: (curve.slots.copy(), curve.misses.copy()) for name, curve in given.items()}
    cluster = Cluster(2, hbm_gib=0.05, ddr_gib=100, batch_size=16)
    short = plan_specs(SPECS, given, cluster)
    remedies(SPECS, given, cluster, short)
    for name, curve in given.items():
        assert np.array_equal(curve.slots, before[name][0])
        assert np.array_equal(curve.misses, before[name][1])
