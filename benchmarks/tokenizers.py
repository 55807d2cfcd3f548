"""What residual k-means costs: fit, encode, memory, growth, beside its peers and a product alone.

Vectors are a million points of 128 numbers around 2,000 unequal centres; levels are 3 x 1024.
Every fit reads the same sample of 262,144 and runs 20 iterations a level on as many threads;
errors are of all vectors. faiss.Kmeans gets the residuals of each level; its ResidualQuantizer
(beam 1) gets our codebooks. Before the clock starts our codes are compared with brute force in
float64, and the peers' with ours. The limit is the product of all vectors with all centroids in
float32, once per iteration and level, in blocks that stay in cache. ResidualVQ
(vector-quantize-pytorch) starts its codebooks by k-means, as its users have it do, but holds all
distances at once, so it gets a smaller sample; its time is scaled by rows. Rounds are
interleaved and medians kept.

    python -m benchmarks.tokenizers
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ

from sidrank.tokenizers import RQKMeans

RESULTS = Path(__file__).parent / "results" / "tokenizers.json"
WIDTH, LEVELS, ITERATIONS = 128, (1024, 1024, 1024), 20
SAMPLE, SMALL_SAMPLE = 262_144, 32_768
GROWTH = (10**4, 10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7)
GROWTH_WIDTH, GROWTH_LEVELS = 32, (256, 256, 256)
_BLOCK = 1 << 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", help="one part; the others stay as they are in the results")
    parser.add_argument("--peak", action="store_true", help="print the peak memory of a fit")
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options.rows)))
        return
    faiss.omp_set_num_threads(torch.get_num_threads())
    parts: dict[str, Callable[[], object]] = {
        "fit": lambda: fit_speed(options.rows, options.rounds),
        "encode": lambda: encode_speed(options.rows, options.rounds),
        "no_clusters": no_clusters,
        "growth": growth,
        "memory": lambda: memory(options.rows),
    }
    report: dict[str, Any] = json.loads(options.out.read_text()) if options.only else {}
    report |= {
        "command": f"python -m benchmarks.tokenizers --rounds {options.rounds}",
        "rounds": options.rounds,
        "rows": options.rows,
        "sample": min(SAMPLE, options.rows),
        "small_sample": SMALL_SAMPLE,
        "width": WIDTH,
        "levels": LEVELS,
        "iterations": ITERATIONS,
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "vector_quantize_pytorch": version("vector-quantize-pytorch"),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in [options.only] if options.only else parts:
        report[name] = parts[name]()
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def vectors(count: int, *, width: int = WIDTH, centres: int = 2000, seed: int = 0) -> Tensor:
    """Points around centres of unequal size that lie in 50 groups; no centres is plain noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(count, width).normal_(generator=generator)
    if centres:
        groups = 2 * torch.randn(50, width, generator=generator)
        means = groups[torch.arange(centres) % 50]
        means += torch.randn(centres, width, generator=generator)
        shares = torch.arange(1, centres + 1).double().pow(-0.7)
        for block in x.split(_BLOCK):
            pick = torch.multinomial(shares, len(block), replacement=True, generator=generator)
            block.mul_(0.7).add_(means[pick])
    return x


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each call, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def sampled(x: Tensor) -> Tensor:
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:SAMPLE]]


