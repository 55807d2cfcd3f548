"""Chunks between the largest gaps, and of one length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.sequences.time_chunks import EqualChunker, TimeChunker
from tests.sequences import reference_sparse as reference

behaviour = st.tuples(st.booleans(), st.integers(-20, 20))
histories = st.lists(behaviour, max_size=12)
each_chunker = pytest.mark.parametrize("chunker", [TimeChunker, EqualChunker])
FIRST, LAST = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max


def columns(behaviours):
    real, times = map(list, zip(*behaviours, strict=True)) if behaviours else ([], [])
    return real, times


def chunks(chunker, real, times):
    return chunker(torch.tensor([real], dtype=torch.bool), torch.tensor([times]).long())[0].tolist()


def expected(chunker, real, times, num_chunks):
    order = reference.in_time_order(real, times)
    if chunker is TimeChunker:
        found = reference.time_chunks([times[i] for i in order], num_chunks)
    else:
        found = reference.equal_chunks(len(order), num_chunks)
    answer = [-1] * len(real)
    for place, chunk in zip(order, found, strict=True):
        answer[place] = chunk
    return answer


@each_chunker
@given(histories, st.integers(1, 14))
def test_equals_a_loop(chunker, behaviours, num_chunks):
    """Unsorted, with ties, with padding anywhere, fewer behaviours than chunks, or none."""
    real, times = columns(behaviours)
    found = chunks(chunker(num_chunks=num_chunks), real, times)
    assert found == expected(chunker, real, times, num_chunks)


@each_chunker
@given(histories, st.integers(1, 14))
def test_as_many_as_asked_if_there_are_behaviours_enough(chunker, behaviours, num_chunks):
    real, times = columns(behaviours)
    found = chunks(chunker(num_chunks=num_chunks), real, times)
    assert len(set(found) - {-1}) == min(num_chunks, sum(real))


@each_chunker
def test_padding_may_hold_any_time(chunker):
    mask, times = torch.tensor([[False, True, True, False, True]]), torch.tensor([[0, 7, 8, 0, 99]])
    plain = chunker(num_chunks=2)(mask, times)
    for junk in (FIRST, LAST, 8):
        assert torch.equal(chunker(num_chunks=2)(mask, times.masked_fill(~mask, junk)), plain)


@each_chunker
def test_rows_have_chunks_of_their_own(chunker):
    mask, times = torch.rand(5, 9) < 0.7, torch.randint(0, 99, (5, 9))
    together = chunker(num_chunks=4)(mask, times)
    for row in range(5):
        one = chunker(num_chunks=4)(mask[row : row + 1], times[row : row + 1])
        assert torch.equal(one[0], together[row])


def test_only_gaps_count_not_the_clock():
    mask, times = torch.ones(4, 30).bool(), torch.randint(0, 10**6, (4, 30))
    plain = TimeChunker(num_chunks=7)(mask, times)
    assert torch.equal(TimeChunker(num_chunks=7)(mask, 3 * times - 10**9), plain)


def test_of_equal_gaps_the_latest_is_cut():
    assert chunks(TimeChunker(num_chunks=3), [True] * 5, [0, 10, 20, 30, 40]) == [0, 0, 0, 1, 2]


def test_sessions_come_back_whole():
    """Short gaps within sessions, long ones between them: chunks are the sessions."""
    sessions = torch.repeat_interleave(torch.arange(5), torch.tensor([3, 1, 6, 2, 4]))
    times = 10_000 * sessions + torch.randint(0, 600, (16,)).sort().values
    shuffled = torch.randperm(16)
    found = TimeChunker(num_chunks=5)(torch.ones(1, 16).bool(), times[shuffled].unsqueeze(0))
    assert torch.equal(found[0], sessions[shuffled])
    equal = EqualChunker(num_chunks=5)(torch.ones(1, 16).bool(), times[shuffled].unsqueeze(0))
    assert not torch.equal(equal[0], sessions[shuffled])


def test_shuffled_times_lose_what_gaps_gave():
    """Share of neighbours in a chunk that are of one session."""
    lengths = torch.randint(1, 9, (400, 8))
    shares = {"gaps": [], "equal": [], "shuffled": []}
    for row in lengths:
        session = torch.repeat_interleave(torch.arange(8), row)
        length = len(session)
        times = (10_000 * session + torch.randint(0, 600, (length,))).sort().values
        # gaps of the same sizes between other behaviours
        gaps = times.diff()[torch.randperm(length - 1)]
        shuffled = torch.cat([times[:1], times[0] + gaps.cumsum(0)])
        for name, chunker, when in (
            ("gaps", TimeChunker(num_chunks=8), times),
            ("equal", EqualChunker(num_chunks=8), times),
            ("shuffled", TimeChunker(num_chunks=8), shuffled),
        ):
            chunk = chunker(torch.ones(1, length).bool(), when.unsqueeze(0))[0]
            together = chunk[1:] == chunk[:-1]
            same = (session[1:] == session[:-1])[together]
            shares[name].append(same.float().mean().item() if len(same) else 1.0)
    mean = {name: sum(values) / len(values) for name, values in shares.items()}
    assert mean["gaps"] == 1.0
    assert mean["equal"] < 0.95
    assert abs(mean["shuffled"] - mean["equal"]) < 0.1


def test_equal_chunks_differ_by_one_at_most():
    for length in range(1, 40):
        found = chunks(EqualChunker(num_chunks=6), [True] * length, list(range(length)))
        sizes = [found.count(chunk) for chunk in set(found)]
        assert max(sizes) - min(sizes) <= 1


@each_chunker
def test_last_instant_of_all_is_a_behaviour_all_the_same(chunker):
    mask, times = torch.tensor([[False, True, True]]), torch.tensor([[LAST, 5, LAST]])
    assert chunker(num_chunks=2)(mask, times).tolist() == [[-1, 0, 1]]


@each_chunker
def test_no_rows_and_no_behaviours(chunker):
    for shape in ((0, 3), (2, 0), (0, 0)):
        found = chunker(num_chunks=2)(torch.ones(shape).bool(), torch.zeros(shape).int())
        assert found.shape == shape
        assert found.dtype == torch.int64


@each_chunker
class TestErrors:
    def test_no_chunks(self, chunker):
        with pytest.raises(ValueError, match="num_chunks must be at least 1, got 0"):
            chunker(num_chunks=0)

    def test_mask_of_numbers(self, chunker):
        with pytest.raises(ValueError, match=r"mask must be bool, got torch.int64"):
            chunker(num_chunks=2)(torch.ones(1, 2).long(), torch.zeros(1, 2).long())

    def test_times(self, chunker):
        mask = torch.ones(1, 2).bool()
        with pytest.raises(ValueError, match=r"times must be int32 or int64, got torch.float32"):
            chunker(num_chunks=2)(mask, torch.zeros(1, 2))
        with pytest.raises(ValueError, match=r"times must have shape \[1, 2\], got \[1, 3\]"):
            chunker(num_chunks=2)(mask, torch.zeros(1, 3).long())
