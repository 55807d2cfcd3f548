import threading

import numpy as np
import pytest
import torch
from torchrec import KeyedJaggedTensor
from torchrec.datasets.utils import Batch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.cache.errors import CacheError
from sidrank.cache.look_ahead import simulate
from sidrank.cache.look_ahead_loader import LookAheadLoader
from sidrank.cache.row_optimizer import RowOptimizer
from sidrank.cache.slow_tier import MemoryTier
from sidrank.cache.tiered import TieredEmbeddingBagCollection
from tests.cache import tiered_runs as runs


def small(slots=6, tier=None, rows=40):
    table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=rows, feature_names=["f"])
    return TieredEmbeddingBagCollection(
        [table],
        slots=slots,
        optimizer=RowOptimizer(torch.optim.SGD, lr=0.5),
        tiers={} if tier is None else {"t": tier},
    )


def asked(*ids):
    lengths = torch.ones(len(ids), dtype=torch.int32)
    return KeyedJaggedTensor(["f"], torch.tensor(ids), lengths=lengths)


def step(collection, example):
    collection(example).values().sum().backward()


def written(collection):
    """How often each row was stepped on, from zeros and steps of a half."""
    collection.flush()
    out = torch.empty(40, 4)
    collection.tiers["t"].read(torch.arange(40), out)
    return (out[:, 0] * -2).tolist()


def counts(*batches):
    total = np.zeros(40)
    for ids in batches:
        total[list(ids)] += 1
    return total.tolist()


class Recorded(MemoryTier):
    """Remembers who reads and writes what, and may be held up."""

    def __init__(self):
        super().__init__(rows=40, width=4)
        self.read_rows, self.threads = [], set()
        self.go = threading.Event()
        self.go.set()
        self.unhindered = 0
        self.broken = False

    def read(self, rows, out):
        worker = threading.current_thread().name.startswith("sidrank")
        if worker and len(self.read_rows) >= self.unhindered:
            assert self.go.wait(30)
        if self.broken:
            raise OSError(5, "Input/output error")
        self.read_rows.append(rows.tolist())
        self.threads.add(threading.current_thread().name)
        super().read(rows, out)


