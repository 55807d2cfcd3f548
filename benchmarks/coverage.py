"""How often the intervals hold the truth, and how often the tests cry wolf.

Two thousand data sets per case come from worlds whose true AUC is known: binormal scores in
closed form, rounded ones as a sum over their values, users with effects of their own by
quadrature. A 95% interval is right if about 95 in 100 of them hold the truth, a test of size 5%
if it rejects a true hypothesis about 5 times in 100. With 2,000 data sets such a share is known
to within one percentage point.

    python -m benchmarks.coverage
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.doubt_worlds import FEW, ROWS, USERS, RowWorld, UserWorld
from sidrank.metrics.bootstrap import cluster_bootstrap
from sidrank.metrics.delong import AUCDifference, AUCEstimate, delong, paired_delong

RESULTS = Path(__file__).parent / "results" / "coverage.json"
DRAWS = 400
LEVEL = 0.05
POWER = ((ROWS[2], 0.02), (ROWS[4], 0.01), (ROWS[6], 0.02))

Shares = dict[str, list[bool]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    few = {str(world) for world in FEW}
    rows: list[dict[str, object]] = []
    for part, case, shares in cases(options.simulations):
        for method, hits in shares.items():
            row = {"part": part, "case": case, "few": case in few, "method": method}
            rows.append(row | {"share": np.mean(hits)})
            print(f"{part:<9}{case:<68}{method:<25}{np.mean(hits):>7.2%}", flush=True)
    report = {
        "command": "python -m benchmarks.coverage",
        "simulations": options.simulations,
        "draws": DRAWS,
        "machine": platform.machine(),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def cases(simulations: int) -> Iterator[tuple[str, str, Shares]]:
    """Part (what the share is of), case, and per method whether each simulation counts."""
    for seed, world in enumerate(ROWS + FEW):
        yield "coverage", str(world), repeat(simulations, seed, cover_rows, world)
    for seed, world in enumerate(ROWS + FEW, start=100):
        yield "size", str(world), repeat(simulations, seed, reject_rows, world, 0.0)
    for seed, (world, gain) in enumerate(POWER, start=200):
        shares = repeat(simulations, seed, reject_rows, world, gain)
        yield "power", f"{world}, {gain:+} AUC", shares
    for seed, world in enumerate(USERS, start=300):
        yield "coverage", str(world), repeat(simulations, seed, cover_users, world)
        yield "size", str(world), repeat(simulations, seed + 100, reject_users, world)


def repeat(simulations: int, seed: int, once: Callable[..., dict[str, bool]], *case: Any) -> Shares:
    generator = np.random.default_rng(seed)
    shares: Shares = {}
    for _ in range(simulations):
        for method, hit in once(*case, generator).items():
            shares.setdefault(method, []).append(hit)
    return shares


def cover_rows(world: RowWorld, generator: np.random.Generator) -> dict[str, bool]:
    labels, scores = world.draw(generator)
    estimate = delong(labels, scores)
    plain = abs(estimate.auc - world.truth) <= 1.959964 * estimate.standard_error
    return {"DeLong": holds(estimate, world.truth), "DeLong, plain scale": plain}


def reject_rows(world: RowWorld, gain: float, generator: np.random.Generator) -> dict[str, bool]:
    labels, treatment, control = world.draw_pair(generator, gain)
    paired = paired_delong(labels, treatment, control)
    one, other = delong(labels, treatment), delong(labels, control)
    unpaired = float(np.hypot(one.standard_error, other.standard_error))
    return {
        "paired DeLong": paired.p_value < LEVEL,
        "two separate DeLong": abs(one.auc - other.auc) > 1.959964 * unpaired,
    }


def cover_users(world: UserWorld, generator: np.random.Generator) -> dict[str, bool]:
    labels, scores, _, users = world.draw(generator)
    seed = int(generator.integers(1 << 31))
    options = {"draws": DRAWS, "seed": seed}
    shares = {
        "DeLong": holds(delong(labels, scores), world.truth),
        "DeLong by user": holds(delong(labels, scores, groups=users), world.truth),
    }
    for metric, truth in (("auc", world.truth), ("gauc", world.grouped_truth)):
        interval = cluster_bootstrap(labels, scores, users, metric=metric, **options)
        shares[f"bootstrap by user, {metric}"] = interval.low <= truth <= interval.high
    return shares


def reject_users(world: UserWorld, generator: np.random.Generator) -> dict[str, bool]:
    labels, treatment, control, users = world.draw(generator)
    seed = int(generator.integers(1 << 31))
    shares = {
        "paired DeLong": paired_delong(labels, treatment, control).p_value < LEVEL,
        "paired DeLong by user": paired_delong(labels, treatment, control, groups=users).p_value
        < LEVEL,
    }
    interval = cluster_bootstrap(labels, treatment, users, control=control, draws=DRAWS, seed=seed)
    shares["bootstrap by user, gauc"] = not interval.low <= 0.0 <= interval.high
    return shares


def holds(estimate: AUCEstimate | AUCDifference, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


if __name__ == "__main__":
    main()
