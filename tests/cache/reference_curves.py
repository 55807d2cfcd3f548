"""Caches and curves as their definitions say, in loops."""

import random
from collections import OrderedDict


def expected_misses(batches, slots):
    """Misses of an LRU cache looked up a batch at a time; rows last used in one batch leave it in
    random order, over which this is the mean."""
    last, misses = {}, 0.0
    for time, batch in enumerate(batches):
        rows = set(batch)
        for row in rows:
            if row not in last:
                misses += 1
                continue
            newer = sum(1 for used in last.values() if used > last[row])
            alike = sum(1 for used in last.values() if used == last[row])
            misses += 1 - min(max((slots - newer) / alike, 0.0), 1.0)
        for row in rows:
            last[row] = time
    return misses


def simulated_misses(batches, slots, *, warm=(), seed=0):
    """Misses of one LRU cache that fetches each batch's rows in a random order."""
    cache, misses, order = OrderedDict(), 0, random.Random(seed)
    for counted, batch in [(False, batch) for batch in warm] + [(True, batch) for batch in batches]:
        rows = sorted(set(batch))
        order.shuffle(rows)
        misses += counted * sum(row not in cache for row in rows)
        for row in rows:
            cache[row] = None
            cache.move_to_end(row)
        while len(cache) > slots:
            cache.popitem(last=False)
    return misses


def best_division(choices, budget):
    """The least cost of one (bytes, cost) from each table's choices within a budget."""
    reached = {0: 0.0}
    for each in choices:
        after = {}
        for spent, cost in reached.items():
            for more, added in each:
                total = spent + more
                if total <= budget and cost + added < after.get(total, float("inf")):
                    after[total] = cost + added
        reached = after
    return min(reached.values())
