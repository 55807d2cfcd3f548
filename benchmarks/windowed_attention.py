"""Windowed attention against dense attention: speed at several shapes, growth with the length.

The peers are PyTorch's own ``scaled_dot_product_attention``, once with the boolean mask of the
window, which gives the same answer, and once causal over everything, which is the fastest dense
kernel there is. Forward and backward on one thread, seconds of that thread, rounds interleaved,
medians; outputs and gradients are compared with the masked peer before anything is timed. Peak
memory is what PyTorch's CPU allocator hands out during one forward and backward, as its profiler
records it: inputs and their gradients included, the interpreter not.

    python -m benchmarks.windowed_attention
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
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from sidrank.layers.attention_masks import window_mask
from sidrank.layers.windowed_attention import jagged_windowed_attention, windowed_attention

RESULTS = Path(__file__).parent / "results" / "windowed_attention.json"
WINDOW = 64
SHAPES = [(2, 16), (4, 16), (2, 32)]
GROWTH = [512, 1024, 2048, 4096, 8192, 16384]
Call = Callable[..., Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=8192, help="rows x length of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    for length in (32, 64, 128, 192, 256, 512, 2048, 8192):
        for heads, width in SHAPES:
            shape = (max(1, min(64, options.places // length)), heads, length, width)
            for padded in (False, True):
                if padded and length > 2048:
                    continue
                rows.append(measure(shape, padded=padded, rounds=options.rounds))
                print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python -m benchmarks.windowed_attention",
        "window": WINDOW,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
        "growth": growth(options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report["growth"], indent=2))


def measure(shape: tuple[int, ...], *, padded: bool, rounds: int) -> dict[str, Any]:
    """Ours and the peers; with padding only the masked peer gives the right answer."""
    rows, heads, length, width = shape
    x = heads_of(*shape)
    mask = torch.rand(rows, length) < 0.8 if padded else None
    seen = visible(x[0], mask)  # the peer has it ready; ours makes its own each time
    calls = {
        "ours": lambda q, k, v: windowed_attention(q, k, v, window=WINDOW, mask=mask),
        "masked": lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=seen),
        "causal": lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    difference = largest_difference(calls["ours"], calls["masked"], x)
    assert difference < 1e-5, (shape, padded, difference)
    # a short call is repeated until it is long enough for the clock
    repeats = max(1, 2_000_000 // (rows * length * min(length, 512)))
    seconds = interleaved(calls, x, rounds=rounds, repeats=repeats)
    found = {
        "rows": rows,
        "heads": heads,
        "length": length,
        "width": width,
        "padded": padded,
        "difference": difference,
        "milliseconds": {name: 1000 * seconds[name] for name in seconds},
    }
    for name in ("masked", "causal"):
        found[f"{name} / ours"] = seconds[name] / seconds["ours"]
    return found


def heads_of(rows: int, heads: int, length: int, width: int) -> list[Tensor]:
    """Queries, keys and values laid out as a linear layer leaves them."""
    flat = torch.randn(3, rows, length, heads, width)
    return [part.transpose(1, 2).requires_grad_() for part in flat]


def visible(query: Tensor, mask: Tensor | None) -> Tensor:
    window = window_mask(query, WINDOW)
    return window if mask is None else window & mask[:, None, None]


def largest_difference(first: Call, second: Call, x: list[Tensor]) -> float:
    results = []
    for call in (first, second):
        context = call(*x)
        weights = torch.linspace(-1, 1, context.numel()).view_as(context)
        results.append([context, *torch.autograd.grad(context, x, weights)])
    return max(float((a - b).abs().max().detach()) for a, b in zip(*results, strict=True))


def interleaved(
    calls: dict[str, Call], x: list[Tensor], *, rounds: int, repeats: int = 1
) -> dict[str, float]:
    upstream = torch.randn_like(x[0])
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(repeats):
                torch.autograd.grad(call(*x), x, upstream)
            if turn:  # the first one warms up
                seconds[name].append((time.process_time() - start) / repeats)
    return {name: statistics.median(times) for name, times in seconds.items()}


def growth(rounds: int) -> dict[str, Any]:
    """Time and peak memory of one row of 4 heads x 16 as it grows, padded and jagged."""
    cases = {length: heads_of(1, 4, length, 16) for length in GROWTH}
    seconds: dict[str, list[float]] = {"windowed": [], "jagged": []}
    peaks: dict[str, list[int]] = {"windowed": [], "jagged": []}
    for length, x in cases.items():
        mask = torch.rand(1, length) < 0.8
        offsets = torch.tensor([0, length // 3, length])

        def jagged(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor = offsets) -> Tensor:
            flat = (part[0].transpose(0, 1) for part in (q, k, v))
            read = jagged_windowed_attention(*flat, offsets, window=WINDOW)
            return read.transpose(0, 1).unsqueeze(0)

        calls: dict[str, Call] = {
            "windowed": lambda q, k, v, mask=mask: windowed_attention(
                q, k, v, window=WINDOW, mask=mask
            ),
            "jagged": jagged,
        }
        found = interleaved(calls, x, rounds=2 * rounds, repeats=max(1, 4096 // length))
        for name, call in calls.items():
            seconds[name].append(found[name])
            peaks[name].append(peak_bytes(call, x))
    return {
        "heads": 4,
        "width": 16,
        "lengths": GROWTH,
        "milliseconds": {name: [1000 * value for value in seconds[name]] for name in seconds},
        "peak_mib": {name: [value / 2**20 for value in peaks[name]] for name in peaks},
        "time_slope": {name: slope(seconds[name]) for name in seconds},
        "memory_slope": {name: slope(peaks[name]) for name in peaks},
    }


def peak_bytes(call: Call, x: list[Tensor]) -> int:
    """The largest sum of what is allocated and not yet freed, inputs included."""
    upstream = torch.randn_like(x[0])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        gradients = torch.autograd.grad(call(*x), x, upstream)
        del gradients
    events = [event for event in record.profiler.kineto_results.events() if is_memory(event)]
    held = sum(part.numel() * part.element_size() for part in [*x, upstream])
    now, peak = held, held
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def is_memory(event: Any) -> bool:
    return event.name() == "[memory]"


def slope(values: list[float] | list[int]) -> float:
    return float(np.polyfit(np.log(GROWTH), np.log(values), 1)[0])


if __name__ == "__main__":
    main()
