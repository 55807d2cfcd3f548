"""Do collisions fall with an FSQ tail at the same code budget, and do its codes mean something?

Three levels: residual k-means alone; its last level replaced by binary directions of scalar
quantisation; and, as the null, by random codes, which collide least of all and say nothing.
Planted catalogues: 720 clusters in 60 groups whose sizes follow Zipf's law with exponent 0, 1 or
1.5, four seeds each.

python -m benchmarks.fsq_collisions            about three minutes
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidrank.semantic_ids import SIDSpec, SIDTable, neighbour_recall, quality
from sidrank.tokenizers import ResKMeansFSQ, RQKMeans

RESULT = Path(__file__).parent / "results" / "fsq_collisions.json"
ITEMS, WIDTH = 30_000, 32
CASES = ((64, 0.5), (128, 0.3), (256, 0.2))  # codes of a level, noise inside a cluster
ZIPF, SEEDS = (0.0, 1.0, 1.5), 4
GROUPS, LEAVES, DECAY = 60, 12, 0.5
QUERIES = 500


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    runs = [
        run(size, noise, zipf, seed)
        for size, noise in CASES
        for zipf in ZIPF
        for seed in range(SEEDS)
    ]
    report = {
        "command": "python -m benchmarks.fsq_collisions",
        "items": ITEMS,
        "width": WIDTH,
        "runs": runs,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


def catalogue(noise: float, zipf: float, seed: int) -> Tensor:
    """Vectors of a planted catalogue, ``[ITEMS, WIDTH]``."""
    rng = np.random.default_rng(seed)
    group = rng.normal(size=(GROUPS, WIDTH))
    leaf = rng.normal(size=(GROUPS * LEAVES, WIDTH)) * 0.6
    share = 1 / np.arange(1, GROUPS * LEAVES + 1) ** zipf
    which = rng.choice(GROUPS * LEAVES, ITEMS, p=rng.permutation(share / share.sum()))
    spectrum = 1 / np.arange(1, WIDTH + 1) ** DECAY
    spectrum *= np.sqrt(WIDTH / (spectrum**2).sum())
    turn, _ = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))
    around = noise * rng.normal(size=(ITEMS, WIDTH)) * spectrum @ turn
    return torch.from_numpy(group[which // LEAVES] + leaf[which] + around).float()


def run(size: int, noise: float, zipf: float, seed: int) -> dict[str, Any]:
    x, levels = catalogue(noise, zipf, seed), (size,) * 3
    plain = RQKMeans(levels=levels, iterations=10, seed=seed).fit(x)
    tailed = ResKMeansFSQ(levels=levels, iterations=10, seed=seed).fit(x)
    codes = {"rq_kmeans": plain.encode(x), "fsq": tailed.encode(x)}
    random = codes["fsq"].clone()
    generator = torch.Generator().manual_seed(seed)
    random[:, -1] = torch.randint(size, (len(x),), generator=generator)
    codes["random"] = random
    rebuilt = {
        "rq_kmeans": plain.decode(codes["rq_kmeans"]),
        "fsq": tailed.decode(codes["fsq"]),
        "random": _best_decoder(x, random, tailed),
    }
    found: dict[str, Any] = {"codes": size, "noise": noise, "zipf": zipf, "seed": seed}
    for name, mine in codes.items():
        counted = quality(SIDTable(np.arange(len(x)), mine, spec=SIDSpec(levels)), neighbours=0)
        found[name] = {
            "items_in_collision": counted.items_in_collision,
            "items_per_colliding_sid": counted.items_per_colliding_sid,
            "mse": float((rebuilt[name] - x).square().mean()),
            "recall_1": neighbour_recall(x, rebuilt[name], k=1, sample=QUERIES),
            "recall_10": neighbour_recall(x, rebuilt[name], k=10, sample=QUERIES),
        }
    print(size, zipf, seed, {name: found[name] for name in codes}, flush=True)
    return found


def _best_decoder(x: Tensor, codes: Tensor, tailed: ResKMeansFSQ) -> Tensor:
    """Random last codes, rebuilt as well as they can be: by the mean of what is left over."""
    state = tailed.state_dict()
    first = [state[name] for name in sorted(state) if name.startswith("head.codebooks.")]
    base = sum(book[codes[:, level].long()] for level, book in enumerate(first))
    last = codes[:, -1].long()
    size = tailed.levels[-1]
    sums = torch.zeros(size, x.shape[1]).index_add_(0, last, x - base)
    counts = last.bincount(minlength=size).unsqueeze(1)
    return base + (sums / (counts + 4))[last]


if __name__ == "__main__":
    main()
