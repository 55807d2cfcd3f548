import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics import auc
from sidrank.metrics.streaming_auc import Bounds, StreamingAUC
from tests.metrics import streams


def _stream(*batches, exact=True):
    stream = StreamingAUC(exact=exact)
    for batch in batches:
        stream.update(*batch)
    return stream


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shards", [1, 2, 7])
@given(data=st.data())
def test_any_split_and_merge_equals_one_shot(shards, weighted, data):
    labels, scores, weights, _ = data.draw(streams.columns())
    weights = weights if weighted else None
    states = [StreamingAUC() for _ in range(shards)]
    for rows in data.draw(streams.batches(len(labels))):
        given_weights = None if weights is None else weights[rows]
        data.draw(st.sampled_from(states)).update(labels[rows], scores[rows], given_weights)
    total = streams.merged(data.draw, states)
    assert total.compute() == auc(labels, scores, weights)
    assert total.bounds() == Bounds(total.compute(), total.compute())
    assert (total.rows, total.positives) == (len(labels), labels.sum())


@given(streams.columns(), st.integers(1, 39))
def test_a_batch_without_weights_counts_one_each(data, cut):
    labels, scores, weights, _ = data
    cut = min(cut, len(labels) - 1)
    stream = _stream((labels[:cut], scores[:cut]), (labels[cut:], scores[cut:], weights[cut:]))
    mixed = np.append(np.ones(cut), weights[cut:])
    try:
        expected = auc(labels, scores, mixed)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            stream.compute()
    else:
        assert stream.compute() == expected


@given(st.data())
def test_the_state_is_the_same_for_any_split(data):
    labels, scores, _, _ = data.draw(streams.columns())
    states = [StreamingAUC() for _ in range(3)]
    for rows in data.draw(streams.batches(len(labels))):
        data.draw(st.sampled_from(states)).update(labels[rows], scores[rows])
    split = streams.merged(data.draw, states).state_dict()
    whole = _stream((labels, scores)).state_dict()
    assert split.keys() == whole.keys()
    assert all(torch.equal(split[name], whole[name]) for name in whole)


def test_one_score_of_64_bits_widens_both_classes():
    together = _stream(([0, 1], [0.5, 0.1])).state_dict()
    apart = _stream(([0], [0.5]), ([1], [0.1])).state_dict()
    assert all(torch.equal(apart[name], together[name]) for name in together)
    assert apart["negative_keys"].dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [1, 9])
def test_many_rows_in_many_runs(dtype, decimals):
    generator = np.random.default_rng(0)
    labels = generator.random(700_000) < 0.4
    scores = np.round(labels * 0.3 + generator.standard_normal(700_000), decimals).astype(dtype)
    states = [
        _stream((labels[part::20], scores[part::20])) for part in range(20)
    ]  # more runs than are left unmerged
    total = states[0]
    for state in states[1:]:
        total.merge(state)
    total.update(labels, scores)
    doubled = np.tile(labels, 2), np.tile(scores, 2)
    assert total.compute() == auc(*doubled)
    values = len(np.unique(scores[labels])) + len(np.unique(scores[~labels]))
    held = sum(t.nbytes for t in total.state_dict().values())
    assert held <= values * (dtype().itemsize + (1 if decimals == 9 else 4))


def test_counts_far_beyond_64_bits():
    keys = _stream(([0, 1], [0.25, 0.25]), ([0, 1], [0.5, 0.5])).state_dict()
    counts = {
        "negative_counts": torch.tensor([3 << 60, 1], dtype=torch.int64),
        "positive_counts": torch.tensor([5, 3 << 60], dtype=torch.int64),
    }
    stream = StreamingAUC()
    stream.load_state_dict({**keys, **counts})
    big = 3 << 60
    wins = 5 * Fraction(big, 2) + big * (big + Fraction(1, 2))
    assert stream.compute() == float(wins / ((big + 1) * (big + 5)))


def test_integers_and_floats_of_one_value_tie():
    stream = _stream(([0, 1], [1, 2]), ([0, 1], [2.0, 1.0]), ([1, 0], [True, False]))
    assert stream.compute() == auc([0, 1, 0, 1, 1, 0], [1, 2, 2, 1, 1, 0])
    assert _stream(([0, 1], [2**53 - 1, 2**53])).compute() == 1.0


