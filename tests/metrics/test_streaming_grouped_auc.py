import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from sidrank.metrics import auc, group_aucs, grouped_auc
from sidrank.metrics.streaming_grouped_auc import StreamingGroupedAUC
from tests.metrics import streams

KINDS = {
    "small": lambda groups: groups,
    "wide": lambda groups: groups * 2**40,
    "unsigned": lambda groups: (groups + 2).astype(np.uint64) + np.uint64(2**63 - 3),
    "strings": lambda groups: np.array([f"ü{group}" for group in groups]),
    "objects": lambda groups: np.array([f"u{group}" * 3 for group in groups], object),
    "bytes": lambda groups: np.array([b"\xff%d" % group for group in groups]),
}
WEIGHTINGS = ["impressions", "unweighted", "positives"]


def _stream(*batches):
    stream = StreamingGroupedAUC()
    for batch in batches:
        stream.update(*batch)
    return stream


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shards", [1, 2, 7])
@given(data=st.data(), kind=st.sampled_from(list(KINDS)))
def test_any_split_and_merge_equals_one_shot(shards, weighted, data, kind):
    labels, scores, weights, groups = data.draw(streams.columns(max_rows=20))
    weights, groups = weights if weighted else None, KINDS[kind](groups)
    states = [StreamingGroupedAUC() for _ in range(shards)]
    for rows in data.draw(streams.batches(len(labels))):
        given_weights = None if weights is None else weights[rows]
        state = data.draw(st.sampled_from(states))
        state.update(labels[rows], scores[rows], groups[rows], given_weights)
    total = streams.merged(data.draw, states)
    for weighting in WEIGHTINGS:
        for single_class in ("skip", "half"):
            how = {"weighting": weighting, "single_class": single_class}
            expected = grouped_auc(labels, scores, groups, weights=weights, **how)
            assert total.compute(**how) == expected
    assert total.auc() == auc(labels, scores, weights)
    assert (total.rows, total.positives) == (len(labels), labels.sum())
    table, expected = total.group_aucs(), group_aucs(labels, scores, groups, weights=weights)
    assert table.group.tolist() == expected.group.tolist()
    for column, wanted in zip(table[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(column, wanted)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["small", "wide", "strings"])
def test_many_rows_equal_one_shot(kind, weighted):
    generator = np.random.default_rng(0)
    labels = generator.random(300_000) < 0.2
    scores = np.round(labels * 0.3 + generator.standard_normal(300_000), 2)
    groups = KINDS[kind](generator.integers(-2000, 2000, 300_000))
    weights = generator.exponential(size=300_000) if weighted else None
    stream = StreamingGroupedAUC()
    for rows in np.array_split(generator.permutation(300_000), 13):
        part = None if weights is None else weights[rows]
        stream.update(labels[rows], scores[rows], groups[rows], part)
    assert stream.compute() == grouped_auc(labels, scores, groups, weights=weights)


def test_a_row_takes_nine_bytes():
    rows = 100_000
    stream = _stream((np.arange(rows) % 2, np.arange(rows) / 8, np.arange(rows) // 3))
    held = sum(tensor.nbytes for tensor in stream.state_dict().values())
    assert held < 9 * rows + 100


def test_the_callers_arrays_may_change_afterwards():
    labels, scores, groups = np.array([False, True]), np.array([0.0, 1.0]), np.array([4, 4])
    stream = _stream((labels, scores, groups))
    labels[:], scores[:], groups[:] = False, 0.0, [1, 2]
    assert stream.compute() == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 1.0, 0.1])])
def test_a_saved_state_goes_on(kind, weights, tmp_path):
    groups = KINDS[kind](np.array([3, 3, -1, -1]))
    stream = _stream(([0, 1, 1, 0], [0.1, 0.4, 0.1, 0.2], groups, weights))
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    loaded = StreamingGroupedAUC()
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each in (stream, loaded):
        each.update([0, 1], [0.3, 1e-300], groups[1:3])
    assert loaded.compute() == stream.compute()
    assert loaded.group_aucs().group.tolist() == stream.group_aucs().group.tolist()


def test_a_state_without_rows_is_saved_too():
    stream, loaded = StreamingGroupedAUC(), _stream(([0, 1], [0, 1], [1, 1]))
    loaded.load_state_dict(stream.state_dict())
    assert loaded.rows == 0
    loaded.update([0, 1], [0, 1], ["a", "a"])
    assert loaded.compute() == 1.0


