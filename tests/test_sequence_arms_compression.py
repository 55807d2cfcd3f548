"""Arms about compression tokens: what may pass passes, and nothing else."""

from dataclasses import replace

import pytest
import torch

from benchmarks.sequence_arms_compression import (
    ARMS,
    MOVIELENS,
    FullHistory,
    RecentHistory,
    WindowRanker,
    stack,
    window_of,
)
from benchmarks.sequence_logs import planted_rows
from benchmarks.sequence_rows import SequenceBatch, SequenceRows
from benchmarks.sequence_settings import SETTINGS
from benchmarks.sequence_training import Recipe, predict, train
from benchmarks.sequence_windows import windows
from sidrank.data.planted_sequences import SequenceSettings, plant_sequences
from sidrank.sequences.compression_tokens import CompressionTokens


@pytest.fixture(scope="module")
def rows() -> SequenceRows:
    scale = SETTINGS["long_brief"].scale
    return planted_rows(plant_sequences(SequenceSettings(users=12, requests=6, **scale)))


def changed(rows: SequenceRows, row: int, *, old: bool) -> SequenceRows:
    """Another topic for all of the user's events from the row on, or for the first few."""
    user = int(rows.user[row])
    first, seen = int(rows.first[user]), int(rows.seen[row])
    last = int(rows.first[user + 1])
    topic = rows.events["topic"].clone()
    part = slice(first, first + 40) if old else slice(seen, last)
    assert len(topic[part])
    topic[part] = topic[part] % 12 + 1
    return replace(rows, events=rows.events | {"topic": topic})


def logits(name: str, rows: SequenceRows, which: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    model = ARMS[name].build(rows, 0)
    return torch.from_numpy(predict(model, rows, which))


@pytest.mark.parametrize("name", ARMS)
def test_rows_are_blind_to_each_other_and_to_what_comes_later(
    rows: SequenceRows, name: str
) -> None:
    every = torch.arange(len(rows))
    found = logits(name, rows, every)
    assert found.isfinite().all()
    alone = torch.cat([logits(name, rows, row.view(1)) for row in every[:6]])
    torch.testing.assert_close(alone, found[:6], atol=1e-5, rtol=0)
    later = logits(name, changed(rows, 0, old=False), every[:1])
    torch.testing.assert_close(later, found[:1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ARMS)
def test_old_events_reach_the_row_where_something_carries_them(
    rows: SequenceRows, name: str
) -> None:
    row = torch.tensor([5])
    difference = logits(name, rows, row) - logits(name, changed(rows, 5, old=True), row)
    passes = name not in {"compression_recent", "compression_strangers"}
    assert (difference.abs() > 1e-6).item() == passes


def test_without_learned_tokens_it_is_the_recent_history() -> None:
    torch.manual_seed(0)
    recent = RecentHistory(10)
    none = CompressionTokens(blocks=stack(), insert=[(10, 0)])
    none.blocks.load_state_dict(recent.blocks.state_dict())
    x, mask = torch.randn(3, 17, 32), torch.arange(17) < torch.tensor([[17], [12], [4]])
    torch.testing.assert_close(recent(x, mask), none(x, mask), atol=1e-5, rtol=0)


def test_in_the_full_history_recent_reads_old() -> None:
    torch.manual_seed(0)
    full, recent = FullHistory(), RecentHistory(10)
    recent.load_state_dict(full.state_dict())
    x, mask = torch.randn(2, 15, 32), torch.ones(2, 15).bool()
    torch.testing.assert_close(full(x, mask)[:, :10], recent(x, mask)[:, :10])
    assert ((full(x, mask) - recent(x, mask))[:, 10:].abs().amax(dim=2) > 1e-3).all()


def test_strangers_lend_old_events_alone(rows: SequenceRows) -> None:
    which = torch.tensor([0, 5, 13])
    start = rows.first[rows.user[which]]
    own = windows(rows, which, start=start, size=150)
    lent = windows(rows, which, start=start, size=150, strangers=60)
    for name, values in own.events.fields.items():
        assert torch.equal(values[:, 60:], lent.events.fields[name][:, 60:])
    assert torch.equal(own.before, lent.before)
    other = windows(rows, torch.tensor([36]), start=rows.first[6:7], size=60)  # user 6 of 12
    assert torch.equal(lent.events.times[0, :60], other.events.times[0])


def test_a_full_window_moves_by_its_stride(rows: SequenceRows) -> None:
    real = replace(rows, name="movielens")
    assert window_of(real) == (2 * MOVIELENS, MOVIELENS, MOVIELENS)
    full = torch.nonzero(rows.seen - rows.first[rows.user] > 2 * MOVIELENS)[:3, 0]
    torch.manual_seed(0)
    model = WindowRanker(real, FullHistory())
    before = predict(model, real, full)
    model.rows = replace(changed(rows, int(full[0]), old=True), name="movielens")  # 40 oldest
    assert predict(model, real, full)[0] == pytest.approx(before[0], abs=1e-6)


def test_together_means_a_user_at_a_time(rows: SequenceRows) -> None:
    seen: list[int] = []

    class Spy(WindowRanker):
        def loss(self, batch: SequenceBatch) -> torch.Tensor:
            seen.extend(batch.user.tolist())
            return self(batch).square().mean()

    torch.manual_seed(0)
    train(Spy(rows, FullHistory()), rows, Recipe(batch=7, epochs=1, together=True), seed=4)
    runs = [user for at, user in enumerate(seen) if at == 0 or seen[at - 1] != user]
    assert len(runs) == len(set(runs))
    assert runs != sorted(runs)
