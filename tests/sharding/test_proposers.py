"""Few proposals, good ones: against every choice there is, and against TorchRec's own proposers."""

import itertools

import pytest
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner, SortBy
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError

from sidrank.sharding.fitting import cuda_topology
from sidrank.sharding.proposers import BoundedProposer
from tests.sharding import traffic


def planner(topology, proposer=None, sort_by=SortBy.STORAGE):
    return EmbeddingShardingPlanner(
        topology=topology,
        batch_size=512,
        proposer=proposer,
        partitioner=GreedyPerfPartitioner(sort_by=sort_by),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        stats=[],
        debug=False,
    )


def time_of(planner, model):
    planner.plan(model, [EmbeddingBagCollectionSharder()])
    return planner._perf_model.rate(planner._best_plan)


def model(count, *, most=3_000_000):
    rows = {f"t{place}": int(1000 * (most / 1000) ** (place / count)) for place in range(count)}
    return traffic.collection(rows, dim={name: 32 << place % 3 for place, name in enumerate(rows)})


@pytest.mark.parametrize("hbm", [0.05, 0.2, 4.0])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_never_worse_than_the_default_proposers(ranks, hbm):
    topology = cuda_topology(ranks, hbm_bytes=int(hbm * traffic.GIB), ddr_bytes=8 * traffic.GIB)
    tables = model(7)
    ours = planner(topology, BoundedProposer(max_proposals=64))
    theirs = planner(topology)
    assert time_of(ours, tables) <= 1.02 * time_of(theirs, tables)
    assert ours._num_proposals <= 64 < theirs._num_proposals


@pytest.mark.parametrize("hbm", [0.02, 4.0])
def test_close_to_the_best_of_all_choices(hbm):
    topology = cuda_topology(2, hbm_bytes=int(hbm * traffic.GIB), ddr_bytes=8 * traffic.GIB)
    tables = model(3, most=200_000)
    space = EmbeddingEnumerator(topology=topology, batch_size=512).enumerate(
        tables, [EmbeddingBagCollectionSharder()]
    )
    names = sorted({option.name for option in space})
    by_table = [[option for option in space if option.name == name] for name in names]
    rate = planner(topology)._perf_model.rate
    best = float("inf")
    for choice in itertools.product(*by_table):
        try:
            placed = GreedyPerfPartitioner(sort_by=SortBy.PERF).partition(list(choice), topology)
        except PlannerError:
            continue
        best = min(best, rate(placed))
    ours = planner(topology, BoundedProposer(), SortBy.PERF)
    assert time_of(ours, tables) <= 1.05 * best


def test_memory_decides_where_it_is_scarce():
    """At a tenth of the HBM the fastest choice does not fit; another one is found."""
    tables = model(6)
    rich = planner(cuda_topology(2, hbm_bytes=4 * traffic.GIB), BoundedProposer())
    poor = planner(cuda_topology(2, hbm_bytes=traffic.GIB // 8), BoundedProposer())
    assert time_of(rich, tables) < time_of(poor, tables)
    used = [sum(o.total_storage.hbm for o in each._best_plan) for each in (rich, poor)]
    assert used[1] <= 2 * traffic.GIB // 8 < used[0]


@pytest.mark.parametrize("most", [1, 2, 7])
def test_stops(most):
    bounded = planner(cuda_topology(2, hbm_bytes=traffic.GIB), BoundedProposer(max_proposals=most))
    assert time_of(bounded, model(4)) > 0
    assert bounded._num_proposals <= most


def test_proposes_nothing_twice():
    space = EmbeddingEnumerator(
        topology=cuda_topology(2, hbm_bytes=traffic.GIB), batch_size=8
    ).enumerate(model(3), [EmbeddingBagCollectionSharder()])
    proposer = BoundedProposer(max_proposals=40)
    proposer.load(space)
    seen = []
    while (proposal := proposer.propose()) is not None:
        assert sorted(option.name for option in proposal) == ["t0", "t1", "t2"]
        seen.append(tuple(map(id, proposal)))
        proposer.feedback(
            partitionable=False,
            plan=proposal,
            storage_constraint=cuda_topology(2, hbm_bytes=traffic.GIB),
        )
    assert 1 < len(seen) == len(set(seen)) <= 40


def test_the_same_plan_every_time():
    def chosen():
        bounded = planner(cuda_topology(2, hbm_bytes=traffic.GIB // 8), BoundedProposer())
        time_of(bounded, model(5))
        return [(option.name, option.sharding_type) for option in bounded._best_plan]

    assert chosen() == chosen()


def test_no_table_no_proposal():
    proposer = BoundedProposer()
    proposer.load([])
    assert proposer.propose() is None
    proposer.feedback(partitionable=True)
    assert proposer.propose() is None


def test_no_allowance():
    with pytest.raises(ValueError, match="max_proposals must be at least 1, got 0"):
        BoundedProposer(max_proposals=0)
