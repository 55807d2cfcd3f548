"""Arms about sparse attention: rows are blind, and the controls differ in the cuts alone."""

from dataclasses import replace

import pytest
import torch

from benchmarks.sequence_arms_sparse import (
    ARMS,
    CHUNKS,
    LENGTH,
    REFRESH,
    DenseAttention,
    ShuffledChunker,
    places,
    read_windows,
)
from benchmarks.sequence_logs import planted_rows
from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_training import predict
from sidrank.data.planted_sequences import SequenceSettings, plant_sequences
from sidrank.sequences.time_chunks import TimeChunker


@pytest.fixture(scope="module")
def rows() -> SequenceRows:
    settings = SequenceSettings(users=12, requests=6, old_sessions=(2, 4), new_sessions=(10, 20))
    return planted_rows(plant_sequences(settings))


def logits(name: str, rows: SequenceRows, which: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.from_numpy(predict(ARMS[name].build(rows, 0), rows, which))


@pytest.mark.parametrize("name", ARMS)
def test_rows_are_blind_to_each_other_and_to_what_comes_later(
    rows: SequenceRows, name: str
) -> None:
    every = torch.arange(len(rows))
    found = logits(name, rows, every)
    assert found.isfinite().all()
    alone = torch.cat([logits(name, rows, row.view(1)) for row in every[:4]])
    torch.testing.assert_close(alone, found[:4], atol=1e-5, rtol=0)
    first, seen = int(rows.first[0]), int(rows.seen[0])
    end = seen - (seen - first) % REFRESH
    for part, moves in (
        (slice(seen, int(rows.first[1])), False),
        (slice(end - REFRESH, end), True),
    ):
        topic = rows.events["topic"].clone()
        topic[part] = topic[part] % 12 + 1
        other = logits(name, replace(rows, events=rows.events | {"topic": topic}), every[:1])
        assert ((other - found[:1]).abs() > 1e-6).item() == moves


@pytest.mark.parametrize("name", ARMS)
def test_a_user_without_a_past_is_scored(rows: SequenceRows, name: str) -> None:
    nothing = replace(rows, seen=rows.first[rows.user])
    assert logits(name, nothing, torch.arange(9)).isfinite().all()


def test_windows_end_at_the_last_refresh(rows: SequenceRows) -> None:
    every = torch.arange(len(rows))
    found = read_windows(rows, every)
    known = rows.seen - rows.first[rows.user]
    count = found.events.mask.sum(dim=1)[found.of_row]
    assert torch.equal(count, (known - known % REFRESH).clamp(max=LENGTH))
    newest = found.events.times.amax(dim=1)[found.of_row]
    assert (newest < rows.time).all()
    assert torch.equal(found.user[found.of_row], rows.user)


def test_places_number_the_rows_of_a_window() -> None:
    assert places(torch.tensor([2, 0, 2, 1, 2])).tolist() == [0, 0, 1, 0, 2]


def test_shuffled_times_cut_as_often_elsewhere(rows: SequenceRows) -> None:
    events = read_windows(rows, torch.arange(len(rows))).events
    cuts = [
        kind(num_chunks=CHUNKS).of_ordered(events.mask, events.times)
        for kind in (TimeChunker, ShuffledChunker)
    ]
    assert torch.equal(cuts[0].amax(dim=1), cuts[1].amax(dim=1))
    for chunks in cuts:  # one after another, none left out
        steps = chunks.diff(dim=1)[events.mask[:, 1:]]
        assert set(steps.tolist()) == {0, 1}
    ends = [chunks.diff(dim=1)[events.mask[:, 1:]] == 1 for chunks in cuts]
    assert (ends[0] & ends[1]).sum() < 0.5 * ends[0].sum()
    again = ShuffledChunker(num_chunks=CHUNKS).of_ordered(events.mask[:1], events.times[:1])
    assert torch.equal(again, cuts[1][:1])


def test_the_sparse_arms_are_of_one_size(rows: SequenceRows) -> None:
    sizes = {
        name: sum(each.numel() for each in ARMS[name].build(rows, 0).parameters())
        for name in ("sparse_time", "sparse_equal", "sparse_shuffled")
    }
    assert len(set(sizes.values())) == 1


def test_dense_attention_equals_a_loop() -> None:
    torch.manual_seed(0)
    attention = DenseAttention()
    x, candidates = torch.randn(1, 5, 32), torch.randn(1, 2, 32)
    mask = torch.tensor([[True, True, False, True, True]])
    times, now = torch.tensor([[3, 9, 0, 50, 51]]), torch.tensor([60])
    states, answers = attention(x, candidates, mask, times, now)

    def read(query: torch.Tensor, keys: list[torch.Tensor], ago: list[int]) -> torch.Tensor:
        asked = attention.query(query) / 32**0.5
        bias = attention.bias(torch.tensor([0]), -torch.tensor(ago))[0, 0]
        scores = torch.stack([asked @ attention.key(key) for key in keys]) + bias
        context = torch.softmax(scores, 0) @ torch.stack([attention.value(key) for key in keys])
        return attention.out(torch.sigmoid(attention.gate(query)) * context)

    torch.nn.init.zeros_(attention.bias.hour)
    expected = read(x[0, 3], [x[0, 0], x[0, 1], x[0, 3]], [47, 41, 0])
    torch.testing.assert_close(states[0, 3], expected, atol=1e-5, rtol=0)
    assert not states[0, 2].any()
    real = [x[0, at] for at in (0, 1, 3, 4)]
    expected = read(candidates[0, 1], real, [57, 51, 10, 9])
    torch.testing.assert_close(answers[0, 1], expected, atol=1e-5, rtol=0)