class TestLoader:
    @pytest.mark.parametrize("window", [0, 1, 3, 50])
    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_hands_out_what_the_loader_has(self, window, depth):
        collection = small(slots=9)
        batches = [asked(3 * n % 40, n) for n in range(8)]
        loader = LookAheadLoader(batches, [collection], window=window, depth=depth)
        assert len(loader) == 8
        for _ in range(2):
            seen = []
            for example in loader:
                seen.append(example)
                step(collection, example)
            assert all(one is other for one, other in zip(seen, batches, strict=True))

    def test_an_empty_loader(self):
        assert list(LookAheadLoader([], [small()], window=3)) == []

    @pytest.mark.parametrize("window", [0, 1, 5, 60])
    def test_misses_are_those_that_were_simulated(self, window):
        random = np.random.default_rng(window)
        plain = [random.zipf(1.2, 5) % 40 for _ in range(60)]
        collection = small(slots=7)
        batches = [asked(*ids) for ids in plain]
        for example in LookAheadLoader(batches, [collection], window=window, depth=0):
            step(collection, example)
        distinct = [np.unique(ids) for ids in plain]
        hits = simulate(distinct, rows=40, slots=7, window=window)
        traffic = collection.traffic["t"]
        assert traffic.lookups == sum(len(ids) for ids in distinct)
        assert traffic.misses == traffic.lookups - hits.sum()

    def test_rows_come_while_the_batch_before_trains(self):
        tier = Recorded()
        tier.unhindered = 2
        tier.go.clear()
        collection = small(tier=tier)
        loader = iter(LookAheadLoader([asked(1, 2), asked(3, 4), asked(5)], [collection]))
        for _ in range(2):  # the rows of the third are asked for, and do not come
            step(collection, next(loader))
        assert tier.read_rows == [[1, 2], [3, 4]]
        tier.go.set()
        collection(next(loader))
        assert tier.read_rows == [[1, 2], [3, 4], [5]]
        assert tier.threads == {"sidrank-cache_0"}

    def test_a_batch_of_torchrec(self):
        collection, host = runs.tiered(), runs.fused()
        batches = [Batch(torch.zeros(1), example, torch.zeros(1)) for example in runs.batches(12)]
        for batch in LookAheadLoader(batches, [collection], window=2):
            collection(batch.sparse_features).values().square().sum().backward()
        for example in runs.batches(12):
            host(example).values().square().sum().backward()
        found, expected = runs.rows_of(collection), runs.rows_of_fused(host)
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_several_collections(self):
        batches = runs.batches(40)
        both = [runs.tiered("sgd"), runs.tiered("rowwise")]
        for example in LookAheadLoader(batches, both, window=3):
            for collection in both:
                collection(example).values().square().sum().backward()
        for collection, optimizer in zip(both, ("sgd", "rowwise"), strict=True):
            host = runs.fused(optimizer)
            for example in batches:
                host(example).values().square().sum().backward()
            found, expected = runs.rows_of(collection), runs.rows_of_fused(host)
            assert all(torch.equal(found[name], expected[name]) for name in expected)
            assert collection.strays == 0

    def test_evaluation_in_between(self):
        collection, host = runs.tiered(slots=90), runs.fused()
        held_out = runs.batches(30, seed=7)
        loader = LookAheadLoader(runs.batches(30), [collection], window=4, depth=2)
        for each, examples in ((collection, loader), (host, runs.batches(30))):
            for example, other in zip(examples, held_out, strict=True):
                each(example).values().square().sum().backward()
                with torch.no_grad():
                    each(other)
        found, expected = runs.rows_of(collection), runs.rows_of_fused(host)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert collection.strays == 0

    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_leaving_early_and_coming_back(self, depth):
        tier = MemoryTier(rows=40, width=4)
        collection = small(tier=tier)
        ids = [(n, n + 1) for n in range(0, 20, 2)]
        batches = [asked(*each) for each in ids]
        for number, example in enumerate(
            LookAheadLoader(batches, [collection], window=3, depth=depth)
        ):
            if number == 4:
                break
            step(collection, example)
        for example in LookAheadLoader(batches, [collection], window=3, depth=depth):
            step(collection, example)
        assert written(collection) == counts(*ids, *ids[:4])
        with torch.no_grad():
            collection(asked(*range(34, 40)))  # no slot is still held

    def test_leaving_early_forgets_what_was_to_come(self):
        collection = small(slots=2)
        batches = [asked(1), asked(2), asked(1)]
        for number, example in enumerate(LookAheadLoader(batches, [collection], window=2, depth=0)):
            step(collection, example)
            if number == 1:
                break
        step(collection, asked(3))  # 1 was used before 2, so 1 has to leave
        step(collection, asked(2))
        assert collection.traffic["t"].misses == 3

    def test_slots_dropped_on_the_way(self):
        collection = small(tier=MemoryTier(rows=40, width=4))
        ids = [(n, n + 1) for n in range(0, 20, 2)]
        batches = [asked(*each) for each in ids]
        for number, example in enumerate(LookAheadLoader(batches, [collection], window=3)):
            step(collection, example)
            if number == 4:
                collection.load_state_dict(collection.state_dict())
        assert written(collection) == counts(*ids)

    def test_batches_that_the_model_does_not_see(self):
        collection = small(tier=MemoryTier(rows=40, width=4))
        ids = [(n, n + 1) for n in range(0, 20, 2)]
        batches = [asked(*each) for each in ids]
        for number, example in enumerate(LookAheadLoader(batches, [collection], window=3)):
            if number % 3:
                step(collection, example)
        assert written(collection) == counts(*(each for n, each in enumerate(ids) if n % 3))

    def test_ids_that_the_model_does_not_look_up(self):
        collection = small()
        batches = [asked(n) for n in range(5)]
        loader = iter(LookAheadLoader(batches, [collection]))
        step(collection, asked(*(next(loader).values() + 20).tolist()))
        with pytest.raises(CacheError, match="features must be what the model looks up"):
            next(loader)

    def test_batches_in_flight_that_do_not_fit(self):
        tier = Recorded()
        collection = small(slots=5, tier=tier)
        loader = iter(LookAheadLoader([asked(1, 2, 3), asked(4, 5, 6)], [collection]))
        with pytest.raises(CacheError, match=r"slots of t must be at least 6, .*, got 5"):
            next(loader)
        assert collection.traffic["t"].misses == 3
        alone = LookAheadLoader([asked(1, 2, 3), asked(4, 5, 6)], [collection], depth=0)
        for example in alone:
            step(collection, example)

    @pytest.mark.parametrize(("name", "value"), [("window", -1), ("depth", -2)])
    def test_refuses_negative_counts(self, name, value):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got {value}"):
            LookAheadLoader([], [small()], **{name: value})

    def test_refuses_no_collection(self):
        with pytest.raises(ValueError, match="collections must hold one, got none"):
            LookAheadLoader([], [])

    def test_has_no_length_if_the_loader_has_none(self):
        with pytest.raises(TypeError, match="loader must have a length, got generator"):
            len(LookAheadLoader((each for each in ()), [small()]))


