"""What sparse attention over time chunks costs as histories grow: pairs, operations, time.

* ``sparse``: ``EvolutionarySparseAttention``, whole: sorting, chunks, projections, three branches,
  gates, the bias of moments, candidates;
* ``dense, fused``: causal ``scaled_dot_product_attention`` of as many heads behind the same four
  projections, without a bias, which its fast kernel does not take with a gradient;
* ``dense with bias``: the same with the bias of every pair of moments as its mask.

Forward and backward. First, with a chunk for each behaviour and a window over all of them, every
branch of the sparse module must equal dense attention. Pairs are counted twice: those that a
query may see, from the definition, and those that went through a softmax, by watching it.

    python -m benchmarks.evolutionary_attention
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
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sidrank.sequences.evolutionary_attention import EvolutionarySparseAttention
from sidrank.sequences.rel_temporal_bias import RelTemporalBias
from sidrank.sequences.time_chunks import TimeChunker

RESULTS = Path(__file__).parent / "results" / "evolutionary_attention.json"
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
BIASED = 2048  # longer, the biases of all pairs do not fit beside each other
DIM, HEADS, CHUNKS, LAST, WINDOW, CANDIDATES = 64, 4, 32, 2, 64, 8
NOW = 10**8


class Dense(nn.Module):
    """The same projections around dense causal attention."""

    def __init__(self, sparse: EvolutionarySparseAttention, bias: RelTemporalBias | None) -> None:
        super().__init__()
        self.query, self.key, self.value = sparse.query, sparse.key, sparse.value
        self.out, self.bias = sparse.out, bias

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        query, key, value = (
            linear(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        if self.bias is None:
            context = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            later = torch.ones(x.shape[1], x.shape[1]).bool().triu(1)
            mask = self.bias(times, times).masked_fill(later, float("-inf"))
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(context.transpose(1, 2).flatten(2))


class Pairs(TorchDispatchMode):
    """Numbers that went through a softmax."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        answer = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._softmax.default:
            self.count += answer.numel()
        return answer


def module(
    *, chunks: int = CHUNKS, last: int = LAST, window: int = WINDOW, bias: bool = True
) -> EvolutionarySparseAttention:
    return EvolutionarySparseAttention(
        dim=DIM,
        num_heads=HEADS,
        chunker=TimeChunker(num_chunks=chunks),
        window=window,
        last=last,
        bias=RelTemporalBias(num_heads=HEADS) if bias else None,
    )


def example(length: int) -> tuple[Tensor, ...]:
    x = torch.randn(1, length, DIM, requires_grad=True)
    times = torch.randint(0, NOW, (1, length)).sort().values
    mask = torch.ones(1, length, dtype=torch.bool)
    return x, torch.randn(1, CANDIDATES, DIM), mask, times, torch.tensor([NOW])


def check(length: int = 256) -> None:
    """Chunks of one and a window over all: each branch equals dense attention."""
    ours = module(chunks=length, last=1, window=length, bias=False)
    x, *rest = example(length)
    visible = torch.ones(length, length).bool().tril()
    query, key, value = (
        linear(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
        for linear in (ours.query, ours.key, ours.value)
    )
    upto, before = (
        functional.scaled_dot_product_attention(query[:, :, 1:], key, value, attn_mask=each[1:])
        for each in (visible, visible.tril(-1))
    )
    gates = torch.sigmoid(ours.gate(x)).unflatten(2, (3, HEADS)).permute(2, 0, 3, 1).unsqueeze(4)
    gates = gates[:, :, :, 1:]
    context = (gates[0] + gates[1]) * before + gates[2] * upto
    expected = ours.out(context.transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours(x, *rest)[0][:, 1:], expected)


def visible_pairs(chunks: Tensor) -> int:
    """What the definition lets the behaviours of one row see, branch by branch."""
    sizes = torch.bincount(chunks, minlength=CHUNKS)
    ends = sizes.clamp(max=LAST).cumsum(0)
    transitions = torch.cat([ends.new_zeros(1), ends])[chunks]
    local = torch.arange(1, len(chunks) + 1).clamp(max=WINDOW)
    return int((chunks + transitions + local).sum())


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of processor time of each call on its one thread, the calls taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measured(length: int, rounds: int) -> dict[str, Any]:
    ours = module()
    given = example(length)
    fused, biased = Dense(ours, None), Dense(ours, ours.bias)

    def sparse() -> None:
        states, answers = ours(*given)
        (states.sum() + answers.sum()).backward()

    calls: dict[str, Callable[[], object]] = {
        "sparse": sparse,
        "dense, fused": lambda: fused(given[0], given[3]).sum().backward(),
    }
    if length <= BIASED:
        calls["dense with bias"] = lambda: biased(given[0], given[3]).sum().backward()
    operations = {}
    for name in ("sparse", "dense, fused"):
        # the fused kernel is not counted; the plain one multiplies all it does, and more
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            calls[name]()
        operations[name] = counter.get_total_flops()
    with Pairs() as pairs:
        ours(*given)
    return {
        "length": length,
        "bound": length * (CHUNKS + LAST * CHUNKS + WINDOW),
        "visible": visible_pairs(ours.chunker(given[2], given[3])[0]),
        "computed": pairs.count // HEADS,
        "dense": length * (length + 1) // 2,
        "flops": operations,
        "milliseconds": {n: 1000 * s for n, s in interleaved(calls, rounds).items()},
    }


def slope(lengths: list[int], costs: list[float]) -> float:
    return float(np.polyfit(np.log(lengths), np.log(costs), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check()
    rows = [measured(length, options.rounds) for length in LENGTHS]
    slopes = {
        name: slope([row["length"] for row in rows], [row[name] for row in rows])
        for name in ("visible", "computed", "dense")
    }
    for what in ("flops", "milliseconds"):
        for name in ("sparse", "dense, fused"):
            costs = [row[what][name] for row in rows]
            slopes[f"{what}, {name}"] = slope([row["length"] for row in rows], costs)
    report = {
        "command": f"python -m benchmarks.evolutionary_attention --rounds {options.rounds}",
        "dim": DIM,
        "heads": HEADS,
        "chunks": CHUNKS,
        "last": LAST,
        "window": WINDOW,
        "candidates": CANDIDATES,
        "rounds": options.rounds,
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
        "slope": slopes,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