def fit_speed(count: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a fit on the sample, and the error of all vectors."""
    x = vectors(count)
    sample = sampled(x)
    ours = RQKMeans(levels=LEVELS, iterations=ITERATIONS)
    theirs: list[Tensor] = []
    seconds = medians(
        {
            "sidrank RQKMeans.fit": lambda: ours.fit(sample),
            "faiss.Kmeans on residuals": lambda: theirs.__setitem__(
                slice(None), by_faiss(sample, LEVELS)
            ),
            "products alone": lambda: products(sample, ITERATIONS * len(LEVELS)),
        },
        rounds,
    )
    small = sample[:SMALL_SAMPLE]
    other = residual_vq(kmeans_init=True, kmeans_iters=ITERATIONS)
    start = time.perf_counter()
    with torch.no_grad():
        other(small.unsqueeze(0))
    seconds["ResidualVQ, k-means start"] = (time.perf_counter() - start) * len(sample) / len(small)
    errors = {
        "sidrank RQKMeans.fit": error(x, ours),
        "faiss.Kmeans on residuals": error(x, with_codebooks(theirs)),
        "ResidualVQ, k-means start": error(x, with_codebooks(list(other.codebooks.detach()))),
    }
    return table(seconds, "sidrank RQKMeans.fit", errors)


def residual_vq(**settings: Any) -> ResidualVQ:
    return ResidualVQ(
        dim=WIDTH,
        num_quantizers=len(LEVELS),
        codebook_size=LEVELS[0],
        rotation_trick=False,
        **settings,
    )


def by_faiss(sample: Tensor, levels: tuple[int, ...]) -> list[Tensor]:
    residual, books = sample.numpy(), []
    for level, size in enumerate(levels):
        model = faiss.Kmeans(
            residual.shape[1],
            size,
            niter=ITERATIONS,
            seed=level,
            max_points_per_centroid=len(residual),
        )
        model.train(residual)
        books.append(torch.from_numpy(model.centroids.copy()))
        if level + 1 < len(levels):
            nearest = model.index.search(residual, 1)[1][:, 0]
            residual = residual - model.centroids[nearest]
    return books


def with_codebooks(books: list[Tensor]) -> RQKMeans:
    state = {f"codebooks.{level}": book.contiguous() for level, book in enumerate(books)}
    return RQKMeans(levels=tuple(len(book) for book in books)).load_state_dict(state)


def error(x: Tensor, tokenizer: RQKMeans) -> float:
    total = 0.0
    for block in x.split(_BLOCK):
        gaps = block - tokenizer.decode(tokenizer.encode(block))
        total += float(gaps.double().square().sum())
    return total / x.numel()


def products(x: Tensor, times: int) -> None:
    weights = torch.randn(x.shape[1], LEVELS[0])
    scores = torch.empty(512, LEVELS[0])
    for _ in range(times):
        for block in x.split(512):
            torch.mm(block, weights, out=scores[: len(block)])


def brute(x: Tensor, books: Tensor) -> Tensor:
    """Greedy codes by all distances in float64; residuals are float32, as everyone's are."""
    codes = []
    for book in books:
        gaps = [(row - book.double()).square().sum(dim=1) for row in x.double()]
        codes.append(torch.stack(gaps).argmin(dim=1))
        x = x - book[codes[-1]]
    return torch.stack(codes, dim=1)


def encode_speed(count: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of encoding all vectors with the same codebooks."""
    x = vectors(count)
    tokenizer = RQKMeans(levels=LEVELS, iterations=4).fit(sampled(x))
    books = torch.stack(list(tokenizer.state_dict().values()))
    bits = LEVELS[0].bit_length() - 1
    quantizer = faiss.ResidualQuantizer(WIDTH, len(LEVELS), bits)
    quantizer.max_beam_size = 1
    faiss.copy_array_to_vector(books.numpy().ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    quantizer.compute_codebook_tables()
    other = residual_vq().eval()
    for layer, book in zip(other.layers, books, strict=True):
        layer._codebook.embed.copy_(book)
    numbers, rest = x.numpy(), x[:SMALL_SAMPLE]

    def by_vector_quantize() -> Tensor:
        with torch.no_grad():
            return other(rest.unsqueeze(0))[1][0]

    codes = tokenizer.encode(rest)
    assert torch.equal(codes[:2000].long(), brute(rest[:2000], books))
    packed = faiss.unpack_bitstrings(quantizer.compute_codes(rest.numpy()), len(LEVELS), bits)
    equal = {
        "faiss ResidualQuantizer, beam 1": float((packed == codes.numpy()).all(axis=1).mean()),
        "ResidualVQ": float((by_vector_quantize() == codes).all(dim=1).float().mean()),
    }
    assert min(equal.values()) > 0.999, equal
    seconds = medians(
        {
            "sidrank RQKMeans.encode": lambda: tokenizer.encode(x),
            "faiss ResidualQuantizer, beam 1": lambda: quantizer.compute_codes(numbers),
            "products alone": lambda: products(x, len(LEVELS)),
            "ResidualVQ": by_vector_quantize,
        },
        rounds,
    )
    seconds["ResidualVQ"] *= len(x) / len(rest)
    return table(seconds, "sidrank RQKMeans.encode", {})


def table(seconds: dict[str, float], ours: str, errors: dict[str, float]) -> list[dict[str, Any]]:
    """One row a call; ``ratio`` is its time over ours."""
    return [
        {
            "what": name,
            "seconds": value,
            "ratio": value / seconds[ours],
            "mse": errors.get(name),
        }
        for name, value in seconds.items()
    ]


def no_clusters() -> dict[str, float]:
    """Time and error over faiss's where seeds cannot help: independent normal numbers."""
    x = vectors(131_072, centres=0)
    levels = (512, 512)
    start = time.perf_counter()
    ours = RQKMeans(levels=levels, iterations=ITERATIONS).fit(x)
    middle = time.perf_counter()
    theirs = with_codebooks(by_faiss(x, levels))
    end = time.perf_counter()
    return {
        "time_ratio": (middle - start) / (end - middle),
        "mse_ratio": error(x, ours) / error(x, theirs),
    }


def growth() -> dict[str, Any]:
    """Seconds of encoding by number of items, and the slope of their logarithms."""
    x = vectors(GROWTH[-1], width=GROWTH_WIDTH)
    tokenizer = RQKMeans(levels=GROWTH_LEVELS, iterations=3).fit(x[:50_000])
    tokenizer.encode(x[:50_000])
    seconds = []
    for count in GROWTH:
        calls = {"encode": lambda count=count: tokenizer.encode(x[:count])}
        seconds.append(medians(calls, 5 if count < 10**7 else 3)["encode"])
    slope = float(np.polyfit(np.log(GROWTH), np.log(seconds), 1)[0])
    return {
        "rows": GROWTH,
        "width": GROWTH_WIDTH,
        "levels": GROWTH_LEVELS,
        "seconds": seconds,
        "slope": slope,
    }


def memory(rows: int) -> dict[str, float]:
    """Peak memory of a process that fits all vectors, from the operating system."""
    command = [sys.executable, "-m", "benchmarks.tokenizers", "--peak", "--rows", str(rows)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(rows: int) -> dict[str, float]:
    RQKMeans(levels=(4,), iterations=1).fit(vectors(1000))  # loads what every fit loads
    before = resident("VmRSS")
    x = vectors(rows)
    RQKMeans(levels=LEVELS, iterations=3).fit(x)
    size = x.numel() * x.element_size() / 2**20
    return {
        "input_mib": size,
        "imports_mib": before,
        "fit_mib": resident("VmHWM") - before,
        "allowed_mib": 1.3 * size + 256,
    }


def resident(which: str) -> float:
    """Memory of this process now (``VmRSS``) or at its peak (``VmHWM``), in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


if __name__ == "__main__":
    main()
