"""NeuralNDCG against the same formula written down: list by list, and as one padded batch.

Both peers let autograd remember every scaled matrix. Forward and backward on one thread, seconds
of that thread, rounds interleaved, medians; losses and gradients are compared before anything is
timed. Memory is the peak of what PyTorch's CPU allocator hands out during one forward and
backward, as its profiler records it: inputs and their gradients included, the interpreter not.

    python -m benchmarks.neural_ndcg
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sidrank.losses.neural_ndcg import neural_ndcg
from sidrank.losses.request_lists import request_ids

RESULTS = Path(__file__).parent / "results" / "neural_ndcg.json"
GROWTH, GROWTH_LENGTH = [64, 128, 256, 512, 1024, 2048, 4096], 50
PADDED_LISTS = 128  # beyond, what autograd remembers of one padded batch does not fit
SHAPES = {"1,024 x 100": 1024 * [100], "256 x 20": 256 * [20]}
Call = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    jagged = (1 + 199 * torch.rand(128) ** 3).int().tolist()
    rows = []
    for name, lengths in {**SHAPES, "128 x 1 to 200": jagged}.items():
        rows.append(measure(name, lengths, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python -m benchmarks.neural_ndcg",
        "temperature": 1.0,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
        "growth": growth(options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report["growth"], indent=2))


class Batch:
    """Rows of lists of the given lengths, and the three ways to their loss."""

    def __init__(self, lengths: list[int]) -> None:
        self.ends = np.cumsum([0, *lengths]).tolist()
        count = self.ends[-1]
        self.logits = torch.randn(count, requires_grad=True)
        self.labels = (torch.rand(count) < 0.05).float()
        self.requests = request_ids(torch.tensor(self.ends))
        self.real = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)

    def ours(self, logits: Tensor) -> Tensor:
        return neural_ndcg(logits, self.labels, self.requests)

    def loop(self, logits: Tensor) -> Tensor:
        values = []
        for begin, end in zip(self.ends, self.ends[1:], strict=False):
            if self.labels[begin:end].any():
                values.append(smooth_ndcg(logits[begin:end], self.labels[begin:end]))
        return -torch.stack(values).mean()

    def padded(self, logits: Tensor) -> Tensor:
        s = torch.zeros(self.real.shape).masked_scatter(self.real, logits)
        y = torch.zeros(self.real.shape).masked_scatter(self.real, self.labels)
        return -padded_ndcg(s, y, self.real)


def smooth_ndcg(s: Tensor, y: Tensor) -> Tensor:
    """One list, as the formula has it."""
    rank = torch.arange(1, len(s) + 1)
    gain, discount = y.exp2() - 1, (rank + 1).log2().reciprocal()
    distance = (s.unsqueeze(0) - s.unsqueeze(1)).abs().sum(dim=1)
    p = ((len(s) + 1 - 2 * rank).unsqueeze(1) * s - distance).softmax(dim=1)
    for _ in range(50):
        p = p / p.sum(dim=0, keepdim=True)
        p = p / p.sum(dim=1, keepdim=True)
        if (p.sum(dim=0) - 1).abs().max() < 1e-6:
            break
    return (discount * (p @ gain)).sum() / (discount * gain.sort(descending=True).values).sum()


def padded_ndcg(s: Tensor, y: Tensor, real: Tensor) -> Tensor:
    """All lists at once; places without a row are an identity of their own."""
    rank, lengths = torch.arange(1, s.shape[1] + 1), real.sum(dim=1, keepdim=True)
    gain, discount = y.exp2() - 1, (rank + 1).log2().reciprocal()
    distance = ((s.unsqueeze(1) - s.unsqueeze(2)).abs() * real.unsqueeze(1)).sum(dim=2)
    z = (lengths + 1 - 2 * rank).unsqueeze(2) * s.unsqueeze(1) - distance.unsqueeze(1)
    p = z.masked_fill(~real.unsqueeze(1), -torch.inf).softmax(dim=2) * real.unsqueeze(2)
    p = p + torch.diag_embed(~real)
    for _ in range(50):
        p = p / p.sum(dim=1, keepdim=True)
        p = p / p.sum(dim=2, keepdim=True)
        if (p.sum(dim=1) - 1).abs().max() < 1e-6:
            break
    ideal = (discount * gain.sort(dim=1, descending=True).values).sum(dim=1)
    found = (discount * real * (p @ gain.unsqueeze(2)).squeeze(2)).sum(dim=1)
    return (found[ideal > 0] / ideal[ideal > 0]).mean()


def measure(name: str, lengths: list[int], rounds: int) -> dict[str, Any]:
    batch = Batch(lengths)
    calls = {"ours": batch.ours, "loop": batch.loop}
    differences = compared(calls, batch.logits)
    seconds = interleaved(calls, batch.logits, rounds=rounds)
    return {
        "lists": name,
        "rows": len(batch.logits),
        **differences,
        "seconds": seconds,
        "loop / ours": seconds["loop"] / seconds["ours"],
    }


def compared(calls: dict[str, Call], logits: Tensor) -> dict[str, float]:
    """How far the peer is from ours: the loss, and the gradient in shares of its largest."""
    losses = [call(logits) for call in calls.values()]
    slopes = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    scale = slopes[0].abs().max()
    loss = max(float((losses[0] - other).abs().detach()) for other in losses[1:])
    slope = max(float((slopes[0] - other).abs().max() / scale) for other in slopes[1:])
    assert loss < 1e-5, loss
    assert slope < 1e-3, slope
    return {"loss_difference": loss, "slope_difference": slope}


def interleaved(calls: dict[str, Call], logits: Tensor, *, rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):  # the comparison before has warmed up
        for name, call in calls.items():
            start = time.process_time()
            torch.autograd.grad(call(logits), logits)
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def growth(rounds: int) -> dict[str, Any]:
    """Time and peak memory as the number of lists grows."""
    found: dict[str, Any] = {"lists": GROWTH, "length": GROWTH_LENGTH}
    seconds, peaks, padded = [], [], []
    for count in GROWTH:
        batch = Batch(count * [GROWTH_LENGTH])
        calls: dict[str, Call] = {"ours": batch.ours}
        calls["ours"](batch.logits)
        if count <= PADDED_LISTS:
            compared({**calls, "padded": batch.padded}, batch.logits)
            calls["padded"] = batch.padded
            padded.append(peak_bytes(batch.padded, batch.logits) / 2**20)
        seconds.append(interleaved(calls, batch.logits, rounds=rounds))
        peaks.append(peak_bytes(batch.ours, batch.logits) / 2**20)
    found["seconds"] = seconds
    found["peak_mib"] = peaks
    found["padded_peak_mib"] = padded
    found["time_slope"] = slope([each["ours"] for each in seconds])
    found["memory_slope"] = slope(peaks)
    return found


def peak_bytes(call: Call, logits: Tensor) -> int:
    """The largest sum of what is allocated and not yet freed, inputs included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        slopes = torch.autograd.grad(call(logits), logits)
        del slopes
    events = [event for event in record.profiler.kineto_results.events() if is_memory(event)]
    now = peak = 16 * logits.numel()  # logits and labels of 4 bytes, requests of 8
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def is_memory(event: Any) -> bool:
    return event.name() == "[memory]"


def slope(values: list[float]) -> float:
    return float(np.polyfit(np.log(GROWTH), np.log(values), 1)[0])


if __name__ == "__main__":
    main()
