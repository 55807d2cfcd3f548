import numpy as np
import pytest
import torch

from sidrank.tokenizers._epochs import Batch, Training, run_epochs


def trace(count, training, pairs=None):
    """What each step saw, and where a number that always wants to fall was before it."""
    number, codeword = torch.ones(1), torch.ones(1)
    seen: list[tuple[Batch, float, float]] = []

    def loss_of(batch):
        seen.append((batch, number.item(), codeword.item()))
        return (number + codeword).sum()

    run_epochs(
        torch.arange(float(count)).unsqueeze(1),
        pairs,
        training=training,
        networks=[number],
        codewords=[codeword],
        codeword_step=3.0,
        loss_of=loss_of,
        rng=np.random.default_rng(0),
        progress=None,
    )
    return seen


@pytest.mark.parametrize(("count", "size"), [(10, 10), (300, 64), (20_000, 200), (300_000, 1024)])
def test_a_batch_is_a_hundredth_of_the_items_within_bounds(count, size):
    seen = trace(count, Training(epochs=1))
    assert len(seen[0][0].x) == size
    assert torch.equal(
        torch.cat([b.x for b, _, _ in seen]).sort(dim=0)[0][:, 0], torch.arange(count)
    )


def test_the_step_fades_over_the_last_fifth():
    seen = trace(10, Training(epochs=100, batch_size=10, learning_rate=1e-4))
    # Adam moves by its step along a gradient that never changes
    steps = -np.diff([number for _, number, _ in seen])
    expected = 1e-4 * np.minimum(1.0, (1.0 - np.arange(99) / 100) / 0.2)
    assert steps == pytest.approx(expected, abs=3e-7)
    codeword_steps = -np.diff([codeword for _, _, codeword in seen])
    assert codeword_steps == pytest.approx(3 * expected, abs=3e-7)
    assert [batch.elapsed for batch, _, _ in seen] == pytest.approx(np.arange(100) / 100)


def test_pairs_come_in_turn():
    pairs = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])
    seen = trace(10, Training(epochs=5, batch_size=4), pairs)
    joined = torch.cat([batch.pairs for batch, _, _ in seen])
    counts = (joined.unsqueeze(1) == pairs).all(dim=2).sum(dim=0)
    assert int(counts.max() - counts.min()) <= 1
    for batch, _, _ in seen:
        assert torch.equal(batch.paired[:, :, 0].T, batch.pairs.float())
