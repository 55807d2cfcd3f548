import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidrank.metrics import auc
from sidrank.metrics._cells import Cells, outwards
from sidrank.metrics.streaming_auc import Bounds, StreamingAUC
from tests.metrics import reference_cells, streams


class Small(StreamingAUC):
    """So few cells that a handful of rows has to be compressed."""

    _CELLS = 16


class Medium(StreamingAUC):
    _CELLS = 256


def _streamed(kind, labels, scores, batch=None):
    stream = kind(exact=False)
    batch = batch or len(labels)
    for start in range(0, len(labels), batch):
        stream.update(labels[start : start + batch], scores[start : start + batch])
    return stream


def _width(stream):
    lower, upper = stream.bounds()
    return upper - lower


ARRANGEMENTS = {
    "as it comes": lambda labels, scores: np.arange(len(labels)),
    "ascending": lambda labels, scores: np.argsort(scores, kind="stable"),
    "descending": lambda labels, scores: np.argsort(-scores, kind="stable"),
    "positives first": lambda labels, scores: np.argsort(~labels, kind="stable"),
    "negatives first": lambda labels, scores: np.argsort(labels, kind="stable"),
    "sweeps": lambda labels, scores: np.argsort(np.arange(len(labels)) % 7, kind="stable"),
}
CLUSTERS = {
    "smooth": lambda z, row: z,
    "float32": lambda z, row: z.astype(np.float32),
    "few ulps": lambda z, row: 0.3 + np.round(z * 30) * 2.0**-54,
    "spike": lambda z, row: np.where(row % 3 == 0, 0.02, z),
    "ties": lambda z, row: np.round(z, 1),
    "infinities": lambda z, row: np.where(
        np.abs(z) > 1, np.sign(z) * np.inf, np.exp(np.clip(z, -1, 1) * 300)
    ),
    "denormal": lambda z, row: np.round(z * 1000) * 5e-324,
    "later rows in a gap": lambda z, row: np.where(row < len(row) // 10, z, 0.1 + z * 1e-9),
    "drift": lambda z, row: z + row / 100,
}


@settings(max_examples=80)
@given(st.data(), st.sampled_from(list(CLUSTERS)), st.sampled_from(list(ARRANGEMENTS)))
def test_the_exact_value_is_always_inside(data, cluster, arrangement):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = data.draw(st.integers(20, 400))
    rate = data.draw(st.sampled_from([0.5, 0.1, 0.01, 0.0001]))
    labels = generator.random(rows) < rate
    labels[:2] = [True, False]
    scores = CLUSTERS[cluster](labels * 0.5 + generator.standard_normal(rows), np.arange(rows))
    order = ARRANGEMENTS[arrangement](labels, scores)
    labels, scores = labels[order], scores[order]
    states = [Small(exact=False) for _ in range(data.draw(st.integers(1, 4)))]
    step = data.draw(st.integers(1, rows))
    for start in range(0, rows, step):
        batch = slice(start, start + step)
        data.draw(st.sampled_from(states)).update(labels[batch], scores[batch])
    total = streams.merged(data.draw, states)
    lower, upper = total.bounds()
    assert 0.0 <= lower <= auc(labels, scores) <= upper <= 1.0
    assert lower <= total.compute() <= upper
    assert len(total.state_dict()["low"]) <= Small._CELLS
    assert (total.rows, total.positives) == (rows, labels.sum())


@given(st.data())
def test_few_distinct_scores_are_exact_for_any_split(data):
    labels, scores, _, _ = data.draw(streams.columns())
    states = [Small(exact=False) for _ in range(3)]
    for rows in data.draw(streams.batches(len(labels))):
        data.draw(st.sampled_from(states)).update(labels[rows], scores[rows])
    total = streams.merged(data.draw, states)
    exact = auc(labels, scores)
    assert total.compute() == exact
    assert total.bounds() == Bounds(exact, exact)
    whole = _streamed(Small, labels, scores).state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in total.state_dict().items())


@given(st.data())
def test_either_may_take_in_the_other(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sides = []
    for rows in data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300))):
        labels = generator.random(rows) < 0.3
        sides.append((labels, generator.standard_normal(rows)))
    states = []
    for first, second in (sides, sides[::-1]):
        one, other = _streamed(Small, *first), _streamed(Small, *second)
        one.merge(other)
        states.append(one.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


CELLS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)).filter(
        lambda cell: cell[2] + cell[3] > 0
    ),
    min_size=1,
    max_size=20,
)


def _cells(rows):
    columns = np.array([(low, low + span, n, p) for low, span, n, p in rows]).T
    low, high, negatives, positives = columns
    nothing = Cells.of_rows(np.empty(0, np.uint64), np.empty(0, np.bool_))
    return nothing.union(Cells(low.astype(np.uint64), high.astype(np.uint64), negatives, positives))


def _listed(cells):
    return list(zip(*(column.tolist() for column in cells), strict=True))


