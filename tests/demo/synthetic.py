"""A made-up report for tests of the page: no number in it was measured."""

from collections.abc import Mapping

import numpy as np

DEFAULT_ARMS = ("host", "hybrid", "hybrid_shuffled", "host_vector", "host_scalars")
ALL_ARMS = (
    *DEFAULT_ARMS,
    *("lr", "sid_only", "concat", "hybrid_convex", "hybrid_memorization", "host_matched"),
)


def interval(mean, half_width=0.01):
    return [mean, mean - half_width, mean + half_width]


def synthetic_report(*, full=False, gain=0.06, vector=0.0, scalars=0.02, shuffled=-0.005):
    """Give a report whose cold-item differences are the arguments.

    ``vector`` and ``scalars`` are the hybrid's lead over those two controls.
    """
    pairs = {
        "hybrid_vs_host": gain,
        "hybrid_vs_host_vector": vector,
        "hybrid_vs_host_scalars": scalars,
        "hybrid_vs_hybrid_shuffled": gain - shuffled,
        "hybrid_shuffled_vs_host": shuffled,
        "host_vector_vs_host": gain - vector,
        "host_scalars_vs_host": gain - scalars,
    }
    if full:
        pairs["hybrid_vs_host_matched"] = gain
    arms = ALL_ARMS if full else DEFAULT_ARMS
    splits = {"cold_items": _split(pairs, arms, ("auc", "auc_new_tail", "auc_cold", "gauc"))}
    splits["per_user"] = _split(dict.fromkeys(pairs, 0.0), arms, ("auc", "auc_new_tail", "gauc"))
    if full:
        splits["global_time"] = splits["per_user"]
    return {
        "settings": {
            "dataset": "made-up rows",
            "label": "rating ≥ 4",
            "seeds": 3,
            "draws": 1000,
            "full": full,
            "total_seconds": 211.0,
        },
        "splits": splits,
        "upgrade": {
            "steps": 400,
            "max_abs_delta_logit_step0": 0.0,
            "parameters_new": 7,
            "parameters_moved": 7,
            "arms": {"host_continued": _arm(), "upgraded": _arm(), "upgraded_shuffled": _arm()},
            "paired": {
                "upgraded_vs_host_continued": {"auc": interval(0.02), "auc_cold": interval(0.05)},
                "upgraded_shuffled_vs_host_continued": {"auc": interval(0.0)},
            },
        },
        "sid": {
            "items": 1682,
            "levels": [32, 32, 32],
            "hash": "0123456789abcdef" * 4,
            "utilisation": [1.0, 0.97, 0.94],
            "perplexity": [28.1, 27.4, 26.9],
            "items_in_collision": 12,
            "reconstruction_error": 0.113,
            "usage": [np.arange(32)[::-1] * 3, np.arange(32), np.ones(32, np.int64)],
            "sid_bytes_per_item": 12,
            "vector_bytes_per_item": 256,
        },
        "gate": {
            "true": np.linspace(0.2, 0.7, 10),
            "shuffled": np.full(10, 0.45),
            "range": interval(0.5),
            "range_shuffled": interval(0.0),
        },
        "environment": {"torch": "0.0.0", "cores": 2, "note": "<script>alert(1)</script> & more"},
    }


def _arm(**more):
    metrics = {
        "auc": 0.75,
        "gauc": 0.73,
        "log_loss": 0.58,
        "normalized_entropy": 0.86,
        "auc_new_tail": 0.7,
        "auc_head": 0.76,
        "parameters": 1234567,
        "seconds": 14.25,
    }
    return metrics | more


def _split(pairs: Mapping[str, float], arms, metrics):
    buckets = [("0", 2011), ("1-4", 600), ("5-19", 900), ("20-49", 1500), ("50+", 5001)]
    cold = {"auc_cold": 0.62} if "auc_cold" in metrics else {}
    return {
        "rows": {"train": 40_000, "test": 10_012, "test_users": 470},
        "arms": {arm: _arm(**cold) for arm in arms},
        "paired": {
            pair: {metric: interval(value) for metric in metrics} for pair, value in pairs.items()
        },
        "by_frequency": {
            pair: [
                {"bucket": bucket, "rows": rows, "delta": interval(pairs[pair] / (place + 1))}
                for place, (bucket, rows) in enumerate(buckets)
            ]
            for pair in ("hybrid_vs_host", "host_vector_vs_host", "hybrid_shuffled_vs_host")
        },
    }