class TestByHand:
    def test_prefetched_batches_are_taken_by_what_they_ask_for(self):
        tier = Recorded()
        collection = small(tier=tier)
        first, second = asked(1, 2), asked(2, 3)
        collection.prefetch(first)
        collection.prefetch(second)
        for example in (second, first):
            step(collection, example)
        assert tier.read_rows == [[1, 2], [3]]
        assert collection.strays == 0
        assert written(collection) == counts((1, 2), (2, 3))

    def test_a_lookup_without_prefetch_waits_its_turn(self):
        tier = Recorded()
        collection = small(tier=tier)
        tier.go.clear()  # holds up the worker alone
        collection.prefetch(asked(1, 2))
        lookup = threading.Thread(target=step, args=(collection, asked(3)), name="other")
        lookup.start()
        lookup.join(0.2)
        assert tier.read_rows == []
        tier.go.set()
        lookup.join()
        assert tier.read_rows == [[1, 2], [3]]

    def test_prefetched_rows_stay_until_they_are_abandoned(self):
        collection = small()
        flight = collection.prefetch(asked(1, 2, 3))
        with pytest.raises(CacheError, match="slots of t must be at least 7"):
            collection(asked(4, 5, 6, 7))
        collection.abandon(flight)
        collection(asked(4, 5, 6, 7))
        collection.abandon(flight)  # a second time changes nothing

    def test_an_announced_batch_that_never_comes(self):
        collection = small(slots=2)
        for ids in ((1,), (2,), (1,), (3,)):
            collection.announce(asked(*ids))
        for ids in ((1,), (2,), (3,), (4,)):  # the second 1 is left out
            step(collection, asked(*ids))
        assert collection.traffic["t"].misses == 4
        step(collection, asked(3))
        assert collection.traffic["t"].misses == 4

    def test_announcements_can_be_unsaid(self):
        collection = small(slots=2)
        for ids in ((1,), (2,), (1,)):
            collection.announce(asked(*ids))
        step(collection, asked(1))
        step(collection, asked(2))
        collection.forget_announced()
        step(collection, asked(3))  # 1 was used before 2, so 1 has to leave
        step(collection, asked(2))
        assert collection.traffic["t"].misses == 3


class TestFailure:
    def test_of_the_worker_is_told_at_the_lookup(self):
        tier = Recorded()
        collection = small(tier=tier)
        step(collection, asked(1, 2))
        collection.flush()
        tier.broken = True
        collection.prefetch(asked(3, 4))
        with pytest.raises(CacheError, match=r"tiers must be set back .*Input/output error"):
            collection(asked(3, 4))
        tier.broken = False
        with pytest.raises(CacheError, match="tiers must be set back"):
            collection.prefetch(asked(5))
        collection.drop()
        step(collection, asked(1, 3))
        assert written(collection) == counts((1, 2), (1, 3))

    def test_nothing_is_written_after_it(self):
        tier = Recorded()
        collection = small(slots=3, tier=tier)
        pooled = collection(asked(1)).values()
        tier.go.clear()
        tier.broken = True
        collection.prefetch(asked(2))
        pooled.sum().backward()
        collection.prefetch(asked(3))  # and write 1 before that
        assert collection.traffic["t"].written == 1
        tier.go.set()
        with pytest.raises(CacheError, match="tiers must be set back"):
            collection.flush()
        collection.drop()
        tier.broken = False
        assert written(collection) == counts()
