"""Do parallel heads follow a taxonomy, and does a fusion of views find co-engaged items?

The experiments are the tests' own (``tests/tokenizers/test_uni_sid.py`` and
``test_fused_vectors.py``, with their controls): five seeds of planted items, measured on items
that were in no fit. This only keeps their figures.

    python -m benchmarks.heads_and_fusion
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.tokenizers import test_fused_vectors, test_uni_sid

RESULT = Path(__file__).parent / "results" / "heads_and_fusion.json"
DRAWS = 10_000


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    agreement, usage = test_uni_sid.measure()
    hits = test_fused_vectors.measure()
    report = {
        "command": "python -m benchmarks.heads_and_fusion",
        "seeds": len(usage),
        "v_measure": {name: values.mean(axis=0).tolist() for name, values in agreement.items()},
        "heads_minus": {
            name: [interval(agreement["heads"][:, level] - values[:, level]) for level in range(3)]
            for name, values in agreement.items()
            if name != "heads"
        },
        "perplexity_share": usage.mean(axis=0).tolist(),
        "hit_rate": {name: float(values.mean()) for name, values in hits.items()},
        "fusion_minus": {
            name: interval(hits["fusion"] - values)
            for name, values in hits.items()
            if name != "fusion"
        },
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


def interval(differences: NDArray[np.float64]) -> list[float]:
    """Mean, and 95% bootstrap interval over the seeds."""
    rng = np.random.default_rng(0)
    drawn = differences[rng.integers(len(differences), size=(DRAWS, len(differences)))]
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return [float(differences.mean()), float(low), float(high)]


if __name__ == "__main__":
    main()
