"""What each part of an RQ-VAE's recipe is worth, and what a bad start costs whom.

Items are planted: 500 leaves in 100 branches, normal noise around each leaf, and a taste, three
weak directions of the vectors, that nothing but co-engagement points at: two items of a pair
have the same taste. GR2's ablation takes one part of the full recipe away at a time. The
control is a random last level: it must look unique and must not know the neighbours.

The second table starts every codeword at one point (plus noise of a thousandth of the vectors'
size) and trains with weighted sums (R3-VAE) or straight through (RQ-VAE without averages and
resets), at several learning rates of the codewords.

    python -m benchmarks.tokenizer_ablation
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sidrank.semantic_ids.neighbours import neighbour_recall
from sidrank.tokenizers import (
    R3VAE,
    RQVAE,
    R3VAERating,
    RQKMeans,
    RQVAECodebook,
    RQVAELosses,
    Training,
)

OUT = Path(__file__).parent / "results" / "tokenizer_ablation.json"
SEEDS = 5
ITEMS, WIDTH, FACTORS, TASTES = 4000, 32, 12, 3
BRANCHES, LEAVES = 100, 5
PAIRS = 20_000
LEVELS = (64, 64, 64)
WIDE = (128, 128, 128)
TRAINING = Training(epochs=12)
ONE_POINT = 1e-3

FULL = RQVAECodebook()
LOSSES = RQVAELosses(diversity=0.1, contrastive=0.1)
BARE = RQVAECodebook(ema=None, reset_after=None, start_noise=1.0)


class World(NamedTuple):
    """Vectors ``[V, D]``, pairs to learn from ``[P, 2]``, pairs to judge by ``[P, 2]``."""

    x: Tensor
    pairs: Tensor
    held_out: Tensor


def recipe(codebook: RQVAECodebook = FULL, losses: RQVAELosses = LOSSES) -> Callable[..., Any]:
    return partial(RQVAE, levels=LEVELS, codebook=codebook, losses=losses, training=TRAINING)


ABLATION: dict[str, Callable[..., Any]] = {
    "full": recipe(),
    "− EMA": recipe(RQVAECodebook(ema=None)),
    "− dead-code reset": recipe(RQVAECodebook(reset_after=None)),
    "− k-means start": recipe(RQVAECodebook(start_noise=1.0)),
    "− diversity": recipe(losses=RQVAELosses(diversity=0.0, contrastive=0.1)),
    "− contrastive": recipe(losses=RQVAELosses(diversity=0.1, contrastive=0.0)),
    "− k-means start, − reset": recipe(RQVAECodebook(reset_after=None, start_noise=1.0)),
    "− k-means start, − reset, − EMA": recipe(BARE),
    "control: random last level": recipe(RQVAECodebook(random_last_m=1)),
    "for comparison: RQ-KMeans": partial(RQKMeans, levels=LEVELS),
}


def straight_through(step: float) -> Callable[..., Any]:
    codebook = RQVAECodebook(ema=None, step=step, reset_after=None, start_noise=ONE_POINT)
    return partial(RQVAE, levels=WIDE, codebook=codebook, training=TRAINING)


def rated(step: float, start: float, hot: float = 0.05) -> Callable[..., Any]:
    rating = R3VAERating(hot=hot, step=step, start_noise=start)
    return partial(R3VAE, levels=WIDE, rating=rating, training=TRAINING)


BAD_START: dict[str, Callable[..., Any]] = {
    "R3-VAE, codewords' rate × 2": rated(2.0, ONE_POINT),
    "R3-VAE, × 5, hotter": rated(5.0, ONE_POINT, 0.1),
    "R3-VAE, × 5, hotter, no noise at all": rated(5.0, 0.0, 0.1),
    "RQ-VAE straight through, × 1": straight_through(1.0),
    "RQ-VAE straight through, × 2": straight_through(2.0),
    "RQ-VAE straight through, × 5": straight_through(5.0),
}
PARTS = {"ablation": ABLATION, "bad start": BAD_START}


def world(seed: int) -> World:
    """Plant items and pairs.

    Args:
        seed: Seed of everything.

    Returns:
        The items and their pairs.
    """
    rng = np.random.default_rng(seed)
    branches = rng.normal(size=(BRANCHES, 1, FACTORS))
    leaves = branches + 0.5 * rng.normal(size=(BRANCHES, LEAVES, FACTORS))
    home = rng.integers(0, BRANCHES * LEAVES, ITEMS)
    factors = leaves.reshape(-1, FACTORS)[home] + 0.25 * rng.normal(size=(ITEMS, FACTORS))
    taste = 0.8 * rng.normal(size=(ITEMS, TASTES))
    basis = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][: FACTORS + TASTES]
    x = np.hstack([factors, taste]) @ basis
    octant = (taste > 0) @ (1 << np.arange(TASTES))
    drawn = []
    for _ in range(2):
        left = rng.integers(0, ITEMS, PAIRS)
        order = np.argsort(octant, kind="stable")
        first = np.searchsorted(octant[order], octant[left])
        count = np.bincount(octant)[octant[left]]
        drawn.append(np.stack([left, order[first + rng.integers(0, count)]], axis=1))
    learn, held_out = (torch.from_numpy(p[p[:, 0] != p[:, 1]]) for p in drawn)
    return World(torch.from_numpy(x.astype(np.float32)), learn, held_out)


def measure(part: str, name: str, seed: int) -> dict[str, Any]:
    """Fit one tokenizer and judge its codes.

    Args:
        part: Name of the table.
        name: Name of the row.
        seed: Seed of the world and of the fit.

    Returns:
        One row of the results.
    """
    planted = world(seed)
    tokenizer = PARTS[part][name](seed=seed)
    learns = isinstance(tokenizer, RQVAE) and tokenizer.losses.contrastive > 0
    pairs = planted.pairs if part == "ablation" and learns else None
    start = time.process_time()
    tokenizer.fit(planted.x, pairs=pairs)
    seconds = time.process_time() - start
    codes = tokenizer.encode(planted.x)
    lost = (tokenizer.decode(codes) - planted.x).square().mean()
    spread = (planted.x - planted.x.mean(dim=0)).square().mean()
    first = codes[:, 0]
    shares = first.bincount().double() / ITEMS
    together = (first[planted.held_out[:, 0]] == first[planted.held_out[:, 1]]).double().mean()
    return {
        "part": part,
        "what": name,
        "seed": seed,
        "uniqueness": len(torch.unique(codes, dim=0)) / ITEMS,
        "used": [
            len(codes[:, level].unique()) / size for level, size in enumerate(tokenizer.levels)
        ],
        "lost": float(lost / spread),
        "recall": neighbour_recall(planted.x, tokenizer.decode(codes), k=10),
        "lift": float(together / shares.square().sum()),
        "gap": tokenizer.soft_hard_gap(planted.x) if isinstance(tokenizer, R3VAE) else None,
        "cpu_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for part, arms in PARTS.items():
            for name in arms:
                rows.append(measure(part, name, seed))
                print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
                write(options.out, rows)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Keep what is measured so far."""
    report = {
        "command": "python -m benchmarks.tokenizer_ablation",
        "items": ITEMS,
        "width": WIDTH,
        "epochs": TRAINING.epochs,
        "levels": {"ablation": LEVELS, "bad start": WIDE},
        "machine": platform.machine(),
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