def test_reset_forgets_rows_and_kind():
    stream = _stream(([0, 1], [0, 1], [1, 1]))
    stream.reset()
    assert (stream.rows, stream.positives) == (0, 0)
    stream.update([0, 1], [1, 0], ["a", "a"])
    assert stream.compute() == 0.0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([0, 1], [0.1, np.nan], [1, 1]), "scores must not be NaN, got nan in row 1"),
        (([0, 1], [0.1, 0.2], [1]), r"groups must have one row per label \(2\), got 1"),
        (([0, 1], [0.1, 0.2], [1.5, 2]), "groups must be integers or strings, got float64"),
        (([0, 1], [0.1, 0.2], ["a", "b"]), "must be integers as in earlier rows, got strings"),
        (([0, 1], [0.1, 0.2], [b"a", b"b"]), "as in earlier rows, got byte strings"),
        (
            ([0, 1], [0.1, 0.2], np.array([1, 2**63], np.uint64)),
            r"must not be negative beside ids of 2\*\*63 or more, got both",
        ),
        (([0, 1], [0.1, 0.2], [1, 1], [1, -1]), "weights must be finite and not negative, got -1"),
    ],
)
def test_a_refused_batch_changes_nothing(batch, message):
    stream = _stream(([0, 1, 1], [0.3, 0.4, 0.2], [-1, -1, -1]))
    with pytest.raises(ValueError, match=message):
        stream.update(*batch)
    assert (stream.rows, stream.positives, stream.compute()) == (3, 2, 0.5)
    stream.update([0, 1], [0.1, 0.2], [7, 7])
    assert stream.rows == 5


def test_states_of_different_kinds_do_not_merge():
    numbers, names = _stream(([0, 1], [0, 1], [1, 1])), _stream(([0, 1], [0, 1], ["a", "a"]))
    with pytest.raises(ValueError, match="must be strings as in earlier rows, got integers"):
        names.merge(numbers)
    assert (names.rows, names.compute()) == (2, 1.0)


def test_merging_leaves_the_other_as_it_was():
    one, other = _stream(([0, 1], [0, 1], ["b", "b"])), _stream(([0, 1], [1, 0], ["a", "b"]))
    one.merge(other)
    one.update([0], [5.0], ["c"])
    assert other.rows == 2
    assert other.group_aucs().group.tolist() == ["a", "b"]
    assert one.group_aucs().impressions.tolist() == [1.0, 3.0, 1.0]


def test_what_has_no_value_is_refused():
    stream = StreamingGroupedAUC()
    with pytest.raises(ValueError, match="labels must not be empty, got 0 rows"):
        stream.compute()
    with pytest.raises(ValueError, match="must contain both classes, got 0 positives in 0 rows"):
        stream.auc()
    stream.update([1, 0], [0.1, 0.2], ["ann", "bob"])
    with pytest.raises(ValueError, match="groups must include one that counts, got 2"):
        stream.compute()
    with pytest.raises(ValueError, match="both classes, got one class in group 'ann'"):
        stream.compute(single_class="raise")
    with pytest.raises(ValueError, match=r"weighting must be 'impressions', .* got 'rows'"):
        stream.compute(weighting="rows")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(1)}, "state must have the tensors .*, got .*extra"),
        ({"groups": torch.zeros(2)}, "must hold groups as a vector of torch.int32 or torch.int64"),
        ({"labels": torch.zeros(3).bool()}, "as many keys as labels and groups, .* got 2 keys, 3"),
        ({"groups": torch.tensor([0, 9])}, "a name for each number"),
        ({"group_kind": torch.tensor([120], dtype=torch.uint8)}, "of kind 'x'"),
        (
            {
                "group_kind": torch.tensor([117], dtype=torch.uint8),
                "groups": torch.zeros(2, dtype=torch.int32),
            },
            "of kind 'u'",
        ),
        ({"name_ends": torch.tensor([1, 1, 2])}, "and 3 names"),
    ],
)
def test_a_foreign_state_is_refused(change, message):
    stream = _stream(([0, 1], [0.0, 1.0], ["aa", "aa"]))
    with pytest.raises(ValueError, match=message):
        stream.load_state_dict({**stream.state_dict(), **change})
    assert stream.compute() == 1.0


def _reduced(kind):
    generator = np.random.default_rng(0)
    labels = generator.random(5000) < 0.3
    scores = np.round(generator.standard_normal(5000), 2)
    groups, weights = KINDS[kind](generator.integers(-2, 40, 5000)), generator.random(5000)
    mine = slice(0, 1000) if dist.get_rank() else slice(1000, 5000)
    stream = _stream((labels[mine], scores[mine], groups[mine], weights[mine]))
    stream.all_reduce()
    return stream.compute(), stream.auc(), grouped_auc(labels, scores, groups, weights=weights)


@pytest.mark.parametrize("kind", ["small", "strings"])
def test_two_ranks_equal_one_process(ranks, kind):
    first, second = ranks.run(_reduced, kind)
    assert first == second
    assert first[0] == first[2]


def _one_has_no_rows():
    stream = StreamingGroupedAUC()
    if dist.get_rank() == 0:
        stream.update([0, 1, 1], [0.5, 0.5, 0.75], ["a", "a", "a"])
    stream.all_reduce(dist.group.WORLD)
    return stream.compute()


def test_a_rank_without_rows_takes_part(ranks):
    assert ranks.run(_one_has_no_rows) == [0.75, 0.75]


def _kinds_differ():
    groups = ["a", "a"] if dist.get_rank() else [1, 1]
    stream = _stream(([0, 1], [0.0, 1.0], groups))
    with pytest.raises(ValueError, match="groups must be integers as in earlier rows, got strings"):
        stream.all_reduce()
    return stream.rows


def test_ranks_of_different_kinds_refuse_together(ranks):
    assert ranks.run(_kinds_differ) == [2, 2]
