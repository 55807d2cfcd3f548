"""Section of the benchmark page about instance tokens on a host."""

import statistics
from typing import Any

from benchmarks.paired_seeds import shown, verdict
from benchmarks.tables import table

__all__ = ["instance_arms"]

_SAYS = {
    "host": "host",
    "item_ids": "host + items and labels of past impressions",
    "fields": "host + all fields and labels of past impressions",
    "temporal": "host + instance tokens, temporal",
    "user_order": "host + instance tokens, user order",
    "no_sides": "the same without labels",
    "strangers": "null: tokens and labels of another user",
    "stranger_tokens": "null: tokens of another user, own labels",
}
_TITLES = {
    "instance": "Planted: earlier impressions of the same style matter, by their slot and label",
    "movielens": "MovieLens-100K: impressions are the user's earlier ratings",
}
_PREFIXES = {"instance": "instance_", "movielens": "ratings_"}
# claim, first, second, whether the first is to be better
_CLAIMS = (
    ("user order beats item ids", "user_order", "item_ids", True),
    ("temporal beats item ids", "temporal", "item_ids", True),
    ("user order beats the host", "user_order", "host", True),
    ("user order beats temporal", "user_order", "temporal", True),
    ("without labels it is worse", "no_sides", "user_order", False),
    ("another user's instances are worse", "strangers", "user_order", False),
    ("another user's tokens are worse, own labels kept", "stranger_tokens", "user_order", False),
)

Run = dict[str, Any]


def instance_arms(report: dict[str, Any]) -> str:
    """Tables of both logs, and what they say of the paper's claims.

    Args:
        report: Of ``benchmarks.sequence_study``.

    Returns:
        Markdown.
    """
    parts = [
        "## Instance tokens on a host\n\n"
        f"`{report['command']}`. A source ranker (the host itself, trained on the train rows) and"
        " an `InstanceTokenizer` make a token of every past impression; the host reads those of"
        " its user as of the request, a label only where it was known by then. Item ids are read"
        " by the same attention, from tables of their own. Source ranker and tokenizer are"
        " trained once for all arms of a seed: their parameters are not counted, their time is"
        " with the arm that comes first. Settings were chosen on the validation rows of seed 0."
        " ± is twice the standard error over the seeds; brackets hold the 95% interval by drawn"
        " labels over users and seeds together. A claim is confirmed or denied where that interval"
        " leaves zero out, and open otherwise. On MovieLens the seeds share their test rows;"
        " on the planted log each has its own."
    ]
    settings = [name for name in _TITLES if any(r["setting"] == name for r in report["runs"])]
    for name in settings:
        prefix = _PREFIXES[name]
        runs = [
            run | {"arm": run["arm"].removeprefix(prefix)}
            for run in report["runs"]
            if run["setting"] == name and run["arm"].startswith(prefix)
        ]
        parts += [f"**{_TITLES[name]}**", _arms(runs), _claims(report, name), _sentence(runs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _arms(runs: list[Run]) -> str:
    planted = "expected_auc" in runs[0]
    rows: list[list[str]] = []
    for arm, says in _SAYS.items():
        own = [run for run in runs if run["arm"] == arm]
        if not own:
            continue
        cells = [says, f"{_mean(own, _metric(runs)):.4f}", f"{_mean(own, 'gauc'):.4f}"]
        cells.append("" if arm == "host" else _paired(runs, arm))
        cells += [f"{_mean(own, 'layers') + _mean(own, 'tables'):,.0f}", str(len(own))]
        rows.append([*cells, f"{_mean(own, 'seconds'):.0f}"])
    if planted:
        best = f"{_mean(runs, 'bayes_auc'):.4f}"
        rows.append(["Bayes", best, *[""] * 5])
    name = "expected AUC" if planted else "AUC"
    return table(["arm", name, "GAUC", "− host", "parameters", "seeds", "s"], rows)


def _claims(report: dict[str, Any], setting: str) -> str:
    rows: list[list[str]] = []
    prefix = _PREFIXES[setting]
    for claim, one, two, better in _CLAIMS:
        found = report["differences"].get(f"{setting}: {prefix}{one} - {prefix}{two}")
        if found is not None:
            mean, low, high = found["auc"]
            said = verdict((mean, low, high) if better else (-mean, -high, -low))
            rows.append([claim, said, shown((mean, low, high)), str(found["seeds"])])
    return table(["claim", "here", "difference in AUC", "seeds"], rows) if rows else ""


def _sentence(runs: list[Run]) -> str:
    """How much of what raw fields give the tokens keep."""
    key, arms = _metric(runs), ("host", "fields", "user_order", "temporal")
    reached = {(run["arm"], run["seed"]): run[key] for run in runs}
    seeds = [s for s in {run["seed"] for run in runs} if all((arm, s) in reached for arm in arms)]
    if not seeds:
        return ""
    host, fields, order, alone = (
        statistics.fmean(reached[arm, seed] for seed in seeds) for arm in arms
    )
    return (
        "Of what all fields and labels of the past impressions give over the host, tokens of"
        f" user order keep {(order - host) / (fields - host):.0%}, temporal ones"
        f" {(alone - host) / (fields - host):.0%} ({len(seeds)} seeds)."
    )


def _paired(runs: list[Run], arm: str) -> str:
    """Mean difference from the host over common seeds, ± twice its standard error."""
    key = _metric(runs)
    theirs = {run["seed"]: run[key] for run in runs if run["arm"] == "host"}
    own = [run for run in runs if run["arm"] == arm and run["seed"] in theirs]
    more = [run[key] - theirs[run["seed"]] for run in own]
    if len(more) < 2:
        return f"{more[0]:+.4f}" if more else ""
    error = statistics.stdev(more) / len(more) ** 0.5
    return f"{statistics.fmean(more):+.4f} ± {2 * error:.4f}"


def _metric(runs: list[Run]) -> str:
    return "expected_auc" if "expected_auc" in runs[0] else "auc"


def _mean(runs: list[Run], key: str) -> float:
    return statistics.fmean(run[key] for run in runs)
