"""Byte-pair encoding as in the textbook: lists and dictionaries, nothing of ours."""

import itertools


def base_words(rows, sizes):
    """Each SID as a list of level-tagged symbols, numbered level by level."""
    first = [sum(sizes[:level]) for level in range(len(sizes))]
    return [[first[level] + int(code) for level, code in enumerate(row)] for row in rows]


def train(rows, weights, sizes, max_units, min_weight=1):
    """The heaviest adjacent pair, again and again; of equals the smallest (left, right)."""
    words = base_words(rows, sizes)
    merges = []
    while sum(sizes) + len(merges) < max_units:
        mass = {}
        for word, weight in zip(words, weights, strict=True):
            for pair in itertools.pairwise(word):
                mass[pair] = mass.get(pair, 0) + int(weight)
        worth = {pair: m for pair, m in mass.items() if m >= min_weight}
        if not worth:
            break
        best = min(worth, key=lambda pair: (-worth[pair], pair))
        unit = sum(sizes) + len(merges)
        merges.append(list(best))
        words = [_merged(word, best, unit) for word in words]
    return merges


def encode(rows, sizes, merges):
    """Apply the merges one after the other, in the order learned."""
    words = base_words(rows, sizes)
    for index, pair in enumerate(merges):
        words = [_merged(word, tuple(pair), sum(sizes) + index) for word in words]
    return words


def _merged(word, pair, unit):
    out = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] = unit
        else:
            out.append(symbol)
    return out