def test_the_callers_arrays_may_change_afterwards():
    labels, scores, weights = np.array([False, True]), np.array([0.0, 1.0]), np.array([1.0, 2.0])
    for given_weights in (None, weights):
        stream = _stream((labels, scores, given_weights))
        labels[:], scores[:], weights[:] = [True, False], 5.0, 0.0
        assert stream.compute() == 1.0
        labels[:], scores[:], weights[:] = [False, True], [0.0, 1.0], 1.0


def test_merging_leaves_the_other_as_it_was():
    one, other = _stream(([0, 1], [1.0, 0.0])), _stream(([0, 1], [0.0, 1.0]))
    one.merge(other)
    one.update([1], [7.0])
    assert (other.rows, other.compute(), one.rows) == (2, 1.0, 5)
    other.merge(other)
    assert (other.rows, other.compute()) == (4, 1.0)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_a_saved_state_goes_on(weights, tmp_path):
    stream = _stream(([0, 1, 1], [0.1, 0.4, 0.1], weights))
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    loaded = StreamingAUC()
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each in (stream, loaded):
        each.update([0, 1], [0.3, 1e-300])
    assert loaded.compute() == stream.compute()
    assert pickle.loads(pickle.dumps(loaded)).compute() == stream.compute()
    assert copy.deepcopy(loaded).rows == 5


def test_reset_forgets():
    stream = _stream(([0, 1], [0, 1]))
    stream.reset()
    assert (stream.rows, stream.positives) == (0, 0)
    stream.update([0, 1], [1, 0])
    assert stream.compute() == 0.0


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([0, 1], [0.1, np.nan]), "scores must not be NaN, got nan in row 1"),
        (([0, 2], [0.1, 0.2]), "labels must be 0 or 1, got 2 in row 1"),
        (([], []), "labels must not be empty, got 0 rows"),
        (([0, 1], [0.1]), r"scores must have one row per label \(2\), got 1"),
        (([0], [0.1, 0.2]), r"scores must have one row per label \(1\), got 2"),
        (([0, 1], [[0.1, 0.2]]), r"scores must have shape \[n\], got \[1, 2\]"),
        (([0, 1], 0.5), r"scores must have shape \[n\], got \[\]"),
        (([0, 1], [0, 2**53 + 1]), r"scores must be .* at most 2\*\*53 .* got 9007199254740993 in"),
        (([0, 1], np.array([0, 2**64 - 1], np.uint64)), r"scores must be .* in row 1"),
    ],
)
def test_a_refused_batch_changes_nothing(batch, message, exact):
    stream = _stream(([0, 1, 1], [0.3, 0.4, 0.2]), exact=exact)
    with pytest.raises(ValueError, match=message):
        stream.update(*batch)
    assert (stream.rows, stream.positives, stream.compute()) == (3, 2, 0.5)


