"""The three stores, made alike, for tests that all of them must pass."""

import numpy as np

from sidrank.sequences.instance_rows import InstanceSpec
from sidrank.sequences.instance_store import InMemoryInstanceStore
from sidrank.sequences.instance_store_mapped import MappedInstanceStore
from sidrank.sequences.instance_store_sqlite import SQLiteInstanceStore

FILES = {"sqlite": SQLiteInstanceStore, "mapped": MappedInstanceStore}
KINDS = ["memory", *FILES]
SPEC = InstanceSpec(model_version="7", dim=3, num_sides=2)


def make(kind, directory, spec=SPEC, **options):
    if kind == "memory":
        return InMemoryInstanceStore(spec, **options)
    return FILES[kind](directory / "store", spec, **options)


def columns(rows, spec=SPEC):
    """(user, instance, event time, label times, sides, vector) for each row, as `put` takes it."""
    names = ("users", "instances", "event_times", "label_times", "sides", "vectors")
    parts = [[row[place] for row in rows] for place in range(6)]
    shapes = [(-1,)] * 3 + [(len(rows), spec.num_sides)] * 2 + [(len(rows), spec.dim)]
    dtypes = [np.int64] * 5 + [np.float32]
    arrays = [np.array(p, d).reshape(s) for p, d, s in zip(parts, dtypes, shapes, strict=True)]
    return {**dict(zip(names, arrays, strict=True)), "model_version": spec.model_version}


def log_of(users, each, seed=0, spec=SPEC):
    """`each` rows of every user at distinct times in any order, labels known up to 50 later."""
    rng = np.random.default_rng(seed)
    total = users * each
    times = rng.permutation(total) + 100
    return {
        "users": rng.permutation(np.repeat(np.arange(users), each)),
        "instances": rng.permutation(total) - total // 2,
        "event_times": times,
        "label_times": times[:, None] + rng.integers(0, 50, (total, spec.num_sides)),
        "sides": rng.integers(0, 5, (total, spec.num_sides)),
        "vectors": rng.random((total, spec.dim), dtype=np.float32),
        "model_version": spec.model_version,
    }


def part(log, rows):
    return {name: x if name == "model_version" else x[rows] for name, x in log.items()}


def told(history):
    """Each row as the dictionary tells it."""
    out = []
    for row in range(len(history.mask)):
        real = int(history.mask[row].sum())
        assert history.mask[row, :real].all()  # padding is last, and holds nothing
        assert not history.vectors[row, real:].any()
        assert (history.sides[row, real:] == -1).all()
        assert not history.event_times[row, real:].any()
        assert not history.instances[row, real:].any()
        fields = (history.instances, history.event_times, history.sides, history.vectors)
        out.append(list(zip(*(field[row, :real].tolist() for field in fields), strict=True)))
    return out
