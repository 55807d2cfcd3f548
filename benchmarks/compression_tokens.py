"""What a request costs over compressed histories, and what training with them costs.

Online: the same model compresses histories of 500 to 50,000 behaviours into 16 tokens each, one
cache holds them all, and a request reads its rows and encodes 100 recent behaviours over them.
Beside it, where it is bearable, the same blocks read everything. Training: forward and backward
over whole histories with 4 tokens after every 128 behaviours, segment by segment and in one masked
pass. Rounds are interleaved, medians are kept, and answers are compared before anything is timed.

    python -m benchmarks.compression_tokens
"""

import argparse
import functools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from sidrank.sequences.compression_tokens import CompressionTokens
from sidrank.sequences.token_kv_cache import TokenKVCache, model_tag

RESULTS = Path(__file__).parent / "results" / "compression_tokens.json"
DIM, HEADS, LAYERS, TOKENS, RECENT, ROWS = 64, 4, 2, 16, 100, 2
OLD = (500, 1500, 5000, 15000, 50000)
READ_IN_FULL = 5000
WHOLE, SEGMENT, SEGMENT_TOKENS = (256, 512, 1024, 2048), 128, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = {
        "command": "python -m benchmarks.compression_tokens",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": 1,
        "width": DIM,
        "layers": LAYERS,
        "tokens": TOKENS,
        "recent": RECENT,
        "requests": ROWS,
        "rounds": options.rounds,
        "online": online(options.rounds),
        "segment": SEGMENT,
        "segment_tokens": SEGMENT_TOKENS,
        "training": training(max(options.rounds // 20, 3)),
    }
    report["spread"] = spread(report["online"])
    report["slope"] = {
        way: slope([(row["length"], row[way]) for row in report["training"]])
        for way in ("segments", "masked")
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def blocks() -> list[DecoderBlock]:
    rotary = RotaryEmbedding(head_dim=DIM // HEADS)
    return [
        DecoderBlock(
            attention=SelfAttention(dim=DIM, num_heads=HEADS, rotary=rotary), hidden=2 * DIM
        )
        for _ in range(LAYERS)
    ]


def online(rounds: int) -> list[dict[str, float]]:
    stack, recent = blocks(), torch.randn(ROWS, RECENT, DIM)
    real, now = torch.ones(ROWS, RECENT).bool(), torch.full((ROWS,), 10)
    models, caches, offline, full = {}, [], {}, {}
    with torch.no_grad():
        for number, length in enumerate(OLD):
            # one token after each 16th of the history: as many tokens for every length
            model = encoder(stack, [(-RECENT - length * s // TOKENS, 1) for s in range(TOKENS)])
            old = torch.randn(ROWS, length, DIM)
            start = time.perf_counter()
            states = model.compress(old, torch.ones(ROWS, length).bool())
            offline[length] = time.perf_counter() - start
            if length == OLD[0]:
                whole = torch.ones(ROWS, length + RECENT).bool()
                expected = model.masked(torch.cat([old, recent], dim=1), whole)[:, length:]
                assert torch.allclose(model.recent(recent, real, states), expected, atol=1e-5)
            users = torch.arange(ROWS) + number * ROWS
            models[length] = (model, users)
            caches.append(
                TokenKVCache(users=users, until=now, states=states, model=model_tag(model))
            )
            if length <= READ_IN_FULL:
                full["full", length] = everything(stack, torch.cat([old, recent], dim=1))
        cache = functools.reduce(TokenKVCache.joined, caches)
        cached = {
            ("cached", length): request(model, cache, users, now, recent, real)
            for length, (model, users) in models.items()
        }
        # reading everything is slow: a twentieth of the rounds show it
        times = medians(cached, rounds) | medians(full, max(rounds // 20, 3))
    return [
        {
            "old": length,
            "milliseconds": 1000 * times["cached", length],
            "full": 1000 * times["full", length] if length <= READ_IN_FULL else None,
            "offline_seconds": offline[length],
        }
        for length in OLD
    ]


def encoder(stack: list[DecoderBlock], insert: list[tuple[int, int]]) -> CompressionTokens:
    torch.manual_seed(1)  # the same tokens for every length
    return CompressionTokens(blocks=stack, insert=sorted(insert))


def request(
    model: CompressionTokens,
    cache: TokenKVCache,
    users: Tensor,
    now: Tensor,
    recent: Tensor,
    real: Tensor,
) -> Callable[[], Tensor]:
    def call() -> Tensor:
        states, _ = cache.read(users, now, model=cache.model)
        return model.recent(recent, real, states)

    return call


def everything(stack: list[DecoderBlock], x: Tensor) -> Callable[[], Tensor]:
    real = torch.ones(x.shape[:2]).bool()

    def call() -> Tensor:
        y = x
        for block in stack:
            y = block(y, real)
        return y[:, -RECENT:]

    return call


def training(rounds: int) -> list[dict[str, float]]:
    calls = {}
    for length in WHOLE:
        insert = [(end, SEGMENT_TOKENS) for end in range(SEGMENT, length, SEGMENT)]
        model, x = encoder(blocks(), insert), torch.randn(1, length, DIM)
        real = torch.ones(1, length).bool()
        one, other = model(x, real), model.masked(x, real)
        assert torch.allclose(one, other, atol=1e-5)
        calls["segments", length] = step(model, model.forward, x, real)
        calls["masked", length] = step(model, model.masked, x, real)
    times = medians(calls, rounds)
    return [
        {"length": length, **{way: 1000 * times[way, length] for way in ("segments", "masked")}}
        for length in WHOLE
    ]


def step(
    model: CompressionTokens, path: Callable[[Tensor, Tensor], Tensor], x: Tensor, real: Tensor
) -> Callable[[], None]:
    def call() -> None:
        model.zero_grad()
        path(x, real).square().sum().backward()

    return call


def medians(calls: dict, rounds: int) -> dict:
    seconds = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def spread(rows: list[dict[str, float]]) -> dict[str, float]:
    """The cheapest and the dearest old length against the shortest."""
    first = rows[0]["milliseconds"]
    ratios = [row["milliseconds"] / first for row in rows]
    return {"least": min(ratios), "most": max(ratios)}


def slope(points: list[tuple[int, float]]) -> float:
    """Of log time over log length, by least squares."""
    x, y = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    return statistics.linear_regression(x, y).slope


if __name__ == "__main__":
    main()
