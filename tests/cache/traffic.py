"""Made-up traffic: ids of batches, from a generator of its own each time."""

import numpy as np


def zipf(rows, alpha=1.05, seed=0):
    """A source of ids, the k-th most frequent one with probability ~ 1 / k ** alpha."""
    rng = np.random.default_rng(seed)
    mass = np.cumsum(np.arange(1, rows + 1) ** -float(alpha))
    order = rng.permutation(rows)
    return lambda count: order[np.searchsorted(mass, rng.random(count) * mass[-1])]


def drifting(rows, seed=0, share=0.4):
    """A source of ids of which a share is of a window of recent rows that wanders."""
    rng, old = np.random.default_rng(seed + 1), zipf(rows, seed=seed)
    width = max(rows // 50, 1)
    start = 0

    def draw(count):
        nonlocal start
        start += width // 20 + 1
        recent = (start + rng.integers(0, width, count)) % rows
        return np.where(rng.random(count) < share, recent, old(count))

    return draw