def test_the_row_of_a_long_batch_is_named():
    labels = np.arange(600_000) % 2
    scores = np.zeros(600_000)
    scores[555_555] = np.nan
    stream = StreamingAUC()
    with pytest.raises(ValueError, match="got nan in row 555555"):
        stream.update(labels, scores)
    assert stream.rows == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -2.0], "weights must be finite and not negative, got -2.0 in row 1"),
        ([1.0, np.inf], "weights must be finite and not negative, got inf in row 1"),
        ([1.0, np.nan], "weights must be finite and not negative, got nan in row 1"),
        ([1.0], r"weights must have one row per label \(2\), got 1"),
        (torch.tensor([[1.0, 2.0]]), r"weights must have shape \[n\], got \[1, 2\]"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        StreamingAUC().update([0, 1], [0.1, 0.2], weights)


def test_weights_of_zero_wait_for_others():
    stream = _stream(([0, 1], [0.1, 0.2], [0, 0]))
    with pytest.raises(ValueError, match="weights must not all be zero, got 2 zeros"):
        stream.compute()
    stream.update([1, 0], [0.1, 0.3], torch.tensor([1.0, 0.5]))
    assert stream.compute() == 0.0


@pytest.mark.parametrize("exact", [False, True])
def test_one_class_has_no_auc(exact):
    stream = StreamingAUC(exact=exact)
    with pytest.raises(ValueError, match="must contain both classes, got 0 positives in 0 rows"):
        stream.compute()
    stream.update([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="must contain both classes, got 2 positives in 2 rows"):
        stream.bounds()


def test_modes_do_not_merge():
    with pytest.raises(ValueError, match=r"other must be .* exact=True, got exact=False"):
        StreamingAUC().merge(StreamingAUC(exact=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(1)}, "state must have the tensors .*, got .*extra"),
        (
            {"positive_keys": torch.zeros(1)},
            "must hold positive_keys as a vector of torch.int32 or",
        ),
        (
            {"row_labels": torch.zeros(1, 1).bool()},
            r"row_labels .* got torch.bool of shape \[1, 1\]",
        ),
        ({"negative_counts": torch.zeros(1, dtype=torch.uint8)}, "must count each .*negative_keys"),
        ({"negative_keys": torch.zeros(2, dtype=torch.int32)}, "negative_keys once, in ascending"),
        ({"row_weights": torch.ones(1).double()}, "as many row_keys as .*, got 0, 0 and 1"),
    ],
)
def test_a_foreign_state_is_refused(change, message):
    stream = _stream(([0, 1], [0.0, 1.0]))
    with pytest.raises(ValueError, match=message):
        stream.load_state_dict({**stream.state_dict(), **change})
    assert stream.compute() == 1.0


def _reduced(exact, weighted):
    """Both ranks hold some of 5,000 rows; rank 0 also has the only score that needs 64 bits."""
    generator = np.random.default_rng(0)
    labels = generator.random(5000) < 0.1
    scores = np.round(generator.standard_normal(5000), 2).astype(np.float32).astype(np.float64)
    scores[0] = 1e-300
    weights = generator.random(5000) if weighted else None
    stream, mine = (
        StreamingAUC(exact=exact),
        slice(dist.get_rank() * 1000, 1000 + 4000 * dist.get_rank()),
    )
    stream.update(labels[mine], scores[mine], None if weights is None else weights[mine])
    stream.all_reduce()
    return stream.rows, stream.compute(), auc(labels, scores, weights)


@pytest.mark.parametrize(("exact", "weighted"), [(True, False), (True, True), (False, False)])
def test_two_ranks_equal_one_process(ranks, exact, weighted):
    first, second = ranks.run(_reduced, exact, weighted)
    assert first == second
    assert first == (5000, first[2], first[2])


def _one_has_no_rows(exact):
    stream = StreamingAUC(exact=exact)
    if dist.get_rank() == 1:
        stream.update([0, 1, 1], [0.5, 0.5, 0.75])
    stream.all_reduce(dist.group.WORLD)
    return stream.compute()


@pytest.mark.parametrize("exact", [True, False])
def test_a_rank_without_rows_takes_part(ranks, exact):
    assert ranks.run(_one_has_no_rows, exact) == [0.75, 0.75]


def _modes_differ():
    stream = StreamingAUC(exact=dist.get_rank() == 0)
    stream.update([0, 1], [0.0, 1.0])
    with pytest.raises(ValueError, match="ranks must hold states of one kind, got exact AUC, bou"):
        stream.all_reduce()
    return stream.compute()


def test_ranks_of_different_modes_refuse_together(ranks):
    assert ranks.run(_modes_differ) == [1.0, 1.0]


def _not_a_member():
    alone = dist.new_group([0])
    stream = _stream(([0, 1], [0.0, 1.0]))
    if dist.get_rank() == 0:
        stream.all_reduce(alone)
        return stream.rows
    with pytest.raises(ValueError, match="process_group must contain this rank"):
        stream.all_reduce(alone)
    return stream.rows


def test_a_rank_outside_the_group_is_refused(ranks):
    assert ranks.run(_not_a_member) == [2, 2]


def test_all_reduce_needs_a_process_group():
    with pytest.raises(ValueError, match="process_group must exist, got none"):
        StreamingAUC().all_reduce()