@given(CELLS)
def test_wins_equal_the_slow_definition(rows):
    cells = _cells(rows)
    assert cells.twice_wins() == reference_cells.twice_wins(_listed(cells))


@given(CELLS, st.integers(1, 12))
def test_compressed_cells_hold_the_same_rows(rows, limit):
    cells = _cells(rows)
    fewer = cells.compressed(limit)
    assert len(fewer.low) <= max(limit, 1)
    assert fewer.negatives.sum() == cells.negatives.sum()
    assert fewer.positives.sum() == cells.positives.sum()
    for low, high, _, _ in _listed(cells):
        assert any(a <= low and high <= b for a, b, _, _ in _listed(fewer))
    (lower, upper), (certain, possible) = fewer.twice_wins(), cells.twice_wins()
    assert lower <= certain <= possible <= upper


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.integers(1, 10**30))
def test_ends_are_rounded_outwards(first, second, above):
    fewest, most = sorted((first, second))
    lower, upper = outwards(fewest, most, most + above)
    if fewest < most:
        assert Fraction(lower) <= Fraction(fewest, most + above)
        assert Fraction(upper) >= Fraction(most, most + above)
    else:
        assert lower == upper == fewest / (most + above)


def _held(stream, score):
    """Rows of both classes in cells of one value, by that value's key."""
    state = stream.state_dict()
    alone = Small(exact=False)
    alone.update([1], [score])
    here = (state["low"] == alone.state_dict()["low"]) & (state["high"] == state["low"])
    return int(state["negatives"][here].sum()), int(state["positives"][here].sum())


def test_a_score_that_a_third_of_the_rows_have_stays_alone():
    generator = np.random.default_rng(0)
    labels = generator.random(30_000) < 0.05
    scores = np.where(generator.random(30_000) < 0.3, 0.02, generator.random(30_000))
    stream = _streamed(Medium, labels, scores, 1000)
    spike = scores == 0.02
    assert _held(stream, 0.02) == ((spike & ~labels).sum(), (spike & labels).sum())


def test_each_of_few_positives_stays_alone():
    generator = np.random.default_rng(0)
    labels = np.arange(30_000) % 1000 == 0
    scores = generator.random(30_000)
    stream = _streamed(Medium, labels, scores, 1000)
    assert all(_held(stream, score)[1] == 1 for score in scores[labels])


@pytest.mark.parametrize(
    ("cluster", "quanta"), [("smooth", 6), ("spike", 6), ("drift", 60), ("later rows in a gap", 60)]
)
def test_the_width_does_not_grow_with_the_rows(cluster, quanta):
    generator = np.random.default_rng(0)
    labels = generator.random(40_000) < 0.05
    z = labels * 0.8 + generator.standard_normal(40_000)
    scores = CLUSTERS[cluster](
        z, np.arange(40_000) if cluster != "drift" else np.arange(40_000) / 1.5e3
    )
    assert _width(_streamed(Medium, labels, scores, 512)) * Medium._CELLS < quanta


def test_memory_and_width_at_the_size_users_get():
    generator = np.random.default_rng(0)
    labels = generator.random(700_000) < 0.01
    scores = labels * 0.8 + generator.standard_normal(700_000)
    tracemalloc.start()
    try:
        stream = _streamed(StreamingAUC, labels, scores, 400_000)
        other = _streamed(StreamingAUC, labels[:300_000], scores[:300_000])
        stream.merge(other)
        width = _width(stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < width < 1e-5
    assert peak < 64 << 20


def test_a_saved_state_goes_on():
    generator = np.random.default_rng(0)
    labels, scores = generator.random(500) < 0.3, generator.random(500)
    stream, loaded = _streamed(Small, labels, scores), Small(exact=False)
    loaded.load_state_dict(stream.state_dict())
    for each in (stream, loaded):
        each.update(labels, scores)
    assert loaded.bounds() == stream.bounds()
    assert (loaded.rows, loaded.positives) == (1000, 2 * labels.sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": torch.tensor([5])}, "state must have cells with low <= high .* got 1 cells"),
        ({"positives": torch.tensor([-1])}, "at least one row"),
        ({"positives": torch.tensor([0]), "negatives": torch.tensor([0])}, "at least one row"),
        ({"negatives": torch.tensor([1, 1])}, "state must have cells"),
        ({"high": torch.tensor([1.0])}, "must hold high as a vector of torch.int64"),
    ],
)
def test_a_foreign_state_is_refused(change, message):
    state = {name: torch.tensor([1]) for name in ("low", "high", "negatives", "positives")}
    stream = StreamingAUC(exact=False)
    stream.load_state_dict(state)
    assert stream.compute() == 0.5
    with pytest.raises(ValueError, match=message):
        stream.load_state_dict({**state, **change})


def test_weights_are_refused():
    with pytest.raises(ValueError, match="weights must be None where exact is False, got weights"):
        StreamingAUC(exact=False).update([0, 1], [0.1, 0.2], [1.0, 1.0])
