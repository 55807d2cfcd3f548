"""Caches as loops over rows: what the simulated ones must agree with."""

import math


def hits_of_lru(batches, slots):
    """Rows in order of their last use; equal ones by number."""
    last_use, hits = {}, []
    for now, batch in enumerate(batches):
        hits.append(sum(row in last_use for row in batch))
        for row in batch:
            if row not in last_use and len(last_use) == slots:
                del last_use[min(set(last_use) - set(batch), key=lambda r: (last_use[r], r))]
            last_use[row] = now
    return hits


def next_use(batches, row, now, known):
    """The first batch after ``now`` and before ``known`` that wants ``row``."""
    for later in range(now + 1, min(known, len(batches))):
        if row in batches[later]:
            return later
    return math.inf


def hits_of_window(batches, slots, window):
    """Gives up what is wanted last, as far as ``window`` batches tell; beyond that LRU."""
    last_use, hits = {}, []
    for now, batch in enumerate(batches):
        hits.append(sum(row in last_use for row in batch))
        absent = [row for row in batch if row not in last_use]
        for row in batch:
            last_use.setdefault(row, None)
            last_use[row] = now
        while len(last_use) > slots:
            others = set(last_use) - set(batch)
            when = {row: next_use(batches, row, now, now + 1 + window) for row in others}
            del last_use[min(others, key=lambda r: (-when[r], last_use[r], r))]
        assert set(absent) <= set(last_use)
    return hits


def most_hits(batches, slots):
    """The best that any choice of what to give up can reach: all of them tried."""
    states = {frozenset(): 0}  # what is held -> the most hits that lead there
    for batch in batches:
        following = {}
        for held, hits in states.items():
            gained = hits + len(held & set(batch))
            spare = held - set(batch)
            for kept in subsets(sorted(spare), slots - len(batch)):
                state = frozenset(batch) | kept
                following[state] = max(following.get(state, 0), gained)
        states = following
    return max(states.values())


def subsets(rows, room):
    """All subsets of as many of ``rows`` as there is room for."""
    if len(rows) <= room:
        return [frozenset(rows)]
    if room <= 0:
        return [frozenset()]
    first, rest = rows[0], rows[1:]
    return [kept | {first} for kept in subsets(rest, room - 1)] + subsets(rest, room)


def hits_of_sets(batches, slots, ways, set_of):
    """Ways of ``[row, last use]``; a set full of rows of the batch itself takes no more."""
    sets = [[[None, -1] for _ in range(ways)] for _ in range(slots // ways)]
    hits = []
    for now, batch in enumerate(batches):
        missing = []
        for row in batch:
            here = [way for way in sets[set_of(row)] if way[0] == row]
            for way in here:
                way[1] = now
            if not here:
                missing.append(row)
        hits.append(len(batch) - len(missing))
        for row in missing:
            oldest = min(sets[set_of(row)], key=lambda way: way[1])
            if oldest[1] < now:
                oldest[:] = row, now
    return hits
